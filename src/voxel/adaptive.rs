//! Adaptive resolution: finer (or coarser) voxels for a region, a stretch of time or a range of layers.
//!
//! Each refinement is a grid of its own over the same box and origin. A row goes to exactly one: the finest whose conditions it meets, the
//! base grid's among them (of equally fine ones, the first listed).

use std::{ops::Range, sync::Arc};

use crate::model::{Batch, Stream, Timestamp};

use super::{Grid, GridConfig, GridError, GridSettings, Region, Stats, Touched};

/// Where other voxels apply; a row has to meet every condition that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Refinement {
    /// In build coordinates, faces included.
    pub region: Option<Region>,
    /// Event times from, to; both inclusive.
    pub time: Option<(Timestamp, Timestamp)>,
    /// The row's layer number, or without one its layer in the base grid, from, to; both inclusive.
    pub layers: Option<(i32, i32)>,
    /// Edge lengths of a voxel, mm.
    pub voxel: [f64; 3],
}

/// A grid of several resolutions.
#[derive(Debug, Clone)]
pub struct AdaptiveGrid {
    /// The base, then one a refinement.
    grids: Vec<Grid>,
    refinements: Vec<Refinement>,
    /// Places in `grids`, the finest first.
    by_fineness: Vec<usize>,
}

impl AdaptiveGrid {
    /// A base grid and its refinements; grid `n` of the latter is called `{id}/{n}`, from 1.
    ///
    /// # Errors
    /// As [`GridConfig::new`] and [`Grid::new`], for any of them.
    pub fn new(settings: &GridSettings, refinements: Vec<Refinement>, stream: &Arc<Stream>) -> Result<Self, GridError> {
        let mut grids = vec![Grid::new(GridConfig::new(settings.clone())?, Arc::clone(stream))?];
        for (number, refinement) in refinements.iter().enumerate() {
            let mut settings = settings.clone();
            settings.id = format!("{}/{}", settings.id, number + 1).into();
            settings.voxel = refinement.voxel;
            grids.push(Grid::new(GridConfig::new(settings)?, Arc::clone(stream))?);
        }
        let volume = |place: &usize| grids[*place].config().settings().voxel.iter().product::<f64>();
        let mut by_fineness: Vec<usize> = (0..grids.len()).collect();
        by_fineness.sort_by(|left, right| volume(left).total_cmp(&volume(right)));
        Ok(Self { grids, refinements, by_fineness })
    }

    /// Adds rows, each to its grid; what was done, all grids together.
    pub fn update(&mut self, batch: &Batch, rows: Range<usize>) -> Touched {
        let mut chosen = vec![Vec::new(); self.grids.len()];
        for row in rows.start.min(batch.rows())..rows.end.min(batch.rows()) {
            chosen[self.choose(batch, row)].push(row);
        }
        let mut all = Touched::default();
        for (grid, rows) in self.grids.iter_mut().zip(chosen) {
            let touched = if rows.is_empty() { Touched::default() } else { grid.update(&batch.take(&rows), 0..rows.len()) };
            all.join(touched);
        }
        all.version = self.version();
        all
    }

    /// Counts up with every update that touches a voxel.
    pub fn version(&self) -> u64 {
        self.grids.iter().map(Grid::version).sum()
    }

    /// The base grid, then one a refinement, as configured.
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// The same to restore, evict and checkpoint.
    pub fn grids_mut(&mut self) -> &mut [Grid] {
        &mut self.grids
    }

    /// What is known at a point of the build's frame: by the finest grid that has a value there, and which one that is.
    pub fn at(&self, point: [f64; 3], signal: usize) -> Option<(usize, Stats)> {
        self.by_fineness.iter().find_map(|place| {
            let grid = &self.grids[*place];
            let index = grid.config().index_of_build(point, None)?;
            grid.get(index, signal).map(|stats| (*place, stats))
        })
    }

    fn choose(&self, batch: &Batch, row: usize) -> usize {
        let Some(sensor) = batch.position(row) else { return 0 };
        let config = self.grids[0].config();
        let point = config.settings().transform.apply(sensor);
        let layer = batch.layer(row).or_else(|| config.axes()[2].index(point[2]));
        let meets = |refinement: &Refinement| {
            refinement.region.as_ref().is_none_or(|region| region.contains(point))
                && refinement.time.is_none_or(|(from, to)| (from.0..=to.0).contains(&batch.time[row]))
                && refinement.layers.is_none_or(|(from, to)| layer.is_some_and(|layer| (from..=to).contains(&layer)))
        };
        let applies = |place: &&usize| **place == 0 || meets(&self.refinements[**place - 1]);
        self.by_fineness.iter().find(applies).copied().unwrap_or(0)
    }
}
