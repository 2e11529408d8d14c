//! What a grid is made of, checked: a [`GridConfig`] that exists can be filled.

use std::sync::Arc;

use crate::model::NO_LAYER;

use super::{Axis, GridError, Transform};

/// Voxels along x and y at most: tile numbers have 21 bits, 32 voxels a tile.
const PLANE_VOXELS_MAX: u64 = 1 << 25;
/// Layers at most: tile numbers have 21 bits, one layer a tile.
const LAYERS_MAX: u64 = 1 << 20;
/// What one grid may hold in memory unless the configuration says otherwise.
const BYTES_MAX_DEFAULT: u64 = 2 << 30;

/// What decides a row's layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerBy {
    /// Its z.
    #[default]
    Z,
    /// Its layer number; layer `first` is voxel layer 0. Rows without a number are not placed.
    Number {
        /// The number of the lowest layer.
        first: i32,
    },
}

/// How a row's value is given to voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// All to the voxel that holds the point.
    #[default]
    Nearest,
    /// To the eight voxels whose centres surround the point, by trilinear weights; those outside the box take nothing and the others
    /// their share.
    Trilinear,
}

/// Which statistics are kept besides count, mean, M2, minimum and maximum (36 bytes a voxel and signal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// The value of the latest row and its time: 16 bytes.
    pub last: bool,
    /// The sum with compensation: 16 bytes.
    pub sum: bool,
    /// The value of the earliest row and its time: 16 bytes.
    pub first: bool,
}

impl Lanes {
    /// None of them.
    pub const NONE: Self = Self { last: false, sum: false, first: false };
}

/// The latest row's alone.
impl Default for Lanes {
    fn default() -> Self {
        Self { last: true, ..Self::NONE }
    }
}

/// A box in build coordinates, mm: lower and upper corner, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// mm
    pub lower: [f64; 3],
    /// mm
    pub upper: [f64; 3],
}

impl Region {
    /// Whether the point is inside or on a face.
    pub fn contains(&self, point: [f64; 3]) -> bool {
        (0..3).all(|axis| (self.lower[axis]..=self.upper[axis]).contains(&point[axis]))
    }
}

/// Which voxels of a layer should have a value: what completeness is counted against.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Expected {
    /// All in the box.
    #[default]
    Plate,
    /// Those whose centre lies in one of the parts.
    Parts(Vec<Region>),
    /// Those that the layer below has filled.
    LayerBelow,
}

/// The settings of a grid as configured, before they are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GridSettings {
    /// The name in `[voxels.*]`.
    pub id: Arc<str>,
    /// Names of the stream's signals that are accumulated.
    pub signals: Vec<Arc<str>>,
    /// Lower corner of the box in build coordinates, mm.
    pub origin: [f64; 3],
    /// Edge lengths of the box, mm; `None` = as far as indices reach to all sides.
    pub size: Option<[f64; 3]>,
    /// Edge lengths of a voxel, mm.
    pub voxel: [f64; 3],
    /// Sensor to build frame.
    pub transform: Transform,
    /// What decides a row's layer.
    pub layer_by: LayerBy,
    /// How a value is given to voxels.
    pub weights: Weights,
    /// Which statistics are kept besides the basic ones.
    pub lanes: Lanes,
    /// What completeness is counted against.
    pub expected: Expected,
    /// Memory for tiles; beyond it finished layers have to leave.
    pub bytes_max: u64,
}

impl GridSettings {
    /// The defaults: nearest voxel, layers by z, no transform, 2 GiB.
    pub fn new(id: &str, signals: &[&str], origin: [f64; 3], size: Option<[f64; 3]>, voxel: [f64; 3]) -> Self {
        Self {
            id: id.into(),
            signals: signals.iter().map(|name| (*name).into()).collect(),
            origin,
            size,
            voxel,
            transform: Transform::IDENTITY,
            layer_by: LayerBy::default(),
            weights: Weights::default(),
            lanes: Lanes::default(),
            expected: Expected::default(),
            bytes_max: BYTES_MAX_DEFAULT,
        }
    }
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub struct GridConfig {
    settings: GridSettings,
    axes: [Axis; 3],
}

impl GridConfig {
    /// Checks `settings`.
    ///
    /// # Errors
    /// What [`GridError`] lists; a grid is too large when one full layer of it does not fit `bytes_max`.
    pub fn new(settings: GridSettings) -> Result<Self, GridError> {
        if settings.signals.is_empty() {
            return Err(GridError::NoSignal);
        }
        let mut axes = Vec::with_capacity(3);
        for axis in 0..3 {
            let voxels_max = if axis == 2 { LAYERS_MAX } else { PLANE_VOXELS_MAX };
            let size = settings.size.map(|size| size[axis]);
            axes.push(Axis::new(settings.origin[axis], size, settings.voxel[axis], voxels_max)?);
        }
        let config = Self { axes: [axes[0], axes[1], axes[2]], settings };
        config.check_memory()?;
        Ok(config)
    }

