//! A grid in a pipeline: fed behind the gate, its layers finished by the watermark or by rows that say so, and kept within its memory.
//!
//! When little of its memory is left, finished layers leave it as bytes; they wait here until the next snapshot takes them to the store. When
//! the store's share is used up, the lowest layers' voxels are forgotten there; their figures stay.
//!
//! A finished layer is told as rows of the stream `voxels.{grid}` ([`summaries`]), which pipelines read like any other: so there are charts,
//! windows and patterns over layers, and over regions of them.

use std::sync::Arc;

use super::GridSource;
use crate::{
    expr::{Bools, Expr, Scratch, Type},
    model::{Batch, Body, Output, Stream, TagColumn, Timestamp, VoxelUpdate},
    quality::checkpoint::Emit,
    voxel::{Departed, Grid, GridError, LayerBy, LayerSummary, Region},
};

/// Voxel updates of a running appliance are announced at most this often, in event time.
const ANNOUNCE_NS: i64 = 1_000_000_000;
/// More than this does not wait for the time of the next snapshot.
const DEPARTED_BYTES_MAX: u64 = 64 << 20;

/// A figure of a layer and signal: the end of its name, its unit (the signal's own if there is none), and how it is had.
type Figure = (&'static str, Option<&'static str>, fn(&LayerSummary) -> Option<f64>);

const FIGURES: [Figure; 7] = [
    ("mean", None, |summary| summary.mean),
    ("stddev", None, |summary| summary.variance.map(f64::sqrt)),
    ("min", None, |summary| summary.min),
    ("max", None, |summary| summary.max),
    ("count", Some("1"), |summary| Some(summary.count as f64)),
    ("filled", Some("1"), |summary| Some(summary.filled as f64)),
    ("completeness", Some("1"), |summary| summary.completeness),
];

/// The stream that tells of the finished layers of `grid`: a row a layer with the tag `region` null, and one for each region that the
/// layer goes through; for each signal, which comes with its unit, `{signal}_mean`, `_stddev`, `_min`, `_max`, `_count` (rows),
/// `_filled` (voxels) and `_completeness` (0 to 1).
pub fn summaries<'a>(grid: &str, signals: impl Iterator<Item = (&'a str, &'a str)>) -> Stream {
    let mut stream = Stream::new(&format!("voxels.{grid}"), &[], &["region"]);
    for (signal, unit) in signals {
        for (name, own_unit, _) in FIGURES {
            stream
                .signals
                .push(crate::model::Signal { name: format!("{signal}_{name}").into(), unit: own_unit.unwrap_or(unit).into() });
        }
    }
    stream
}

/// A grid and what it put out last.
#[derive(Debug)]
pub struct GridLane {
    /// The grid's name.
    pub id: Arc<str>,
    /// The grid.
    pub grid: Grid,
    /// Parts of the build that are told of on their own.
    pub regions: Vec<(Arc<str>, Region)>,
    /// The grid's version in the last snapshot.
    pub(super) saved_version: u64,
    /// Whether the store may hold tiles of an earlier grid of this name.
    pub(super) starts_over: bool,
    /// What left memory since the last snapshot.
    pub(super) departed: Vec<Departed>,
    pub(super) departed_bytes: u64,
    /// Layers whose voxels are to be removed from the store.
    pub(super) forgotten: Vec<i32>,
    stored_bytes_max: u64,
    summaries: Option<Arc<Stream>>,
    /// Finished and not yet told of.
    finished: Vec<i32>,
    finish: Option<Finish>,
    announced: Timestamp,
    touched: u64,
}

/// Which rows say that a layer is finished.
#[derive(Debug)]
struct Finish {
    stream: Arc<str>,
    when: Expr,
    scratch: Scratch,
    bools: Bools,
}

impl GridLane {
    /// A lane for an empty grid; `other` finds the stream whose rows finish layers.
    ///
    /// # Errors
    /// A stream or an expression that does not fit, in words.
    pub fn new(grid: Grid, source: &GridSource, other: impl Fn(&str) -> Option<Arc<Stream>>) -> Result<Self, String> {
        let finish = |(id, when): &(Arc<str>, String)| {
            let stream = other(id).ok_or_else(|| format!("there is no stream `{id}`"))?;
            let when = Expr::compile(when, &stream, Type::Bool).map_err(|error| error.to_string())?;
            Ok::<_, String>(Finish { stream: Arc::clone(id), when, scratch: Scratch::default(), bools: Bools::default() })
        };
        Ok(Self {
            id: Arc::clone(&grid.config().settings().id),
            grid,
            regions: source.regions.clone(),
            saved_version: 0,
            starts_over: true,
            departed: Vec::new(),
            departed_bytes: 0,
            forgotten: Vec::new(),
            stored_bytes_max: source.stored_bytes_max,
            summaries: source.summaries.as_ref().map(|lane| Arc::clone(&lane.stream)),
            finished: Vec::new(),
            finish: source.finish.as_ref().map(finish).transpose()?,
            announced: Timestamp::MIN,
            touched: 0,
        })
    }

