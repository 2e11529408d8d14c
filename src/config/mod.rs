//! Text → checked settings.
//!
//! [`parse`] reads a TOML document section by section and finds every fault in it, each with its place and what to do; nothing half-checked
//! leaves this module. A [`Config`] holds the checked configuration types of the modules it configures.
//!
//! - [`reader`]: keys, places, faults; [`units`]: durations and sizes.
//! - [`streams`], [`sources`], [`pipelines`], [`charts`], [`quality`], [`voxels`], [`sinks`], [`service`]: one section of the file each.

pub mod charts;
pub mod modbus;
pub mod pipelines;
pub mod quality;
pub mod reader;
pub mod service;
pub mod sinks;
pub mod sources;
pub mod streams;
pub mod units;
pub mod voxels;
mod words;

use std::{path::Path, sync::Arc};

use toml::de::DeTable;

pub use reader::Fault;
pub use service::{AlertsSection, ApplianceConfig, ChannelConfig, HttpSection, StoreSection};
pub use sinks::SinkConfig;
pub use sources::SourceEntry;

use crate::{
    engine::{EngineConfig, StreamConfig},
    model::Stream,
};
use reader::{Faults, Section};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are and where the data is.
    pub appliance: ApplianceConfig,
    /// Streams, pipelines, grids, alert cooldown.
    pub engine: EngineConfig,
    /// Where rows come from.
    pub sources: Vec<SourceEntry>,
    /// Where rows and results go.
    pub sinks: Vec<SinkConfig>,
    /// The disk budget and the checkpoint interval.
    pub store: StoreSection,
    /// Where alerts go.
    pub alerts: AlertsSection,
    /// Where to listen.
    pub http: HttpSection,
    /// What is legal but probably not meant.
    pub warnings: Vec<Fault>,
}

impl Config {
    /// All streams.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.engine.streams.iter().map(|lane| Arc::clone(&lane.stream)).collect()
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}", .faults.iter().map(|fault| format!("{path}:{fault}")).collect::<Vec<_>>().join("\n"))]
    Wrong {
        /// Which.
        path: String,
        /// All that is wrong with it.
        faults: Vec<Fault>,
    },
}

/// Reads and checks a file.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: name.clone(), source })?;
    parse(&text).map_err(|faults| LoadError::Wrong { path: name, faults })
}

/// Checks a text.
///
/// # Errors
/// Every fault, in the order of the text.
pub fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    let faults = Faults::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        faults.add(&error.span().unwrap_or(0..0), format!("this is no TOML: {}", error.message()));
    }
    if !errors.is_empty() {
        return Err(faults.faults(text));
    }
    if table.get_ref().is_empty() {
        // An editor that truncates a file before it writes it: a reload in between would take everything away.
        faults.add(&(0..0), "nothing is configured: at least one stream and what brings its rows");
        return Err(faults.faults(text));
    }
    // What is wrong with the grids is found when they are read for good.
    let unchecked = Section::root(table.get_ref(), &Faults::default());
    let config = read(&Section::root(table.get_ref(), &faults), &unchecked);
    let found = faults.faults(text);
    if found.is_empty() { Ok(Config { warnings: faults.warnings(text), ..config }) } else { Err(found) }
}

fn read(root: &Section<'_>, unchecked: &Section<'_>) -> Config {
    let appliance = service::appliance(root);
    let mut engine = EngineConfig { streams: streams::read(root), ..EngineConfig::default() };
    let all: Vec<Arc<Stream>> = engine.streams.iter().map(|lane| Arc::clone(&lane.stream)).collect();
    let sources = sources::read(root, &all, &appliance.id);
    let sinks = sinks::read(root);
    let names: Vec<Arc<str>> = sinks.iter().map(|sink| Arc::clone(&sink.id)).collect();
    let summaries = voxels::summaries(unchecked, &engine.streams);
    let readable: Vec<StreamConfig> = engine.streams.iter().chain(&summaries).cloned().collect();
    engine.pipelines = pipelines::read(root, &readable, &names);
    engine.grids = voxels::read(root, &engine);
    voxels::link(&mut engine, &summaries);
    let alerts = service::alerts(root, &appliance.id, &names);
    engine.alerts = alerts.book;
    let config = Config {
        appliance,
        engine,
        sources,
        sinks,
        store: service::store(root),
        alerts,
        http: service::http(root),
        warnings: Vec::new(),
    };
    root.finish();
    config
}
