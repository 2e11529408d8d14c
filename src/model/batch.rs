//! Rows in columns.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Seq, Stream, Timestamp};

/// The code of a tag that is null.
pub const NO_TAG: u32 = u32::MAX;
/// The layer of a row that has none.
pub const NO_LAYER: i32 = i32::MIN;

/// What is known about a row besides its values; a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// The time is that of arrival: the device has no clock.
    pub const ARRIVAL_TIME: Self = Self(1);
    /// Further in the future than the stream allows: stored and delivered, never windowed.
    pub const FUTURE: Self = Self(2);
    /// A checkpoint with `on_fail = "flag"` failed.
    pub const FLAGGED: Self = Self(4);
    /// Came in before the appliance's clock was set; its time was put right when it was.
    pub const REBASED: Self = Self(8);
    /// Came in before the appliance's clock was set, and its time is that of the clock as it was then: nobody knows the true one.
    pub const CLOCK_UNSET: Self = Self(16);

    /// Those that a row says of itself where it is written down, by the names they have there.
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::ARRIVAL_TIME, "arrival_time"),
        (Self::FUTURE, "future"),
        (Self::FLAGGED, "flagged"),
        (Self::REBASED, "rebased"),
        (Self::CLOCK_UNSET, "clock_unset"),
    ];

    /// Whether every bit of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A text column: one code a row into the distinct texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagColumn {
    /// One index into `names` a row, or [`NO_TAG`].
    pub codes: Vec<u32>,
    /// The distinct texts, in order of first appearance.
    pub names: Vec<Arc<str>>,
}

impl TagColumn {
    /// A column of `rows` times the same text.
    pub fn constant(text: Option<&str>, rows: usize) -> Self {
        match text {
            Some(text) => Self { codes: vec![0; rows], names: vec![text.into()] },
            None => Self { codes: vec![NO_TAG; rows], names: Vec::new() },
        }
    }

    /// Adds a row. Linear in the number of distinct texts, which is small within a batch.
    pub fn push(&mut self, text: Option<&str>) {
        let code = match text {
            None => NO_TAG,
            Some(text) => match self.codes.last() {
                Some(&last) if last != NO_TAG && &*self.names[last as usize] == text => last,
                _ => self.names.iter().position(|name| &**name == text).unwrap_or_else(|| {
                    self.names.push(text.into());
                    self.names.len() - 1
                }) as u32,
            },
        };
        self.codes.push(code);
    }

    /// The text of `row`.
    pub fn get(&self, row: usize) -> Option<&Arc<str>> {
        self.names.get(self.codes[row] as usize)
    }
}

/// Where each row was taken, in millimetres of the sensor's frame; `NaN` in all three = nowhere.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Positions {
    /// mm
    pub x: Vec<f64>,
    /// mm
    pub y: Vec<f64>,
    /// mm
    pub z: Vec<f64>,
}

/// Who numbered the rows, so that a redelivery is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The device's name, by row.
    pub device: TagColumn,
    /// The device's count of starts, by row; `None` where it does not say.
    pub boot: Vec<Option<i64>>,
    /// The device's running number, by row; `None` where it does not say.
    pub seq: Vec<Option<i64>>,
}

/// Rows of one stream from one source partition, in order of arrival, as columns of equal length.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The shape: how many signals and tags, and what they are called.
    pub stream: Arc<Stream>,
    /// The configured source, as in `[sources.*]`.
    pub source: Arc<str>,
    /// The source partition the watermark is kept for: a serial device, an MQTT topic, a Kafka partition, a file.
    pub partition: Arc<str>,
    /// When the rows came in, by the appliance's clock.
    pub arrival: Timestamp,
    /// The number of the first row in the inbox; 0 until it is there.
    pub first_seq: Seq,
    /// The rows' numbers where they do not count up from `first_seq`, as after [`Batch::take`].
    pub seqs: Option<Vec<u64>>,
    /// Event times, nanoseconds.
    pub time: Vec<i64>,
    /// `[signal][row]`; `NaN` = no value.
    pub signals: Vec<Vec<f64>>,
    /// `[tag]`, each with a code a row.
    pub tags: Vec<TagColumn>,
    /// Positions, if any row has one.
    pub positions: Option<Positions>,
    /// Layer numbers, if any row has one; [`NO_LAYER`] = none.
    pub layer: Option<Vec<i32>>,
    /// What is known of each row besides; `None` = nothing of any.
    pub flags: Option<Vec<Flags>>,
    /// Who numbered the rows, if anyone did.
    pub origin: Option<Origin>,
}

