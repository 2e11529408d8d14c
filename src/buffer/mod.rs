//! Per-stream rings of recent rows.
