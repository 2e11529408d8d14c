//! The words of the appliance: time, streams, rows in columns, inputs and outputs of the engine.
//!
//! Plain data with public fields and no I/O, clock or lock. Everything else in the crate speaks in these types, so that a
//! row decoded from a serial frame, read back from the journal or handed to a sink is the same thing.
//!
//! Conventions, held everywhere:
//! - Time is integer nanoseconds since the Unix epoch ([`Timestamp`]); a length of time is an `i64` whose name ends in `_ns`.
//! - Signals are `f64`; `NaN` inside a column means *no value* (a row with a real NaN is refused at the door).
//! - Positions are millimetres in `f64`, all three or none (`NaN`).
//! - A tag is text or null; a [`TagColumn`] interns its texts.

mod batch;
mod input;
mod named;
mod output;
mod stream;
mod time;

pub use batch::{Batch, Flags, NO_LAYER, NO_TAG, Origin, Positions, Row, TagColumn};
pub use input::{Input, ORDER_BYTES_MAX, Order, Seq};
pub use named::{Key, Named, Values};
pub use output::{
    Alert, Body, Capability, CheckpointResult, IndexedViolation, JoinResult, LateRow, Limits, Number, Output, PatternMatch,
    Severity, SpcPoint, Spread, VoxelState, VoxelUpdate, WindowResult,
};
pub use stream::{MissingTime, Signal, Stream, TimeUnit};
pub use time::{ParseTimeError, Timestamp, time_bounds};
