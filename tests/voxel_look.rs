//! Looking at a grid: in pages, by regions of layers, as derived maps in files, with the statistics that can be switched on.

use std::{io::Cursor, sync::Arc};

use ndarray::Array3;
use ndarray_npy::NpzReader;
use qadf_edge::{
    model::{Batch, Positions, Stream, Timestamp, VoxelState},
    voxel::{
        Expected, Grid, GridConfig, GridSettings, Quantity, Region,
        export::{self, Statistic},
    },
};

/// A point (mm), and intensity.
type Point = ([f64; 3], f64);

fn grid(change: impl FnOnce(&mut GridSettings)) -> Grid {
    let stream = Arc::new(Stream::new("melt", &["intensity", "power"], &[]));
    let mut settings = GridSettings::new("build", &["intensity", "power"], [0.0; 3], Some([128.0, 64.0, 2.0]), [1.0, 1.0, 0.1]);
    change(&mut settings);
    Grid::new(GridConfig::new(settings).unwrap(), stream).unwrap()
}

/// Rows at 1 ns distance; power is 200 everywhere.
fn add(grid: &mut Grid, points: &[Point]) {
    let mut batch = Batch::new(Arc::clone(grid.stream()), "s".into(), "s/0".into(), Timestamp(0));
    let axis = |axis: usize| points.iter().map(|point| point.0[axis]).collect();
    batch.time = (0..points.len() as i64).collect();
    batch.signals = vec![points.iter().map(|point| point.1).collect(), vec![200.0; points.len()]];
    batch.positions = Some(Positions { x: axis(0), y: axis(1), z: axis(2) });
    grid.update(&batch, 0..points.len());
}

fn at(index: [i32; 3], value: f64) -> Point {
    let [i, j, k] = index.map(f64::from);
    ([i + 0.5, j + 0.5, k * 0.1 + 0.05], value)
}

fn indices(voxels: &[VoxelState]) -> Vec<[i64; 3]> {
    voxels.iter().filter(|voxel| &*voxel.signal == "intensity").map(|voxel| voxel.index).collect()
}

#[test]
fn changes_come_in_pages_that_miss_nothing() {
    let mut grid = grid(|_| ());
    for tile in 0..4 {
        add(&mut grid, &[at([tile * 32, 0, 0], 1.0), at([tile * 32 + 1, 0, 0], 1.0)]);
    }
    // The oldest tile is touched again: it comes last.
    add(&mut grid, &[at([2, 0, 0], 1.0), at([2, 0, 1], 1.0)]);
    let (mut since, mut seen) = (0, Vec::new());
    loop {
        // Two voxels of two signals fit, a tile of three comes alone.
        let page = grid.page(None, Some(since), 4);
        assert!(page.version > since && !page.voxels.is_empty());
        seen.push(indices(&page.voxels));
        since = page.version;
        if page.is_complete {
            break;
        }
    }
    let both = [[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 0, 1]];
    assert_eq!(seen, [vec![[32, 0, 0], [33, 0, 0]], vec![[64, 0, 0], [65, 0, 0]], vec![[96, 0, 0], [97, 0, 0]], both.to_vec()]);
    assert_eq!(since, grid.version());
    assert_eq!(grid.page(None, Some(since), 4).voxels, []);
    let only = grid.page(Some(1), Some(0), 100);
    assert_eq!((indices(&only.voxels), only.is_complete), (vec![[2, 0, 1]], true));
    let first = grid.page(None, None, 6);
    assert_eq!((indices(&first.voxels), first.is_complete), (both[..3].to_vec(), false));
    assert_eq!(grid.page(Some(0), None, 1000).voxels.len(), 18);
}

#[test]
fn a_region_of_a_layer_has_figures_of_its_own() {
    let mut grid = grid(|_| ());
    let points: Vec<Point> = (0..64).flat_map(|j| (0..40).map(move |i| at([i, j, 3], f64::from(i)))).collect();
    add(&mut grid, &points[..2500]);
    let region = Region { lower: [30.0, 10.0, 0.0], upper: [50.0, 64.0, 0.5] };
    let figures = grid.layer_region_summary(3, 0, &region).unwrap();
    // Columns 30 to 39 of 20, lines 10 to 62, of which the last ends at column 19.
    assert_eq!((figures.expected, figures.filled, figures.count), (Some(20 * 54), 10 * 52, 10 * 52));
    assert_eq!((figures.min, figures.max), (Some(30.0), Some(39.0)));
    assert!((figures.mean.unwrap() - 34.5).abs() < 1e-12);
    assert_eq!(figures.completeness, Some(520.0 / 1080.0));
    assert_eq!(grid.layer_region_summary(5, 0, &region), None, "the layer's middle lies above");
    assert_eq!(grid.region_voxels(&region, 0), 520);
    assert_eq!(grid.layer_region_summary(4, 0, &region).unwrap().completeness, Some(0.0));
}

