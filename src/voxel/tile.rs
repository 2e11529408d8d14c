//! Tiles: 32 × 32 × 1 voxels, and the columns their statistics live in.
//!
//! A build grows layer by layer, so a tile is one voxel thick: a finished layer's tiles are touched no more. All tiles of a grid
//! have a slot; a statistic (*lane*) of a signal is one array a slot, and the optional ones are not there when they are off.
//! Only slots that rows have touched exist. Removing a tile moves the last slot into its place.

use super::{
    GridConfig, Weights,
    stats::{Cell, Stamped, Stats, Sum},
};

/// Voxels along one edge of a tile, as a shift.
pub(super) const TILE_SHIFT: u32 = 5;
/// Voxels along one edge of a tile.
pub(super) const TILE_EDGE: usize = 1 << TILE_SHIFT;
/// Voxels in a tile.
pub(super) const TILE_VOXELS: usize = TILE_EDGE * TILE_EDGE;
/// What a tile takes besides its lanes: the marks of what was touched, the directory's entry, the pointers.
pub(super) const TILE_OVERHEAD_BYTES: usize = 320;

/// Where a key holds the tile row, and where the layer.
pub(super) const ROW_SHIFT: u32 = 21;
/// See [`ROW_SHIFT`].
pub(super) const LAYER_SHIFT: u32 = 42;

const BIAS: i64 = 1 << 20;
const FIELD: u64 = (1 << 21) - 1;

/// Which tile: 21 bits each of layer, tile row and tile column, biased so that keys sort by layer, then y, then x. The top bit is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileKey(pub u64);

impl TileKey {
    /// The tile that holds a voxel.
    pub fn of(index: [i32; 3]) -> Self {
        let [i, j, k] = index.map(i64::from);
        Self(layer_part(k) << LAYER_SHIFT | tile_part(j) << ROW_SHIFT | tile_part(i))
    }

    /// The voxel at the tile's lowest x and y.
    pub fn origin(self) -> [i32; 3] {
        let field = |shift: u32| ((self.0 >> shift & FIELD) as i64 - BIAS) as i32;
        [field(0) << TILE_SHIFT, field(ROW_SHIFT) << TILE_SHIFT, field(LAYER_SHIFT)]
    }

    /// The layer (voxel index along z).
    pub fn layer(self) -> i32 {
        self.origin()[2]
    }

    /// The place of a voxel in its tile.
    pub(super) fn cell(index: [i32; 3]) -> usize {
        let [i, j] = [index[0], index[1]].map(|part| cell_part(i64::from(part)));
        (j << TILE_SHIFT | i) as usize
    }

    /// The voxel of place `cell` in the tile.
    pub(super) fn voxel(self, cell: usize) -> [i32; 3] {
        let [i, j, k] = self.origin();
        [i + (cell % TILE_EDGE) as i32, j + (cell / TILE_EDGE) as i32, k]
    }
}

/// Tile column or row of a voxel, as a key holds it.
#[inline]
pub(super) fn tile_part(index: i64) -> u64 {
    (index + (BIAS << TILE_SHIFT)) as u64 >> TILE_SHIFT
}

/// Layer of a voxel, as a key holds it.
#[inline]
pub(super) fn layer_part(index: i64) -> u64 {
    (index + BIAS) as u64
}

/// Column or row of a voxel within its tile.
#[inline]
pub(super) fn cell_part(index: i64) -> u64 {
    index as u64 & (TILE_EDGE as u64 - 1)
}

/// One statistic of one tile.
pub(super) type Lane<T> = Box<[T; TILE_VOXELS]>;

#[expect(clippy::unnecessary_box_returns, reason = "8 KiB do not belong on the stack")]
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

    /// The lane of one tile, as the only one.
    fn alone(&self, slot: usize) -> Self {
        Self { empty: self.empty, tiles: self.tiles.as_ref().map(|tiles| vec![tiles[slot].clone()]) }
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
    pub cells: Vec<Lane<Cell>>,
    pub weight: Optional<f64>,
    pub sum: Optional<Sum>,
    pub first: Optional<Stamped>,
    pub last: Optional<Stamped>,
}

impl Lanes {
    pub fn new(config: &GridConfig) -> Self {
        let settings = config.settings();
        Self {
            cells: Vec::new(),
            weight: Optional::new(settings.weights == Weights::Trilinear, 0.0),
            sum: Optional::new(settings.lanes.sum, Sum::default()),
            first: Optional::new(settings.lanes.first, Stamped::NONE_EARLIER),
            last: Optional::new(settings.lanes.last, Stamped::NONE_LATER),
        }
    }

    /// Adds an empty tile as the last slot.
    pub fn push(&mut self) {
        self.cells.push(lane(Cell::EMPTY));
        self.weight.push();
        self.sum.push();
        self.first.push();
        self.last.push();
    }

    /// Frees the tile at `slot`; the last one takes its place.
    pub fn swap_remove(&mut self, slot: usize) {
        self.cells.swap_remove(slot);
        self.weight.swap_remove(slot);
        self.sum.swap_remove(slot);
        self.first.swap_remove(slot);
        self.last.swap_remove(slot);
    }

    /// A copy of the tile at `slot`, as the only one.
    pub fn alone(&self, slot: usize) -> Self {
        Self {
            cells: vec![self.cells[slot].clone()],
            weight: self.weight.alone(slot),
            sum: self.sum.alone(slot),
            first: self.first.alone(slot),
            last: self.last.alone(slot),
        }
    }

    /// What is known of a voxel; `None` while it has no value.
    pub fn get(&self, slot: usize, cell: usize) -> Option<Stats> {
        let Cell { count, mean, m2, min, max } = self.cells[slot][cell];
        if count == 0 {
            return None;
        }
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
        let Stats { count, mean, m2, min, max, .. } = *stats;
        self.cells[slot][cell] = Cell { count, mean, m2, min, max };
        self.weight.set(slot, cell, Some(stats.weight));
        self.sum.set(slot, cell, stats.sum);
        self.first.set(slot, cell, stats.first);
        self.last.set(slot, cell, stats.last);
    }

    /// Adds a value of which `weight` counts.
    pub fn add_weighted(&mut self, slot: usize, cell: usize, weight: f64, time: i64, value: f64) {
        let mut total = weight;
        self.weight.in_tile(slot, |all| {
            all[cell] += weight;
            total = all[cell];
        });
        self.cells[slot][cell].add_weighted(weight, total, value);
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
            assert_eq!(key.layer(), index[2]);
            assert!(key.0 >> 63 == 0);
        }
        assert!(TileKey::of([0, 0, -1]) < TileKey::of([-64, 0, 0]));
        assert!(TileKey::of([64, 0, 0]) < TileKey::of([-64, 32, 0]));
    }
}
