//! Lines of text that a device just sends.
//!
//! Such a line cannot wait: what the inbox has no room for is shed and counted.

use tokio::{io::AsyncReadExt, sync::watch};
use tokio_serial::SerialStream;

use super::{End, Line, Protocol, READ_BYTES};
use crate::ingest::{
    InboxError,
    decode::{Context, Csv, Decoded, JsonLines, Routes},
    ended,
    outlet::Outlet,
};

/// A device that sends lines.
pub(super) struct Lines {
    routes: Routes,
    format: Format,
}

enum Format {
    Json,
    Csv { columns: Option<Vec<String>> },
}

enum Decoder {
    Json(Box<JsonLines>),
    Csv(Box<Csv>),
}

impl Lines {
    /// A JSON object a line.
    pub fn json(routes: Routes) -> Self {
        Self { routes, format: Format::Json }
    }

    /// A CSV row a line; the first is the header, unless the columns are known.
    pub fn csv(routes: Routes, columns: Option<Vec<String>>) -> Self {
        Self { routes, format: Format::Csv { columns } }
    }

    fn decoder(&self) -> Result<Decoder, String> {
        let routes = self.routes.clone();
        Ok(match &self.format {
            Format::Json => Decoder::Json(Box::new(JsonLines::new(routes))),
            Format::Csv { columns: None } => Decoder::Csv(Box::new(Csv::new(routes))),
            Format::Csv { columns: Some(columns) } => Decoder::Csv(Box::new(Csv::with_columns(routes, columns)?)),
        })
    }
}

impl Protocol for Lines {
    type Receipt = ();

    async fn session(
        &mut self,
        mut port: SerialStream,
        line: &Line,
        outlet: &mut Outlet<()>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<End, InboxError> {
        let mut decoder = match self.decoder() {
            Ok(decoder) => decoder,
            Err(why) => return Ok(End::Gone(why)),
        };
        let mut bytes = vec![0; READ_BYTES];
        loop {
            tokio::select! {
                read = port.read(&mut bytes) => {
                    let (context, mut decoded) = (line.context(), Decoded::default());
                    let end = line.end_of(&read);
                    match read {
                        Ok(count) if count > 0 => {
                            line.status.arrived(context.arrival);
                            decoder.feed(&bytes[..count], &context, &mut decoded);
                        }
                        _ => decoder.cut_off(&context, &mut decoded),
                    }
                    if !decoded.is_empty() {
                        outlet.offer(decoded, Vec::new())?;
                    }
                    if let Some(why) = end {
                        return Ok(End::Gone(why));
                    }
                }
                synced = outlet.next_synced() => line.told(synced)?,
                () = ended(shutdown) => return Ok(End::Shutdown),
            }
        }
    }
}

impl Decoder {
    fn feed(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) {
        match self {
            Self::Json(decoder) => decoder.feed(bytes, context, out),
            Self::Csv(decoder) => decoder.feed(bytes, context, out),
        }
    }

    /// The device is gone in the middle of whatever it was sending.
    fn cut_off(&mut self, context: &Context, out: &mut Decoded) {
        match self {
            Self::Json(decoder) => decoder.cut_off(context, out),
            Self::Csv(decoder) => decoder.cut_off(context, out),
        }
    }
}
