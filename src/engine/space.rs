//! A grid in a pipeline: fed behind the gate, its layers finished by the watermark, and kept within its memory.
//!
//! When little of its memory is left, finished layers leave it as bytes; they wait here until the next snapshot takes them to the store. When
//! the store's share is used up, the lowest layers' voxels are forgotten there; their figures stay.

use std::sync::Arc;

use crate::{
    model::{Batch, Body, Output, Timestamp, VoxelUpdate},
    quality::checkpoint::Emit,
    voxel::{Departed, Grid, GridError},
};

/// Voxel updates of a running appliance are announced at most this often, in event time.
const ANNOUNCE_NS: i64 = 1_000_000_000;
/// More than this does not wait for the time of the next snapshot.
const DEPARTED_BYTES_MAX: u64 = 64 << 20;

/// A grid and what it put out last.
#[derive(Debug)]
pub struct GridLane {
    /// The grid's name.
    pub id: Arc<str>,
    /// The grid.
    pub grid: Grid,
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
    announced: Timestamp,
    touched: u64,
}

impl GridLane {
    /// A lane for an empty grid whose departed layers may take `stored_bytes_max` in the store.
    pub fn new(grid: Grid, stored_bytes_max: u64) -> Self {
        Self {
            id: Arc::clone(&grid.config().settings().id),
            grid,
            saved_version: 0,
            starts_over: true,
            departed: Vec::new(),
            departed_bytes: 0,
            forgotten: Vec::new(),
            stored_bytes_max,
            announced: Timestamp::MIN,
            touched: 0,
        }
    }

    /// Takes in a batch that went through the gate of `pipeline`; what there is to announce.
    pub(super) fn fill(&mut self, pipeline: &Arc<str>, batch: &Batch, emit: Emit) -> Option<Output> {
        let touched = self.grid.update(batch, 0..batch.rows());
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

    /// The watermark of the pipeline's stream is here: finishes layers, and makes room.
    pub(super) fn advance(&mut self, watermark: Timestamp) {
        self.grid.finish_layers(watermark);
        if self.grid.is_nearly_full() {
            self.make_room();
        }
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
