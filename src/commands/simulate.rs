//! `simulate`: the simulated machine alone, for tests and training.

use std::{path::PathBuf, time::Duration};

use super::{Failure, duration, runtime, until_told};
use crate::{
    appliance::now,
    simulate::{self, Faults, Outlets, SAMPLES_HZ, Settings, mqtt::Target},
};

/// What `simulate` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Make this symbolic link to a pseudo-terminal that carries the machine's frames
    #[arg(long, value_name = "LINK")]
    serial: Option<PathBuf>,
    /// Publish the chamber's rows to this broker: mqtt://host:port[/topic]
    #[arg(long, value_name = "URL")]
    mqtt: Option<Target>,
    /// What goes wrong, such as `crc=0.01,unplug=30s/2s`; also drop, duplicate, cut, garbage, `bad_json`, `clock_jump`
    #[arg(long, default_value = "")]
    faults: Faults,
    /// Everything that looks random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Samples a second of all five sensors together
    #[arg(long, value_name = "HZ", default_value_t = f64::from(SAMPLES_HZ))]
    rate: f64,
    /// End after this long, such as 10s; runs until interrupted otherwise
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
}

/// Runs it; prints what was sent as JSON.
///
/// # Errors
/// The serial line cannot be opened.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.serial.is_none() && arguments.mqtt.is_none() {
        return Err(Failure::Usage("name --serial LINK, --mqtt URL or both: otherwise nobody hears the machine".into()));
    }
    let settings = Settings { seed: arguments.seed, faults: arguments.faults, ..Settings::default() };
    let settings = settings.with_rate_hz(arguments.rate).started(now());
    let outlets = Outlets { serial: arguments.serial, mqtt: arguments.mqtt };
    let report = runtime()?.block_on(simulate::run(settings, &outlets, until_told(arguments.duration))).map_err(Failure::failed)?;
    println!("{}", serde_json::to_string(&report).map_err(Failure::failed)?);
    Ok(())
}
