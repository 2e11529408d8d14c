//! Quality: named checks that gate what follows, thresholds, alerts, and signals that have gone silent, flat or stuck.
//!
//! - [`checkpoint`]: a check per row, and what a failure does: alert, flag or reject.
//! - [`threshold`]: values against limits, their own recent past, or their rate of change.
//! - [`watch`]: signals that say nothing, or always the same, by the clock.
//! - [`figures`]: limits on what the appliance measures of itself.
//! - [`alert`]: severity and cooldown per metric, acknowledgement, escalation, history.

pub mod alert;
pub mod checkpoint;
pub mod figures;
pub mod threshold;
pub mod watch;
