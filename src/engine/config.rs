//! What the engine is made of, checked.

use std::sync::Arc;

use crate::{
    dataflow::{WatermarkConfig, WindowConfig, join::JoinConfig, pattern::PatternConfig},
    model::Stream,
    quality::{alert::AlertConfig, checkpoint::CheckpointConfig, threshold::ThresholdConfig, watch::WatchConfig},
    spc::ChartConfig,
    voxel::{GridConfig, Region},
};

/// A stream and what is kept of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamConfig {
    /// The shape of its rows.
    pub stream: Arc<Stream>,
    /// How its watermark moves.
    pub watermark: WatermarkConfig,
    /// Rows in its ring.
    pub buffer_rows: usize,
    /// Rows in its default sliding window.
    pub window_rows: usize,
    /// Silence and standstill that somebody is told of.
    pub watch: WatchConfig,
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineConfig {
    /// Its name.
    pub id: Arc<str>,
    /// The stream it reads.
    pub stream: Arc<str>,
    /// The sinks it feeds; `None` = all.
    pub sinks: Option<Vec<Arc<str>>>,
    /// Threads that the keys of its windows are spread over.
    pub parallelism: usize,
    /// Only rows for which this holds go on.
    pub filter: Option<String>,
    /// Computed signals: name and expression, each seeing those before it.
    pub derive: Vec<(Arc<str>, String)>,
    /// Checks, in order.
    pub checkpoints: Vec<CheckpointConfig>,
    /// Windows.
    pub windows: Vec<WindowConfig>,
    /// Joins with other streams: the other stream's id and the join.
    pub joins: Vec<(Arc<str>, JoinConfig)>,
    /// Patterns.
    pub patterns: Vec<PatternConfig>,
    /// Control charts.
    pub charts: Vec<ChartConfig>,
    /// Thresholds.
    pub thresholds: Vec<ThresholdConfig>,
}

/// A voxel grid.
#[derive(Debug, Clone, PartialEq)]
pub struct GridSource {
    /// The grid.
    pub grid: GridConfig,
    /// The stream it takes rows from.
    pub stream: Arc<str>,
    /// The pipeline whose gate the rows pass first; `None` = the first one of the stream, if there is any.
    pub pipeline: Option<Arc<str>>,
    /// What layers that left memory may take in the store.
    pub stored_bytes_max: u64,
    /// Parts of the build that are told of on their own.
    pub regions: Vec<(Arc<str>, Region)>,
    /// A stream and a condition on its rows: such a row says that its layer is finished, or every one that has begun if it is of none.
    pub finish: Option<(Arc<str>, String)>,
    /// The stream that tells of finished layers, if a pipeline reads it.
    pub summaries: Option<StreamConfig>,
}

/// The whole engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EngineConfig {
    /// All streams.
    pub streams: Vec<StreamConfig>,
    /// All pipelines, in the order of the file.
    pub pipelines: Vec<PipelineConfig>,
    /// All grids.
    pub grids: Vec<GridSource>,
    /// How alerts behave.
    pub alerts: AlertConfig,
}
