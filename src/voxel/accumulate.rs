//! Rows into voxels.
//!
//! Rows go through in blocks of 128, in passes that each do one thing: locate (all rows, no branch), keep those that count, look up their
//! tiles (once a run of rows in the same tile), ask for the cache lines of their voxels, mark what is touched, and add to each signal's
//! lanes. Asked for before the adding, a block's lines come side by side instead of one after the other, while the marks are made.

use std::ops::Range;

use prefetch_index::prefetch_index;

use crate::model::{Batch, NO_LAYER};

use super::{
    Axis, Grid, LayerBy, TileKey, Weights,
    grid::Bits,
    tile::{LAYER_SHIFT, Lane, Lanes, ROW_SHIFT, TILE_SHIFT, TILE_VOXELS, cell_part, layer_part, tile_part},
};

/// Rows in a block: its cache lines fit the first-level cache.
pub(super) const BLOCK_ROWS: usize = 128;

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

impl Touched {
    /// Adds what another update did; the version stays.
    pub(super) fn join(&mut self, other: Self) {
        self.voxels += other.voxels;
        self.rows += other.rows;
        self.rejected += other.rejected;
        self.unplaced += other.unplaced;
        self.without_value += other.without_value;
        self.full += other.full;
    }
}

/// The columns of a block's rows.
struct Columns<'a> {
    /// In the build's frame, mm.
    at: [&'a [f64]; 3],
    layers: Option<&'a [i32]>,
}

/// Where a block's rows belong.
struct Block {
    len: usize,
    /// Tiles.
    keys: [u64; BLOCK_ROWS],
    /// Places in the tiles.
    cells: [u64; BLOCK_ROWS],
    /// 1 for the rows that count.
    kept: [u64; BLOCK_ROWS],
}

impl Block {
    /// Locates all rows along one axis; `parts` gives what an index is in a key and in a place. One axis at a time: its constants and
    /// the loop's values fit the registers.
    #[inline]
    fn along(&mut self, axis: &Axis, mm: &[f64], parts: impl Fn(i64) -> (u64, u64)) {
        let rows = self.keys.iter_mut().zip(&mut self.cells).zip(&mut self.kept);
        for (((key, cell), kept), mm) in rows.zip(mm) {
            let (index, inside) = axis.locate(*mm);
            let (of_key, of_cell) = parts(index);
            *key |= of_key;
            *cell |= of_cell;
            *kept &= u64::from(inside);
        }
    }
}

/// A row for which there is no memory.
const NO_SLOT: u32 = u32::MAX;

/// Which of the grid's signals have a finite value in every row of a block; of those beyond the 64th it is not known.
#[derive(Clone, Copy, Default)]
struct Whole(u64);

impl Whole {
    fn note(&mut self, signal: usize, is_whole: bool) {
        self.0 |= u64::from(is_whole && signal < 64) << (signal % 64);
    }

    fn has(self, signal: usize) -> bool {
        signal < 64 && self.0 >> signal & 1 == 1
    }
}

/// Rows of a block in the same tile.
#[derive(Clone, Copy, Default)]
struct Run {
    slot: u32,
    start: u32,
    end: u32,
}

impl Run {
    fn rows(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
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
        self.version += u64::from(touched.voxels > 0);
        for slot in &self.latest.slots {
            self.tiles[*slot as usize].version = self.version;
        }
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
        let len = rows.len();
        let at = if is_moved { [&moved[0][..len], &moved[1][..len], &moved[2][..len]] } else { from };
        let mut block = self.locate(&Columns { at, layers });
        let (all_count, whole) = self.require_value(batch, &rows, &mut block);
        if all_count {
            self.add_located(&block, &batch.time[rows.clone()], |column| &batch.signals[column][rows.clone()], whole, touched);
        } else {
            self.add_kept(batch, rows, block, touched);
        }
    }

    /// Adds a block of which not every row counts.
    fn add_kept(&mut self, batch: &Batch, rows: Range<usize>, mut block: Block, touched: &mut Touched) {
        let mut kept = Vec::with_capacity(block.len);
        for row in 0..block.len {
            if block.kept[row] == 1 {
                block.keys[kept.len()] = block.keys[row];
                block.cells[kept.len()] = block.cells[row];
                kept.push(rows.start + row);
            } else {
                self.count_skipped(batch, rows.start + row, touched);
            }
        }
        block.len = kept.len();
        let times: Vec<i64> = kept.iter().map(|row| batch.time[*row]).collect();
        let values: Vec<Vec<f64>> =
            self.columns.iter().map(|column| kept.iter().map(|row| batch.signals[*column][*row]).collect()).collect();
        let columns = self.columns.clone();
        let place = |column: usize| columns.iter().position(|own| *own == column).unwrap_or(0);
        self.add_located(&block, &times, |column| &values[place(column)], Whole::default(), touched);
    }

