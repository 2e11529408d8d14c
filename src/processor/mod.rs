//! The typed face of the engine: rows of one's own types from sources through steps into sinks, in event time.
//!
//! A [`StreamProcessor`] runs one or more flows. [`StreamProcessor::from_source`] begins one; each call adds a step: functions of one's own
//! ([`Stream::filter`], [`Stream::map`], [`Stream::flat_map`], [`Stream::foreach`]), event time ([`Stream::with_watermark`]), windows
//! ([`Stream::window`], [`Windowed::group_by`], [`Windowed::aggregate`]) and sinks ([`Stream::to_sink`]), of which there may be several.
//! Windows are those of [`crate::dataflow`], the same that configured pipelines have, with the same results.
//!
//! ```
//! use qadf_edge::processor::{MemorySink, MemorySource, StreamConfig, StreamProcessor, TumblingWindow, Watermark, count, mean};
//! use std::time::Duration;
//!
//! struct Reading { at_ms: i64, part: &'static str, intensity: f64 }
//! let rows = (0..1000).map(|n| Reading { at_ms: n * 10, part: ["A3", "B1"][n as usize % 2], intensity: 3.0 + n as f64 / 1000.0 });
//!
//! let results = MemorySink::new();
//! let mut processor = StreamProcessor::new(StreamConfig::default());
//! processor
//!     .from_source(MemorySource::new(rows))
//!     .filter(|row| row.intensity > 3.1)
//!     .with_watermark(Watermark::by_ms(|row: &Reading| row.at_ms).delay(Duration::from_secs(1)))
//!     .window(TumblingWindow::new(Duration::from_secs(1)))
//!     .group_by("part", |row| row.part)
//!     .aggregate([count().alias("n"), mean(|row: &Reading| row.intensity).alias("mean")])
//!     .map(|window| (window.start, window.tag("part").map(str::to_owned), window.real("mean")))
//!     .to_sink(results.clone());
//! processor.start()?;
//! assert!(processor.await_termination(Some(Duration::from_secs(60))));
//! assert_eq!(results.len(), 18);
//! # Ok::<(), qadf_edge::processor::ProcessorError>(())
//! ```
//!
//! **Life.** [`StreamProcessor::start`] returns at once; a thread of its own takes up to `max_records_per_batch` rows at a time from a source
//! through all steps. It ends when every source has ended (windows close then), when it is told to, or when a step fails for good.
//! [`StreamProcessor::stop`] finishes what is under way and saves a checkpoint; windows that are open stay open in it, and do not fire.
//!
//! **Failing rows.** A row that a `try_` function refuses, or that a source cannot read, is counted and kept as a [`DeadLetter`]; the flow
//! goes on. Rows too late for every window are counted, and go to [`Windowed::late_to`].
//!
//! **Checkpoints.** With a directory, every interval saves the sources' positions, the steps' state and the sinks' positions under one
//! number, in one file. A start goes on from it; see [`DeliveryGuarantee`] for what that means for sinks.
//!
//! **Threads.** With `parallelism = n`, the keys of a window are spread over n threads. The results and their order are those of one.

mod batches;
mod checkpoint;
mod chunk;
mod config;
mod error;
mod generator;
mod kafka;
mod letters;
mod life;
mod memory;
mod operator;
mod recent;
mod run;
mod shards;
mod sink;
mod source;
mod state;
mod step;
mod stream;
mod text;
mod windowed;

pub use batches::{BatchError, BatchStatistics, Batches, Processed};
pub use config::{DeliveryGuarantee, SessionWindow, SlidingWindow, StreamConfig, TumblingWindow, Watermark, WindowSpec};
pub use error::{ProcessorError, SinkError};
pub use generator::GeneratorSource;
pub use kafka::{KafkaSink, KafkaSource};
pub use letters::DeadLetter;
pub use life::{Metrics, Status, StepMetrics, StreamProcessor};
pub use memory::{Closed, CountingSink, Emitter, MemorySink, MemorySource, channel};
pub use operator::Operator;
pub use recent::{Outlet, OutletSink, RecentSink, outlet};
pub use sink::Sink;
pub use source::{Poll, Polled, Source, SourceError};
pub use state::KeyedState;
pub use stream::{Stream, Timed, Untimed};
pub use text::{ConsoleSink, FileSink, FileSource};
pub use windowed::{
    AggregateOf, Grouped, Measure, Windowed, count, custom, distinct, first, last, max, mean, min, quantile, range, stddev, sum,
    variance,
};

pub use crate::dataflow::aggregate::Custom;
