//! Event time: watermarks, windows, aggregates, joins, patterns.

pub mod watermark;

pub use watermark::{AllIdle, Partition, Ticked, WatermarkConfig, WatermarkMode, Watermarks, WatermarksState};
