//! The grid: which tiles there are, reading them, and what a checkpoint keeps.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

use crate::model::{Stream, Timestamp, VoxelState};

use super::{
    GridConfig, GridError, Region, Stats, TileKey,
    layer::Layer,
    tile::{Lanes, TILE_VOXELS},
};

/// One bit a voxel of a tile.
pub(super) type Bits = [u64; TILE_VOXELS / 64];

/// What a tile knows of itself.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub key: TileKey,
    /// The grid's version when it was last touched.
    pub version: u64,
}

/// What every run of rows needs of its tile: kept apart and small, to stay in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    /// The layer's place in [`Grid::layers`].
    pub layer: u32,
    /// A place in [`Latest`]: the tile's, if that one names the tile's slot.
    pub latest: u32,
}

/// The tiles that the latest update touched.
#[derive(Debug, Clone, Default)]
pub(super) struct Latest {
    pub slots: Vec<u32>,
    /// The touched voxels of each.
    pub bits: Vec<Bits>,
}

impl Latest {
    pub fn clear(&mut self) {
        self.slots.clear();
        self.bits.clear();
    }
}

/// Rows since the grid was made, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Added to a voxel.
    pub rows: u64,
    /// Outside the box, or a coordinate that is not finite.
    pub rejected: u64,
    /// Without a position (or a layer number, where that decides).
    pub unplaced: u64,
    /// Without a finite value of any of the grid's signals.
    pub without_value: u64,
    /// Not added because memory was full and no finished layer could leave.
    pub full: u64,
}

/// What a checkpoint keeps of a grid besides its tiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GridState {
    /// What its voxels mean ([`GridConfig::shape`]).
    pub(super) shape: String,
    pub(super) version: u64,
    pub(super) counters: Counters,
    pub(super) layers: Vec<Layer>,
}

/// A volume of running statistics. See the module's page.
#[derive(Debug, Clone)]
pub struct Grid {
    pub(super) config: GridConfig,
    pub(super) stream: Arc<Stream>,
    /// The stream's column of each of the grid's signals.
    pub(super) columns: Vec<usize>,
    pub(super) version: u64,
    pub(super) counters: Counters,
    /// Slot of a tile; looked up, never iterated.
    pub(super) slots: HashMap<u64, u32, FxBuildHasher>,
    /// By slot.
    pub(super) tiles: Vec<Tile>,
    /// By slot.
    pub(super) links: Vec<Links>,
    /// By signal of the grid.
    pub(super) lanes: Vec<Lanes>,
    pub(super) layers: Vec<Layer>,
    /// Place in `layers` by layer.
    pub(super) layer_places: BTreeMap<i32, u32>,
    /// All layers below are finished.
    pub(super) open_from: i32,
    /// The tiles that the latest update touched; empty after tiles were removed.
    pub(super) latest: Latest,
}

impl Grid {
    /// An empty grid over rows of `stream`.
    ///
    /// # Errors
    /// A signal that the stream does not have.
    pub fn new(config: GridConfig, stream: Arc<Stream>) -> Result<Self, GridError> {
        let mut columns = Vec::new();
        for name in &config.settings().signals {
            let unknown = || GridError::UnknownSignal { stream: stream.id.to_string(), signal: name.to_string() };
            columns.push(stream.signal(name).ok_or_else(unknown)?);
        }
        Ok(Self {
            lanes: columns.iter().map(|_| Lanes::new(&config)).collect(),
            config,
            stream,
            columns,
            version: 0,
            counters: Counters::default(),
            slots: HashMap::default(),
            tiles: Vec::new(),
            links: Vec::new(),
            layers: Vec::new(),
            layer_places: BTreeMap::new(),
            open_from: i32::MAX,
            latest: Latest::default(),
        })
    }

    /// The checked settings.
    pub fn config(&self) -> &GridConfig {
        &self.config
    }

    /// The shape of the rows it takes.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The grid's signals, in the order the `signal` arguments of its functions count.
    pub fn signals(&self) -> &[Arc<str>] {
        &self.config.settings().signals
    }

