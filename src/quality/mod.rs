//! Checkpoints that gate, alerts, staleness.
