//! qadf-edge: one program on one industrial PC that turns a machine's raw signals into quality facts, and loses nothing.
//!
//! A durable **inbox** of rows, a deterministic **fold** over it, and a durable **outbox** of results; every sink holds a
//! **cursor**. The modules, in the order data travels:
//!
//! - [`model`]: the words: time, streams, rows in columns, inputs and outputs.
//! - [`ingest`]: outside → batches: serial, MQTT, Kafka, files; its `decode` is pure.
//! - [`store`]: the embedded store: inbox, outbox, cursors, checkpoints, dead letters; group commit; retention.
//! - [`crew`]: threads that stay, for work that comes in a row.
//! - [`buffer`]: per-stream rings of recent rows: sliding and time windows as views.
//! - [`expr`]: the configured expressions, compiled once, evaluated a column at a time.
//! - [`quality`]: checkpoints that gate what follows, alerts and their acknowledgement, staleness.
//! - [`dataflow`]: event time: watermarks, windows, aggregates, joins, patterns.
//! - [`picture`]: shapes → SVG and PNG, for the voxels and charts below.
//! - [`voxel`]: space: sparse tiles of running statistics, updated in place; export.
//! - [`spc`]: statistics: control charts, run rules, baselines, capability.
//! - [`engine`]: the fold that owns the state of the above.
//! - [`deliver`]: results and rows → outside: one retry loop, one small trait, one file a sink.
//! - [`status`]: counters and health as plain structs.
//! - [`api`]: HTTP, server-sent events and metrics.
//! - [`tui`]: the terminal UI, a client of the API.
//! - [`simulate`]: the simulated machine: physics, firmware frames, faults from a seed.
//! - [`processor`]: the typed face of event time: a library's streams, with sources, sinks and checkpoints of their own.
//! - [`config`]: text → raw settings → checked settings.
//! - [`commands`]: one file a subcommand.
//! - [`appliance`]: the composition root: opens, recovers, spawns, reloads, drains.
//!
//! Invariants: see ARCHITECTURE.md. The two that explain the rest: the core (`model buffer dataflow voxel spc quality expr engine
//! ingest::decode`) has no clock, file, lock, randomness or unordered iteration; and a source is acknowledged only after its rows
//! are synced to the inbox.

pub mod api;
pub mod appliance;
pub mod buffer;
pub mod commands;
pub mod config;
pub mod crew;
pub mod dataflow;
pub mod deliver;
pub mod engine;
pub mod expr;
pub mod ingest;
pub mod model;
pub mod picture;
pub mod processor;
pub mod quality;
pub mod simulate;
pub mod spc;
pub mod status;
pub mod store;
pub mod tui;
pub mod voxel;
