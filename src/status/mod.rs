//! Counters and health as plain structs.
