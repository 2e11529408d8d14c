//! The engine as the store's last checkpoint holds it: what reports and exports are made from, also while the service runs.

use std::path::PathBuf;

use super::{Failure, load};
use crate::{
    engine::{Clock, Emit, Engine, Parts},
    store::Reader,
};

/// Which configuration, and so which store.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The configuration that the service runs with
    #[arg(short, long, default_value = "/etc/qadf-edge/appliance.toml")]
    config: PathBuf,
}

impl Place {
    /// That of the configuration in `config`.
    pub fn of(config: &std::path::Path) -> Self {
        Self { config: config.to_owned() }
    }
}

/// The store and the engine at the last checkpoint.
pub struct Checkpointed {
    /// The store, open for reading.
    pub reader: Reader,
    /// What the checkpoint holds of the wanted parts.
    pub engine: Engine,
}

/// Reads the parts whose name is `wanted` of the last checkpoint. What the configuration does not fit any more is said on stderr.
///
/// # Errors
/// A wrong configuration, no store, no checkpoint yet, a damaged one.
pub fn read(place: &Place, wanted: impl Fn(&str) -> bool) -> Result<Checkpointed, Failure> {
    let config = load(&place.config)?;
    let reader = Reader::open(&config.appliance.data_dir).map_err(Failure::failed)?;
    let mut engine = Engine::new(&config.engine, Emit::Changes, Clock::Arrivals)
        .map_err(|error| Failure::Configuration(format!("{}: {error}", place.config.display())))?;
    let checkpoint = reader.checkpoint().map_err(Failure::failed)?;
    let checkpoint = checkpoint.ok_or_else(|| {
        Failure::Failed(format!(
            "the store in {} has no checkpoint yet: run the service first",
            config.appliance.data_dir.display()
        ))
    })?;
    let parts: Parts = checkpoint.parts.into_iter().filter(|(name, _)| name == "engine" || wanted(name)).collect();
    for what in engine.restore(parts).map_err(Failure::failed)? {
        eprintln!("left out of the checkpoint: {what}");
    }
    Ok(Checkpointed { reader, engine })
}
