//! Control charts, run rules, baselines, capability.

pub mod adaptive;
mod baseline;
pub mod capability;
mod check;
pub mod config;
pub mod constants;
pub mod distribution;
mod emit;
mod judge;
pub mod key;
mod lines;
pub mod mewma;
pub mod moments;
pub mod multivariate;
mod operator;
mod phase;
mod recent;
pub mod report;
mod rows;
pub mod rules;
mod sample;
pub mod settings;
mod setup;
mod state;
mod view;

pub use config::{ChartConfig, ConfigError};
pub use emit::{Act, Counters, Emit, Onset};
pub use operator::{Captured, ChartOperator, KEYS_MAX, RestoreError, Snapshot};
pub use recent::{RECENT_KEYS_MAX, RECENT_POINTS_MAX};
pub use settings::ChartSettings;
pub use view::{ChartView, ViewPoint};
