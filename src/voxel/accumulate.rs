//! Rows into voxels.
//!
//! Rows go through in blocks of 128, in passes that each do one thing: locate (all rows, no branch), keep those that count, look up their
//! tiles (once a run of rows in the same tile), mark what is touched, and add to each signal's lanes. Where neighbouring rows lie in
//! different tiles, a pass that only reads comes before the adding: its loads do not depend on each other, so the processor fetches
//! the block's cache lines side by side instead of one after the other.

use std::ops::Range;

use crate::model::{Batch, NO_LAYER};

use super::{
    Grid, LayerBy, TileKey, Weights,
    grid::Bits,
    tile::{Lanes, TILE_VOXELS, cell_of, pack},
};

/// Rows in a block: its cache lines fit the first-level cache.
pub(super) const BLOCK_ROWS: usize = 128;
/// The slot of a row for which there is no memory.
const NO_SLOT: u32 = u32::MAX;
/// Rows a run on average below which lines are fetched ahead.
const SCATTERED_RUN_ROWS: usize = 4;

/// What an update did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touched {
    /// The grid's version: one more than before if any voxel was touched.
    pub version: u64,
    /// Different voxels touched.
    pub voxels: u64,
    /// Rows added to a voxel.
    pub rows: u64,
    /// Rows outside the box, or with a coordinate that is not finite.
    pub rejected: u64,
    /// Rows without a position (or a layer number, where that decides).
    pub unplaced: u64,
    /// Rows without a finite value of any of the grid's signals.
    pub without_value: u64,
    /// Rows that were not added because memory is full: evict finished layers.
    pub full: u64,
}

/// Located rows of a block that count: places in the batch, tiles, places in the tiles.
pub(super) struct Block {
    pub len: usize,
    pub rows: [u32; BLOCK_ROWS],
    keys: [u64; BLOCK_ROWS],
    cells: [u16; BLOCK_ROWS],
    slots: [u32; BLOCK_ROWS],
}

/// Voxels of a block's rows by axis, and whether the box holds them.
struct Located {
    index: [[i64; BLOCK_ROWS]; 3],
    inside: [u64; BLOCK_ROWS],
}

impl Grid {
    /// Adds the rows `rows` of `batch`, which must be of the grid's stream (a range beyond its end stops there; a batch of another
    /// shape is ignored).
    pub fn update(&mut self, batch: &Batch, rows: Range<usize>) -> Touched {
        let mut touched = Touched::default();
        let rows = rows.start.min(batch.rows())..rows.end.min(batch.rows());
        if batch.signals.len() != self.stream.signals.len() || rows.is_empty() {
            return Touched { version: self.version, ..touched };
        }
        self.version += 1;
        self.latest.clear();
        if batch.positions.is_none() {
            touched.unplaced = rows.len() as u64;
        }
        for start in rows.clone().step_by(BLOCK_ROWS) {
            self.add_block(batch, start..rows.end.min(start + BLOCK_ROWS), &mut touched);
        }
        self.finish(touched)
    }

    fn finish(&mut self, mut touched: Touched) -> Touched {
        self.version -= u64::from(touched.voxels == 0);
        touched.version = self.version;
        self.counters.rows += touched.rows;
        self.counters.rejected += touched.rejected;
        self.counters.unplaced += touched.unplaced;
        self.counters.without_value += touched.without_value;
        self.counters.full += touched.full;
        touched
    }

    fn add_block(&mut self, batch: &Batch, rows: Range<usize>, touched: &mut Touched) {
        let Some(at) = &batch.positions else { return };
        let from = [&at.x[rows.clone()], &at.y[rows.clone()], &at.z[rows.clone()]];
        let layers = batch.layer.as_ref().map(|layers| &layers[rows.clone()]);
        if self.config.settings().weights == Weights::Trilinear {
            self.spread_block(batch, rows, from, layers, touched);
            return;
        }
        let mut moved = [[0.0; BLOCK_ROWS]; 3];
        let [x, y, z] = &mut moved;
        let is_moved = self.config.settings().transform.apply_all(from, [x, y, z]);
        let count = rows.len();
        let build = if is_moved { [&moved[0][..count], &moved[1][..count], &moved[2][..count]] } else { from };
        let located = self.locate(build, layers);
        let mut block = self.keep(batch, &rows, &located, touched);
        self.look_up(&mut block, touched);
        self.mark(batch, &block, touched);
        let scattered = block.runs().count() * SCATTERED_RUN_ROWS > block.len;
        for (lanes, column) in self.lanes.iter_mut().zip(&self.columns) {
            if scattered {
                block.fetch(lanes);
            }
            block.add(lanes, &batch.signals[*column], &batch.time);
        }
    }

