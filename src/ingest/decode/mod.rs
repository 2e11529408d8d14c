//! Bytes from outside become rows, or a reason why not. Pure: no clock, file, socket or log.
//!
//! Two families. A **message** codec gets whole messages (MQTT, Kafka, HTTP): [`Json`], [`Sparkplug`]. A **stream**
//! codec gets pieces of an endless stream of bytes (serial, files): [`JsonLines`], [`Csv`], [`Bridge`]. A Modbus line is neither: it is asked
//! ([`ModbusPoll`]). Each writes into one
//! [`Decoded`], which collects any number of messages into few, large batches.
//!
//! Invariants:
//! - Every row that comes in leaves as exactly one row of a batch or as one [`Reject`]; nothing is dropped in silence.
//! - A bad row never takes its neighbours with it; a decoder never panics and never stops.
//! - Memory is bounded whatever comes in: a line by [`LINE_BYTES_MAX`], a message by [`MESSAGE_BYTES_MAX`], the rows of a message by
//!   [`MESSAGE_ROWS_MAX`], the bytes kept of a reject by [`REJECT_BYTES_MAX`].

mod bridge;
mod columns;
mod csv;
mod json;
mod json_lines;
mod json_text;
mod lines;
mod modbus;
mod protobuf;
mod sparkplug;
mod time;

use std::{borrow::Cow, sync::Arc};

use crate::model::{Batch, Input, Stream, Timestamp};

pub use bridge::{Bridge, Heard};
pub use columns::{Routes, RoutesError};
pub use csv::Csv;
pub use json::Json;
pub use json_lines::JsonLines;
pub use modbus::{
    HEARD_BYTES_MAX, ModbusAnswer, ModbusError, ModbusFunction, ModbusPoll, ModbusRegister, ModbusRequest, ModbusType,
    ModbusWordOrder, exception_meaning,
};
pub use sparkplug::{Notice, Sparkplug, rebirth_request};
pub use time::parse_time;

/// Longest line of a stream codec; a longer one is rejected whole.
pub const LINE_BYTES_MAX: usize = 256 * 1024;
/// Longest message; a longer one is rejected whole.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most rows of one message; what follows is rejected as one.
pub const MESSAGE_ROWS_MAX: usize = 100_000;
/// Most raw bytes kept of a rejected row.
pub const REJECT_BYTES_MAX: usize = 64 * 1024;

/// Why a row was refused, for people.
type Reason = Cow<'static, str>;

/// Where bytes come from and when they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The configured source.
    pub source: Arc<str>,
    /// The source partition the watermark is kept for.
    pub partition: Arc<str>,
    /// By the appliance's clock.
    pub arrival: Timestamp,
    /// What refused bytes would have been rows of, where only one stream comes in question.
    pub stream: Option<Arc<str>>,
}

impl Context {
    /// Of bytes that may be rows of any stream.
    pub const fn new(source: Arc<str>, partition: Arc<str>, arrival: Timestamp) -> Self {
        Self { source, partition, arrival, stream: None }
    }

    /// Of bytes that a decoder with these routes takes.
    #[must_use]
    pub fn along(mut self, routes: &Routes) -> Self {
        self.stream = routes.default_stream();
        self
    }
}

/// A row, line, frame or message that was refused: the dead-letter lane's raw material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The configured source.
    pub source: Arc<str>,
    /// The source partition.
    pub partition: Arc<str>,
    /// When it came in.
    pub arrival: Timestamp,
    /// The stream it was for, where that is known.
    pub stream: Option<Arc<str>>,
    /// What is wrong and with what; says so if `raw` is not all of it.
    pub reason: String,
    /// The bytes as they came, at most [`REJECT_BYTES_MAX`].
    pub raw: Vec<u8>,
}

/// A source's statement that no row of `stream` earlier than `time` follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// The stream.
    pub stream: Arc<str>,
    /// The source partition that says so.
    pub partition: Arc<str>,
    /// Nothing earlier follows.
    pub time: Timestamp,
    /// When it came in.
    pub arrival: Timestamp,
    /// How many batches of the same [`Decoded`] came before it.
    pub after_batches: usize,
}

/// What one or more messages decoded to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    /// Rows, in batches of one stream and one partition each.
    pub batches: Vec<Batch>,
    /// Statements about progress, in order.
    pub watermarks: Vec<Watermark>,
    /// What was refused, in order.
    pub rejects: Vec<Reject>,
    /// Batches before this one take no more rows, because a watermark follows them.
    sealed_batches: usize,
    /// Whether rows of different streams keep their order (a batch then ends where another stream's rows begin).
    keep_order: bool,
}

impl Decoded {
    /// Collects rows so that those of different streams keep their order too, at the price of smaller batches; for `replay`.
    pub fn in_order() -> Self {
        Self { keep_order: true, ..Self::default() }
    }

