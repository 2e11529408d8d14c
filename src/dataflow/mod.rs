//! Event time: watermarks, windows, aggregates, joins, patterns.
//!
//! - [`watermark`]: how far event time has come, by source partition and together.
//! - [`window`]: which windows a row belongs to; [`slices`]: the pieces of time they share.
//! - [`aggregate`], [`lanes`], [`sketch`]: what windows say about their rows.
//! - [`operator`], [`panes`], [`session`]: windows over rows, fired and freed by the watermark.
//! - [`spread`]: the same with their keys spread over threads; [`assign`]: the rows of each.
//! - [`join`]: rows of two streams that belong together; [`pattern`]: rows that follow each other.
//! - [`drive`](mod@drive), [`timed`]: rows and watermark to the operators, each row before the watermark moves from it.

pub mod aggregate;
pub mod assign;
pub mod drive;
pub mod join;
mod keys;
pub mod lanes;
mod maker;
pub mod operator;
pub mod panes;
pub mod pattern;
pub mod session;
pub mod sketch;
pub mod slices;
pub mod spread;
pub mod timed;
pub mod watermark;
pub mod window;

pub use aggregate::{Aggregate, AggregateError, Function};
pub use drive::{Flow, Timed, drive};
pub use operator::{OpenWindow, WindowOperator, WindowState};
pub use spread::SpreadWindows;
pub use watermark::{AllIdle, Partition, Ticked, WatermarkConfig, WatermarkMode, Watermarks, WatermarksState};
pub use window::{Accumulation, WindowConfig, WindowError, WindowKind};