    /// Adds rows that all count, given their times and, by column of the stream, their values.
    fn add_located<'a>(
        &mut self,
        block: &Block,
        times: &[i64],
        values: impl Fn(usize) -> &'a [f64],
        whole: Whole,
        touched: &mut Touched,
    ) {
        let mut runs = [Run::default(); BLOCK_ROWS];
        let mut slots = [NO_SLOT; BLOCK_ROWS];
        let count = self.look_up(block, &mut runs, &mut slots, touched);
        let runs = &runs[..count];
        self.lanes.iter().for_each(|lanes| fetch(lanes, &slots[..block.len], &block.cells));
        self.mark(block, runs, times, touched);
        for (signal, (lanes, column)) in self.lanes.iter_mut().zip(&self.columns).enumerate() {
            add(lanes, block, runs, times, values(*column), whole.has(signal));
        }
    }

    fn locate(&self, columns: &Columns<'_>) -> Block {
        let len = columns.at[0].len();
        let mut block = Block { len, keys: [0; BLOCK_ROWS], cells: [0; BLOCK_ROWS], kept: [1; BLOCK_ROWS] };
        let [along_x, along_y, along_z] = self.config.axes();
        block.along(along_x, columns.at[0], |i| (tile_part(i), cell_part(i)));
        block.along(along_y, columns.at[1], |j| (tile_part(j) << ROW_SHIFT, cell_part(j) << TILE_SHIFT));
        match self.config.settings().layer_by {
            LayerBy::Z => block.along(along_z, columns.at[2], |k| (layer_part(k) << LAYER_SHIFT, 0)),
            LayerBy::Number { first } => {
                for (row, (key, kept)) in block.keys.iter_mut().zip(&mut block.kept).take(len).enumerate() {
                    let layer = columns.layers.map_or(NO_LAYER, |layers| layers[row]);
                    let k = layer.checked_sub(first).filter(|k| layer != NO_LAYER && along_z.contains(*k));
                    *key |= layer_part(i64::from(k.unwrap_or(0))) << LAYER_SHIFT;
                    *kept &= u64::from(k.is_some());
                }
            }
        }
        block
    }

    /// Rows without a value of any of the grid's signals do not count. Whether all count, and which signals have all values.
    fn require_value(&self, batch: &Batch, rows: &Range<usize>, block: &mut Block) -> (bool, Whole) {
        let values = |column: &usize| &batch.signals[*column][rows.clone()];
        let mut whole = Whole::default();
        for (signal, column) in self.columns.iter().enumerate() {
            let all = values(column).iter().fold(1, |all, value| all & u64::from(value.abs() < f64::INFINITY));
            whole.note(signal, all == 1);
        }
        if whole.0 == 0 {
            let mut with_value = [0_u64; BLOCK_ROWS];
            for column in &self.columns {
                for (has, value) in with_value.iter_mut().zip(values(column)) {
                    *has |= u64::from(value.abs() < f64::INFINITY);
                }
            }
            block.kept.iter_mut().zip(&with_value).for_each(|(kept, has)| *kept &= has);
        }
        (block.kept[..rows.len()].iter().fold(1, |all, kept| all & kept) == 1, whole)
    }

    /// Counts a row that is not added, by the first reason that holds.
    pub(super) fn count_skipped(&self, batch: &Batch, row: usize, touched: &mut Touched) {
        let Some(at) = &batch.positions else { return };
        let point = [at.x[row], at.y[row], at.z[row]];
        let by_number = self.config.settings().layer_by != LayerBy::Z;
        if point.iter().all(|part| part.is_nan()) || by_number && batch.layer(row).is_none() {
            touched.unplaced += 1;
        } else if self.config.index_of(point, batch.layer(row)).is_none() {
            touched.rejected += 1;
        } else {
            touched.without_value += 1;
        }
    }

    /// Cuts the block into runs of rows in the same tile and finds or makes the tiles; rows for which there is no memory are counted
    /// and in no run. How many runs.
    fn look_up(
        &mut self,
        block: &Block,
        runs: &mut [Run; BLOCK_ROWS],
        slots: &mut [u32; BLOCK_ROWS],
        touched: &mut Touched,
    ) -> usize {
        let keys = &block.keys[..block.len];
        let (mut count, mut start) = (0, 0);
        while let Some(key) = keys.get(start) {
            let len = keys[start..].iter().take_while(|next| *next == key).count();
            if let Some(slot) = self.slot_if_it_fits(TileKey(*key)) {
                runs[count] = Run { slot: slot as u32, start: start as u32, end: (start + len) as u32 };
                slots[start..start + len].fill(slot as u32);
                prefetch_index(self.links.as_slice(), slot);
                count += 1;
                touched.rows += len as u64;
            } else {
                touched.full += len as u64;
            }
            start += len;
        }
        count
    }

    #[inline]
    pub(super) fn slot_if_it_fits(&mut self, key: TileKey) -> Option<usize> {
        if let Some(slot) = self.slots.get(&key.0) {
            return Some(*slot as usize);
        }
        let fits = self.bytes() + self.config.tile_bytes() <= self.config.settings().bytes_max;
        fits.then(|| self.slot_or_new(key))
    }

    /// Notes which voxels are touched, and how far in time the layers go.
    fn mark(&mut self, block: &Block, runs: &[Run], times: &[i64], touched: &mut Touched) {
        for run in runs {
            let bits = self.touch(run.slot as usize);
            touched.voxels += mark_cells(bits, &block.cells[run.rows()]);
            let layer = self.links[run.slot as usize].layer as usize;
            self.layers[layer].observe(&times[run.rows()]);
        }
    }

    /// The marks of a tile that this update touches.
    #[inline]
    pub(super) fn touch(&mut self, slot: usize) -> &mut Bits {
        let links = &mut self.links[slot];
        if self.latest.slots.get(links.latest as usize).is_none_or(|latest| *latest as usize != slot) {
            links.latest = self.latest.slots.len() as u32;
            self.latest.slots.push(slot as u32);
            self.latest.bits.push(Bits::default());
        }
        &mut self.latest.bits[links.latest as usize]
    }
}

