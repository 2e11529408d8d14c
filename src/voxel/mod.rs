//! Space: a sparse grid of running statistics over the build volume, readable at every moment.
//!
//! Rows go in by position ([`Grid::update`]); what a voxel holds (count, mean, M2, extremes, last …) is brought up to date in place, so
//! a reading never waits for a batch to close. Only tiles that rows touch exist.
//!
//! - `axis`, [`transform`](Transform), `config`: from millimetres of a sensor to voxel indices, exact at decimal faces.
//! - `stats`, `tile`: what a voxel holds, and the columns it lies in.
//! - `grid`, `accumulate`, `spread`: the grid, and rows into it: blocks of 256, located, looked up, then added.
//! - `layer`: when a layer is finished, and what is missing from it.
//! - `codec`: tiles as bytes: a checkpoint takes those touched since the last; finished layers leave memory that way.
//! - `page`, `pyramid`, `maps`, [`export`]: looking at it: in pieces, coarser, derived, in files.
//! - [`AdaptiveGrid`], [`Frames`]: several resolutions, several coordinate systems.
//!
//! Invariants: same rows in the same order give the same bytes; counts and extremes do not depend on order or batches at
//! all; nothing iterates a hash table; memory is bounded by `bytes_max`.

mod accumulate;
mod adaptive;
mod axis;
mod codec;
mod config;
mod error;
pub mod export;
mod frames;
mod grid;
mod layer;
mod maps;
mod page;
mod pyramid;
mod spread;
mod stats;
mod tile;
mod transform;

pub use accumulate::Touched;
pub use adaptive::{AdaptiveGrid, Refinement};
pub use axis::Axis;
pub use codec::{Departed, TileBlob, TileCopy};
pub use config::{Expected, GridConfig, GridSettings, Lanes, LayerBy, Region, Weights};
pub use error::GridError;
pub use frames::{Frame, Frames};
pub use grid::{Counters, Grid, GridState};
pub use layer::{LayerStatus, LayerSummary, Missing};
pub use maps::{Quantity, VoxelMap};
pub use page::Page;
pub use stats::{Stamped, Stats, Sum};
pub use tile::TileKey;
pub use transform::{Matrix, Transform};
