//! Text → checked settings. Whatever is wrong is reported with its place and what to do; nothing half-checked leaves this module.
pub mod reader;
pub mod units;