    /// Which of the grid's signals is `name`.
    pub fn signal(&self, name: &str) -> Option<usize> {
        self.signals().iter().position(|signal| &**signal == name)
    }

    /// Counts up with every update that touches a voxel.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What became of the rows so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Tiles in memory.
    pub fn tile_count(&self) -> usize {
        self.tiles.len()
    }

    /// What the tiles in memory take.
    pub fn bytes(&self) -> u64 {
        self.tiles.len() as u64 * self.config.tile_bytes()
    }

    /// What is known of a voxel and signal; `None` while it has no value (or its layer is evicted).
    pub fn get(&self, index: [i32; 3], signal: usize) -> Option<Stats> {
        let slot = *self.slots.get(&TileKey::of(index).0)? as usize;
        self.lanes[signal].get(slot, TileKey::cell(index))
    }

    /// All voxels with a value of `signal`, by layer, then by tile.
    pub fn voxels(&self, signal: usize) -> impl Iterator<Item = ([i32; 3], Stats)> + '_ {
        self.voxels_of(self.keys(|_| true), signal)
    }

    /// The voxels of a layer with a value of `signal`, by tile.
    pub fn layer_voxels(&self, layer: i32, signal: usize) -> impl Iterator<Item = ([i32; 3], Stats)> + '_ {
        self.voxels_of(self.layer_keys(layer), signal)
    }

    /// Keys of the tiles touched after `version`, sorted.
    pub fn touched_since(&self, version: u64) -> Vec<TileKey> {
        self.keys(|tile| tile.version > version)
    }

    /// The voxels that the latest update touched, sorted by layer, then by tile.
    pub fn latest_touched(&self) -> Vec<[i32; 3]> {
        let slots = self.latest.slots.iter().zip(&self.latest.bits);
        let mut latest: Vec<(TileKey, &Bits)> = slots.map(|(slot, bits)| (self.tiles[*slot as usize].key, bits)).collect();
        latest.sort_unstable_by_key(|(key, _)| *key);
        let is_marked = |bits: &Bits, cell: usize| bits[cell / 64] >> (cell % 64) & 1 == 1;
        let marked = |bits| (0..TILE_VOXELS).filter(move |cell| is_marked(bits, *cell));
        latest.into_iter().flat_map(|(key, bits)| marked(bits).map(move |cell| key.voxel(cell))).collect()
    }

    /// Every voxel with a value, as results: sorted by index, then by signal in the grid's order.
    pub fn states(&self) -> Vec<VoxelState> {
        self.states_of(&self.keys(|_| true))
    }

    /// The voxels of the tiles touched after `version`, as results; sorted as [`Grid::states`].
    pub fn states_since(&self, version: u64) -> Vec<VoxelState> {
        self.states_of(&self.touched_since(version))
    }

    /// The voxels of a layer, as results; sorted as [`Grid::states`].
    pub fn layer_states(&self, layer: i32) -> Vec<VoxelState> {
        self.states_of(&self.layer_keys(layer))
    }

    /// All rows of the voxels whose centres lie in `region`, together; `None` of none.
    pub fn region(&self, region: &Region, signal: usize) -> Option<Stats> {
        let keys = self.keys(|tile| self.may_meet(tile.key, region));
        let inside = |index: [i32; 3]| region.contains(self.config.center_mm(index));
        Stats::all(self.voxels_of(keys, signal).filter(|(index, _)| inside(*index)).map(|(_, stats)| stats))
    }

    /// How many voxels with a value have their centre in `region`.
    pub fn region_voxels(&self, region: &Region, signal: usize) -> u64 {
        let keys = self.keys(|tile| self.may_meet(tile.key, region));
        self.voxels_of(keys, signal).filter(|(index, _)| region.contains(self.config.center_mm(*index))).count() as u64
    }

    /// Adds what `later` holds: as if its rows had been added after this grid's own.
    ///
    /// # Errors
    /// Other voxels, signals or lanes.
    pub fn merge(&mut self, later: &Self) -> Result<(), GridError> {
        self.check_alike(later)?;
        self.version += 1;
        self.latest.clear();
        for key in later.keys(|_| true) {
            let Some(from) = later.slots.get(&key.0).map(|slot| *slot as usize) else { continue };
            let slot = self.slot_or_new(key);
            for (own, other) in self.lanes.iter_mut().zip(&later.lanes) {
                for cell in 0..TILE_VOXELS {
                    if let Some(stats) = other.get(from, cell) {
                        own.merge(slot, cell, &stats);
                    }
                }
            }
            self.tiles[slot].version = self.version;
            self.latest.slots.push(slot as u32);
            self.latest.bits.push(later.occupied(from));
        }
        for layer in &later.layers {
            let place = self.layer_place(layer.layer);
            self.layers[place as usize].join(layer);
        }
        self.counters.join(later.counters);
        Ok(())
    }

    /// Forgets every voxel and counts from nothing; versions go on.
    pub fn reset(&mut self) {
        let (config, stream) = (self.config.clone(), Arc::clone(&self.stream));
        let version = self.version + 1;
        *self = Self {
            config,
            stream,
            columns: std::mem::take(&mut self.columns),
            version,
            lanes: self.lanes.iter().map(|_| Lanes::new(&self.config)).collect(),
            counters: Counters::default(),
            slots: HashMap::default(),
            tiles: Vec::new(),
            links: Vec::new(),
            layers: Vec::new(),
            layer_places: BTreeMap::new(),
            open_from: i32::MAX,
            latest: Latest::default(),
        };
    }

    /// What a checkpoint keeps besides the tiles.
    pub fn snapshot(&self) -> GridState {
        GridState { shape: self.config.shape(), version: self.version, counters: self.counters, layers: self.layers.clone() }
    }

    /// The grid that gave `state`, without its tiles: those follow by [`Grid::restore_tile`].
    ///
    /// # Errors
    /// As [`Grid::new`]; the state of a grid whose voxels were other ones.
    pub fn restore(config: GridConfig, stream: Arc<Stream>, state: GridState) -> Result<Self, GridError> {
        if config.shape() != state.shape {
            return Err(GridError::Reshaped { grid: config.settings().id.to_string() });
        }
        let mut grid = Self::new(config, stream)?;
        grid.open_from = i32::MIN;
        grid.version = state.version;
        grid.counters = state.counters;
        grid.layer_places = state.layers.iter().enumerate().map(|(place, layer)| (layer.layer, place as u32)).collect();
        grid.layers = state.layers;
        Ok(grid)
    }

    pub(super) fn check_alike(&self, other: &Self) -> Result<(), GridError> {
        let (own, its) = (&self.config, &other.config);
        let voxels = own.axes().iter().zip(its.axes()).all(|(own, its)| own.has_voxels_of(its));
        let what = if !voxels {
            "voxels"
        } else if own.settings().signals != its.settings().signals {
            "signals"
        } else if own.settings().lanes != its.settings().lanes || own.settings().weights != its.settings().weights {
            "statistics"
        } else {
            return Ok(());
        };
        Err(GridError::Mismatch { what })
    }

    /// Keys of the tiles for which `wanted` holds, sorted.
    pub(super) fn keys(&self, wanted: impl Fn(&Tile) -> bool) -> Vec<TileKey> {
        let mut keys: Vec<TileKey> = self.tiles.iter().filter(|tile| wanted(tile)).map(|tile| tile.key).collect();
        keys.sort_unstable();
        keys
    }

    /// Keys of a layer's tiles, sorted.
    pub(super) fn layer_keys(&self, layer: i32) -> Vec<TileKey> {
        self.keys(|tile| tile.key.layer() == layer)
    }

    pub(super) fn voxels_of(&self, keys: Vec<TileKey>, signal: usize) -> impl Iterator<Item = ([i32; 3], Stats)> + '_ {
        let lanes = &self.lanes[signal];
        keys.into_iter().filter_map(|key| self.slots.get(&key.0).map(|slot| (key, *slot as usize))).flat_map(move |(key, slot)| {
            (0..TILE_VOXELS).filter_map(move |cell| lanes.get(slot, cell).map(|stats| (key.voxel(cell), stats)))
        })
    }

    pub(super) fn states_of(&self, keys: &[TileKey]) -> Vec<VoxelState> {
        let mut found: Vec<([i32; 3], usize, Stats)> = (0..self.lanes.len())
            .flat_map(|signal| self.voxels_of(keys.to_vec(), signal).map(move |(index, stats)| (index, signal, stats)))
            .collect();
        found.sort_unstable_by_key(|(index, signal, _)| (*index, *signal));
        found.into_iter().map(|(index, signal, stats)| self.state(index, signal, &stats)).collect()
    }

    fn state(&self, index: [i32; 3], signal: usize, stats: &Stats) -> VoxelState {
        VoxelState {
            grid: Arc::clone(&self.config.settings().id),
            index: index.map(i64::from),
            signal: Arc::clone(&self.signals()[signal]),
            count: u64::from(stats.count),
            mean: stats.mean,
            variance: stats.variance(),
            min: stats.min,
            max: stats.max,
            last: stats.last.map(|last| last.value),
        }
    }

    /// Whether a tile's centres can lie in `region`.
    pub(super) fn may_meet(&self, key: TileKey, region: &Region) -> bool {
        let low = self.config.center_mm(key.origin());
        let high = self.config.center_mm(key.voxel(TILE_VOXELS - 1));
        (0..3).all(|axis| low[axis] <= region.upper[axis] && high[axis] >= region.lower[axis])
    }

    /// Voxels of a tile that have a value of any signal.
    pub(super) fn occupied(&self, slot: usize) -> Bits {
        let mut bits = Bits::default();
        for lanes in &self.lanes {
            for (place, cell) in lanes.cells[slot].iter().enumerate() {
                bits[place / 64] |= u64::from(cell.count > 0) << (place % 64);
            }
        }
        bits
    }

    /// The slot of a tile, made if need be whatever the memory bound says.
    pub(super) fn slot_or_new(&mut self, key: TileKey) -> usize {
        if let Some(slot) = self.slots.get(&key.0) {
            return *slot as usize;
        }
        let slot = self.tiles.len();
        let layer = self.layer_place(key.layer());
        self.slots.insert(key.0, slot as u32);
        self.tiles.push(Tile { key, version: 0 });
        self.links.push(Links { layer, latest: 0 });
        self.lanes.iter_mut().for_each(Lanes::push);
        slot
    }

    /// Frees a tile; the last slot takes its place.
    pub(super) fn remove(&mut self, key: TileKey) {
        let Some(slot) = self.slots.remove(&key.0) else { return };
        self.latest.clear();
        self.tiles.swap_remove(slot as usize);
        self.links.swap_remove(slot as usize);
        self.lanes.iter_mut().for_each(|lanes| lanes.swap_remove(slot as usize));
        if let Some(moved) = self.tiles.get(slot as usize) {
            self.slots.insert(moved.key.0, slot);
        }
    }

    pub(super) fn layer_place(&mut self, layer: i32) -> u32 {
        let next = self.layers.len() as u32;
        let place = *self.layer_places.entry(layer).or_insert(next);
        if place == next {
            self.layers.push(Layer::new(layer));
            self.open_from = self.open_from.min(layer);
        }
        place
    }

    /// Event time of the latest row of any layer.
    pub fn newest(&self) -> Option<Timestamp> {
        self.layers.iter().filter(|layer| layer.rows > 0).map(|layer| Timestamp(layer.last_time)).max()
    }
}

impl Counters {
    fn join(&mut self, other: Self) {
        self.rows += other.rows;
        self.rejected += other.rejected;
        self.unplaced += other.unplaced;
        self.without_value += other.without_value;
        self.full += other.full;
    }
}
