//! A serial line: opened, talked over, and opened again when it is gone.
//!
//! A hang-up reads as no bytes, at once and for ever, or as an I/O error: both mean that the device is gone. A path that leads nowhere is a state, not
//! a fault of the program. What is said over an open line is a [`Protocol`]: [`lines`] that a device just sends, frames that it keeps until they
//! are acknowledged ([`bridge`]), or answers to our questions ([`modbus`]).

mod acknowledge;
mod bridge;
mod host;
mod lines;
mod modbus;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time,
};
pub use tokio_serial::{Parity as SerialParity, StopBits as SerialStopBits};
use tokio_serial::{SerialPortBuilderExt, SerialStream};

use self::{bridge::BridgeLine, lines::Lines, modbus::Master};
pub use self::{host::BridgeHost, modbus::ModbusConfig};
use super::{
    InboxError, Parcel, SourceStatus,
    backoff::Backoff,
    decode::{Context, Routes},
    ended,
    outlet::Outlet,
    status::now,
};
use crate::model::Stream;

/// Bytes read at a time; a pseudo-terminal gives at most 4,096.
const READ_BYTES: usize = 16 * 1024;
/// A line that stayed up this long starts its next back-off from the beginning.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// A checked serial source.
#[derive(Debug, Clone, PartialEq)]
pub struct SerialConfig {
    /// The path of the device, best one below `/dev/serial/by-id`.
    pub device: String,
    /// Bits a second.
    pub baud: u32,
    /// The check bit of each byte.
    pub parity: SerialParity,
    /// Bits after each byte.
    pub stop_bits: SerialStopBits,
    /// What the bytes mean.
    pub codec: SerialCodec,
    /// Where the rows go.
    pub routes: Routes,
}

/// What the bytes on a serial line mean.
#[derive(Debug, Clone, PartialEq)]
pub enum SerialCodec {
    /// Frames of `firmware-bridge`; a frame's stream number is the place in `streams`.
    Bridge {
        /// By number.
        streams: Vec<Arc<Stream>>,
    },
    /// A JSON object a line.
    JsonLines,
    /// A CSV row a line; `columns` for a device that sends no header.
    Csv {
        /// The names of the columns.
        columns: Option<Vec<String>>,
    },
    /// Answers of Modbus RTU units to our questions.
    ModbusRtu(ModbusConfig),
}

/// Why a session ended.
enum End {
    /// The device is gone.
    Gone(String),
    /// The source shall end.
    Shutdown,
}

/// What every session needs to know of its line.
struct Line {
    id: Arc<str>,
    device: Arc<str>,
    baud: u32,
    parity: SerialParity,
    stop_bits: SerialStopBits,
    status: Arc<SourceStatus>,
    /// What its rows are of, if it carries one stream.
    stream: Option<Arc<str>>,
}

/// What is said over an open line.
trait Protocol {
    /// What to acknowledge when a parcel is synced.
    type Receipt;

    /// Talks over one opened line to its end. `Err` = the inbox is closed.
    fn session(
        &mut self,
        port: SerialStream,
        line: &Line,
        outlet: &mut Outlet<Self::Receipt>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> impl Future<Output = Result<End, InboxError>> + Send;

    /// What became of a parcel, also while the line is gone. `Err` = the inbox is closed.
    fn answered(&mut self, synced: Result<Vec<Self::Receipt>, InboxError>, line: &Line) -> Result<(), InboxError> {
        line.told(synced)
    }
}

/// Runs until `shutdown` or the inbox is closed.
pub(super) async fn run(
    id: Arc<str>,
    config: SerialConfig,
    inbox: mpsc::Sender<Parcel>,
    status: Arc<SourceStatus>,
    shutdown: watch::Receiver<bool>,
) {
    let SerialConfig { baud, parity, stop_bits, .. } = config;
    let stream = config.routes.default_stream();
    let line = Line { id, device: config.device.as_str().into(), baud, parity, stop_bits, status, stream };
    match config.codec {
        SerialCodec::Bridge { streams } => keep_open(&line, BridgeLine::new(streams), inbox, shutdown).await,
        SerialCodec::JsonLines => keep_open(&line, Lines::json(config.routes), inbox, shutdown).await,
        SerialCodec::ModbusRtu(config) => keep_open(&line, Master::new(config, baud), inbox, shutdown).await,
        SerialCodec::Csv { columns } => keep_open(&line, Lines::csv(config.routes, columns), inbox, shutdown).await,
    }
    line.status.ended();
}

async fn keep_open<P: Protocol>(line: &Line, mut protocol: P, inbox: mpsc::Sender<Parcel>, mut shutdown: watch::Receiver<bool>) {
    let mut backoff = Backoff::new();
    let mut outlet = Outlet::new(Arc::clone(&line.id), inbox, Arc::clone(&line.status));
    'open: loop {
        let opened = time::Instant::now();
        let end = match line.open() {
            Ok(port) => {
                line.status.up();
                protocol.session(port, line, &mut outlet, &mut shutdown).await
            }
            Err(error) => Ok(End::Gone(format!("cannot open {}: {error}", line.device))),
        };
        match end {
            Ok(End::Gone(why)) => {
                tracing::warn!(source = %line.id, "{why}");
                line.status.down(why);
            }
            Ok(End::Shutdown) | Err(_) => break,
        }
        if opened.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        let pause = time::sleep(backoff.pause());
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                synced = outlet.next_synced() => if protocol.answered(synced, line).is_err() { break 'open },
                () = ended(&mut shutdown) => break 'open,
            }
        }
    }
    let deadline = Outlet::<P::Receipt>::drain_deadline();
    while outlet.drain(deadline).await.is_some() {}
}

impl Line {
    fn open(&self) -> tokio_serial::Result<SerialStream> {
        tokio_serial::new(&*self.device, self.baud).parity(self.parity).stop_bits(self.stop_bits).open_native_async()
    }

    /// Rows that nobody can ask for again are shed if the inbox refuses them.
    fn told<R>(&self, synced: Result<Vec<R>, InboxError>) -> Result<(), InboxError> {
        match synced {
            Err(InboxError::Refused(why)) => {
                tracing::error!(source = %self.id, "rows are shed, because the device cannot be asked for them again: {why}");
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Of what comes in now.
    fn context(&self) -> Context {
        Context { stream: self.stream.clone(), ..Context::new(Arc::clone(&self.id), Arc::clone(&self.device), now()) }
    }

    /// Why a read ends the session.
    fn end_of(&self, read: &std::io::Result<usize>) -> Option<String> {
        match read {
            Ok(0) => Some(format!("{} hung up", self.device)),
            Ok(_) => None,
            Err(error) => Some(format!("reading {} failed: {error}", self.device)),
        }
    }
}