    fn check_memory(&self) -> Result<(), GridError> {
        let bytes_max = self.settings.bytes_max;
        let layer_bytes = match self.settings.size {
            Some(_) => self.layer_bytes(),
            None => u128::from(self.tile_bytes()),
        };
        if layer_bytes > u128::from(bytes_max) {
            let voxels = self.axes.iter().map(|axis| u128::from(axis.voxels())).product();
            return Err(GridError::TooLarge { voxels, layer_bytes, bytes_max });
        }
        Ok(())
    }

    /// What the tiles of one full layer take, all signals.
    pub fn layer_bytes(&self) -> u128 {
        let tiles = |axis: &Axis| u128::from(axis.voxels().div_ceil(super::tile::TILE_EDGE as u64));
        tiles(&self.axes[0]) * tiles(&self.axes[1]) * u128::from(self.tile_bytes())
    }

    /// What one tile takes, all signals.
    pub fn tile_bytes(&self) -> u64 {
        (super::tile::TILE_VOXELS * self.voxel_bytes() * self.settings.signals.len() + super::tile::TILE_OVERHEAD_BYTES) as u64
    }

    /// What a voxel takes, one signal.
    pub fn voxel_bytes(&self) -> usize {
        let lanes = self.settings.lanes;
        let optional = [lanes.last, lanes.sum, lanes.first].into_iter().filter(|on| *on).count() * 16;
        size_of::<super::stats::Cell>() + optional + if self.settings.weights == Weights::Trilinear { 8 } else { 0 }
    }

    /// What the numbers of a voxel mean, in words: tiles of grids with the same shape go together.
    pub fn shape(&self) -> String {
        let GridSettings { signals, origin, size, voxel, transform, layer_by, weights, lanes, .. } = &self.settings;
        format!("{signals:?} {origin:?} {size:?} {voxel:?} {transform:?} {layer_by:?} {weights:?} {lanes:?}")
    }

    /// As configured.
    pub fn settings(&self) -> &GridSettings {
        &self.settings
    }

    /// x, y, z.
    pub fn axes(&self) -> &[Axis; 3] {
        &self.axes
    }

    /// Voxels along x, y, z.
    pub fn dims(&self) -> [u64; 3] {
        self.axes.map(|axis| axis.voxels())
    }

    /// The centre of a voxel in build coordinates, mm.
    pub fn center_mm(&self, index: [i32; 3]) -> [f64; 3] {
        std::array::from_fn(|axis| self.axes[axis].center_mm(index[axis]))
    }

    /// The voxel at a point of the sensor's frame; `None` outside. With layers by number, `layer` decides instead of z.
    pub fn index_of(&self, point: [f64; 3], layer: Option<i32>) -> Option<[i32; 3]> {
        self.index_of_build(self.settings.transform.apply(point), layer)
    }

    /// The same for a point of the build's frame.
    pub fn index_of_build(&self, at: [f64; 3], layer: Option<i32>) -> Option<[i32; 3]> {
        let k = match self.settings.layer_by {
            LayerBy::Z => self.axes[2].index(at[2])?,
            LayerBy::Number { first } => {
                layer.filter(|layer| *layer != NO_LAYER)?.checked_sub(first).filter(|k| self.axes[2].contains(*k))?
            }
        };
        Some([self.axes[0].index(at[0])?, self.axes[1].index(at[1])?, k])
    }

    /// The same grid in voxels `ratio` times as long on every axis.
    pub(super) fn coarser(&self, ratio: i32) -> Self {
        let mut settings = self.settings.clone();
        settings.voxel = settings.voxel.map(|edge| edge * f64::from(ratio));
        Self { axes: self.axes.map(|axis| axis.coarser(ratio)), settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_a_grid_is_refused_with_what_it_would_take() {
        let check = |size: f64, voxel: f64, want: &str| {
            let settings = GridSettings::new("g", &["v"], [0.0; 3], Some([size; 3]), [voxel; 3]);
            let error = GridConfig::new(settings).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        check(250.0, 0.005, "125000000000000 voxels");
        check(250.0, 0.000_001, "250000000 voxels");
        check(250.0, 0.0, "voxel");
    }

    #[test]
    fn a_build_volume_at_the_laser_spot_fits() {
        let settings = GridSettings::new("g", &["v"], [0.0; 3], Some([250.0, 250.0, 325.0]), [0.05, 0.05, 0.04]);
        let config = GridConfig::new(settings).unwrap();
        assert_eq!(config.dims(), [5000, 5000, 8125]);
        assert!(config.layer_bytes() < 2 << 30);
    }
}
