//! Exported files, read back: by Rust libraries here, by NumPy, VTK and Arrow in `export_check.py`.

use std::{io::Cursor, sync::Arc};

use ndarray::{Array1, Array2, Array3};
use ndarray_npy::NpzReader;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Row, RowAccessor},
};
use qadf_edge::{
    model::{Batch, Positions, Stream, Timestamp},
    voxel::{
        Grid, GridConfig, GridSettings,
        export::{self, ExportError, Statistic},
    },
};
use vtkio::{
    Vtk,
    model::{Attribute, ByteOrder, DataSet, Extent, Piece},
};

/// Three voxels in two layers of a box of 4 × 3 × 2 voxels of 0.5 × 1 × 0.04 mm, its corner at (10, −1, 0).
fn sample(size: Option<[f64; 3]>) -> Grid {
    let stream = Arc::new(Stream::new("melt", &["intensity", "power"], &[]));
    let mut batch = Batch::new(Arc::clone(&stream), "s".into(), "s/0".into(), Timestamp(0));
    batch.positions =
        Some(Positions { x: vec![10.1, 10.2, 11.9, 10.6], y: vec![-0.5, -0.5, 1.5, 0.5], z: vec![0.01, 0.01, 0.01, 0.05] });
    batch.time = vec![1, 2, 3, 4];
    batch.signals = vec![vec![1.0, 3.0, 5.0, 7.0], vec![200.0, f64::NAN, f64::NAN, 190.0]];
    let settings = GridSettings::new("build", &["intensity", "power"], [10.0, -1.0, 0.0], size, [0.5, 1.0, 0.04]);
    let mut grid = Grid::new(GridConfig::new(settings).unwrap(), stream).unwrap();
    assert_eq!(grid.update(&batch, 0..4).rows, 4);
    grid
}

fn boxed() -> Grid {
    sample(Some([2.0, 3.0, 0.08]))
}

fn written(write: impl FnOnce(&mut Cursor<Vec<u8>>) -> Result<(), ExportError>) -> Cursor<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    write(&mut file).unwrap();
    file.set_position(0);
    file
}

/// NaN and the same bits are equal.
fn same(left: &[f64], right: &[f64]) {
    let bits =
        |values: &[f64]| values.iter().map(|value| if value.is_nan() { None } else { Some(value.to_bits()) }).collect::<Vec<_>>();
    assert_eq!(bits(left), bits(right), "{left:?} {right:?}");
}

#[test]
fn npz_holds_every_statistic_by_index() {
    let mut file = NpzReader::new(written(|out| export::npz(&boxed(), None, out))).unwrap();
    let mean: Array3<f64> = file.by_name("intensity_mean").unwrap();
    assert_eq!(mean.shape(), [4, 3, 2]);
    assert_eq!((mean[[0, 0, 0]], mean[[3, 2, 0]], mean[[1, 1, 1]]), (2.0, 5.0, 7.0));
    assert_eq!(mean.iter().filter(|value| value.is_nan()).count(), 21);
    let count: Array3<u32> = file.by_name("intensity_count").unwrap();
    assert_eq!((count[[0, 0, 0]], count.sum()), (2, 4));
    let variance: Array3<f64> = file.by_name("intensity_variance").unwrap();
    assert_eq!(variance[[0, 0, 0]], 2.0);
    assert!(variance[[3, 2, 0]].is_nan());
    let power: Array3<u32> = file.by_name("power_count").unwrap();
    assert_eq!(power.sum(), 2);
    let origin: Array1<f64> = file.by_name("origin").unwrap();
    assert_eq!(origin.to_vec(), [10.0, -1.0, 0.0]);
    let voxel: Array1<f64> = file.by_name("voxel").unwrap();
    assert_eq!(voxel.to_vec(), [0.5, 1.0, 0.04]);
}

#[test]
fn one_layer_can_be_written_alone() {
    let mut file = NpzReader::new(written(|out| export::npz(&boxed(), Some(1), out))).unwrap();
    let offset: Array1<i32> = file.by_name("offset").unwrap();
    assert_eq!(offset.to_vec(), [0, 0, 1]);
    let mean: Array3<f64> = file.by_name("intensity_mean").unwrap();
    assert_eq!((mean.shape(), mean[[1, 1, 0]]), (&[4, 3, 1][..], 7.0));
    assert!(export::npz(&boxed(), Some(2), Cursor::new(Vec::new())).is_err());
}

#[test]
fn voxels_too_far_apart_for_a_box_are_listed() {
    let mut grid = sample(None);
    let mut far = Batch::new(Arc::clone(grid.stream()), "s".into(), "s/0".into(), Timestamp(0));
    far.positions = Some(Positions { x: vec![9000.0], y: vec![9000.0], z: vec![8.0] });
    far.time = vec![9];
    far.signals = vec![vec![9.0], vec![9.0]];
    grid.update(&far, 0..1);
    let mut file = NpzReader::new(written(|out| export::npz(&grid, None, out))).unwrap();
    let index: Array2<i32> = file.by_name("index").unwrap();
    assert_eq!(index.shape(), [4, 3]);
    assert_eq!(index.row(0).to_vec(), [0, 0, 0]);
    let mean: Array1<f64> = file.by_name("intensity_mean").unwrap();
    assert_eq!(mean.to_vec(), [2.0, 7.0, 5.0, 9.0]);
    let refused = export::vti(&grid, None, Vec::new()).unwrap_err().to_string();
    assert!(refused.contains("bytes"), "{refused}");
}

