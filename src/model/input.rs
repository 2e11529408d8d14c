//! What the engine consumes, in the order of the inbox.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Batch, Key, Severity, Timestamp};

/// A place in the inbox or the outbox; rows of the inbox are numbered from 1 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// One thing that happened, as the inbox holds it. The engine is a fold over these and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Rows came in.
    Batch(Arc<Batch>),
    /// A source states that no row of `stream` earlier than `time` follows on `partition`.
    Watermark {
        /// The stream.
        stream: Arc<str>,
        /// The source partition that says so.
        partition: Arc<str>,
        /// Nothing earlier follows.
        time: Timestamp,
        /// When it came in.
        arrival: Timestamp,
    },
    /// Time passed: given when a deadline the engine asked for is reached. Carries the appliance's clock.
    Tick(Timestamp),
    /// Somebody asks for something.
    Order {
        /// When, by the appliance's clock.
        time: Timestamp,
        /// For what.
        order: Order,
    },
    /// The end of a replayed input: all windows close.
    End,
}

/// The most that the texts of an order may add up to, so that it fits one record of the inbox.
pub const ORDER_BYTES_MAX: usize = 16 * 1024;

/// Something that a person asked for, or that the appliance noticed about itself: results depend on it from then on, so it goes through the
/// inbox like a row, and a replay of the journal sees it at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Take note of an alert.
    Acknowledge {
        /// The alert's id, or that of one of its escalations.
        alert: String,
        /// Who.
        name: Arc<str>,
        /// What they say.
        note: Arc<str>,
    },
    /// Collect a new baseline; the limits in force end here.
    Rebaseline {
        /// The chart.
        chart: Arc<str>,
        /// The key; `None` = all.
        key: Option<Key>,
        /// Who.
        author: Arc<str>,
        /// What has changed.
        reason: Arc<str>,
    },
    /// Take points with an assignable cause out of a baseline, and set limits anew from the rest.
    Exclude {
        /// The chart.
        chart: Arc<str>,
        /// The key.
        key: Key,
        /// The points' indices.
        indices: Vec<u64>,
        /// Who.
        author: Arc<str>,
        /// The cause.
        reason: Arc<str>,
    },
    /// Raise an alert about the appliance itself: a sink, the store, the clock.
    Report {
        /// What it is about.
        source: Arc<str>,
        /// How much it matters.
        severity: Severity,
        /// What happened, to what, and what to do.
        message: String,
    },
    /// Know that the appliance's clock was set: everything from here on is stamped by the clock as it is now, everything before by the
    /// clock as it was.
    ClockSet {
        /// How far it went, ns.
        step_ns: i64,
    },
}
