//! Snapshots: the engine's state as named parts, so that a checkpoint writes only what changed.
//!
//! | name | what |
//! |---|---|
//! | `engine` | format version, place in the inbox, streams, cooldowns of alerts |
//! | `alerts` | the history of alerts, where it changed |
//! | `pipeline/{id}` | counters, checkpoints, windows, joins, patterns, charts, thresholds |
//! | `grid/{id}` | counters and layers of a grid |
//! | `grid/{id}/{tile}` | one tile; a snapshot holds those touched since the last one |
//! | `cold/{id}/{layer}/{generation}/{tile}` | one tile of a layer that left memory; [`Engine::restore`] is not given these |
//!
//! Rings are not in it: they are filled again from the inbox. Parts are `postcard`; the same state gives the same bytes.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Engine, pipeline::PipelineState, space::GridLane};
use crate::{
    dataflow::{CapturedWindows, WatermarksState, WindowState, join::JoinSnapshot, pattern::PatternSnapshot},
    model::{Seq, Timestamp},
    quality::{alert::AlertBook, threshold::ThresholdState, watch::WatchState},
    spc,
    voxel::{Grid, GridState, TileBlob, TileCopy, TileKey},
};

/// The version of the parts' format; another one is refused.
const FORMAT: u32 = 2;

/// Parts of the engine's state: name and bytes, or nothing where the part is gone; a name that ends with `/` then means all that begin
/// with it.
pub type Parts = Vec<(String, Option<Vec<u8>>)>;

/// Where the tiles of a layer that left memory are kept: below it by generation, then by tile.
pub fn cold_layer(grid: &str, layer: i32) -> String {
    format!("cold/{grid}/{layer}/")
}

/// The generation and the tile that a part below [`cold_layer`] names.
pub fn cold_tile(name: &str) -> Option<(u32, TileKey)> {
    let mut words = name.rsplit('/');
    let tile = words.next()?.parse().ok().map(TileKey)?;
    Some((words.next()?.parse().ok()?, tile))
}

/// A snapshot that this configuration cannot go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint's part `{what}` does not fit: {why}")]
pub struct StateError {
    what: String,
    why: String,
}

fn fault(what: &str, why: impl std::fmt::Display) -> StateError {
    StateError { what: what.to_owned(), why: why.to_string() }
}

#[derive(Serialize, Deserialize)]
struct EngineState {
    format: u32,
    last_seq: Seq,
    alerts: AlertBook,
    streams: BTreeMap<Arc<str>, LaneState>,
}

#[derive(Serialize, Deserialize)]
struct LaneState {
    rows: u64,
    newest: Timestamp,
    watermarks: WatermarksState,
    watch: WatchState,
}

/// A pipeline's operators by their ids, so that one that was added or removed does not disturb the others.
#[derive(Serialize, Deserialize)]
struct OperatorStates {
    pipeline: PipelineState,
    windows: BTreeMap<Arc<str>, WindowState>,
    joins: BTreeMap<Arc<str>, JoinSnapshot>,
    patterns: BTreeMap<Arc<str>, PatternSnapshot>,
    charts: BTreeMap<Arc<str>, Vec<u8>>,
    thresholds: BTreeMap<Arc<str>, ThresholdState>,
}

fn pack<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StateError> {
    postcard::to_stdvec(value).map_err(|error| fault(what, error))
}

fn unpack<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StateError> {
    postcard::from_bytes(bytes).map_err(|error| fault(what, error))
}

fn capture_grid(lane: &mut GridLane, parts: &mut Parts, tiles: &mut Vec<(Arc<str>, TileCopy)>) -> Result<(), StateError> {
    let name = format!("grid/{}", lane.id);
    if std::mem::take(&mut lane.starts_over) {
        // Whatever an earlier grid of this name has left.
        parts.extend([(format!("{name}/"), None), (format!("cold/{}/", lane.id), None)]);
    }
    parts.push((name.clone(), Some(pack(&name, &lane.grid.snapshot())?)));
    for departed in std::mem::take(&mut lane.departed) {
        let cold = cold_layer(&lane.id, departed.layer);
        for tile in departed.tiles {
            parts.push((format!("{name}/{}", tile.key.0), None));
            parts.push((format!("{cold}{}/{}", departed.generation, tile.key.0), Some(tile.bytes)));
        }
    }
    parts.extend(std::mem::take(&mut lane.forgotten).into_iter().map(|layer| (cold_layer(&lane.id, layer), None)));
    lane.departed_bytes = 0;
    tiles.extend(lane.grid.touched_copies(lane.saved_version).into_iter().map(|tile| (Arc::clone(&lane.id), tile)));
    lane.saved_version = lane.grid.version();
    Ok(())
}

