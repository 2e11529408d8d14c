//! Which column a name belongs to, and rows being written into the columns of a batch.
//!
//! A row is written value by value straight into the columns. A column that is one longer than the rows of the batch has its value
//! already, which makes a repeated key visible without further bookkeeping; a row that turns out bad is taken back by cutting all
//! columns to the old length.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Context, Reason, clip, time};
use crate::model::{Batch, Flags, MissingTime, NO_LAYER, NO_TAG, Origin, Positions, Stream, TagColumn, TimeUnit};

/// Longest text of a tag or a device, bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// What a key of a row means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Field {
    Time,
    /// `x`, `y`, `z` as 0, 1, 2.
    Axis(usize),
    Layer,
    Device,
    Boot,
    Seq,
    /// Which stream the row belongs to.
    Stream,
    Signal(usize),
    Tag(usize),
}

/// The keys of one stream's rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub stream: Arc<Stream>,
    fields: FxHashMap<Box<str>, Field>,
}

impl Columns {
    /// Declared names win over the optional `device`, `boot`, `seq` and `stream`; names that every row has cannot be declared.
    fn new(stream: &Arc<Stream>) -> Result<Self, RoutesError> {
        let mut fields = FxHashMap::default();
        let optional = [("device", Field::Device), ("boot", Field::Boot), ("seq", Field::Seq), ("stream", Field::Stream)];
        fields.extend(optional.map(|(name, field)| (Box::from(name), field)));
        let mut declared: FxHashMap<Box<str>, Field> = FxHashMap::default();
        let reserved = [("x", Field::Axis(0)), ("y", Field::Axis(1)), ("z", Field::Axis(2)), ("layer", Field::Layer)];
        let signals = stream.signals.iter().enumerate().map(|(index, signal)| (&*signal.name, Field::Signal(index)));
        let tags = stream.tags.iter().enumerate().map(|(index, tag)| (&**tag, Field::Tag(index)));
        for (name, field) in [(&*stream.time_field, Field::Time)].into_iter().chain(reserved).chain(signals).chain(tags) {
            if declared.insert(name.into(), field).is_some() {
                return Err(RoutesError::NameTaken { stream: stream.id.to_string(), name: name.to_owned() });
            }
        }
        fields.extend(declared);
        Ok(Self { stream: Arc::clone(stream), fields })
    }

    pub fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// The reason for a key that the stream does not declare.
    pub fn unknown(&self, name: &str) -> Reason {
        format!("stream `{}` has no `{}`: add it to `signals` or `tags`, or do not send it", self.stream.id, clip(name)).into()
    }
}

/// Streams that cannot be decoded into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// Two meanings for one key.
    #[error("stream `{stream}` uses the name `{name}` twice or for something every row has: rename the signal or tag")]
    NameTaken {
        /// The stream.
        stream: String,
        /// The name.
        name: String,
    },
    /// A name of no stream.
    #[error("there is no stream `{0}`: declare it under [streams]")]
    NoStream(String),
}

/// The streams whose rows a source may carry, and which one is meant where a row does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    columns: Arc<[Columns]>,
    default: Option<usize>,
    by_row: bool,
}

impl Routes {
    /// Every row belongs to `stream`; one that names another is refused.
    ///
    /// # Errors
    /// If two names of the stream collide.
    pub fn one(stream: &Arc<Stream>) -> Result<Self, RoutesError> {
        Ok(Self { columns: [Columns::new(stream)?].into(), default: Some(0), by_row: false })
    }

    /// A row names its stream in `stream`; without, it belongs to `default`, or where there is none to the only stream there is.
    ///
    /// # Errors
    /// If two names of a stream collide, or `default` is none of them.
    pub fn by_row(streams: &[Arc<Stream>], default: Option<&str>) -> Result<Self, RoutesError> {
        let columns = streams.iter().map(Columns::new).collect::<Result<Vec<_>, _>>()?;
        let default = match default {
            Some(name) => {
                let place = streams.iter().position(|stream| &*stream.id == name);
                Some(place.ok_or_else(|| RoutesError::NoStream(name.to_owned()))?)
            }
            None => (streams.len() == 1).then_some(0),
        };
        Ok(Self { columns: columns.into(), default, by_row: streams.len() > 1 })
    }

    /// The stream that a row without a name belongs to, if there is one.
    pub fn default_stream(&self) -> Option<Arc<str>> {
        self.default.map(|place| Arc::clone(&self.columns[place].stream.id))
    }

