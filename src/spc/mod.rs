//! Control charts, run rules, baselines, capability.
mod check;
pub mod config;
pub mod constants;
pub mod distribution;
pub mod mewma;
pub mod moments;
pub mod multivariate;
pub mod rules;
pub mod settings;
pub use config::ChartConfig;
pub use settings::ChartSettings;