#[test]
fn what_is_missing_from_a_layer_is_known_after_the_one_below_has_left() {
    let tile = |k: i32, edge: i32| -> Vec<Point> { (0..edge).flat_map(|j| (0..edge).map(move |i| at([i, j, k], 1.0))).collect() };
    let mut grid = grid(|settings| {
        settings.expected = Expected::LayerBelow;
        settings.bytes_max = 8 * 32 * 32 * 52 * 2 + 100_000;
    });
    for k in 0..6 {
        add(&mut grid, &tile(k, 32 - k));
        grid.finish_layers(Timestamp(1));
    }
    let known = grid.layer_summary(3, 0);
    assert_eq!(known.completeness, Some(f64::from(29 * 29) / f64::from(30 * 30)));
    // Layer 5 is open, so that layer 4 stays for comparison.
    for k in 6..20 {
        add(&mut grid, &tile(k, 32 - k));
        grid.finish_layers(Timestamp(1));
        if grid.is_nearly_full() {
            assert!(!grid.evict_finished().is_empty());
        }
    }
    assert!(grid.layer(3).unwrap().generations == 1 && grid.layer(19).unwrap().generations == 0);
    assert_eq!(grid.layer_summary(3, 0), known);
    for k in 1..20 {
        let expected = grid.layer_summary(k, 0).completeness.unwrap();
        let edges = (f64::from(32 - k), f64::from(33 - k));
        assert_eq!(expected, edges.0 * edges.0 / (edges.1 * edges.1), "layer {k}");
    }
}

#[test]
fn a_derived_map_is_exported_like_a_grid() {
    let mut grid = grid(|settings| settings.size = Some([4.0, 3.0, 0.2]));
    add(&mut grid, &[at([1, 1, 0], 4.0), at([1, 1, 1], 6.0), at([3, 2, 0], 9.0)]);
    // 200 W / (1000 mm/s · 0.1 mm) = 2 J/mm².
    let map = grid.per_energy_density(0, Quantity::Signal(1), Quantity::Constant(1000.0), 0.1);
    let map = grid.of_map(&map).unwrap();
    assert_eq!(map.signals().iter().map(|name| &**name).collect::<Vec<_>>(), ["intensity_per_energy_density"]);
    let mut file = Cursor::new(Vec::new());
    export::npz(&map, None, &mut file).unwrap();
    file.set_position(0);
    let mean: Array3<f64> = NpzReader::new(file).unwrap().by_name("intensity_per_energy_density_mean").unwrap();
    assert_eq!((mean[[1, 1, 0]], mean[[1, 1, 1]], mean[[3, 2, 0]]), (2.0, 3.0, 4.5));
    assert_eq!(mean.iter().filter(|value| !value.is_nan()).count(), 3);
    let mut png = Vec::new();
    export::png(&map, 0, Statistic::Mean, 0, &mut png).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
}

#[test]
fn sum_and_first_are_exported_where_they_are_kept() {
    let mut kept = grid(|settings| {
        settings.size = Some([2.0, 1.0, 0.1]);
        (settings.lanes.sum, settings.lanes.first) = (true, true);
    });
    add(&mut kept, &[at([1, 0, 0], 1e16), at([1, 0, 0], 1.0), at([1, 0, 0], -1e16)]);
    let mut file = Cursor::new(Vec::new());
    export::npz(&kept, None, &mut file).unwrap();
    file.set_position(0);
    let mut file = NpzReader::new(file).unwrap();
    let array = |file: &mut NpzReader<_>, name: &str| -> Array3<f64> { file.by_name(name).unwrap() };
    assert_eq!(array(&mut file, "intensity_sum")[[1, 0, 0]], 1.0);
    assert_eq!(array(&mut file, "intensity_first")[[1, 0, 0]], 1e16);
    assert!(array(&mut file, "intensity_first")[[0, 0, 0]].is_nan());
    assert_eq!(Statistic::kept(&grid(|_| ())).len(), 6);
}
