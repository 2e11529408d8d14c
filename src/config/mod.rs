//! Text to settings.
pub mod reader;
pub mod units;