/// Marks voxels of a tile; how many were not yet marked.
#[inline]
pub(super) fn mark_cells(bits: &mut Bits, cells: &[u64]) -> u64 {
    const WORDS: usize = TILE_VOXELS / 64;
    let Some(first) = cells.first() else { return 0 };
    let mut at = *first as usize / 64 % WORDS;
    // The word stays in a register while neighbours follow each other.
    let (mut word, mut new) = (bits[at], 0);
    for cell in cells {
        let next = *cell as usize / 64 % WORDS;
        if next != at {
            bits[at] = word;
            (at, word) = (next, bits[next]);
        }
        new += !(word >> (cell % 64)) & 1;
        word |= 1 << (cell % 64);
    }
    bits[at] = word;
    new
}

/// Asks for the cache lines that `add` will change.
fn fetch(lanes: &Lanes, slots: &[u32], cells: &[u64; BLOCK_ROWS]) {
    // A voxel may lie on two lines: the next one's beginning is on the second or, rarely, on the line behind.
    fetch_lane(&lanes.cells, slots, cells, |tile, cell| {
        prefetch_index(tile, cell);
        prefetch_index(tile, cell + 1);
    });
    for stamped in [&lanes.last, &lanes.first].into_iter().filter_map(|lane| lane.tiles.as_ref()) {
        fetch_lane(stamped, slots, cells, |tile, cell| prefetch_index(tile, cell));
    }
    if let Some(sums) = &lanes.sum.tiles {
        fetch_lane(sums, slots, cells, |tile, cell| prefetch_index(tile, cell));
    }
}

#[inline]
fn fetch_lane<T>(tiles: &[Lane<T>], slots: &[u32], cells: &[u64; BLOCK_ROWS], ask: impl Fn(&[T], usize)) {
    for (slot, cell) in slots.iter().zip(cells) {
        if let Some(tile) = tiles.get(*slot as usize) {
            ask(tile.as_slice(), *cell as usize % TILE_VOXELS);
        }
    }
}

fn add(lanes: &mut Lanes, block: &Block, runs: &[Run], times: &[i64], values: &[f64], is_whole: bool) {
    for run in runs {
        let cells = block.cells[run.rows()].iter().map(|cell| *cell as usize % TILE_VOXELS);
        // Adding 0.0 makes -0.0 a 0.0: which of the two an extreme is would depend on the order of rows.
        let stamped = times[run.rows()].iter().zip(values[run.rows()].iter().map(|value| value + 0.0));
        let rows = cells.zip(stamped).map(|(cell, (time, value))| (cell, *time, value));
        if is_whole {
            add_rows(lanes, run.slot as usize, rows);
        } else {
            add_rows(lanes, run.slot as usize, rows.filter(|(_, _, value)| value.is_finite()));
        }
    }
}

/// Adds rows of (place in the tile, time, value), a lane at a time.
#[inline]
fn add_rows(lanes: &mut Lanes, slot: usize, rows: impl Iterator<Item = (usize, i64, f64)> + Clone) {
    let tile = &mut lanes.cells[slot];
    rows.clone().for_each(|(cell, _, value)| tile[cell].add(value));
    lanes.last.in_tile(slot, |last| rows.clone().for_each(|(cell, time, value)| last[cell].later(time, value)));
    lanes.first.in_tile(slot, |first| rows.clone().for_each(|(cell, time, value)| first[cell].earlier(time, value)));
    lanes.sum.in_tile(slot, |sum| rows.for_each(|(cell, _, value)| sum[cell].add(value)));
}
