//! `journal`: the durable store, also while the service is down.
//!
//! `inspect` says what is in it, `verify` reads all of it and says what is wrong, `repair` sets a damaged one aside and salvages it. Each
//! prints one JSON object; exit code 0 says that the store is sound, 1 that it is not or that the command could not be carried out.

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::{Failure, load};
use crate::store::{Reader, StoreError, files, repair, verify};

/// What `journal` does.
#[derive(Debug, clap::Subcommand)]
pub enum Arguments {
    /// What is in the store: numbers, sinks, sizes, files, and what was lost
    Inspect(Place),
    /// Read everything and check it; exit code 1 if anything is wrong. While the service runs, its log grows meanwhile
    Verify(Place),
    /// Set a damaged store aside, salvage it, and say exactly what is lost; the service has to be down. A sound one stays as it is
    Repair(Place),
}

/// Which store.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The configuration that the service runs with
    #[arg(short, long, default_value = "/etc/qadf-edge/appliance.toml", conflicts_with = "dir")]
    config: PathBuf,
    /// The store's directory, instead of a configuration's `data_dir`
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Place {
    fn directory(&self) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(directory) => Ok(directory.clone()),
            None => Ok(load(&self.config)?.appliance.data_dir),
        }
    }
}

/// Runs it.
///
/// # Errors
/// No store, one that is not sound, one that is in use.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::Inspect(place) => inspect(place),
        Arguments::Verify(place) => look(place),
        Arguments::Repair(place) => mend(place),
    }
}

fn print(object: &Value) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{object:#}") {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failure::failed),
    }
}

fn inspect(place: &Place) -> Result<(), Failure> {
    let directory = place.directory()?;
    let found = files(&directory).map_err(Failure::failed)?;
    let inventory = Reader::open(&directory).and_then(|reader| reader.inventory());
    let mut object = match &inventory {
        Ok(inventory) => serde_json::to_value(inventory).map_err(Failure::failed)?,
        Err(StoreError::Corrupt(_)) => json!({}),
        Err(other) => return Err(Failure::failed(other)),
    };
    object["directory"] = json!(directory);
    object["files"] = json!(found);
    object["readable"] = json!(inventory.is_ok());
    print(&object)?;
    let unreadable = |error: StoreError| {
        Failure::Failed(format!("{error}; the next start of the service, or `qadf-edge journal repair`, salvages what can be read"))
    };
    inventory.map(|_| ()).map_err(unreadable)
}

fn look(place: &Place) -> Result<(), Failure> {
    let directory = place.directory()?;
    let found = verify(&directory).map_err(Failure::failed)?;
    print(&serde_json::to_value(&found).map_err(Failure::failed)?)?;
    if found.sound {
        return Ok(());
    }
    let count = found.fault_count;
    Err(Failure::Failed(format!("{count} faults: stop the service and run `qadf-edge journal repair`")))
}

fn mend(place: &Place) -> Result<(), Failure> {
    let directory = place.directory()?;
    match repair(&directory).map_err(Failure::failed)? {
        Some(loss) => {
            eprintln!("{}", loss.said());
            print(&json!({ "repaired": true, "loss": loss }))
        }
        None => print(&json!({ "repaired": false })),
    }
}
