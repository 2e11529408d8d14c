//! Layers that finish, leave memory and come back; coarser levels, regions, derived maps, several resolutions.

use std::sync::Arc;

use proptest::prelude::*;
use qadf_edge::{
    model::{Batch, NO_LAYER, Positions, Stream, Timestamp},
    voxel::{
        AdaptiveGrid, Expected, Grid, GridConfig, GridError, GridSettings, LayerBy, LayerSummary, Quantity, Refinement, Region,
        Stats, TileKey, Transform, Weights,
    },
};

/// A point (mm), and intensity.
type Point = ([f64; 3], f64);

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity", "power"], &[]))
}

/// Rows at 1 ns distance from `start_ns` on; power is 200 everywhere.
fn batch(points: &[Point], start_ns: i64) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(0));
    let axis = |axis: usize| points.iter().map(|point| point.0[axis]).collect();
    batch.time = (start_ns..).take(points.len()).collect();
    batch.signals = vec![points.iter().map(|point| point.1).collect(), vec![200.0; points.len()]];
    batch.positions = Some(Positions { x: axis(0), y: axis(1), z: axis(2) });
    batch
}

fn settings(size: Option<[f64; 3]>, voxel: [f64; 3]) -> GridSettings {
    GridSettings::new("build", &["intensity", "power"], [0.0; 3], size, voxel)
}

fn grid(settings: GridSettings) -> Grid {
    Grid::new(GridConfig::new(settings).unwrap(), stream()).unwrap()
}

fn add(grid: &mut Grid, points: &[Point], start_ns: i64) {
    grid.update(&batch(points, start_ns), 0..points.len());
}

/// Every voxel of a layer 0.1 mm above the last, the layer's number as value.
fn layer(number: i32, edge: i32) -> Vec<Point> {
    let at = |index: i32| f64::from(index) + 0.5;
    (0..edge * edge).map(|cell| ([at(cell % edge), at(cell / edge), f64::from(number) * 0.1 + 0.05], f64::from(number))).collect()
}

#[test]
fn a_layer_is_finished_once_the_watermark_has_passed_the_start_of_a_higher_one() {
    let mut grid = grid(settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]));
    add(&mut grid, &layer(0, 4), 0);
    add(&mut grid, &layer(1, 4), 1000);
    add(&mut grid, &layer(3, 4), 2000);
    assert_eq!(grid.finish_layers(Timestamp(1000)), Vec::<i32>::new());
    assert_eq!(grid.finish_layers(Timestamp(1001)), [0]);
    assert_eq!(grid.finish_layers(Timestamp(1001)), Vec::<i32>::new());
    assert_eq!(grid.finish_layers(Timestamp::MAX), [1]);
    assert!(grid.finish_layer(3) && !grid.finish_layer(3) && !grid.finish_layer(2));
    add(&mut grid, &layer(0, 1), 5000);
    let status = grid.layer(0).unwrap();
    assert_eq!((status.rows, status.rows_after, status.first, status.last), (17, 1, Timestamp(0), Timestamp(5000)));
    assert_eq!(grid.layers().iter().map(|status| status.layer).collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn a_layer_summary_counts_what_is_missing() {
    let mut settings = settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]);
    let mut plate = grid(settings.clone());
    let mut points = layer(2, 4);
    points[5].1 = 8.0;
    points.remove(0);
    add(&mut plate, &points, 0);
    let summary = plate.layer_summary(2, 0);
    assert_eq!((summary.filled, summary.expected, summary.count), (15, Some(64), 15));
    assert_eq!((summary.min, summary.max, summary.mean), (Some(2.0), Some(8.0), Some(2.4)));
    assert_eq!(summary.completeness, Some(15.0 / 64.0));
    assert!((summary.z_mm - 0.2).abs() < 1e-12);
    assert_eq!(plate.missing(2, 0, 2).voxels, [[0, 0], [4, 0]]);

    // Two parts of which one is printed: without its first voxel.
    settings.expected = Expected::Parts(vec![
        Region { lower: [0.0; 3], upper: [4.0, 4.0, 1.0] },
        Region { lower: [6.0, 6.0, 0.0], upper: [8.0, 8.0, 0.1] },
    ]);
    let mut parts = grid(settings.clone());
    add(&mut parts, &points, 0);
    let missing = parts.missing(2, 0, 10);
    assert_eq!((missing.expected, missing.missing, missing.voxels), (Some(16), 1, vec![[0, 0]]));
    assert_eq!(parts.layer_summary(2, 0).completeness, Some(15.0 / 16.0));

    settings.expected = Expected::LayerBelow;
    let mut below = grid(settings);
    add(&mut below, &layer(1, 4), 0);
    add(&mut below, &points, 100);
    assert_eq!(below.missing(2, 0, 10).voxels, [[0, 0]]);
    assert_eq!(below.layer_summary(0, 0).completeness, None);
}

