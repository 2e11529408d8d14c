//! What the API asks of grids. The engine's thread copies what is needed and goes on; a thread of its own reads the store and writes the
//! answer, so that a large one holds up nobody.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Map, Value, json};

use super::{
    answer::{refusal, to_bytes},
    fold::Fold,
    layers::{LayerError, bring_back},
};
use crate::{
    api::{Act, Answer, Refusal, Request},
    engine::GridLane,
    model::Stream,
    store::Reader,
    voxel::{Grid, GridConfig, GridState, LayerSummary, Region, Stats, TileBlob, TileKey},
};

/// Voxels of an answer unless asked for fewer.
const VOXELS_MAX: usize = 100_000;
/// Layers of an answer.
const LAYERS_MAX: usize = 10_000;
/// Missing voxels that are named.
const MISSING_MAX: usize = 1_000;
/// Answers that are written at the same time.
const ANSWERS_MAX: usize = 4;
/// What is copied for an answer.
const COPIED_BYTES_MAX: usize = 512 << 20;
/// A coarser level halves the resolution; more than this is one voxel.
const LEVEL_MAX: u32 = 10;

/// How many answers are being written.
pub(super) type Answering = Arc<AtomicUsize>;

/// What an answer is written from.
type Work = Box<dyn FnOnce() -> Answer + Send>;