    fn locate(&self, from: [&[f64]; 3], layers: Option<&[i32]>) -> Located {
        let mut located = Located { index: [[0; BLOCK_ROWS]; 3], inside: [1; BLOCK_ROWS] };
        let by_z = self.config.settings().layer_by == LayerBy::Z;
        for axis in 0..if by_z { 3 } else { 2 } {
            let along = self.config.axes()[axis];
            let into = located.index[axis].iter_mut().zip(&mut located.inside);
            for (mm, (index, inside)) in from[axis].iter().zip(into) {
                let (found, is_inside) = along.locate(*mm);
                *index = found;
                *inside &= u64::from(is_inside);
            }
        }
        if let LayerBy::Number { first } = self.config.settings().layer_by {
            for row in 0..from[0].len() {
                let layer = layers.map_or(NO_LAYER, |layers| layers[row]);
                let k = layer.checked_sub(first).filter(|k| layer != NO_LAYER && self.config.axes()[2].contains(*k));
                located.index[2][row] = i64::from(k.unwrap_or(0));
                located.inside[row] &= u64::from(k.is_some());
            }
        }
        located
    }

    /// The rows that lie in the box and have a value; the others are counted.
    fn keep(&self, batch: &Batch, rows: &Range<usize>, located: &Located, touched: &mut Touched) -> Block {
        let mut block =
            Block { len: 0, rows: [0; BLOCK_ROWS], keys: [0; BLOCK_ROWS], cells: [0; BLOCK_ROWS], slots: [NO_SLOT; BLOCK_ROWS] };
        let mut with_value = [0_u64; BLOCK_ROWS];
        for column in &self.columns {
            for (has, value) in with_value.iter_mut().zip(&batch.signals[*column][rows.clone()]) {
                *has |= u64::from(value.is_finite());
            }
        }
        let [i, j, k] = &located.index;
        for row in 0..rows.len() {
            block.rows[block.len] = (rows.start + row) as u32;
            block.keys[block.len] = pack(i[row], j[row], k[row]);
            block.cells[block.len] = cell_of(i[row], j[row]) as u16;
            block.len += (located.inside[row] & with_value[row]) as usize;
        }
        if block.len < rows.len() {
            for row in 0..rows.len() {
                self.count_skipped(batch, rows.start + row, located.inside[row] == 1, with_value[row] == 1, touched);
            }
        }
        block
    }

    /// Counts a row by the first reason not to add it, if there is one.
    pub(super) fn count_skipped(&self, batch: &Batch, row: usize, inside: bool, with_value: bool, touched: &mut Touched) {
        let by_number = self.config.settings().layer_by != LayerBy::Z;
        let placed = batch.positions.as_ref().is_some_and(|at| !(at.x[row].is_nan() && at.y[row].is_nan() && at.z[row].is_nan()));
        if !placed || by_number && batch.layer(row).is_none() {
            touched.unplaced += 1;
        } else if !inside {
            touched.rejected += 1;
        } else if !with_value {
            touched.without_value += 1;
        }
    }

    /// Finds or makes the tile of each row; rows for which there is no memory are counted and dropped.
    fn look_up(&mut self, block: &mut Block, touched: &mut Touched) {
        let (mut key, mut slot, mut kept) = (u64::MAX, NO_SLOT, 0);
        for row in 0..block.len {
            if block.keys[row] != key {
                key = block.keys[row];
                slot = self.slot_if_it_fits(TileKey(key)).map_or(NO_SLOT, |slot| slot as u32);
            }
            block.rows[kept] = block.rows[row];
            block.cells[kept] = block.cells[row];
            block.slots[kept] = slot;
            kept += usize::from(slot != NO_SLOT);
        }
        touched.full += (block.len - kept) as u64;
        touched.rows += kept as u64;
        block.len = kept;
    }

