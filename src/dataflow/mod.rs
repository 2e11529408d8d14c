//! Event time: watermarks, windows, aggregates, joins, patterns.
//!
//! - [`watermark`]: how far event time has come, by source partition and together.
//! - [`window`]: which windows a row belongs to; [`aggregate`], [`sketch`]: what they say about their rows.
//! - [`join`]: rows of two streams that belong together; [`pattern`]: rows that follow each other.
//! - [`operator`], [`session`]: windows over rows, fired and freed by the watermark.

pub mod aggregate;
pub mod join;
pub mod operator;
pub mod pattern;
pub mod session;
pub mod sketch;
pub mod watermark;
pub mod window;

pub use aggregate::{Aggregate, AggregateError, Function};
pub use operator::{OpenWindow, WindowOperator, WindowState};
pub use watermark::{AllIdle, Partition, Ticked, WatermarkConfig, WatermarkMode, Watermarks, WatermarksState};
pub use window::{Accumulation, WindowConfig, WindowError, WindowKind};