impl Batch {
    /// A batch without rows.
    pub fn new(stream: Arc<Stream>, source: Arc<str>, partition: Arc<str>, arrival: Timestamp) -> Self {
        let (signals, tags) = (stream.signals.len(), stream.tags.len());
        Self {
            stream,
            source,
            partition,
            arrival,
            first_seq: Seq(0),
            seqs: None,
            time: Vec::new(),
            signals: vec![Vec::new(); signals],
            tags: vec![TagColumn::default(); tags],
            positions: None,
            layer: None,
            flags: None,
            origin: None,
        }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.time.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// The number of `row` in the inbox.
    pub fn seq(&self, row: usize) -> Seq {
        Seq(self.seqs.as_ref().map_or_else(|| self.first_seq.0.saturating_add(row as u64), |seqs| seqs[row]))
    }

    /// What is known of `row` besides its values.
    pub fn flags(&self, row: usize) -> Flags {
        self.flags.as_ref().map_or(Flags::NONE, |flags| flags[row])
    }

    /// Adds `flag` to what is known of `row`.
    pub fn set_flag(&mut self, row: usize, flag: Flags) {
        let rows = self.rows();
        let flags = self.flags.get_or_insert_with(|| vec![Flags::NONE; rows]);
        flags[row] = flags[row].with(flag);
    }

    /// The position of `row`, mm.
    pub fn position(&self, row: usize) -> Option<[f64; 3]> {
        let at = self.positions.as_ref()?;
        (!at.x[row].is_nan()).then(|| [at.x[row], at.y[row], at.z[row]])
    }

    /// The layer of `row`.
    pub fn layer(&self, row: usize) -> Option<i32> {
        self.layer.as_ref().map(|layer| layer[row]).filter(|layer| *layer != NO_LAYER)
    }

    /// The value of signal column `signal` at `row`.
    pub fn value(&self, signal: usize, row: usize) -> Option<f64> {
        Some(self.signals[signal][row]).filter(|value| !value.is_nan())
    }

    /// One row on its own, for a result, a sink or a person.
    pub fn row(&self, row: usize) -> Row {
        Row {
            stream: Arc::clone(&self.stream),
            seq: self.seq(row),
            time: Timestamp(self.time[row]),
            position: self.position(row),
            layer: self.layer(row),
            tags: self.tags.iter().map(|column| column.get(row).cloned()).collect(),
            values: (0..self.signals.len()).map(|signal| self.value(signal, row)).collect(),
            flags: self.flags(row),
        }
    }

    /// The rows whose place is in `rows`, in that order, as a batch of its own; each keeps its number.
    #[must_use]
    pub fn take(&self, rows: &[usize]) -> Self {
        fn pick<T: Clone>(column: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|row| column[*row].clone()).collect()
        }
        let tag = |column: &TagColumn| TagColumn { codes: pick(&column.codes, rows), names: column.names.clone() };
        Self {
            stream: Arc::clone(&self.stream),
            source: Arc::clone(&self.source),
            partition: Arc::clone(&self.partition),
            arrival: self.arrival,
            first_seq: self.first_seq,
            seqs: Some(rows.iter().map(|row| self.seq(*row).0).collect()),
            time: pick(&self.time, rows),
            signals: self.signals.iter().map(|column| pick(column, rows)).collect(),
            tags: self.tags.iter().map(tag).collect(),
            positions: self.positions.as_ref().map(|at| Positions {
                x: pick(&at.x, rows),
                y: pick(&at.y, rows),
                z: pick(&at.z, rows),
            }),
            layer: self.layer.as_ref().map(|layer| pick(layer, rows)),
            flags: self.flags.as_ref().map(|flags| pick(flags, rows)),
            origin: self.origin.as_ref().map(|origin| Origin {
                device: tag(&origin.device),
                boot: pick(&origin.boot, rows),
                seq: pick(&origin.seq, rows),
            }),
        }
    }

    /// Rows as a batch in the shape of `stream`: signals and tags by name, those that a row lacks without values.
    pub fn of_rows(stream: &Arc<Stream>, rows: &[Row]) -> Self {
        let mut batch = Self::new(Arc::clone(stream), "".into(), "".into(), Timestamp(0));
        batch.seqs = Some(rows.iter().map(|row| row.seq.0).collect());
        batch.first_seq = rows.first().map_or(Seq(0), |row| row.seq);
        batch.time = rows.iter().map(|row| row.time.0).collect();
        let nowhere = [f64::NAN; 3];
        let axis = |axis: usize| rows.iter().map(|row| row.position.unwrap_or(nowhere)[axis]).collect();
        if rows.iter().any(|row| row.position.is_some()) {
            batch.positions = Some(Positions { x: axis(0), y: axis(1), z: axis(2) });
        }
        if rows.iter().any(|row| row.layer.is_some()) {
            batch.layer = Some(rows.iter().map(|row| row.layer.unwrap_or(NO_LAYER)).collect());
        }
        batch.flags = Some(rows.iter().map(|row| row.flags).collect());
        for (column, signal) in batch.signals.iter_mut().zip(&stream.signals) {
            column.extend(rows.iter().map(|row| {
                let at = row.stream.signals.iter().position(|known| known.name == signal.name);
                at.and_then(|at| row.values[at]).unwrap_or(f64::NAN)
            }));
        }
        for (column, tag) in batch.tags.iter_mut().zip(&stream.tags) {
            for row in rows {
                let at = row.stream.tags.iter().position(|known| known == tag);
                column.push(at.and_then(|at| row.tags[at].as_deref()));
            }
        }
        batch
    }