/// The state of a pipeline at a moment, to be made bytes of.
struct CapturedPipeline {
    name: String,
    /// Without its windows and charts.
    states: OperatorStates,
    windows: Vec<(Arc<str>, CapturedWindows)>,
    charts: Vec<(Arc<str>, spc::Captured)>,
}

/// The engine's state at a moment, not yet bytes: what took the engine's time is over, and any thread can do the rest.
pub struct Captured {
    engine: EngineState,
    pipelines: Vec<CapturedPipeline>,
    /// What is bytes already: the history of alerts, layers, tiles that left memory; and what is gone.
    parts: Parts,
    /// With their grids.
    tiles: Vec<(Arc<str>, TileCopy)>,
}

impl Captured {
    /// The parts.
    ///
    /// # Errors
    /// Never for state that an engine made; the signature says so because serialising can fail in general.
    pub fn encode(self) -> Result<Parts, StateError> {
        let mut parts = self.parts;
        // After what is gone: a tile can have left memory and come again since the last snapshot.
        parts.extend(self.tiles.iter().map(|(grid, tile)| {
            let TileBlob { key, bytes } = tile.blob();
            (format!("grid/{grid}/{}", key.0), Some(bytes))
        }));
        parts.push(("engine".into(), Some(pack("engine", &self.engine)?)));
        for CapturedPipeline { name, mut states, windows, charts } in self.pipelines {
            states.windows.extend(windows.into_iter().map(|(id, captured)| (id, captured.state())));
            for (id, chart) in charts {
                states.charts.insert(id, pack(&name, &chart.snapshot())?);
            }
            let bytes = pack(&name, &states)?;
            parts.push((name, Some(bytes)));
        }
        Ok(parts)
    }
}

impl Engine {
    /// The parts that changed since the last snapshot (all but untouched tiles).
    ///
    /// # Errors
    /// As [`Captured::encode`].
    pub fn snapshot(&mut self) -> Result<Parts, StateError> {
        self.capture()?.encode()
    }

    /// The first half of [`Self::snapshot`], which is what the engine has to wait for.
    ///
    /// # Errors
    /// As [`Captured::encode`].
    pub fn capture(&mut self) -> Result<Captured, StateError> {
        let (mut parts, mut tiles) = (Parts::new(), Vec::new());
        let streams = self.streams.iter().map(|lane| {
            let state = LaneState {
                rows: lane.rows,
                newest: lane.newest,
                watermarks: lane.watermarks.snapshot(),
                watch: lane.watch.snapshot(),
            };
            (Arc::clone(&lane.stream.id), state)
        });
        let engine =
            EngineState { format: FORMAT, last_seq: self.last_seq, alerts: self.alarms.book.clone(), streams: streams.collect() };
        if let Some(history) = self.alarms.book.take_changed_history() {
            parts.push(("alerts".into(), Some(pack("alerts", history)?)));
        }
        let mut pipelines = Vec::with_capacity(self.pipelines.len());
        for pipeline in &mut self.pipelines {
            let states = OperatorStates {
                pipeline: pipeline.state(),
                windows: BTreeMap::new(),
                joins: pipeline.joins.iter().map(|join| (Arc::clone(&join.config().id), join.snapshot())).collect(),
                patterns: pipeline.patterns.iter().map(|one| (Arc::clone(&one.config().id), one.snapshot())).collect(),
                charts: BTreeMap::new(),
                thresholds: pipeline.thresholds.iter().map(|one| (Arc::clone(one.name()), one.state.clone())).collect(),
            };
            let charts = pipeline.charts.iter().map(|chart| (Arc::clone(chart.id()), chart.capture())).collect();
            let windows = pipeline.windows.iter().map(|window| (Arc::clone(&window.config().id), window.capture())).collect();
            pipelines.push(CapturedPipeline { name: format!("pipeline/{}", pipeline.id), states, windows, charts });
            for lane in &mut pipeline.grids {
                capture_grid(lane, &mut parts, &mut tiles)?;
            }
        }
        Ok(Captured { engine, pipelines, parts, tiles })
    }