impl Fold {
    /// Answers, or has it answered.
    pub(super) fn respond(&mut self, request: Request) {
        let Request { act, reply } = request;
        let work = match act {
            Act::Voxels { .. } | Act::Layers { .. } | Act::Region { .. } => self.look(act),
            act => {
                // A client that has gone needs none.
                let _ = reply.send(self.answer(act));
                return;
            }
        };
        let answering = Arc::clone(&self.answering);
        let work = work.and_then(|work| {
            let busy = answering.fetch_add(1, Ordering::AcqRel) >= ANSWERS_MAX;
            if busy {
                answering.fetch_sub(1, Ordering::AcqRel);
            }
            if busy {
                Err(Refusal::Unavailable("other answers about voxels are being written; try again".into()))
            } else {
                Ok(work)
            }
        });
        match work {
            Ok(work) => {
                std::thread::spawn(move || {
                    let done = Done(answering);
                    let _ = reply.send(work());
                    drop(done);
                });
            }
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    fn look(&mut self, act: Act) -> Result<Work, Refusal> {
        match act {
            Act::Voxels { grid, layer, since, level: 0, limit } => self.voxels(&grid, layer, since, limit),
            Act::Voxels { grid, layer, since: None, level, limit } => self.coarse(&grid, layer, level, limit),
            Act::Voxels { .. } => Err(Refusal::Invalid("changes are not kept by level: leave out `since` or `level`".into())),
            Act::Layers { grid, layer: None } => self.layers(&grid),
            Act::Layers { grid, layer: Some(layer) } => self.layer(&grid, layer),
            Act::Region { grid, lower, upper } => self.region(&grid, Region { lower, upper }),
            other => Err(Refusal::Failed(format!("{other:?} is not answered here"))),
        }
    }

    fn lane(&self, grid: &str) -> Result<&GridLane, Refusal> {
        self.engine.grid(grid).ok_or_else(|| Refusal::NotFound(format!("there is no grid `{grid}`")))
    }

    fn voxels(&mut self, id: &str, layer: Option<i64>, since: Option<u64>, limit: Option<usize>) -> Result<Work, Refusal> {
        let lane = self.lane(id)?;
        let limit = limit.unwrap_or(VOXELS_MAX).min(VOXELS_MAX);
        let layer = layer.map(narrow);
        let stored = layer.and_then(|layer| lane.grid.layer(layer)).is_some_and(|status| status.generations > 0);
        let (Some(layer), None, true) = (layer, since, stored) else {
            let (page, grid) = (lane.grid.page(layer, since, limit), id.to_owned());
            return Ok(Box::new(move || {
                to_bytes(&json!({"grid": grid, "version": page.version, "complete": page.is_complete, "voxels": page.voxels}))
            }));
        };
        let copied = self.copy(id, |number| number == layer, |_, _| true)?;
        Ok(Box::new(move || {
            let grid = copied.layer(&copied.reader()?, layer, |_| true)?;
            let page = grid.page(Some(layer), None, limit);
            to_bytes(&json!({"grid": copied.id(), "version": page.version, "complete": page.is_complete, "voxels": page.voxels}))
        }))
    }

    /// A coarser level; with its layer, if one is named.
    fn coarse(&mut self, id: &str, layer: Option<i64>, level: u32, limit: Option<usize>) -> Result<Work, Refusal> {
        if level > LEVEL_MAX {
            return Err(Refusal::Invalid(format!("`level` goes to {LEVEL_MAX}")));
        }
        let ratio = 1_i32 << level;
        let layer = layer.map(narrow);
        let copied = self.copy(id, |fine| layer.is_none_or(|layer| fine.div_euclid(ratio) == layer), |_, _| true)?;
        let limit = limit.unwrap_or(VOXELS_MAX).min(VOXELS_MAX);
        Ok(Box::new(move || {
            let reader = copied.reader()?;
            let mut coarse: Option<Grid> = None;
            for layer in copied.layers.keys() {
                let next = copied.layer(&reader, *layer, |_| true)?.coarser(ratio).map_err(|error| failed(&error))?;
                match &mut coarse {
                    Some(coarse) => coarse.merge(&next).map_err(|error| failed(&error))?,
                    None => coarse = Some(next),
                }
                if coarse.as_ref().is_some_and(|coarse| coarse.bytes() > COPIED_BYTES_MAX as u64) {
                    return Err(Refusal::Invalid("that is too much at once: name a layer, or a higher level".into()));
                }
            }
            let (voxels, complete) = match coarse {
                Some(coarse) => {
                    let page = coarse.page(layer, None, limit);
                    (page.voxels, page.is_complete)
                }
                None => (Vec::new(), true),
            };
            let edges = copied.config.axes().map(|axis| axis.voxel_mm() * f64::from(ratio));
            let head = json!({"grid": copied.id(), "version": copied.version, "level": level, "voxel_mm": edges});
            let mut answer = head.as_object().cloned().unwrap_or_default();
            answer.extend([("complete".to_owned(), json!(complete)), ("voxels".to_owned(), json!(voxels))]);
            to_bytes(&answer)
        }))
    }

    /// All layers in figures.
    fn layers(&self, id: &str) -> Result<Work, Refusal> {
        let lane = self.lane(id)?;
        let (version, all) = (lane.grid.version(), lane.grid.layers());
        let skipped = all.len().saturating_sub(LAYERS_MAX);
        let layers: Vec<Value> = all[skipped..]
            .iter()
            .map(|status| {
                let summaries = (0..lane.grid.signals().len()).map(|signal| lane.grid.layer_summary(status.layer, signal));
                json!({"status": status, "signals": by_signal(summaries, |_| Map::new())})
            })
            .collect();
        let grid = id.to_owned();
        Ok(Box::new(move || to_bytes(&json!({"grid": grid, "version": version, "complete": skipped == 0, "layers": layers}))))
    }

    /// One layer in figures, with its regions and what is missing.
    fn layer(&mut self, id: &str, layer: i64) -> Result<Work, Refusal> {
        let layer = narrow(layer);
        let lane = self.lane(id)?;
        let regions = lane.regions.clone();
        let Some(status) = lane.grid.layer(layer) else {
            return Err(Refusal::NotFound(format!("layer {layer} of grid `{id}` has no voxel")));
        };
        // What is missing may be counted against the layer below.
        let copied = self.copy(id, |number| number == layer || number == layer.saturating_sub(1), |_, _| true)?;
        Ok(Box::new(move || {
            let reader = copied.reader()?;
            let mut grid = copied.layer(&reader, layer, |_| true)?;
            copied.add_layer(&mut grid, &reader, layer.saturating_sub(1), |_| true)?;
            let signals = 0..grid.signals().len();
            let summaries = signals.clone().map(|signal| grid.layer_summary(layer, signal));
            let missing = |signal: usize| {
                let missing = grid.missing(layer, signal, MISSING_MAX);
                Map::from_iter([
                    ("missing".to_owned(), json!(missing.missing)),
                    ("missing_voxels".to_owned(), json!(missing.voxels)),
                ])
            };
            let mut of_regions = Map::new();
            for (name, region) in &regions {
                let figures: Option<Vec<LayerSummary>> =
                    signals.clone().map(|signal| grid.layer_region_summary(layer, signal, region)).collect();
                if let Some(figures) = figures {
                    of_regions.insert(name.to_string(), Value::Object(by_signal(figures.into_iter(), |_| Map::new())));
                }
            }
            let by_signal = by_signal(summaries, missing);
            to_bytes(&json!({"grid": copied.id(), "status": status, "signals": by_signal, "regions": of_regions}))
        }))
    }

    /// All rows of the voxels whose centres lie in a box.
    fn region(&mut self, id: &str, region: Region) -> Result<Work, Refusal> {
        if (0..3).any(|axis| region.lower[axis].is_nan() || region.upper[axis].is_nan() || region.lower[axis] > region.upper[axis])
        {
            return Err(Refusal::Invalid("`upper` is below `lower`: exchange them".into()));
        }
        let z = self.lane(id)?.grid.config().axes()[2];
        let crosses = move |layer: i32| (region.lower[2]..=region.upper[2]).contains(&z.center_mm(layer));
        let copied = self.copy(id, crosses, |grid, key| grid.meets(key, &region))?;
        Ok(Box::new(move || {
            let reader = copied.reader()?;
            let mut signals: Vec<(u64, Option<Stats>)> = vec![(0, None); copied.config.settings().signals.len()];
            for layer in copied.layers.keys() {
                let empty = copied.empty()?;
                let grid = copied.layer(&reader, *layer, |key| empty.meets(key, &region))?;
                for (signal, (voxels, all)) in signals.iter_mut().enumerate() {
                    *voxels += grid.region_voxels(&region, signal);
                    *all = Stats::all(all.take().into_iter().chain(grid.region(&region, signal)));
                }
            }
            let names = copied.config.settings().signals.iter().map(ToString::to_string);
            let figures = signals.into_iter().map(|(voxels, all)| {
                json!({
                    "voxels": voxels,
                    "count": all.map_or(0, |all| all.count),
                    "mean": all.map(|all| all.mean),
                    "variance": all.and_then(|all| all.variance()),
                    "min": all.map(|all| all.min),
                    "max": all.map(|all| all.max),
                    "sum": all.map(|all| all.sum()),
                })
            });
            let signals: Map<String, Value> = names.zip(figures).collect();
            let (lower, upper) = (region.lower, region.upper);
            to_bytes(
                &json!({"grid": copied.id(), "lower": lower, "upper": upper, "layers": copied.layers.len(), "signals": signals}),
            )
        }))
    }

    /// What is needed to look at layers, some of which may have left memory; of those in memory only the tiles for which `needed` holds.
    fn copy(&mut self, id: &str, wanted: impl Fn(i32) -> bool, needed: impl Fn(&Grid, TileKey) -> bool) -> Result<Copied, Refusal> {
        let is_stored = |lane: &GridLane| lane.grid.layers().iter().any(|one| one.generations > 0 && wanted(one.layer));
        if is_stored(self.lane(id)?) {
            // What left memory since the last checkpoint is then in the store as well.
            self.commit_and_wait().map_err(|error| refusal(&error))?;
        }
        let directory = self.directory.clone();
        let lane = self.lane(id)?;
        let mut layers = BTreeMap::new();
        let mut bytes = 0;
        for status in lane.grid.layers().into_iter().filter(|status| wanted(status.layer)) {
            let mut tiles = lane.grid.layer_tiles(status.layer);
            tiles.retain(|tile| needed(&lane.grid, tile.key));
            bytes += tiles.iter().map(|tile| tile.bytes.len()).sum::<usize>();
            if bytes > COPIED_BYTES_MAX {
                return Err(Refusal::Invalid("that is too much at once: name a layer or a smaller region, or export it".into()));
            }
            layers.insert(status.layer, tiles);
        }
        Ok(Copied {
            config: lane.grid.config().clone(),
            stream: Arc::clone(lane.grid.stream()),
            version: lane.grid.version(),
            state: lane.grid.snapshot(),
            layers,
            directory,
        })
    }
}

/// One answer fewer that is being written, also when its thread panics.
struct Done(Answering);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Layers of a grid at one moment.
struct Copied {
    config: GridConfig,
    stream: Arc<Stream>,
    version: u64,
    state: GridState,
    /// What of each is in memory.
    layers: BTreeMap<i32, Vec<TileBlob>>,
    directory: PathBuf,
}

impl Copied {
    fn id(&self) -> &str {
        &self.config.settings().id
    }

    fn reader(&self) -> Result<Reader, Refusal> {
        Reader::open(&self.directory).map_err(|error| refusal(&error))
    }

    /// The grid without its voxels.
    fn empty(&self) -> Result<Grid, Refusal> {
        Grid::restore(self.config.clone(), Arc::clone(&self.stream), self.state.clone()).map_err(|error| failed(&error))
    }

    /// The grid with one layer, wherever that is.
    fn layer(&self, reader: &Reader, layer: i32, wanted: impl Fn(TileKey) -> bool) -> Result<Grid, Refusal> {
        let mut grid = self.empty()?;
        self.add_layer(&mut grid, reader, layer, wanted)?;
        Ok(grid)
    }

    fn add_layer(&self, grid: &mut Grid, reader: &Reader, layer: i32, wanted: impl Fn(TileKey) -> bool) -> Result<(), Refusal> {
        for tile in self.layers.get(&layer).into_iter().flatten() {
            grid.restore_tile(tile.key, &tile.bytes).map_err(|error| failed(&error))?;
        }
        bring_back(reader, grid, layer, wanted).map_err(|error| match &error {
            LayerError::Forgotten { .. } => Refusal::NotFound(error.to_string()),
            LayerError::Store(error) => refusal(error),
            LayerError::Grid(error) => failed(error),
        })
    }
}

fn failed(error: &impl ToString) -> Refusal {
    Refusal::Failed(error.to_string())
}

fn narrow(layer: i64) -> i32 {
    i32::try_from(layer).unwrap_or(i32::MAX)
}

/// Figures by signal, each with what `more` knows of it.
fn by_signal(summaries: impl Iterator<Item = LayerSummary>, more: impl Fn(usize) -> Map<String, Value>) -> Map<String, Value> {
    summaries
        .enumerate()
        .map(|(signal, summary)| {
            let mut figures = match serde_json::to_value(&summary) {
                Ok(Value::Object(figures)) => figures,
                _ => Map::new(),
            };
            figures.remove("signal");
            figures.extend(more(signal));
            (summary.signal.to_string(), Value::Object(figures))
        })
        .collect()
}