#[test]
fn layer_numbers_can_decide_instead_of_z() {
    let mut settings = settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]);
    settings.layer_by = LayerBy::Number { first: 1 };
    let mut grid = grid(settings);
    let mut rows = batch(&[([0.5, 0.5, 77.0], 1.0); 5], 0);
    rows.layer = Some(vec![1, 10, 11, NO_LAYER, 0]);
    let touched = grid.update(&rows, 0..5);
    assert_eq!((touched.rows, touched.rejected, touched.unplaced), (2, 2, 1));
    assert!(grid.get([0, 0, 0], 0).is_some() && grid.get([0, 0, 9], 0).is_some());
    rows.layer = None;
    assert_eq!(grid.update(&rows, 0..5).unplaced, 5);
}

#[test]
fn a_transform_takes_sensor_points_to_the_build() {
    let mut settings = settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]);
    settings.transform = Transform::from_euler([8.0, 0.0, 0.0], [0.0, 0.0, 90.0], 0.5).unwrap();
    let mut grid = grid(settings);
    // Half the size, a quarter turn to the left, 8 mm to the right: (x, y) becomes (8 - y/2, x/2).
    add(&mut grid, &[([3.0, 2.0, 0.0], 1.0), ([4.0, 14.0, 1.0], 2.0), ([0.0, -0.1, 0.0], 3.0)], 0);
    let found: Vec<_> = grid.voxels(0).map(|(index, stats)| (index, stats.mean)).collect();
    assert_eq!(found, [([7, 1, 0], 1.0), ([1, 2, 5], 2.0)]);
    assert_eq!(grid.counters().rejected, 1);
}

#[test]
fn a_region_takes_the_voxels_whose_centres_it_holds() {
    let mut grid = grid(settings(Some([80.0, 80.0, 1.0]), [1.0, 1.0, 0.1]));
    for number in 0..3 {
        add(&mut grid, &layer(number, 80), 0);
    }
    let stats = grid.region(&Region { lower: [30.5, 30.0, 0.1], upper: [33.4, 31.9, 0.3] }, 0).unwrap();
    assert_eq!((stats.count, stats.min, stats.max), (3 * 2 * 2, 1.0, 2.0));
    assert!((stats.mean - 1.5).abs() < 1e-12);
    assert!((stats.variance().unwrap() - 3.0 / 11.0).abs() < 1e-12);
    assert_eq!(grid.region(&Region { lower: [0.0; 3], upper: [0.4; 3] }, 0), None);
}