    /// Goes on from `parts`: what is not in them starts anew, what is in them and not configured any more is left out. Says in words what
    /// was left out.
    ///
    /// # Errors
    /// A part that is damaged or of another version; the engine is then to be thrown away.
    pub fn restore(&mut self, parts: Parts) -> Result<Vec<String>, StateError> {
        let mut parts: BTreeMap<String, Vec<u8>> = parts.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
        let mut left_out = Vec::new();
        let Some(bytes) = parts.remove("engine") else { return Ok(left_out) };
        let engine: EngineState = unpack("engine", &bytes)?;
        if engine.format != FORMAT {
            return Err(fault("engine", format!("it has format {}, this program writes {FORMAT}", engine.format)));
        }
        self.last_seq = engine.last_seq;
        let config = self.alarms.book.config();
        self.alarms.book = engine.alerts;
        self.alarms.book.reconfigure(config);
        if let Some(bytes) = parts.remove("alerts") {
            self.alarms.book.set_history(unpack("alerts", &bytes)?);
        }
        for (id, state) in engine.streams {
            let Some(lane) = self.streams.iter_mut().find(|lane| lane.stream.id == id) else { continue };
            (lane.rows, lane.newest) = (state.rows, state.newest);
            lane.watermarks.restore(state.watermarks);
            if !lane.watch.restore(state.watch) {
                left_out.push(format!("stream `{id}`: other signals are watched now: the watch starts anew"));
            }
        }
        for at in 0..self.pipelines.len() {
            let name = format!("pipeline/{}", self.pipelines[at].id);
            if let Some(bytes) = parts.remove(&name) {
                self.restore_pipeline(at, unpack(&name, &bytes)?, &mut left_out)?;
            }
            self.restore_grids(at, &mut parts, &mut left_out)?;
        }
        Ok(left_out)
    }

    fn restore_pipeline(&mut self, at: usize, mut states: OperatorStates, left_out: &mut Vec<String>) -> Result<(), StateError> {
        let pipeline = &mut self.pipelines[at];
        pipeline.set_state(&states.pipeline);
        for window in &mut pipeline.windows {
            if let Some(state) = states.windows.remove(&window.config().id)
                && let Err(error) = window.restore(state)
            {
                left_out.push(error.to_string());
            }
        }
        for join in &mut pipeline.joins {
            if let Some(state) = states.joins.remove(&join.config().id)
                && let Err(error) = join.restore(&state)
            {
                left_out.push(error.to_string());
            }
        }
        for pattern in &mut pipeline.patterns {
            if let Some(state) = states.patterns.remove(&pattern.config().id)
                && let Err(error) = pattern.restore(&state)
            {
                left_out.push(error.to_string());
            }
        }
        for threshold in &mut pipeline.thresholds {
            if let Some(state) = states.thresholds.remove(threshold.name()) {
                threshold.state = state;
            }
        }
        for chart in &mut pipeline.charts {
            if let Some(bytes) = states.charts.remove(chart.id()) {
                let state: spc::Snapshot = unpack("charts", &bytes)?;
                if let Err(error) = chart.restore(state) {
                    left_out.push(error.to_string());
                }
            }
        }
        Ok(())
    }

    fn restore_grids(
        &mut self,
        at: usize,
        parts: &mut BTreeMap<String, Vec<u8>>,
        left_out: &mut Vec<String>,
    ) -> Result<(), StateError> {
        for lane in &mut self.pipelines[at].grids {
            let name = format!("grid/{}", lane.id);
            let Some(bytes) = parts.remove(&name) else { continue };
            let state: GridState = unpack(&name, &bytes)?;
            let (config, stream) = (lane.grid.config().clone(), Arc::clone(lane.grid.stream()));
            let mut grid = match Grid::restore(config, stream, state) {
                Ok(grid) => grid,
                Err(error) => {
                    left_out.push(error.to_string());
                    lane.starts_over = true;
                    continue;
                }
            };
            lane.starts_over = false;
            let prefix = format!("{name}/");
            let tiles: Vec<String> =
                parts.range(prefix.clone()..).map_while(|(name, _)| name.starts_with(&prefix).then(|| name.clone())).collect();
            for tile in tiles {
                let Some(bytes) = parts.remove(&tile) else { continue };
                let Some(key) = tile[prefix.len()..].parse().ok().map(TileKey) else { continue };
                if let Err(error) = grid.restore_tile(key, &bytes) {
                    left_out.push(error.to_string());
                }
            }
            lane.saved_version = grid.version();
            lane.grid = grid;
        }
        Ok(())
    }
}
