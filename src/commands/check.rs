//! `check`: validates a configuration without opening a port.

use std::path::Path;

use super::{Failure, load};
use crate::engine::{Clock, Emit, Engine};

/// Runs it. Warnings go to stderr and leave exit code 0.
///
/// # Errors
/// Every fault, one a line.
pub fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    Engine::new(&config.engine, Emit::Changes, Clock::Arrivals)
        .map_err(|error| Failure::Configuration(format!("{}: {error}", file.display())))?;
    Ok(())
}
