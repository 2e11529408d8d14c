//! Tiles: 32 × 32 × 1 voxels, and the columns their statistics live in.
//!
//! A build grows layer by layer, so a tile is one voxel thick: a finished layer's tiles are touched no more. All tiles of a grid
//! have a slot; a statistic (*lane*) of a signal is one array a slot, and the optional ones are not there when they are off.
//! Only slots that rows have touched exist. Removing a tile moves the last slot into its place.

use super::{
    GridConfig, Weights,
    stats::{Moments, Stamped, Stats, Sum},
};

/// Voxels along one edge of a tile, as a shift.
pub(super) const TILE_SHIFT: u32 = 5;
/// Voxels along one edge of a tile.
pub(super) const TILE_EDGE: usize = 1 << TILE_SHIFT;
/// Voxels in a tile.
pub(super) const TILE_VOXELS: usize = TILE_EDGE * TILE_EDGE;
/// What a tile takes besides its lanes: the marks of what was touched, the directory's entry, the pointers.
pub(super) const TILE_OVERHEAD_BYTES: usize = 320;

const BIAS: i64 = 1 << 20;
const FIELD: u64 = (1 << 21) - 1;

/// Which tile: 21 bits each of layer, tile row and tile column, biased so that keys sort by layer, then y, then x. The top bit is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileKey(pub u64);

impl TileKey {
    /// The tile that holds a voxel.
    pub fn of(index: [i32; 3]) -> Self {
        let [i, j, k] = index.map(i64::from);
        Self(pack(i, j, k))
    }

    /// The voxel at the tile's lowest x and y.
    pub fn origin(self) -> [i32; 3] {
        let field = |shift: u32| ((self.0 >> shift & FIELD) as i64 - BIAS) as i32;
        [field(0) << TILE_SHIFT, field(21) << TILE_SHIFT, field(42)]
    }

    /// The layer (voxel index along z).
    pub fn layer(self) -> i32 {
        self.origin()[2]
    }

    /// The place of a voxel in its tile.
    pub(super) fn cell(index: [i32; 3]) -> usize {
        cell_of(i64::from(index[0]), i64::from(index[1])) as usize
    }

    /// The voxel of place `cell` in the tile.
    pub(super) fn voxel(self, cell: usize) -> [i32; 3] {
        let [i, j, k] = self.origin();
        [i + (cell % TILE_EDGE) as i32, j + (cell / TILE_EDGE) as i32, k]
    }

    /// The lowest and the highest key a tile of `layer` can have.
    pub(super) fn layer_range(layer: i32) -> std::ops::RangeInclusive<Self> {
        let low = ((i64::from(layer) + BIAS) as u64 & FIELD) << 42;
        Self(low)..=Self(low | ((1 << 42) - 1))
    }
}

/// The key of a voxel's tile.
#[inline]
pub(super) fn pack(i: i64, j: i64, k: i64) -> u64 {
    let tile = |index: i64| (index + (BIAS << TILE_SHIFT)) as u64 >> TILE_SHIFT;
    ((k + BIAS) as u64) << 42 | tile(j) << 21 | tile(i)
}

/// The place of a voxel in its tile.
#[inline]
pub(super) fn cell_of(i: i64, j: i64) -> u64 {
    let low = |index: i64| index as u64 & (TILE_EDGE as u64 - 1);
    low(j) << TILE_SHIFT | low(i)
}

/// One statistic of one tile.
pub(super) type Lane<T> = Box<[T; TILE_VOXELS]>;

fn lane<T: Copy>(value: T) -> Lane<T> {
    let Ok(lane) = vec![value; TILE_VOXELS].into_boxed_slice().try_into() else { unreachable!("the length is the array's") };
    lane
}

/// One statistic of every tile, or of none.
#[derive(Debug, Clone)]
pub(super) struct Optional<T> {
    empty: T,
    pub tiles: Option<Vec<Lane<T>>>,
}

impl<T: Copy> Optional<T> {
    fn new(on: bool, empty: T) -> Self {
        Self { empty, tiles: on.then(Vec::new) }
    }

    fn push(&mut self) {
        let empty = self.empty;
        if let Some(tiles) = &mut self.tiles {
            tiles.push(lane(empty));
        }
    }

    fn swap_remove(&mut self, slot: usize) {
        if let Some(tiles) = &mut self.tiles {
            tiles.swap_remove(slot);
        }
    }

    /// Works on a tile's lane, if there is one.
    #[inline]
    pub fn in_tile(&mut self, slot: usize, work: impl FnOnce(&mut [T; TILE_VOXELS])) {
        if let Some(tiles) = &mut self.tiles {
            work(&mut tiles[slot]);
        }
    }

    fn get(&self, slot: usize, cell: usize) -> Option<T> {
        self.tiles.as_ref().map(|tiles| tiles[slot][cell])
    }