#[test]
fn vti_holds_cell_data_in_voxel_indices() {
    let file = written(|out| export::vti(&boxed(), None, out));
    let vtk = Vtk::parse_xml(file).unwrap();
    assert_eq!(vtk.byte_order, ByteOrder::LittleEndian);
    let DataSet::ImageData { extent, origin, spacing, pieces, .. } = vtk.data else { panic!("no image data") };
    assert_eq!(extent, Extent::Ranges([0..=4, 0..=3, 0..=2]));
    assert_eq!((origin, spacing), ([10.0, -1.0, 0.0], [0.5, 1.0, 0.04]));
    let Piece::Inline(piece) = &pieces[0] else { panic!("not inline") };
    let array = |name: &str| -> Vec<f64> {
        let found = piece.data.cell.iter().find_map(|attribute| match attribute {
            Attribute::DataArray(array) if array.name == name => Some(array),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no {name}")).data.clone().into_vec().unwrap()
    };
    let mean = array("intensity_mean");
    assert_eq!(mean.len(), 24);
    assert_eq!((mean[0], mean[2 * 4 + 3], mean[12 + 4 + 1]), (2.0, 5.0, 7.0));
    same(&mean[1..4], &[f64::NAN; 3]);
    assert_eq!(array("power_count").iter().sum::<f64>(), 2.0);
}

#[test]
fn parquet_holds_one_row_a_voxel_and_signal() {
    let bytes = written(|out| export::parquet(&boxed(), None, out)).into_inner();
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let rows: Vec<Row> = file.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 5);
    let index = [0, 1, 2].map(|axis| rows[0].get_int(axis).unwrap());
    let center = [3, 4, 5].map(|axis| rows[0].get_double(axis).unwrap());
    assert_eq!((index, center, rows[0].get_string(6).unwrap().as_str()), ([0; 3], [10.25, -0.5, 0.02], "intensity"));
    assert_eq!(rows[0].get_long(7).unwrap(), 2);
    assert_eq!((rows[0].get_double(8).unwrap(), rows[0].get_double(9).unwrap()), (2.0, 2.0));
    assert!(rows[1].get_double(9).is_err(), "the variance of one row is null");
    let one = written(|out| export::parquet(&boxed(), Some(1), out)).into_inner();
    let one = SerializedFileReader::new(bytes::Bytes::from(one)).unwrap();
    assert_eq!(one.get_row_iter(None).unwrap().count(), 2);
}

#[test]
fn png_shows_the_layer_with_its_colours() {
    let file = written(|out| export::png(&boxed(), 0, Statistic::Mean, 0, out));
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert!(info.width > 300 && info.height > 150, "{info:?}");
    let has = |color: [u8; 3]| pixels.chunks_exact(3).filter(|pixel| *pixel == color).count();
    // The smallest value's voxel and the bar's lower end, the largest value's voxel and the upper end, and voxels without a value.
    assert!(has([68, 1, 84]) >= 64 * 64 && has([253, 231, 37]) >= 64 * 64 && has([225, 225, 225]) >= 64 * 64);
    let empty = export::png(&boxed(), 1, Statistic::Mean, 5, Vec::new()).unwrap_err().to_string();
    assert!(empty.contains("layer 5") && empty.contains("power"), "{empty}");
}

#[test]
fn a_grid_without_a_voxel_has_no_box_to_write() {
    let stream = Arc::new(Stream::new("melt", &["intensity"], &[]));
    let settings = GridSettings::new("build", &["intensity"], [0.0; 3], None, [1.0; 3]);
    let grid = Grid::new(GridConfig::new(settings).unwrap(), stream).unwrap();
    assert!(export::npz(&grid, None, Cursor::new(Vec::new())).is_err());
    assert!(export::vti(&grid, None, Vec::new()).is_err());
}

/// NumPy, VTK and Arrow for Python: `tests/setup` installs them in `tests/.servers/python`.
fn python() -> std::path::PathBuf {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.servers/python/bin/python3");
    std::env::var_os("QADF_PYTHON").map_or_else(|| installed.into(), Into::into)
}

#[test]
fn numpy_vtk_and_arrow_open_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Cursor<Vec<u8>>| std::fs::write(directory.path().join(name), bytes.into_inner()).unwrap();
    write("build.npz", written(|out| export::npz(&boxed(), None, out)));
    write("build.vti", written(|out| export::vti(&boxed(), None, out)));
    write("build.parquet", written(|out| export::parquet(&boxed(), None, out)));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/export_check.py");
    let run = std::process::Command::new(python()).arg(script).arg(directory.path()).output();
    let run = run.expect("Python with numpy, vtk and pyarrow: run tests/setup, or set QADF_PYTHON");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
