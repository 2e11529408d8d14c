//! A grid as files that other programs open: NumPy, ParaView, a picture, tables.
//!
//! What is regular (`npz`, `vti`) covers the grid's whole box while that has at most 2²⁴ voxels, otherwise the voxels' bounding box; a layer
//! can be asked for alone. Values are 64-bit; a voxel without a value is NaN, its count 0. Planes are made one at a time.

mod npz;
mod parquet;
mod png;

mod vti;

pub use npz::npz;
pub use parquet::parquet;
pub(crate) use parquet::{optional, required};
pub use png::png;

pub use vti::vti;

use super::{Grid, GridError, Stats, TileKey, tile::TILE_VOXELS};

/// Up to here the whole box is written.
const WHOLE_BOX_CELLS_MAX: u128 = 1 << 24;
/// Beyond this nothing regular is written: 1 GiB an array.
const CELLS_MAX: u128 = 1 << 27;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The grid has nothing, or too much, to write.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The file cannot be written.
    #[error("the export cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// A file format's library refuses.
    #[error("the export cannot be encoded as {format}: {why}")]
    Encode {
        /// Which format.
        format: &'static str,
        /// In the library's words.
        why: String,
    },
}

/// What of a voxel is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// Rows; 0 where there are none.
    Count,
    /// Mean.
    Mean,
    /// Divided by n − 1.
    Variance,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Value of the latest row, where the grid keeps it.
    Last,
    /// Sum with compensation, where the grid keeps it; mean times weight elsewhere.
    Sum,
    /// Value of the earliest row, where the grid keeps it.
    First,
}

impl Statistic {
    /// Those that `grid` keeps.
    pub fn kept(grid: &Grid) -> Vec<Self> {
        let lanes = grid.config().settings().lanes;
        let optional = [(lanes.last, Self::Last), (lanes.sum, Self::Sum), (lanes.first, Self::First)];
        let always = [Self::Count, Self::Mean, Self::Variance, Self::Min, Self::Max];
        always.into_iter().chain(optional.into_iter().filter_map(|(kept, statistic)| kept.then_some(statistic))).collect()
    }

    /// The word for it in names of arrays.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Mean => "mean",
            Self::Variance => "variance",
            Self::Min => "min",
            Self::Max => "max",
            Self::Last => "last",
            Self::Sum => "sum",
            Self::First => "first",
        }
    }

    /// Of a voxel; NaN where it is not defined.
    pub fn of(self, stats: &Stats) -> f64 {
        match self {
            Self::Count => f64::from(stats.count),
            Self::Mean => stats.mean,
            Self::Variance => stats.variance().unwrap_or(f64::NAN),
            Self::Min => stats.min,
            Self::Max => stats.max,
            Self::Last => stats.last.map_or(f64::NAN, |last| last.value),
            Self::Sum => stats.sum(),
            Self::First => stats.first.map_or(f64::NAN, |first| first.value),
        }
    }

    /// Of a voxel without rows.
    const fn of_nothing(self) -> f64 {
        match self {
            Self::Count => 0.0,
            _ => f64::NAN,
        }
    }
}

/// A box of voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    first: [i32; 3],
    dims: [usize; 3],
}

impl Extent {
    fn cells(&self) -> u128 {
        self.dims.iter().map(|dim| *dim as u128).product()
    }

    fn from(first: [i32; 3], last: [i32; 3]) -> Self {
        Self { first, dims: std::array::from_fn(|axis| (i64::from(last[axis]) - i64::from(first[axis]) + 1) as usize) }
    }

    /// What a regular export covers.
    fn of(grid: &Grid, layer: Option<i32>) -> Result<Self, GridError> {
        let ranges = grid.config().axes().map(|axis| axis.range());
        let (mut first, mut last) = (ranges.map(|range| range.0), ranges.map(|range| range.1));
        if let Some(layer) = layer {
            if !grid.config().axes()[2].contains(layer) {
                return Err(GridError::EmptyLayer { layer, signal: grid.signals().join(", ") });
            }
            (first[2], last[2]) = (layer, layer);
        }
        let whole = Self::from(first, last);
        if grid.config().settings().size.is_some() && whole.cells() <= WHOLE_BOX_CELLS_MAX {
            return Ok(whole);
        }
        let extent = Self::occupied(grid, layer).ok_or(GridError::Empty)?;
        if extent.cells() > CELLS_MAX {
            let bytes = extent.cells() * 8;
            return Err(GridError::ResultTooLarge { what: "one array of the export", bytes, bytes_max: CELLS_MAX * 8 });
        }
        Ok(extent)
    }

    /// The bounding box of the voxels that have a value.
    fn occupied(grid: &Grid, layer: Option<i32>) -> Option<Self> {
        let mut bounds: Option<([i32; 3], [i32; 3])> = None;
        for key in grid.keys(|tile| layer.is_none_or(|layer| tile.key.layer() == layer)) {
            let slot = *grid.slots.get(&key.0)? as usize;
            let bits = grid.occupied(slot);
            for cell in (0..TILE_VOXELS).filter(|cell| bits[cell / 64] >> (cell % 64) & 1 == 1) {
                let voxel = key.voxel(cell);
                let (low, high) = bounds.get_or_insert((voxel, voxel));
                for axis in 0..3 {
                    low[axis] = low[axis].min(voxel[axis]);
                    high[axis] = high[axis].max(voxel[axis]);
                }
            }
        }
        bounds.map(|(low, high)| Self::from(low, high))
    }

    /// The layers in it, from the lowest: each one value a voxel, x running fastest.
    fn planes(self, grid: &Grid, signal: usize, statistic: Statistic) -> impl Iterator<Item = Vec<f64>> + '_ {
        let keys = grid.keys(|_| true);
        (0..self.dims[2] as i32).map(move |above| {
            let layer = self.first[2] + above;
            let mut plane = vec![statistic.of_nothing(); self.dims[0] * self.dims[1]];
            for (index, stats) in grid.voxels_of(layer_of(&keys, layer).to_vec(), signal) {
                let at = |axis: usize| usize::try_from(index[axis] - self.first[axis]).ok().filter(|at| *at < self.dims[axis]);
                if let (Some(column), Some(row)) = (at(0), at(1)) {
                    plane[row * self.dims[0] + column] = statistic.of(&stats);
                }
            }
            plane
        })
    }
}

/// The keys of one layer among sorted ones.
fn layer_of(keys: &[TileKey], layer: i32) -> &[TileKey] {
    let start = keys.partition_point(|key| key.layer() < layer);
    let end = keys.partition_point(|key| key.layer() <= layer);
    &keys[start..end]
}