    fn set(&mut self, slot: usize, cell: usize, value: Option<T>) {
        if let (Some(tiles), Some(value)) = (&mut self.tiles, value) {
            tiles[slot][cell] = value;
        }
    }
}

/// The statistics of one signal, by slot.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    pub count: Vec<Lane<u32>>,
    pub moments: Vec<Lane<Moments>>,
    pub weight: Optional<f64>,
    pub sum: Optional<Sum>,
    pub first: Optional<Stamped>,
    pub last: Optional<Stamped>,
}

impl Lanes {
    pub fn new(config: &GridConfig) -> Self {
        let settings = config.settings();
        let stamped = |time| Stamped { time, value: f64::NAN };
        Self {
            count: Vec::new(),
            moments: Vec::new(),
            weight: Optional::new(settings.weights == Weights::Trilinear, 0.0),
            sum: Optional::new(settings.lanes.sum, Sum::default()),
            first: Optional::new(settings.lanes.first, stamped(i64::MAX)),
            last: Optional::new(settings.lanes.last, stamped(i64::MIN)),
        }
    }

    /// Adds an empty tile as the last slot.
    pub fn push(&mut self) {
        self.count.push(lane(0));
        self.moments.push(lane(Moments::EMPTY));
        self.weight.push();
        self.sum.push();
        self.first.push();
        self.last.push();
    }

    /// Frees the tile at `slot`; the last one takes its place.
    pub fn swap_remove(&mut self, slot: usize) {
        self.count.swap_remove(slot);
        self.moments.swap_remove(slot);
        self.weight.swap_remove(slot);
        self.sum.swap_remove(slot);
        self.first.swap_remove(slot);
        self.last.swap_remove(slot);
    }

    /// What is known of a voxel; `None` while it has no value.
    pub fn get(&self, slot: usize, cell: usize) -> Option<Stats> {
        let count = self.count[slot][cell];
        if count == 0 {
            return None;
        }
        let Moments { mean, m2, min, max } = self.moments[slot][cell];
        Some(Stats {
            count,
            weight: self.weight.get(slot, cell).unwrap_or(f64::from(count)),
            mean,
            m2,
            min,
            max,
            sum: self.sum.get(slot, cell),
            first: self.first.get(slot, cell),
            last: self.last.get(slot, cell),
        })
    }

    /// Sets what is known of a voxel.
    pub fn set(&mut self, slot: usize, cell: usize, stats: &Stats) {
        self.count[slot][cell] = stats.count;
        self.moments[slot][cell] = Moments { mean: stats.mean, m2: stats.m2, min: stats.min, max: stats.max };
        self.weight.set(slot, cell, Some(stats.weight));
        self.sum.set(slot, cell, stats.sum);
        self.first.set(slot, cell, stats.first);
        self.last.set(slot, cell, stats.last);
    }

    /// Adds a value of which `weight` counts.
    pub fn add_weighted(&mut self, slot: usize, cell: usize, weight: f64, time: i64, value: f64) {
        let count = &mut self.count[slot][cell];
        *count = count.saturating_add(1);
        let mut total = f64::from(*count);
        self.weight.in_tile(slot, |all| {
            all[cell] += weight;
            total = all[cell];
        });
        self.moments[slot][cell].add_weighted(weight, total, value);
        self.sum.in_tile(slot, |sum| sum[cell].add(weight * value));
        self.first.in_tile(slot, |first| first[cell].earlier(time, value));
        self.last.in_tile(slot, |last| last[cell].later(time, value));
    }

    /// Puts what `earlier` knows of a voxel before what is there.
    pub fn restore(&mut self, slot: usize, cell: usize, earlier: &Stats) {
        let both = self.get(slot, cell).map_or(*earlier, |own| earlier.merged(&own));
        self.set(slot, cell, &both);
    }

    /// Adds what `later` knows of a voxel.
    pub fn merge(&mut self, slot: usize, cell: usize, later: &Stats) {
        let both = self.get(slot, cell).map_or(*later, |own| own.merged(later));
        self.set(slot, cell, &both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_their_voxels_back_and_sort_by_layer() {
        for index in [[0, 0, 0], [31, 31, 0], [32, -1, 5], [-33, 64, -2], [(1 << 25) - 1, -(1 << 25), (1 << 20) - 1]] {
            let key = TileKey::of(index);
            assert_eq!(key.voxel(TileKey::cell(index)), index);
            assert!(TileKey::layer_range(index[2]).contains(&key));
            assert!(key.0 >> 63 == 0);
        }
        assert!(TileKey::of([0, 0, -1]) < TileKey::of([-64, 0, 0]));
        assert!(TileKey::of([64, 0, 0]) < TileKey::of([-64, 32, 0]));
    }
}