#[test]
fn finished_layers_leave_memory_and_stay_readable() {
    let mut settings = settings(Some([64.0, 64.0, 1.0]), [1.0, 1.0, 0.1]);
    let layer_bytes = GridConfig::new(settings.clone()).unwrap().layer_bytes() as u64;
    settings.bytes_max = layer_bytes * 5;
    let (mut bounded, mut free) = (grid(settings.clone()), grid(GridSettings { bytes_max: 1 << 30, ..settings.clone() }));
    let mut stored = Vec::new();
    for number in 0..10 {
        for grid in [&mut bounded, &mut free] {
            add(grid, &layer(number, 64), i64::from(number) * 10_000);
            // A straggler for the first layer, wherever that is by now.
            add(grid, &[([3.5, 3.5, 0.05], 100.0)], i64::from(number) * 10_000 + 5_000);
        }
        let watermark = Timestamp(i64::from(number) * 10_000 + 1);
        assert_eq!(bounded.finish_layers(watermark), free.finish_layers(watermark));
        if bounded.is_nearly_full() {
            stored.extend(bounded.evict_finished());
        }
        assert!(bounded.bytes() <= settings.bytes_max);
    }
    assert_eq!(bounded.counters(), free.counters());
    assert_eq!(bounded.counters().full, 0);
    assert!(bounded.layer(0).unwrap().generations > 1);
    let bytes = stored.iter().flat_map(|left| &left.tiles).map(|tile| tile.bytes.len() as u64).sum::<u64>();
    assert_eq!(bounded.stored_bytes(), bytes);
    for number in 0..10 {
        let (own, wanted) = (bounded.layer_summary(number, 0), free.layer_summary(number, 0));
        let exact = |one: &LayerSummary| (one.count, one.min, one.max, one.filled, one.completeness, one.is_finished);
        assert_eq!(exact(&own), exact(&wanted), "layer {number}");
    }
    let mut reloaded = Grid::restore(bounded.config().clone(), stream(), bounded.snapshot()).unwrap();
    for tile in bounded.touched_tiles(0).iter().chain(stored.iter().rev().flat_map(|left| &left.tiles)) {
        reloaded.restore_tile(tile.key, &tile.bytes).unwrap();
    }
    let exact = |grid: &Grid| {
        grid.voxels(0).map(|(index, stats)| (index, stats.count, stats.min, stats.max, stats.last)).collect::<Vec<_>>()
    };
    assert_eq!(exact(&reloaded), exact(&free));
    assert_eq!(reloaded.get([3, 3, 0], 0).unwrap().count, 11);
    let (mean, wanted) = (reloaded.get([3, 3, 0], 0).unwrap().mean, 1000.0 / 11.0);
    assert!((mean - wanted).abs() < 1e-12 * wanted);
}

#[test]
fn rows_without_memory_are_counted_and_nothing_grows() {
    let mut settings = settings(Some([64.0, 64.0, 1.0]), [1.0, 1.0, 0.1]);
    settings.bytes_max = GridConfig::new(settings.clone()).unwrap().layer_bytes() as u64;
    let mut grid = grid(settings);
    add(&mut grid, &layer(0, 64), 0);
    let touched = grid.update(&batch(&layer(1, 64), 0), 0..4096);
    assert_eq!((touched.full, touched.rows, grid.tile_count()), (4096, 0, 4));
    grid.finish_layers(Timestamp::MAX);
    assert!(grid.evict_finished().is_empty(), "no layer is finished, so none may leave");
    grid.finish_layer(0);
    assert_eq!(grid.evict_finished()[0].tiles.len(), 4);
    assert_eq!(grid.update(&batch(&layer(1, 64), 0), 0..4096).rows, 4096);
}

#[test]
fn damaged_tiles_are_refused() {
    let mut grid = grid(settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]));
    add(&mut grid, &layer(0, 4), 0);
    let tile = grid.touched_tiles(0).remove(0);
    for cut in [0, 3, 10, tile.bytes.len() - 1] {
        assert!(grid.restore_tile(tile.key, &tile.bytes[..cut]).is_err(), "{cut}");
    }
    for place in 0..tile.bytes.len() {
        let mut bytes = tile.bytes.clone();
        bytes[place] ^= 4;
        assert!(grid.restore_tile(tile.key, &bytes).is_err(), "{place}");
    }
    assert!(grid.restore_tile(TileKey(u64::MAX), &tile.bytes).is_err());
    assert!(grid.restore_tile(TileKey::of([64, 0, 0]), &tile.bytes).is_err());
}

