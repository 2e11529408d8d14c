//! Maps derived from a grid: one number a voxel, for voxels where it is defined.

use std::sync::Arc;

use crate::model::Stream;

use super::{Grid, GridError, Stamped, Stats, TileKey};

/// One number a voxel.
#[derive(Debug, Clone, PartialEq)]
pub struct VoxelMap {
    /// What the number is.
    pub name: Arc<str>,
    /// Voxels and their numbers, by layer, then by tile.
    pub values: Vec<([i32; 3], f64)>,
}

/// A figure of the process: measured by voxel, or the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantity {
    /// The mean of one of the grid's signals.
    Signal(usize),
    /// A constant.
    Constant(f64),
}

impl Quantity {
    fn at(self, grid: &Grid, index: [i32; 3]) -> Option<f64> {
        match self {
            Self::Signal(signal) => grid.get(index, signal).map(|stats| stats.mean),
            Self::Constant(value) => Some(value),
        }
    }
}

impl Grid {
    /// Mean of `signal` per local areal energy density, power / (speed · hatch): a melt pool's brightness beyond what the laser explains. With
    /// W, mm/s and mm the density is J/mm². Voxels without power or speed, or with a density that is not positive, are left out.
    pub fn per_energy_density(&self, signal: usize, power: Quantity, speed: Quantity, hatch_mm: f64) -> VoxelMap {
        let value = |index: [i32; 3], stats: &Stats| {
            let density = power.at(self, index)? / (speed.at(self, index)? * hatch_mm);
            (density.is_finite() && density > 0.0).then(|| stats.mean / density)
        };
        self.map(signal, "per_energy_density", value)
    }

    /// How many of the reference's standard deviations a voxel's mean lies from the reference's mean there. Voxels with fewer than two
    /// reference rows, or reference rows that do not vary, are left out.
    ///
    /// # Errors
    /// A reference of other voxels, signals or statistics.
    pub fn z_scores(&self, signal: usize, reference: &Self) -> Result<VoxelMap, GridError> {
        self.check_alike(reference)?;
        Ok(self.map(signal, "z_score", |index, stats| {
            let usual = reference.get(index, signal)?;
            let deviation = usual.standard_deviation().filter(|deviation| *deviation > 0.0)?;
            Some((stats.mean - usual.mean) / deviation)
        }))
    }

    /// A voxel's mean less that of the voxels directly below and above, as far as they have one; voxels with neither are left out.
    pub fn neighbour_deviation(&self, signal: usize) -> VoxelMap {
        self.map(signal, "neighbour_deviation", |[i, j, k], stats| {
            let neighbours = [-1, 1].into_iter().filter_map(|step| self.get([i, j, k.checked_add(step)?], signal));
            let (count, sum) = neighbours.fold((0, 0.0), |(count, sum), next| (count + 1, sum + next.mean));
            (count > 0).then(|| stats.mean - sum / f64::from(count))
        })
    }

    /// `map` as a grid of one signal, named as the map, with one row a voxel: to be looked at and exported as any other.
    ///
    /// # Errors
    /// A voxel outside this grid's box.
    pub fn of_map(&self, map: &VoxelMap) -> Result<Self, GridError> {
        let mut settings = self.config.settings().clone();
        settings.signals = vec![Arc::clone(&map.name)];
        settings.weights = super::Weights::Nearest;
        settings.lanes = super::Lanes::default();
        let stream = Arc::new(Stream::new(&self.stream.id, &[&*map.name], &[]));
        let mut grid = Self::new(super::GridConfig::new(settings)?, stream)?;
        grid.version = self.version;
        for (index, value) in &map.values {
            if (0..3).any(|axis| !grid.config.axes()[axis].contains(index[axis])) {
                return Err(GridError::Mismatch { what: "voxels" });
            }
            let time = self.layer_places.get(&index[2]).map_or(0, |place| self.layers[*place as usize].last_time);
            let last = Some(Stamped { time, value: *value });
            let stats =
                Stats { count: 1, weight: 1.0, mean: *value, m2: 0.0, min: *value, max: *value, sum: None, first: None, last };
            let slot = grid.slot_or_new(TileKey::of(*index));
            grid.lanes[0].set(slot, TileKey::cell(*index), &stats);
        }
        Ok(grid)
    }

    fn map(&self, signal: usize, what: &str, value: impl Fn([i32; 3], &Stats) -> Option<f64>) -> VoxelMap {
        let values = self.voxels(signal).filter_map(|(index, stats)| Some((index, value(index, &stats)?)));
        VoxelMap { name: format!("{}_{what}", self.signals()[signal]).into(), values: values.collect() }
    }
}
