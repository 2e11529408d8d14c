//! `parquet`: one row a voxel and signal, for tables.
//!
//! `i`, `j`, `k` (voxel), `x_mm`, `y_mm`, `z_mm` (its centre), `signal`, `count`, `mean`, `variance` (null below two rows), `min`, `max`,
//! `last`, `last_time` (nanoseconds, UTC), `sum` and `first` (these four null where the grid does not keep them). Row groups of at most 2¹⁷ rows, by layer.

use std::{io::Write, sync::Arc};

use parquet::{
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type},
    errors::ParquetError,
    file::writer::{SerializedFileWriter, SerializedRowGroupWriter},
    schema::parser::parse_message_type,
};

use super::{ExportError, Grid, Stats};

const GROUP_ROWS: usize = 1 << 17;

const SCHEMA: &str = "message voxels {
    required int32 i; required int32 j; required int32 k;
    required double x_mm; required double y_mm; required double z_mm;
    required binary signal (string);
    required int64 count; required double mean; optional double variance; required double min; required double max;
    optional double last; optional int64 last_time (timestamp(nanos, true));
    optional double sum; optional double first;
}";

/// A voxel and what is known of it.
type Voxel = ([i32; 3], Stats);

/// Writes the voxels of the grid, or of one layer of it, by signal.
///
/// # Errors
/// What `out` says.
pub fn parquet(grid: &Grid, layer: Option<i32>, out: impl Write + Send) -> Result<(), ExportError> {
    let refused = |error: ParquetError| ExportError::Encode { format: "parquet", why: error.to_string() };
    let schema = Arc::new(parse_message_type(SCHEMA).map_err(refused)?);
    let mut file = SerializedFileWriter::new(out, schema, Arc::default()).map_err(refused)?;
    for signal in 0..grid.signals().len() {
        let mut voxels = grid.voxels(signal).filter(|(index, _)| layer.is_none_or(|layer| index[2] == layer)).peekable();
        while voxels.peek().is_some() {
            let group: Vec<Voxel> = voxels.by_ref().take(GROUP_ROWS).collect();
            write_group(&mut file, grid, signal, &group).map_err(refused)?;
        }
    }
    file.close().map_err(refused)?;
    Ok(())
}

fn write_group(
    file: &mut SerializedFileWriter<impl Write + Send>,
    grid: &Grid,
    signal: usize,
    voxels: &[Voxel],
) -> Result<(), ParquetError> {
    let mut group = file.next_row_group()?;
    for axis in 0..3 {
        required::<Int32Type, _>(&mut group, voxels.iter().map(|(index, _)| index[axis]))?;
    }
    let axes = grid.config().axes();
    for axis in 0..3 {
        required::<DoubleType, _>(&mut group, voxels.iter().map(|(index, _)| axes[axis].center_mm(index[axis])))?;
    }
    let name = ByteArray::from(&*grid.signals()[signal]);
    required::<ByteArrayType, _>(&mut group, voxels.iter().map(|_| name.clone()))?;
    required::<Int64Type, _>(&mut group, voxels.iter().map(|(_, stats)| i64::from(stats.count)))?;
    required::<DoubleType, _>(&mut group, voxels.iter().map(|(_, stats)| stats.mean))?;
    optional::<DoubleType, _>(&mut group, voxels.iter().map(|(_, stats)| stats.variance()))?;
    for get in [|stats: &Stats| stats.min, |stats: &Stats| stats.max] {
        required::<DoubleType, _>(&mut group, voxels.iter().map(|(_, stats)| get(stats)))?;
    }
    optional::<DoubleType, _>(&mut group, voxels.iter().map(|(_, stats)| stats.last.map(|last| last.value)))?;
    optional::<Int64Type, _>(&mut group, voxels.iter().map(|(_, stats)| stats.last.map(|last| last.time)))?;
    optional::<DoubleType, _>(&mut group, voxels.iter().map(|(_, stats)| stats.sum.map(|sum| sum.value())))?;
    optional::<DoubleType, _>(&mut group, voxels.iter().map(|(_, stats)| stats.first.map(|first| first.value)))?;
    group.close()?;
    Ok(())
}

/// Writes the next column, which has a value in every row.
pub(crate) fn required<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    let values: Vec<T::T> = values.collect();
    write::<T, W>(group, &values, None)
}

/// Writes the next column, which has a value in some rows.
pub(crate) fn optional<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let values: Vec<Option<T::T>> = values.collect();
    let defined: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    write::<T, W>(group, &values, Some(&defined))
}

fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    defined: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(|| ParquetError::General("the schema has no such column".into()))?;
    column.typed::<T>().write_batch(values, defined, None)?;
    column.close()
}