    /// The same rows in the shape of `stream`: signals and tags by name, those it lacks without values.
    #[must_use]
    pub fn conformed(&self, stream: &Arc<Stream>) -> Self {
        let rows = self.rows();
        let signal = |name: &str| self.stream.signals.iter().position(|signal| *signal.name == *name);
        let tag = |name: &str| self.stream.tags.iter().position(|tag| **tag == *name);
        let signals = stream.signals.iter().map(|wanted| match signal(&wanted.name) {
            Some(at) => self.signals[at].clone(),
            None => vec![f64::NAN; rows],
        });
        let tags = stream.tags.iter().map(|wanted| match tag(wanted) {
            Some(at) => self.tags[at].clone(),
            None => TagColumn::constant(None, rows),
        });
        Self { signals: signals.collect(), tags: tags.collect(), stream: Arc::clone(stream), ..self.clone() }
    }

    /// Whether all columns have the same length and as many columns as the stream has names: what every producer of batches
    /// guarantees, and tests and the store's reader check.
    pub fn is_consistent(&self) -> bool {
        let rows = self.rows();
        self.signals.len() == self.stream.signals.len()
            && self.tags.len() == self.stream.tags.len()
            && self.signals.iter().all(|column| column.len() == rows)
            && self.tags.iter().all(|column| {
                column.codes.len() == rows
                    // Without an early end, so that the compiler takes several codes at a time.
                    && column.codes.iter().map(|code| code.wrapping_sub(NO_TAG)).max().is_none_or(|last| last as usize <= column.names.len())
            })
            && self.seqs.as_ref().is_none_or(|seqs| seqs.len() == rows)
            && self.positions.as_ref().is_none_or(|at| [&at.x, &at.y, &at.z].iter().all(|axis| axis.len() == rows))
            && self.layer.as_ref().is_none_or(|layer| layer.len() == rows)
            && self.flags.as_ref().is_none_or(|flags| flags.len() == rows)
            && self
                .origin
                .as_ref()
                .is_none_or(|origin| origin.device.codes.len() == rows && origin.boot.len() == rows && origin.seq.len() == rows)
    }
}

/// One row on its own.
///
/// Serialises to the row object of the contract: `time`, then `x`,`y`,`z`, `layer`, tags, signals; what a row does not have is left
/// out, but tags, which are null.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The shape.
    pub stream: Arc<Stream>,
    /// The number in the inbox.
    pub seq: Seq,
    /// Event time.
    pub time: Timestamp,
    /// mm
    pub position: Option<[f64; 3]>,
    /// Layer number.
    pub layer: Option<i32>,
    /// By tag of the stream.
    pub tags: Vec<Option<Arc<str>>>,
    /// By signal of the stream.
    pub values: Vec<Option<f64>>,
    /// What is known besides.
    pub flags: Flags,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("stream", &*self.stream.id)?;
        map.serialize_entry("time", &self.time)?;
        if let Some([x, y, z]) = self.position {
            map.serialize_entry("x", &x)?;
            map.serialize_entry("y", &y)?;
            map.serialize_entry("z", &z)?;
        }
        if let Some(layer) = self.layer {
            map.serialize_entry("layer", &layer)?;
        }
        for (name, tag) in self.stream.tags.iter().zip(&self.tags) {
            map.serialize_entry(&**name, tag)?;
        }
        for (signal, value) in self.stream.signals.iter().zip(&self.values) {
            if let Some(value) = value {
                map.serialize_entry(&*signal.name, value)?;
            }
        }
        for (_, name) in Flags::NAMED.iter().filter(|(flag, _)| self.flags.has(*flag)) {
            map.serialize_entry(name, &true)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Batch {
        let stream = Arc::new(Stream::new("melt", &["intensity"], &["part"]));
        let mut batch = Batch::new(stream, "s".into(), "s/0".into(), Timestamp(5));
        batch.time = vec![1, 2, 3];
        batch.signals[0] = vec![1.0, f64::NAN, 3.0];
        for text in [Some("a"), None, Some("b")] {
            batch.tags[0].push(text);
        }
        batch.positions = Some(Positions { x: vec![1.0, f64::NAN, 2.0], y: vec![0.0, f64::NAN, 0.0], z: vec![0.0, f64::NAN, 0.5] });
        batch
    }

    #[test]
    fn a_row_serialises_what_it_has() {
        let batch = sample();
        assert!(batch.is_consistent());
        let text = |row| serde_json::to_string(&batch.row(row)).unwrap();
        assert_eq!(
            text(0),
            r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000001Z","x":1.0,"y":0.0,"z":0.0,"part":"a","intensity":1.0}"#
        );
        assert_eq!(text(1), r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000002Z","part":null}"#);
    }

    #[test]
    fn taking_rows_keeps_every_column_in_step() {
        let some = sample().take(&[2, 0]);
        assert!(some.is_consistent());
        assert_eq!(some.time, [3, 1]);
        assert_eq!((some.seq(0), some.seq(1)), (Seq(2), Seq(0)));
        assert_eq!(some.tags[0].get(0).map(|text| &**text), Some("b"));
    }
}
