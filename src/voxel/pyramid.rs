//! Coarser levels of a grid, for looking at a whole build.
//!
//! A coarser voxel is `ratio` voxels a side, merged; because ⌊⌊a / v⌋ / r⌋ = ⌊a / (v·r)⌋ it holds exactly the rows that a grid of that
//! voxel size would have put there: counts, extremes and the latest value are equal, mean and M2 up to rounding.

use super::{Grid, GridConfig, GridError, TileKey};

impl Grid {
    /// This grid in voxels `ratio` (2 or more) times as long on every axis. What has left memory is not in it.
    ///
    /// # Errors
    /// A ratio below 2 or above 1024.
    pub fn coarser(&self, ratio: i32) -> Result<Self, GridError> {
        if !(2..=1024).contains(&ratio) {
            return Err(GridError::NotPositive { what: "ratio", value: f64::from(ratio) });
        }
        let config: GridConfig = self.config.coarser(ratio);
        let mut coarse = Self::new(config, self.stream.clone())?;
        coarse.version = self.version;
        coarse.counters = self.counters;
        for key in self.keys(|_| true) {
            self.merge_tile_into(&mut coarse, key, ratio);
        }
        for status in self.layer_places.values().map(|place| &self.layers[*place as usize]) {
            let place = coarse.layer_place(status.layer.div_euclid(ratio)) as usize;
            coarse.layers[place].join(status);
        }
        for tile in &mut coarse.tiles {
            tile.version = self.version;
        }
        Ok(coarse)
    }

    /// `levels` grids, each `ratio` times as coarse as the one before; the first is `ratio` times as coarse as this one.
    ///
    /// # Errors
    /// As [`Grid::coarser`].
    pub fn pyramid(&self, ratio: i32, levels: usize) -> Result<Vec<Self>, GridError> {
        let mut pyramid: Vec<Self> = Vec::new();
        for _ in 0..levels {
            let next = pyramid.last().unwrap_or(self).coarser(ratio)?;
            pyramid.push(next);
        }
        Ok(pyramid)
    }

    fn merge_tile_into(&self, coarse: &mut Self, key: TileKey, ratio: i32) {
        for signal in 0..self.lanes.len() {
            for (index, stats) in self.voxels_of(vec![key], signal) {
                let target = index.map(|part| part.div_euclid(ratio));
                let slot = coarse.slot_or_new(TileKey::of(target));
                coarse.lanes[signal].merge(slot, TileKey::cell(target), &stats);
            }
        }
    }
}