    /// Takes in the rows of `raw` that went through the gate of `pipeline`, which are `batch` and were at `places` of it (`None`: at the
    /// same). What there is to announce.
    pub(super) fn fill(
        &mut self,
        pipeline: &Arc<str>,
        (batch, places): (&Batch, Option<&[usize]>),
        raw: &Batch,
        emit: Emit,
    ) -> Option<Output> {
        let mut from = 0;
        for event in self.events(raw) {
            let to = places.map_or(event + 1, |places| places.partition_point(|place| *place <= event)).min(batch.rows());
            self.touched += self.grid.update(batch, from..to).voxels;
            self.finish_by(raw, event);
            from = to;
        }
        let touched = self.grid.update(batch, from..batch.rows());
        self.touched += touched.voxels;
        let newest = batch.time.last().copied().map_or(Timestamp::MIN, Timestamp);
        let due = emit == Emit::All || newest.since(self.announced) >= ANNOUNCE_NS;
        if self.touched == 0 || !due {
            return None;
        }
        let body = VoxelUpdate { grid: Arc::clone(&self.id), version: touched.version, touched: self.touched };
        let id = format!("voxel_update:{pipeline}:{}:{}", self.id, touched.version);
        let last = batch.seq(batch.rows().saturating_sub(1));
        (self.touched, self.announced) = (0, newest);
        Some(Output::new(id, pipeline, last, Body::VoxelUpdate(body)))
    }

    /// Rows of a stream that the grid is not filled from.
    pub(super) fn listen(&mut self, batch: &Batch) {
        for event in self.events(batch) {
            self.finish_by(batch, event);
        }
    }

    /// The rows that finish a layer.
    fn events(&mut self, batch: &Batch) -> Vec<usize> {
        let Some(finish) = self.finish.as_mut().filter(|finish| finish.stream == batch.stream.id) else { return Vec::new() };
        finish.when.eval_bool(batch, 0..batch.rows(), &mut finish.scratch, &mut finish.bools);
        (0..batch.rows()).filter(|row| finish.bools.holds(*row)).collect()
    }

    /// Finishes the layer that `row` is of; every one that has begun if it is of none.
    fn finish_by(&mut self, batch: &Batch, row: usize) {
        let config = self.grid.config();
        let named = match config.settings().layer_by {
            LayerBy::Number { first } => batch.layer(row).map(|layer| layer.checked_sub(first)),
            LayerBy::Z => batch.position(row).map(|point| config.index_of(point, None).map(|index| index[2])),
        };
        match named {
            Some(Some(layer)) if self.grid.finish_layer(layer) => self.finished.push(layer),
            Some(_) => {}
            None => self.finish_all(),
        }
    }

    /// Finishes every layer that has begun.
    pub(super) fn finish_all(&mut self) {
        let mut finished = self.grid.finish_layers(Timestamp::MAX);
        let highest = self.grid.highest_layer();
        finished.extend(highest.filter(|layer| self.grid.finish_layer(*layer)));
        self.finished.extend(finished);
    }

    /// The watermark of the pipeline's stream is here.
    pub(super) fn advance(&mut self, watermark: Timestamp) {
        self.finished.extend(self.grid.finish_layers(watermark));
    }

    /// What became finished since, as rows of the grid's summary stream if there is one. Then makes room if little memory is left.
    pub(super) fn report(&mut self, arrival: Timestamp) -> Option<Batch> {
        let finished = std::mem::take(&mut self.finished);
        let told = self.summaries.as_ref().filter(|_| !finished.is_empty()).map(|stream| self.told(&finished, stream, arrival));
        if self.grid.is_nearly_full() {
            self.make_room();
        }
        told
    }

    fn told(&self, finished: &[i32], stream: &Arc<Stream>, arrival: Timestamp) -> Batch {
        let mut rows = Batch::new(Arc::clone(stream), "voxels".into(), Arc::clone(&self.id), arrival);
        let mut numbers = Vec::new();
        rows.tags = vec![TagColumn::default()];
        let first = match self.grid.config().settings().layer_by {
            LayerBy::Number { first } => first,
            LayerBy::Z => 0,
        };
        let signals = 0..self.grid.signals().len();
        for layer in finished {
            let Some(status) = self.grid.layer(*layer) else { continue };
            let mut tell = |region: Option<&str>, summaries: &[LayerSummary]| {
                rows.time.push(status.last.0);
                numbers.push(layer.saturating_add(first));
                rows.tags[0].push(region);
                let figures = summaries.iter().flat_map(|summary| FIGURES.iter().map(move |(_, _, figure)| figure(summary)));
                rows.signals.iter_mut().zip(figures).for_each(|(column, figure)| column.push(figure.unwrap_or(f64::NAN)));
            };
            tell(None, &signals.clone().map(|signal| self.grid.layer_summary(*layer, signal)).collect::<Vec<_>>());
            for (name, region) in &self.regions {
                let of_region: Option<Vec<LayerSummary>> =
                    signals.clone().map(|signal| self.grid.layer_region_summary(*layer, signal, region)).collect();
                if let Some(of_region) = of_region {
                    tell(Some(name), &of_region);
                }
            }
        }
        rows.layer = Some(numbers);
        rows
    }

    fn make_room(&mut self) {
        let departed = self.grid.evict_finished();
        if departed.is_empty() {
            return;
        }
        let tiles = departed.iter().flat_map(|departed| &departed.tiles);
        self.departed_bytes += tiles.map(|tile| tile.bytes.len() as u64).sum::<u64>();
        self.departed.extend(departed);
        self.forgotten.extend(self.grid.forget_stored(self.stored_bytes_max));
    }

    /// Whether much waits for a snapshot.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.departed_bytes > DEPARTED_BYTES_MAX
    }

    /// The grid with what left its memory since the last snapshot.
    ///
    /// # Errors
    /// None for tiles that this grid gave.
    pub fn whole(&self) -> Result<Grid, GridError> {
        let mut whole = self.grid.clone();
        for tile in self.departed.iter().rev().flat_map(|departed| &departed.tiles) {
            whole.restore_tile(tile.key, &tile.bytes)?;
        }
        Ok(whole)
    }
}