    /// Rows decoded.
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.rows() as u64).sum()
    }

    /// Rows that came in: decoded and refused.
    pub fn received(&self) -> u64 {
        self.rows() + self.rejects.len() as u64
    }

    /// Whether nothing came in.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.watermarks.is_empty() && self.rejects.is_empty()
    }

    /// What came in for the engine, in the order of the inbox. Batches without rows are left out.
    pub fn into_inputs(self) -> (Vec<Input>, Vec<Reject>) {
        let mut inputs = Vec::with_capacity(self.batches.len() + self.watermarks.len());
        let mut watermarks = self.watermarks.into_iter().peekable();
        let as_input = |mark: Watermark| Input::Watermark {
            stream: mark.stream,
            partition: mark.partition,
            time: mark.time,
            arrival: mark.arrival,
        };
        for (index, batch) in self.batches.into_iter().enumerate() {
            while let Some(mark) = watermarks.next_if(|mark| mark.after_batches <= index) {
                inputs.push(as_input(mark));
            }
            if !batch.is_empty() {
                inputs.push(Input::Batch(Arc::new(batch)));
            }
        }
        inputs.extend(watermarks.map(as_input));
        (inputs, self.rejects)
    }

    /// Adds what came in later.
    pub fn append(&mut self, later: Self) {
        let before = self.batches.len();
        self.batches.extend(later.batches);
        self.watermarks
            .extend(later.watermarks.into_iter().map(|mark| Watermark { after_batches: mark.after_batches + before, ..mark }));
        self.rejects.extend(later.rejects);
        self.sealed_batches = if later.sealed_batches > 0 { before + later.sealed_batches } else { self.sealed_batches };
    }

    /// Refuses bytes that no decoder was found for.
    pub(super) fn refuse(&mut self, context: &Context, reason: &'static str, raw: &[u8]) {
        self.reject(context, reason.into(), raw);
    }

    /// Refuses `raw`.
    fn reject(&mut self, context: &Context, reason: Reason, raw: &[u8]) {
        let kept = &raw[..raw.len().min(REJECT_BYTES_MAX)];
        let reason = if kept.len() < raw.len() {
            format!("{reason} (the first {} of {} bytes are kept)", kept.len(), raw.len())
        } else {
            reason.into_owned()
        };
        self.rejects.push(Reject {
            source: Arc::clone(&context.source),
            partition: Arc::clone(&context.partition),
            arrival: context.arrival,
            stream: context.stream.clone(),
            reason,
            raw: kept.to_vec(),
        });
    }

    /// Notes a source's statement about `stream`.
    fn watermark(&mut self, context: &Context, stream: &Stream, time: Timestamp) {
        self.sealed_batches = self.batches.len();
        self.watermarks.push(Watermark {
            stream: Arc::clone(&stream.id),
            partition: Arc::clone(&context.partition),
            time,
            arrival: context.arrival,
            after_batches: self.batches.len(),
        });
    }

    /// The batch that rows of `stream` from `context` belong to.
    fn batch(&mut self, context: &Context, stream: &Arc<Stream>) -> &mut Batch {
        let first =
            if self.keep_order { self.batches.len().saturating_sub(1).max(self.sealed_batches) } else { self.sealed_batches };
        let fits = |batch: &Batch| {
            Arc::ptr_eq(&batch.stream, stream)
                && batch.arrival == context.arrival
                && batch.partition == context.partition
                && batch.source == context.source
        };
        let found = self.batches.iter().skip(first).rposition(fits).map(|index| index + first);
        let index = found.unwrap_or_else(|| {
            let (source, partition) = (Arc::clone(&context.source), Arc::clone(&context.partition));
            self.batches.push(Batch::new(Arc::clone(stream), source, partition, context.arrival));
            self.batches.len() - 1
        });
        &mut self.batches[index]
    }
}

/// At most 64 characters of a text from outside, for a reason.
fn clip(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(64) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context::new("s".into(), "s/0".into(), Timestamp(9))
    }

    #[test]
    fn rows_after_a_watermark_stay_after_it() {
        let stream = Arc::new(Stream::new("a", &[], &[]));
        let mut decoded = Decoded::default();
        for time in [1, 2] {
            decoded.batch(&context(), &stream).time.push(time);
            decoded.watermark(&context(), &stream, Timestamp(time));
        }
        let mut later = Decoded::default();
        later.watermark(&context(), &stream, Timestamp(3));
        later.batch(&context(), &stream).time.push(4);
        decoded.append(later);
        let (inputs, _) = decoded.into_inputs();
        let times: Vec<i64> = inputs
            .iter()
            .map(|input| match input {
                Input::Batch(batch) => batch.time[0],
                Input::Watermark { time, .. } => -time.0,
                _ => 0,
            })
            .collect();
        assert_eq!(times, [1, -1, 2, -2, -3, 4]);
    }

    #[test]
    fn a_long_reject_is_cut_and_says_so() {
        let mut decoded = Decoded::default();
        decoded.reject(&context(), "bad".into(), &vec![b'x'; REJECT_BYTES_MAX + 1]);
        assert_eq!(decoded.rejects[0].raw.len(), REJECT_BYTES_MAX);
        assert_eq!(decoded.rejects[0].reason, "bad (the first 65536 of 65537 bytes are kept)");
    }

    #[test]
    fn streams_are_gathered_unless_their_order_is_asked_for() {
        let streams = [Arc::new(Stream::new("a", &[], &[])), Arc::new(Stream::new("b", &[], &[]))];
        let fill = |mut decoded: Decoded| {
            for (time, stream) in [0, 1, 0, 0].into_iter().enumerate() {
                decoded.batch(&context(), &streams[stream]).time.push(time as i64);
            }
            decoded.batches.iter().map(|batch| batch.time.clone()).collect::<Vec<_>>()
        };
        assert_eq!(fill(Decoded::default()), [vec![0, 2, 3], vec![1]]);
        assert_eq!(fill(Decoded::in_order()), [vec![0], vec![1], vec![2, 3]]);
    }
}