#[test]
fn only_grids_of_the_same_voxels_go_together() {
    let mut grid = grid(settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]));
    let coarser = self::grid(settings(Some([8.0, 8.0, 1.0]), [2.0, 1.0, 0.1]));
    assert_eq!(grid.merge(&coarser), Err(GridError::Mismatch { what: "voxels" }));
    let mut spread = settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]);
    spread.weights = Weights::Trilinear;
    assert_eq!(grid.merge(&self::grid(spread)), Err(GridError::Mismatch { what: "statistics" }));
    let settings = GridSettings::new("build", &["temperature"], [0.0; 3], None, [1.0; 3]);
    let unknown = Grid::new(GridConfig::new(settings).unwrap(), stream()).unwrap_err().to_string();
    assert_eq!(unknown, "the stream `melt` has no signal `temperature`");
}

#[test]
fn reset_forgets_everything_but_the_version() {
    let mut grid = grid(settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]));
    add(&mut grid, &layer(0, 4), 0);
    grid.reset();
    assert_eq!((grid.states().len(), grid.counters().rows, grid.tile_count(), grid.version()), (0, 0, 0, 2));
    add(&mut grid, &layer(0, 4), 0);
    assert_eq!(grid.states().len(), 32);
}

#[test]
fn derived_maps_are_where_they_are_defined() {
    let mut grid = grid(settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]));
    add(&mut grid, &[([0.5, 0.5, 0.05], 4.0), ([0.5, 0.5, 0.15], 6.0), ([0.5, 0.5, 0.25], 5.0), ([5.5, 0.5, 0.05], 9.0)], 0);
    // 200 W / (1000 mm/s · 0.1 mm) = 2 J/mm².
    let normal = grid.per_energy_density(0, Quantity::Signal(1), Quantity::Constant(1000.0), 0.1);
    assert_eq!(normal.values, [([0, 0, 0], 2.0), ([5, 0, 0], 4.5), ([0, 0, 1], 3.0), ([0, 0, 2], 2.5)]);
    assert_eq!(&*normal.name, "intensity_per_energy_density");
    assert!(grid.per_energy_density(0, Quantity::Signal(1), Quantity::Constant(0.0), 0.1).values.is_empty());

    assert_eq!(grid.neighbour_deviation(0).values, [([0, 0, 0], -2.0), ([0, 0, 1], 1.5), ([0, 0, 2], -1.0)]);

    let mut reference = self::grid(settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]));
    add(&mut reference, &[([0.5, 0.5, 0.05], 1.0), ([0.5, 0.5, 0.05], 3.0), ([0.5, 0.5, 0.15], 6.0), ([5.5, 0.5, 0.05], 9.0)], 0);
    add(&mut reference, &[([5.5, 0.5, 0.05], 9.0)], 0);
    let scores = grid.z_scores(0, &reference).unwrap().values;
    assert_eq!(scores, [([0, 0, 0], 2.0 / 2.0_f64.sqrt())]);
}

