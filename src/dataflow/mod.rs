//! Event time: watermarks, windows, aggregates, joins, patterns.

pub mod join;
pub mod pattern;
