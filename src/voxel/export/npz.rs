//! `npz`: arrays for `numpy.load`.
//!
//! - `origin` (mm), `voxel` (mm), `offset` (index of the first voxel written), `dims` (voxels written), each of three;
//! - `{signal}_mean`, `_variance`, `_min`, `_max`, `_last` and, where the grid keeps them, `_sum`, `_first` (float64), and `{signal}_count` (uint32), each indexed `[i, j, k]` from `offset`.
//!
//! Where that would be too large, the voxels are listed instead: `index` (n × 3, int32), and the same arrays with one entry a voxel.

use std::io::{Seek, Write};

use ndarray::{Array1, Array2, Array3, ArrayBase, Dimension, OwnedRepr, ShapeBuilder, arr1};
use ndarray_npy::{NpzWriter, WritableElement};

use super::{ExportError, Extent, Grid, GridError, Statistic};

/// Writes the grid, or one layer of it.
///
/// # Errors
/// A grid without a voxel, or what `out` says.
pub fn npz(grid: &Grid, layer: Option<i32>, out: impl Write + Seek) -> Result<(), ExportError> {
    let mut file = NpzWriter::new(out);
    let axes = grid.config().axes();
    add(&mut file, "origin", &arr1(&axes.map(|axis| axis.lower_mm(0))))?;
    add(&mut file, "voxel", &arr1(&axes.map(|axis| axis.voxel_mm())))?;
    match Extent::of(grid, layer) {
        Ok(extent) => regular(grid, extent, &mut file)?,
        Err(GridError::ResultTooLarge { .. }) => listed(grid, layer, &mut file)?,
        Err(error) => return Err(error.into()),
    }
    file.finish().map_err(refused)?;
    Ok(())
}

fn regular(grid: &Grid, extent: Extent, file: &mut NpzWriter<impl Write + Seek>) -> Result<(), ExportError> {
    add(file, "offset", &arr1(&extent.first))?;
    add(file, "dims", &arr1(&extent.dims.map(|dim| dim as i64)))?;
    let shape = (extent.dims[0], extent.dims[1], extent.dims[2]).f();
    for (signal, name) in grid.signals().iter().enumerate() {
        for statistic in Statistic::kept(grid) {
            let values: Vec<f64> = extent.planes(grid, signal, statistic).flatten().collect();
            let array = Array3::from_shape_vec(shape, values).map_err(refused)?;
            let name = format!("{name}_{}", statistic.name());
            match statistic {
                Statistic::Count => add(file, &name, &array.mapv(|count| count as u32))?,
                _ => add(file, &name, &array)?,
            }
        }
    }
    Ok(())
}

fn listed(grid: &Grid, layer: Option<i32>, file: &mut NpzWriter<impl Write + Seek>) -> Result<(), ExportError> {
    let mut voxels: Vec<[i32; 3]> = Vec::new();
    for signal in 0..grid.signals().len() {
        let wanted = |index: &[i32; 3]| layer.is_none_or(|layer| index[2] == layer);
        voxels.extend(grid.voxels(signal).map(|(index, _)| index).filter(wanted));
    }
    voxels.sort_unstable();
    voxels.dedup();
    add(file, "index", &Array2::from_shape_fn((voxels.len(), 3), |(row, axis)| voxels[row][axis]))?;
    for (signal, name) in grid.signals().iter().enumerate() {
        for statistic in Statistic::kept(grid) {
            let value = |index: &[i32; 3]| grid.get(*index, signal).map_or(statistic.of_nothing(), |stats| statistic.of(&stats));
            let array: Array1<f64> = voxels.iter().map(value).collect();
            let name = format!("{name}_{}", statistic.name());
            match statistic {
                Statistic::Count => add(file, &name, &array.mapv(|count| count as u32))?,
                _ => add(file, &name, &array)?,
            }
        }
    }
    Ok(())
}

fn add<T: WritableElement, D: Dimension>(
    file: &mut NpzWriter<impl Write + Seek>,
    name: &str,
    array: &ArrayBase<OwnedRepr<T>, D>,
) -> Result<(), ExportError> {
    file.add_array(name, array).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> ExportError {
    ExportError::Encode { format: "npz", why: error.to_string() }
}
