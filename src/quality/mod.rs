//! Quality: named checks that gate what follows, alerts, and signals that have gone silent.
//!
//! - [`checkpoint`]: a check per row, and what a failure does: alert, flag or reject.
//! - [`alert`]: severity and cooldown per metric.

pub mod alert;
pub mod checkpoint;