    pub(super) fn slot_if_it_fits(&mut self, key: TileKey) -> Option<usize> {
        if let Some(slot) = self.slots.get(&key.0) {
            return Some(*slot as usize);
        }
        let fits = self.bytes() + self.config.tile_bytes() <= self.config.settings().bytes_max;
        fits.then(|| self.slot_or_new(key))
    }

    /// Notes which voxels are touched, and how far in time the layers go.
    fn mark(&mut self, batch: &Batch, block: &Block, touched: &mut Touched) {
        for run in block.runs() {
            let slot = block.slots[run.start] as usize;
            let bits = self.touch(slot);
            let mut new = 0;
            for cell in &block.cells[run.clone()] {
                new += mark_cell(bits, *cell as usize);
            }
            touched.voxels += new;
            let layer = self.tiles[slot].layer as usize;
            let times = block.rows[run].iter().map(|row| batch.time[*row as usize]);
            self.layers[layer].observe(times);
        }
    }

    /// The marks of a tile that this update touches.
    pub(super) fn touch(&mut self, slot: usize) -> &mut Bits {
        let tile = &mut self.tiles[slot];
        if tile.version != self.version {
            tile.version = self.version;
            self.touched[slot] = Bits::default();
            self.latest.push(tile.key);
        }
        &mut self.touched[slot]
    }
}

/// Marks a voxel; 1 if it was not yet marked.
#[inline]
pub(super) fn mark_cell(bits: &mut Bits, cell: usize) -> u64 {
    let word = &mut bits[cell / 64 % (TILE_VOXELS / 64)];
    let new = !(*word >> (cell % 64)) & 1;
    *word |= 1 << (cell % 64);
    new
}

impl Block {
    /// Stretches of rows in the same tile.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let slots = &self.slots[..self.len];
        let mut start = 0;
        std::iter::from_fn(move || {
            let slot = *slots.get(start)?;
            let len = slots[start..].iter().take_while(|next| **next == slot).count();
            start += len;
            Some(start - len..start)
        })
    }

    /// Reads what `add` will change, so that the loads overlap.
    fn fetch(&self, lanes: &Lanes) {
        let mut seen = 0_u64;
        for (slot, cell) in self.slots[..self.len].iter().zip(&self.cells) {
            let (slot, cell) = (*slot as usize, *cell as usize % TILE_VOXELS);
            seen ^= u64::from(lanes.count[slot][cell]) ^ lanes.moments[slot][cell].mean.to_bits();
            if let Some(last) = &lanes.last.tiles {
                seen ^= last[slot][cell].time as u64;
            }
        }
        std::hint::black_box(seen);
    }

    fn add(&self, lanes: &mut Lanes, values: &[f64], times: &[i64]) {
        for run in self.runs() {
            let slot = self.slots[run.start] as usize;
            let rows = self.rows[run.clone()].iter().map(|row| *row as usize);
            let cells = self.cells[run].iter().map(|cell| *cell as usize % TILE_VOXELS);
            let (count, moments) = (&mut lanes.count[slot], &mut lanes.moments[slot]);
            // Adding 0.0 makes -0.0 a 0.0: which of the two an extreme is would depend on the order of rows.
            let found = rows.zip(cells).map(|(row, cell)| (row, cell, values[row] + 0.0)).filter(|found| found.2.is_finite());
            for (_, cell, value) in found.clone() {
                count[cell] = count[cell].saturating_add(1);
                moments[cell].add(count[cell], value);
            }
            lanes.last.in_tile(slot, |last| found.clone().for_each(|(row, cell, value)| last[cell].later(times[row], value)));
            lanes.first.in_tile(slot, |first| found.clone().for_each(|(row, cell, value)| first[cell].earlier(times[row], value)));
            lanes.sum.in_tile(slot, |sum| found.for_each(|(_, cell, value)| sum[cell].add(value)));
        }
    }
}