    /// Whether rows must be looked at to know their stream.
    pub(super) const fn is_by_row(&self) -> bool {
        self.by_row
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn get(&self, index: usize) -> &Columns {
        &self.columns[index]
    }

    /// The stream that a row without a name belongs to.
    pub(super) fn default(&self) -> Result<usize, Reason> {
        self.default.ok_or(Reason::Borrowed("the row does not say its `stream`, and there are several"))
    }

    /// The stream called `name`.
    pub(super) fn named(&self, name: &str) -> Result<usize, Reason> {
        let place = self.columns.iter().position(|columns| &*columns.stream.id == name);
        place.ok_or_else(|| match (self.by_row, self.default) {
            (false, Some(only)) => {
                let carried = &self.columns[only].stream.id;
                format!("the row names stream `{}`, but this source carries `{carried}`", clip(name)).into()
            }
            _ => format!("there is no stream `{}`", clip(name)).into(),
        })
    }
}

/// One row on its way into the columns of a batch. End it with [`Self::finish`], and on any error with [`Self::abandon`].
pub(super) struct RowWriter<'o> {
    batch: &'o mut Batch,
    /// Rows before this one.
    row: usize,
    time: TimeSeen,
    stream_named: bool,
    had: Had,
}

/// Which optional columns a batch had before a row.
struct Had {
    positions: bool,
    layer: bool,
    origin: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum TimeSeen {
    No,
    Null,
    At(i64),
}

impl<'o> RowWriter<'o> {
    pub fn new(batch: &'o mut Batch) -> Self {
        let had = Had { positions: batch.positions.is_some(), layer: batch.layer.is_some(), origin: batch.origin.is_some() };
        Self { row: batch.rows(), batch, time: TimeSeen::No, stream_named: false, had }
    }

    pub fn time(&mut self, ns: Option<i64>) -> Result<(), Reason> {
        if self.time != TimeSeen::No {
            return Err(twice(&self.batch.stream.time_field));
        }
        self.time = ns.map_or(TimeSeen::Null, TimeSeen::At);
        Ok(())
    }

    pub fn signal(&mut self, column: usize, value: Option<f64>) -> Result<(), Reason> {
        if self.batch.signals[column].len() > self.row {
            return Err(twice(&self.batch.stream.signals[column].name));
        }
        if value.is_some_and(|value| !value.is_finite()) {
            return Err(not_finite(&self.batch.stream.signals[column].name));
        }
        self.batch.signals[column].push(value.unwrap_or(f64::NAN));
        Ok(())
    }

    pub fn tag(&mut self, column: usize, text: Option<&str>) -> Result<(), Reason> {
        if self.batch.tags[column].codes.len() > self.row {
            return Err(twice(&self.batch.stream.tags[column]));
        }
        bounded(text)?;
        self.batch.tags[column].push(text);
        Ok(())
    }

    pub fn axis(&mut self, axis: usize, value: Option<f64>) -> Result<(), Reason> {
        let row = self.row;
        let at = self.batch.positions.get_or_insert_with(|| Positions { x: nans(row), y: nans(row), z: nans(row) });
        let (name, column) = [("x", &mut at.x), ("y", &mut at.y), ("z", &mut at.z)].into_iter().nth(axis).ok_or("no such axis")?;
        if column.len() > row {
            return Err(twice(name));
        }
        if value.is_some_and(|value| !value.is_finite()) {
            return Err(not_finite(name));
        }
        column.push(value.unwrap_or(f64::NAN));
        Ok(())
    }

    pub fn layer(&mut self, layer: Option<i64>) -> Result<(), Reason> {
        let layer = match layer.map(i32::try_from) {
            None => NO_LAYER,
            Some(Ok(layer)) if layer != NO_LAYER => layer,
            Some(_) => return Err("`layer` is outside the range of a layer number".into()),
        };
        let row = self.row;
        let column = self.batch.layer.get_or_insert_with(|| vec![NO_LAYER; row]);
        if column.len() > row {
            return Err(twice("layer"));
        }
        column.push(layer);
        Ok(())
    }

    pub fn device(&mut self, device: Option<&str>) -> Result<(), Reason> {
        if self.origin().device.codes.len() > self.row {
            return Err(twice("device"));
        }
        bounded(device)?;
        self.origin().device.push(device);
        Ok(())
    }

    pub fn boot(&mut self, boot: Option<i64>) -> Result<(), Reason> {
        if self.origin().boot.len() > self.row {
            return Err(twice("boot"));
        }
        self.origin().boot.push(boot);
        Ok(())
    }

    pub fn seq(&mut self, seq: Option<i64>) -> Result<(), Reason> {
        if self.origin().seq.len() > self.row {
            return Err(twice("seq"));
        }
        self.origin().seq.push(seq);
        Ok(())
    }

    /// Notes that the row names its stream.
    pub fn stream(&mut self) -> Result<(), Reason> {
        if std::mem::replace(&mut self.stream_named, true) { Err(twice("stream")) } else { Ok(()) }
    }

