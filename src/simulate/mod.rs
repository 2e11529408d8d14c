//! The simulated machine: laser powder-bed fusion with five sensors on a serial line and a chamber on MQTT, all from one seed.
//!
//! ```text
//! core (no clock, no I/O)                                              shell
//! path ─▶ process ─▶ machine ─▶ frames ─▶ memory ─▶ wire (faults) ─▶ serial: a real pseudo-terminal
//!  ▲ parts  ▲ random     └────▶ chamber rows ─▶ messages (faults) ─▶ mqtt: a broker
//! ```
//!
//! [`Machine`] is a value: the same [`Settings`] give the same bytes on every platform. [`run`] lets it run at the pace of the clock.
//! Streams, rates and signals are [`STREAMS`]; the parts, [`PARTS`]; what can go wrong, [`Faults`].

mod chamber;
mod faults;
mod machine;
mod memory;
pub mod mqtt;
mod parts;
mod path;
mod process;
mod random;
mod serial;
mod streams;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

pub use chamber::{ChamberRow, PERIOD_NS as CHAMBER_PERIOD_NS};
pub use faults::{FaultCounts, Faults, Messages, ParseFaultsError, Recurring, Wire};
pub use machine::{Event, Machine, Settings};
pub use memory::{Memory, MemoryCounts, RowFrame};
pub use parts::{PARTS, Part};
pub use path::{Motion, Rotation};
pub use random::Random;
pub use serial::{Serial, SerialCounts};
pub use streams::{SAMPLES_HZ, STREAMS, SignalInfo, StreamInfo};

/// From a look at the clock to the next.
const PACE: Duration = Duration::from_millis(5);
/// A machine that is further behind the clock stands still instead of catching up, ns.
const CATCH_UP_NS: i64 = 1_000_000_000;
/// What the machine remembers of rows that are not acknowledged: 50 s at the default rate.
const MEMORY_BYTES: usize = 32 << 20;

/// Where the machine's data go.
#[derive(Debug, Clone, Default)]
pub struct Outlets {
    /// A symbolic link to make to the serial line.
    pub serial: Option<PathBuf>,
    /// A broker for chamber rows.
    pub mqtt: Option<mqtt::Target>,
}

/// Why a machine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The serial line cannot be opened.
    #[error("the serial line {link}: {error}")]
    Serial {
        /// The link that should have pointed to it.
        link: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// What a machine has done.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Of the serial line, if there is one.
    pub serial: Option<SerialCounts>,
    /// Of MQTT, if there is a broker.
    pub mqtt: Option<mqtt::MqttCounts>,
    /// Chamber rows produced.
    pub chamber_rows: u64,
    /// Messages spoilt by the faults.
    pub messages_spoilt: u64,
    /// Time the machine stood still because it could not keep up, ns.
    pub stood_still_ns: i64,
}

/// A machine with its outlets open.
#[derive(Debug)]
pub struct Simulator {
    settings: Settings,
    machine: Machine,
    serial: Option<Serial>,
    publisher: Option<mqtt::Publisher>,
    messages: Messages,
    events: Vec<Event>,
    report: Report,
}

impl Simulator {
    /// Opens the outlets; the serial line can be opened by its link from here on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the serial line cannot be opened.
    pub fn open(settings: Settings, outlets: &Outlets) -> Result<Self, Error> {
        let machine = Machine::new(settings.clone());
        let open = |link: &PathBuf| {
            Serial::open(&settings, link, machine.hello(), MEMORY_BYTES)
                .map_err(|error| Error::Serial { link: link.clone(), error })
        };
        let serial = outlets.serial.as_ref().map(open).transpose()?;
        let name = &settings.name;
        let start = |target| mqtt::Publisher::start(target, &format!("{name}-chamber"), &format!("plant/{name}/chamber"));
        let publisher = outlets.mqtt.as_ref().map(start);
        let messages = Messages::new(settings.seed, settings.faults);
        Ok(Self { settings, machine, serial, publisher, messages, events: Vec::new(), report: Report::default() })
    }

    /// Runs at the pace of the clock until `shutdown` is done.
    ///
    /// # Errors
    /// If the serial line, once unplugged, cannot be opened again.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Report, Error> {
        let mut shutdown = pin!(shutdown);
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let start = Instant::now();
        let link = self.serial.as_ref().map(|serial| serial.link().to_owned()).unwrap_or_default();
        let failed = |error| Error::Serial { link: link.clone(), error };
        loop {
            let working = async {
                match &mut self.serial {
                    Some(serial) => serial.work().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut shutdown => break,
                result = working => result.map_err(failed)?,
                now = pace.tick() => {
                    let elapsed_ns = i64::try_from(now.saturating_duration_since(start).as_nanos()).unwrap_or(i64::MAX);
                    self.catch_up(elapsed_ns).map_err(failed)?;
                }
            }
        }
        self.report.serial = self.serial.as_ref().map(Serial::counts);
        self.report.messages_spoilt = self.messages.spoilt;
        if let Some(publisher) = self.publisher {
            self.report.mqtt = Some(publisher.finish().await);
        }
        Ok(self.report)
    }

    /// Lets the machine run until `elapsed_ns` after its start.
    fn catch_up(&mut self, elapsed_ns: i64) -> io::Result<()> {
        let until = self.settings.start.saturating_add(elapsed_ns);
        let behind_ns = until.since(self.machine.now());
        if behind_ns > CATCH_UP_NS {
            self.report.stood_still_ns += behind_ns;
            self.machine.flush(&mut self.events);
            self.machine.skip_to(until);
        }
        self.machine.advance(until, &mut self.events);
        for event in self.events.drain(..) {
            match event {
                Event::Frame(frame) => {
                    if let Some(serial) = &mut self.serial {
                        serial.push(frame);
                    }
                }
                Event::Chamber(row) => {
                    self.report.chamber_rows += 1;
                    if let Some(publisher) = &mut self.publisher {
                        publisher.publish(self.messages.carry(row.to_string()));
                    }
                }
            }
        }
        self.serial.as_mut().map_or(Ok(()), |serial| serial.look_after(elapsed_ns))
    }
}

/// Runs a machine until `shutdown` is done.
///
/// # Errors
/// If the serial line cannot be opened.
pub async fn run(settings: Settings, outlets: &Outlets, shutdown: impl Future<Output = ()>) -> Result<Report, Error> {
    Simulator::open(settings, outlets)?.run(shutdown).await
}

#[cfg(test)]
mod tests;
