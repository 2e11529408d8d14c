//! Event time: watermarks, windows, aggregates, joins, patterns.
