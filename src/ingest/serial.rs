//! A serial line: opened, read, decoded, handed on, and opened again when it is gone.
//!
//! A line cannot wait: what the inbox has no room for is shed and counted. A hang-up reads as no bytes, at once and for ever, or as an I/O error:
//! both mean that the device is gone. A path that leads nowhere is a state, not a fault of the program.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    sync::{mpsc, watch},
    time,
};
use tokio_serial::{SerialPortBuilderExt, SerialStream};

use super::{
    InboxError, Parcel, SourceStatus,
    backoff::Backoff,
    decode::{Context, Csv, Decoded, JsonLines, Routes},
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
#[derive(Debug, Clone)]
pub struct SerialConfig {
    /// The path of the device, best one below `/dev/serial/by-id`.
    pub device: String,
    /// Bits a second.
    pub baud: u32,
    /// What the bytes mean.
    pub codec: SerialCodec,
    /// Where the rows go.
    pub routes: Routes,
}

/// What the bytes on a serial line mean.
#[derive(Debug, Clone)]
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
}

/// A decoder of an endless stream of bytes.
enum Decoder {
    JsonLines(Box<JsonLines>),
    Csv(Box<Csv>),
}

/// Why a session ended.
enum End {
    /// The device is gone.
    Gone(String),
    /// The source shall end.
    Shutdown,
}

/// Runs until `shutdown` or the inbox is closed.
pub(super) async fn run(
    id: Arc<str>,
    config: SerialConfig,
    inbox: mpsc::Sender<Parcel>,
    status: Arc<SourceStatus>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new();
    let mut outlet = Outlet::new(Arc::clone(&id), inbox, Arc::clone(&status));
    loop {
        let opened = time::Instant::now();
        let end = match open(&config) {
            Ok(port) => {
                status.up();
                session(port, &id, &config, &mut outlet, &status, &mut shutdown).await
            }
            Err(error) => Ok(End::Gone(format!("cannot open {}: {error}", config.device))),
        };
        match end {
            Ok(End::Gone(why)) => {
                tracing::warn!(source = %id, "{why}");
                status.down(why);
            }
            Ok(End::Shutdown) | Err(_) => break,
        }
        if opened.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        tokio::select! {
            () = time::sleep(backoff.pause()) => {}
            () = ended(&mut shutdown) => break,
        }
    }
    let deadline = Outlet::<()>::drain_deadline();
    while outlet.drain(deadline).await.is_some() {}
    status.ended();
}

fn open(config: &SerialConfig) -> Result<SerialStream, tokio_serial::Error> {
    tokio_serial::new(&config.device, config.baud).open_native_async()
}

/// Reads one opened line to its end. `Err` = the inbox is closed.
async fn session(
    mut port: SerialStream,
    id: &Arc<str>,
    config: &SerialConfig,
    outlet: &mut Outlet<()>,
    status: &SourceStatus,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<End, InboxError> {
    let partition: Arc<str> = config.device.as_str().into();
    let mut decoder = match Decoder::new(config) {
        Ok(decoder) => decoder,
        Err(why) => return Ok(End::Gone(why)),
    };
    let mut bytes = vec![0; READ_BYTES];
    loop {
        tokio::select! {
            read = port.read(&mut bytes) => {
                let context = Context { source: Arc::clone(id), partition: Arc::clone(&partition), arrival: now() };
                let mut decoded = Decoded::default();
                let end = match read {
                    Ok(0) => Some(format!("{} hung up", config.device)),
                    Ok(count) => {
                        status.arrived(context.arrival);
                        decoder.feed(&bytes[..count], &context, &mut decoded);
                        None
                    }
                    Err(error) => Some(format!("reading {} failed: {error}", config.device)),
                };
                if end.is_some() {
                    decoder.cut_off(&context, &mut decoded);
                }
                if !decoded.is_empty() {
                    outlet.offer(decoded, Vec::new())?;
                }
                if let Some(why) = end {
                    return Ok(End::Gone(why));
                }
            }
            synced = outlet.next_synced() => match synced {
                Ok(_) => {}
                Err(InboxError::Refused(why)) => tracing::error!(source = %id, "rows are shed, because a serial line cannot wait: {why}"),
                Err(InboxError::Closed) => return Err(InboxError::Closed),
            },
            () = ended(shutdown) => return Ok(End::Shutdown),
        }
    }
}

impl Decoder {
    fn new(config: &SerialConfig) -> Result<Self, String> {
        let routes = config.routes.clone();
        Ok(match &config.codec {
            SerialCodec::Bridge { .. } => return Err("frames are not read yet".into()),
            SerialCodec::JsonLines => Self::JsonLines(Box::new(JsonLines::new(routes))),
            SerialCodec::Csv { columns: None } => Self::Csv(Box::new(Csv::new(routes))),
            SerialCodec::Csv { columns: Some(columns) } => Self::Csv(Box::new(Csv::with_columns(routes, columns)?)),
        })
    }

    fn feed(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) {
        match self {
            Self::JsonLines(decoder) => decoder.feed(bytes, context, out),
            Self::Csv(decoder) => decoder.feed(bytes, context, out),
        }
    }

    /// The device is gone in the middle of whatever it was sending.
    fn cut_off(&mut self, context: &Context, out: &mut Decoded) {
        match self {
            Self::JsonLines(decoder) => decoder.cut_off(context, out),
            Self::Csv(decoder) => decoder.cut_off(context, out),
        }
    }
}
