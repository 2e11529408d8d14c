//! Control charts, run rules, baselines, capability.
pub mod constants;
pub mod distribution;
pub mod moments;
