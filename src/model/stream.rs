//! What a stream's rows look like.

use std::sync::Arc;

/// One measured quantity of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The name in rows, expressions and documents.
    pub name: Arc<str>,
    /// The unit as a UCUM code, for people; empty for a plain number.
    pub unit: Arc<str>,
}

/// The unit of integer times in a stream's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeUnit {
    /// Nanoseconds since 1970, the default.
    #[default]
    Nanoseconds,
    /// Microseconds since 1970.
    Microseconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// Seconds since 1970.
    Seconds,
}

impl TimeUnit {
    /// Nanoseconds in one of this unit.
    pub const fn ns(self) -> i64 {
        match self {
            Self::Nanoseconds => 1,
            Self::Microseconds => 1_000,
            Self::Milliseconds => 1_000_000,
            Self::Seconds => 1_000_000_000,
        }
    }
}

/// What becomes of a row without a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingTime {
    /// It goes to the dead-letter lane.
    #[default]
    Reject,
    /// It gets the time it arrived, and is marked so ([`crate::model::Flags::ARRIVAL_TIME`]).
    Arrival,
}

/// The shape of a stream's rows; columns of a [`crate::model::Batch`] follow its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The name in the configuration.
    pub id: Arc<str>,
    /// The measured columns, in the order of the configuration file's names (sorted by name).
    pub signals: Vec<Signal>,
    /// The text columns.
    pub tags: Vec<Arc<str>>,
    /// The key that holds a row's time.
    pub time_field: Arc<str>,
    /// The unit of integer times.
    pub time_unit: TimeUnit,
    /// What to do without a time.
    pub time_missing: MissingTime,
}

impl Stream {
    /// A stream with unit-less signals, `time` in nanoseconds, and rows without a time rejected.
    pub fn new(id: &str, signals: &[&str], tags: &[&str]) -> Self {
        Self {
            id: id.into(),
            signals: signals.iter().map(|name| Signal { name: (*name).into(), unit: "".into() }).collect(),
            tags: tags.iter().map(|name| (*name).into()).collect(),
            time_field: "time".into(),
            time_unit: TimeUnit::default(),
            time_missing: MissingTime::default(),
        }
    }

    /// The column of the signal `name`.
    pub fn signal(&self, name: &str) -> Option<usize> {
        self.signals.iter().position(|signal| &*signal.name == name)
    }

    /// The column of the tag `name`.
    pub fn tag(&self, name: &str) -> Option<usize> {
        self.tags.iter().position(|tag| &**tag == name)
    }
}