    /// Completes the row, or says why it is none.
    pub fn finish(&mut self, context: &Context) -> Result<(), Reason> {
        let time = match (self.time, self.batch.stream.time_missing) {
            (TimeSeen::At(ns), _) => ns,
            (_, MissingTime::Arrival) => context.arrival.0,
            (_, MissingTime::Reject) => {
                let name = &self.batch.stream.time_field;
                return Err(format!("`{name}` is missing: send it, or set `missing = \"arrival\"` for the stream").into());
            }
        };
        self.finish_positions()?;
        self.finish_optional();
        let rows = self.row + 1;
        for column in &mut self.batch.signals {
            column.resize(rows, f64::NAN);
        }
        for column in &mut self.batch.tags {
            column.codes.resize(rows, NO_TAG);
        }
        if let Some(flags) = &mut self.batch.flags {
            flags.resize(rows, Flags::NONE);
        }
        self.batch.time.push(time);
        if !matches!(self.time, TimeSeen::At(_)) {
            self.batch.set_flag(self.row, Flags::ARRIVAL_TIME);
        }
        Ok(())
    }

    /// Takes the row back.
    pub fn abandon(self) {
        let (batch, rows) = (self.batch, self.row);
        batch.time.truncate(rows);
        batch.signals.iter_mut().for_each(|column| column.truncate(rows));
        batch.tags.iter_mut().for_each(|column| column.codes.truncate(rows));
        if let Some(flags) = &mut batch.flags {
            flags.truncate(rows);
        }
        batch.positions = batch.positions.take().filter(|_| self.had.positions);
        if let Some(at) = &mut batch.positions {
            for axis in [&mut at.x, &mut at.y, &mut at.z] {
                axis.truncate(rows);
            }
        }
        batch.layer = batch.layer.take().filter(|_| self.had.layer);
        if let Some(layer) = &mut batch.layer {
            layer.truncate(rows);
        }
        batch.origin = batch.origin.take().filter(|_| self.had.origin);
        if let Some(origin) = &mut batch.origin {
            origin.device.codes.truncate(rows);
            origin.boot.truncate(rows);
            origin.seq.truncate(rows);
        }
    }

    fn finish_positions(&mut self) -> Result<(), Reason> {
        let Some(at) = &mut self.batch.positions else { return Ok(()) };
        let axes = [&mut at.x, &mut at.y, &mut at.z];
        let mut given = 0;
        for axis in axes {
            axis.resize(self.row + 1, f64::NAN);
            given += usize::from(!axis[self.row].is_nan());
        }
        if given == 0 && !self.had.positions {
            self.batch.positions = None;
        }
        if given % 3 == 0 { Ok(()) } else { Err("of `x`, `y`, `z` only some are given: send all three or none".into()) }
    }

    fn finish_optional(&mut self) {
        let row = self.row;
        if let Some(layer) = &mut self.batch.layer {
            layer.resize(row + 1, NO_LAYER);
            if !self.had.layer && layer[row] == NO_LAYER {
                self.batch.layer = None;
            }
        }
        if let Some(origin) = &mut self.batch.origin {
            origin.device.codes.resize(row + 1, NO_TAG);
            origin.boot.resize(row + 1, None);
            origin.seq.resize(row + 1, None);
            let empty = origin.device.codes[row] == NO_TAG && origin.boot[row].is_none() && origin.seq[row].is_none();
            if !self.had.origin && empty {
                self.batch.origin = None;
            }
        }
    }

    fn origin(&mut self) -> &mut Origin {
        let rows = self.row;
        self.batch.origin.get_or_insert_with(|| Origin {
            device: TagColumn::constant(None, rows),
            boot: vec![None; rows],
            seq: vec![None; rows],
        })
    }
}

fn twice(name: &str) -> Reason {
    format!("`{}` is given twice", clip(name)).into()
}

fn nans(rows: usize) -> Vec<f64> {
    vec![f64::NAN; rows]
}

fn bounded(text: Option<&str>) -> Result<(), Reason> {
    match text {
        Some(text) if text.len() > TEXT_BYTES_MAX => {
            Err(format!("a text of {} bytes is longer than {TEXT_BYTES_MAX}", text.len()).into())
        }
        _ => Ok(()),
    }
}

pub(super) fn not_finite(name: &str) -> Reason {
    format!("`{}` is not a finite number: leave it out or send null", clip(name)).into()
}

pub(super) fn wrong_type(name: &str, wanted: &str) -> Reason {
    format!("`{}` must be {wanted}", clip(name)).into()
}

/// The time of a row, from text.
pub(super) fn time_from_text(text: &str) -> Result<i64, Reason> {
    let why =
        || format!("`{}` is not a time between 1677 and 2262: write RFC 3339 such as 2026-01-31T12:00:00.5Z", clip(text)).into();
    time::parse_time(text).ok_or_else(why)
}

/// The time of a row, from an integer's digits.
pub(super) fn time_from_integer(text: &str, stream: &Stream) -> Result<i64, Reason> {
    time::parse_integer_time(text, stream.time_unit).ok_or_else(|| {
        let unit = match stream.time_unit {
            TimeUnit::Nanoseconds => "nanoseconds",
            TimeUnit::Microseconds => "microseconds",
            TimeUnit::Milliseconds => "milliseconds",
            TimeUnit::Seconds => "seconds",
        };
        format!("`{}` is not an integer number of {unit} between the years 1677 and 2262", clip(text)).into()
    })
}