#[test]
fn the_finest_resolution_that_applies_takes_the_row() {
    let refinement = |region, time, layers, voxel| Refinement { region, time, layers, voxel: [voxel, voxel, 0.1] };
    let part = Region { lower: [0.0; 3], upper: [4.0, 4.0, 1.0] };
    let refinements = vec![
        refinement(Some(part), None, None, 0.5),
        refinement(None, Some((Timestamp(100), Timestamp(200))), None, 0.25),
        refinement(None, None, Some((5, 6)), 0.1),
    ];
    let mut grid = AdaptiveGrid::new(&settings(Some([8.0, 8.0, 1.0]), [1.0, 1.0, 0.1]), refinements, &stream()).unwrap();
    let taken = |grid: &mut AdaptiveGrid, point: [f64; 3], time: i64, layer: Option<i32>| {
        let before: Vec<u64> = grid.grids().iter().map(|grid| grid.counters().rows).collect();
        let mut rows = batch(&[(point, 1.0)], time);
        rows.layer = layer.map(|layer| vec![layer]);
        assert_eq!(grid.update(&rows, 0..1).rows, 1);
        grid.grids().iter().zip(before).position(|(grid, before)| grid.counters().rows > before)
    };
    assert_eq!(taken(&mut grid, [6.0, 6.0, 0.0], 0, None), Some(0));
    assert_eq!(taken(&mut grid, [4.0, 4.0, 0.0], 0, None), Some(1));
    assert_eq!(taken(&mut grid, [4.0, 4.0, 0.0], 100, None), Some(2));
    assert_eq!(taken(&mut grid, [4.0, 4.0, 0.0], 201, None), Some(1));
    assert_eq!(taken(&mut grid, [6.0, 6.0, 0.55], 150, None), Some(3));
    assert_eq!(taken(&mut grid, [6.0, 6.0, 0.0], 0, Some(6)), Some(3));
    assert_eq!(grid.version(), 6);
    assert_eq!(&*grid.grids()[3].config().settings().id, "build/3");
    let (place, stats) = grid.at([4.0, 4.0, 0.0], 0).unwrap();
    assert_eq!((place, stats.count), (2, 1));
    assert_eq!(grid.at([6.0, 6.0, 0.0], 0).map(|(place, _)| place), Some(3));
    assert_eq!(grid.at([1.0, 7.0, 0.9], 0), None);
}

fn points() -> impl Strategy<Value = Vec<Point>> {
    let part = || (-400_i32..400).prop_map(|eighth| f64::from(eighth) / 8.0);
    let point = (part(), part(), part(), -1e3..1e3_f64);
    prop::collection::vec(point.prop_map(|(x, y, z, value)| ([x, y, z], value)), 1..500)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn coarser_levels_equal_direct_accumulation(points in points(), ratio in 2_i32..5) {
        let mut fine = grid(settings(None, [0.5; 3]));
        add(&mut fine, &points, 0);
        for (level, coarse) in fine.pyramid(ratio, 2).unwrap().iter().enumerate() {
            let edge = 0.5 * f64::from(ratio.pow(level as u32 + 1));
            let mut direct = grid(settings(None, [edge; 3]));
            add(&mut direct, &points, 0);
            let (found, wanted): (Vec<([i32; 3], Stats)>, Vec<_>) = (coarse.voxels(0).collect(), direct.voxels(0).collect());
            prop_assert_eq!(found.len(), wanted.len());
            for ((index, stats), (wanted_index, wanted)) in found.into_iter().zip(wanted) {
                prop_assert_eq!((index, stats.count, stats.min, stats.max), (wanted_index, wanted.count, wanted.min, wanted.max));
                prop_assert_eq!(stats.last, wanted.last);
                prop_assert!((stats.mean - wanted.mean).abs() <= 1e-12 * 1e3 * f64::from(stats.count));
                prop_assert!((stats.m2 - wanted.m2).abs() <= 1e-9 * (1.0 + wanted.m2));
            }
            prop_assert_eq!(coarse.config().axes()[0].voxel_mm(), edge);
        }
    }

    #[test]
    fn spread_rows_keep_their_weight(points in points()) {
        let mut spread = settings(Some([100.0; 3]), [2.0; 3]);
        spread.origin = [-50.0; 3];
        spread.weights = Weights::Trilinear;
        spread.lanes.sum = true;
        let mut grid = grid(spread);
        add(&mut grid, &points, 0);
        let weight: f64 = grid.voxels(0).map(|(_, stats)| stats.weight).sum();
        let sum: f64 = grid.voxels(0).map(|(_, stats)| stats.sum()).sum();
        let (rows, wanted) = (points.len() as f64, points.iter().map(|point| point.1).sum::<f64>());
        prop_assert!((weight - rows).abs() <= 1e-9 * rows);
        prop_assert!((sum - wanted).abs() <= 1e-9 * 1e3 * rows);
    }
}
