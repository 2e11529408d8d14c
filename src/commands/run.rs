//! `run`: the service. systemd `Type=notify`: ready once everything runs, watchdog fed by the engine's progress, SIGHUP reloads, SIGTERM
//! drains.
//!
//! A reload reads the file first; a wrong one is reported and changes nothing. A right one starts, ends or replaces the sources, sinks,
//! channels and pipelines that differ, and leaves all others running. Where the appliance itself differs (its directory, store, checkpoints
//! or addresses), it is ended in order and started anew in the same process, on the same store. One that is right and cannot be started (its
//! port is taken, its directory is another's) is reported, and the last one goes on.

use std::{path::PathBuf, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, interval},
};

use super::{Failure, load, runtime};
use crate::{
    appliance::{Appliance, Brokers, Reloaded, StartError},
    config::Config,
};

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration
    #[arg(short, long, default_value = "/etc/qadf-edge/appliance.toml")]
    config: PathBuf,
}

/// The engine's thread may be silent for so long before the watchdog is no longer fed.
const SILENT_MAX: Duration = Duration::from_secs(20);

/// Runs it.
///
/// # Errors
/// A wrong configuration; something that cannot be had at the start; a store that failed for good.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(&arguments.config)?;
    runtime()?.block_on(serve(config, &arguments.config))
}

enum Order {
    Stop,
    Reload(Box<Config>),
}

async fn serve(mut config: Config, path: &std::path::Path) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut brokers = Brokers::new();
    let mut before: Option<Config> = None;
    loop {
        let id = config.appliance.id.clone();
        let appliance = match (start(config.clone(), &mut brokers).await, before.take()) {
            (Ok(appliance), _) => appliance,
            (Err(error), Some(last_good)) => {
                tracing::error!("the new configuration cannot be started, and the last one goes on: {error}");
                config = last_good;
                continue;
            }
            (Err(error), None) => return Err(error),
        };
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        tracing::info!(appliance = %id, api = %appliance.api_address(), metrics = %appliance.metrics_address(), "running");
        let mut appliance = appliance;
        let order = loop {
            match watch(&appliance, &mut signals, path).await {
                Ok(Order::Reload(next)) => {
                    if let Some(next) = reload(&mut appliance, *next, &mut brokers, &mut config).await {
                        break Ok(Order::Reload(next));
                    }
                }
                order => break order,
            }
        };
        if !matches!(order, Ok(Order::Reload(_))) {
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
        }
        appliance.stop().await;
        match order? {
            Order::Stop => return Ok(()),
            Order::Reload(next) => before = Some(std::mem::replace(&mut config, *next)),
        }
    }
}

/// Takes over what can be taken over while everything runs; gives the configuration back that needs a restart.
async fn reload(appliance: &mut Appliance, next: Config, brokers: &mut Brokers, config: &mut Config) -> Option<Box<Config>> {
    let since = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Status("reloading"));
    let _ = sd_notify::notify(&[NotifyState::Reloading, since]);
    match appliance.reload(next.clone(), brokers).await {
        Ok(Reloaded::Restart(next)) => return Some(next),
        Ok(Reloaded::Done) => {
            *config = next;
            tracing::info!("the new configuration is in effect");
        }
        Err(error) => tracing::error!("the new configuration cannot be started, and the last one goes on: {error}"),
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    None
}

async fn start(config: Config, brokers: &mut Brokers) -> Result<Appliance, Failure> {
    Appliance::start(config, brokers).await.map_err(|error| match error {
        StartError::Engine(why) => Failure::Configuration(why),
        other => Failure::failed(other),
    })
}

/// Until something says how to go on.
async fn watch(appliance: &Appliance, signals: &mut Signals, path: &std::path::Path) -> Result<Order, Failure> {
    let watchdog = sd_notify::watchdog_enabled().unwrap_or(Duration::from_secs(30));
    let mut feeding = interval(watchdog / 3);
    let started = Instant::now();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(Order::Stop),
            _ = signals.interrupt.recv() => return Ok(Order::Stop),
            _ = signals.hang_up.recv() => match load(path) {
                Ok(config) => return Ok(Order::Reload(Box::new(config))),
                Err(error) => tracing::error!("the configuration stays as it is: {error}"),
            },
            why = appliance.failed() => return Err(Failure::Failed(why)),
            _ = feeding.tick() => {
                // Recovery reads back what was not processed; that is progress too.
                if appliance.is_alive(SILENT_MAX) || started.elapsed() < SILENT_MAX {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot listen to signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}
