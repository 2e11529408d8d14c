//! Control charts, run rules, baselines, capability.
