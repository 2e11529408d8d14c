//! Grids against the cases of `cases/amqadf.json`, against a plain recomputation, and against themselves at rest.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use qadf_edge::{
    model::{Batch, Positions, Stream, Timestamp},
    voxel::{Axis, Grid, GridConfig, GridSettings, Lanes, Stats, Touched, Weights},
};
use serde_json::Value;

/// A point and its value.
type Point = ([f64; 3], f64);

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity"], &[]))
}

/// Rows at 1 s distance, in order.
fn batch(points: &[Point]) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(0));
    let axis = |axis: usize| points.iter().map(|point| point.0[axis]).collect();
    batch.time = (0..points.len() as i64).collect();
    batch.signals[0] = points.iter().map(|point| point.1).collect();
    batch.positions = Some(Positions { x: axis(0), y: axis(1), z: axis(2) });
    batch
}

fn grid(settings: GridSettings) -> Grid {
    Grid::new(GridConfig::new(settings).unwrap(), stream()).unwrap()
}

fn boxed(size: f64, voxel: f64) -> GridSettings {
    GridSettings::new("build", &["intensity"], [0.0; 3], Some([size; 3]), [voxel; 3])
}

/// Without a size: indices reach to all sides of the origin.
fn open(voxel: f64) -> GridSettings {
    GridSettings::new("build", &["intensity"], [0.0; 3], None, [voxel; 3])
}

fn add(grid: &mut Grid, points: &[Point]) -> Touched {
    grid.update(&batch(points), 0..points.len())
}

fn cases() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/amqadf.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn case(id: &str) -> Value {
    let cases = cases();
    let all = cases["cases"].as_array().unwrap().iter().chain(cases["voxel"].as_array().unwrap());
    all.clone().find(|case| case["id"] == id).unwrap_or_else(|| panic!("no case {id}")).clone()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn triple(value: &Value) -> [f64; 3] {
    floats(value)[..3].try_into().unwrap()
}

fn index(value: &Value) -> [i32; 3] {
    triple(value).map(|part| part as i32)
}

#[test]
fn the_mean_runs_on_across_batches() {
    let case = case("VOX-01");
    let mut grid = grid(boxed(10.0, case["input"]["res"].as_f64().unwrap()));
    for rows in case["input"]["batches"].as_array().unwrap() {
        let rows: Vec<Point> = rows.as_array().unwrap().iter().map(|row| (triple(row), floats(row)[3])).collect();
        add(&mut grid, &rows);
    }
    let (expected, stats) = (&case["expected"], grid.get(index(&case["expected"]["voxel"]), 0).unwrap());
    assert_eq!(stats.mean, expected["mean"]);
    assert_eq!(u64::from(stats.count), expected["count"]);
    assert_eq!(stats.min, expected["min"].as_f64().unwrap());
    assert_eq!(stats.max, expected["max"].as_f64().unwrap());
    assert_eq!(stats.sum(), expected["sum"].as_f64().unwrap());
}

#[test]
fn the_upper_face_is_inside_and_what_is_outside_is_counted() {
    let case = case("VOX-02");
    let mut grid = grid(boxed(10.0, 1.0));
    let points = case["input"]["points"].as_array().unwrap();
    let expected = case["expected"]["indices"].as_array().unwrap();
    assert_eq!(points.len(), expected.len());
    for (point, expected) in points.iter().zip(expected) {
        let found = grid.config().index_of(triple(point), None);
        assert_eq!(found, (!expected.is_null()).then(|| index(expected)), "{point}");
    }
    let rows: Vec<Point> = points.iter().map(|point| (triple(point), 1.0)).collect();
    let touched = add(&mut grid, &rows);
    assert_eq!(touched.rejected, case["expected"]["rejected"]);
    assert_eq!((touched.rows, touched.voxels), (3, 2));
    assert_eq!(grid.get([9, 0, 0], 0).unwrap().count, 2);
}

#[test]
fn decimal_faces_are_exact() {
    let case = case("VOX-03");
    let axis = Axis::new(0.0, Some(1.0), case["input"]["res"].as_f64().unwrap(), 1 << 20).unwrap();
    let found: Vec<i32> = floats(&case["input"]["x"]).into_iter().map(|x| axis.index(x).unwrap()).collect();
    assert_eq!(serde_json::json!(found), case["expected"]);

    let case = self::case("vox-decimal-face");
    let axis = Axis::new(0.0, Some(2.0), case["params"]["voxel_mm"].as_f64().unwrap(), 1 << 20).unwrap();
    let decimals = case["data"]["x_decimal_strings"].as_array().unwrap();
    let found: Vec<i32> = decimals.iter().map(|x| axis.index(x.as_str().unwrap().parse().unwrap()).unwrap()).collect();
    assert_eq!(serde_json::json!(found), case["expected"]["i"]);
}

#[test]
fn the_last_voxel_may_reach_beyond_the_box() {
    let case = case("VOX-04");
    let config = GridConfig::new(boxed(10.0, case["input"]["res"].as_f64().unwrap())).unwrap();
    assert_eq!(serde_json::json!(config.dims()), case["expected"]);
}

#[test]
fn zero_is_a_value_and_empty_is_empty() {
    let case = case("VOX-06");
    let mut grid = grid(boxed(10.0, 1.0));
    let rows: Vec<Point> = floats(&case["input"]["values"]).into_iter().map(|value| ([0.5; 3], value)).collect();
    add(&mut grid, &rows);
    let stats = grid.get([0; 3], 0).unwrap();
    assert_eq!(stats.mean, case["expected"]["mean"].as_f64().unwrap());
    assert_eq!(u64::from(stats.count), case["expected"]["count"]);
    assert_eq!(grid.layer_summary(0, 0).filled, case["expected"]["filled"]);
    assert_eq!(grid.get([1, 0, 0], 0), None);
}

#[test]
fn touched_since_covers_all_updates() {
    let case = case("VOX-09");
    let mut grid = grid(boxed(50.0, 1.0));
    let before = grid.version();
    for rows in case["input"]["batches"].as_array().unwrap() {
        let rows: Vec<Point> = rows.as_array().unwrap().iter().map(|row| (triple(row), 1.0)).collect();
        add(&mut grid, &rows);
        assert_eq!(grid.latest_touched(), [rows[0].0.map(|part| part as i32)]);
    }
    let touched: Vec<[i64; 3]> = grid.states_since(before).into_iter().map(|state| state.index).collect();
    let bound = |pick: fn(i64, i64) -> i64| touched.iter().copied().reduce(|a, b| [0, 1, 2].map(|axis| pick(a[axis], b[axis])));
    assert_eq!(serde_json::json!(bound(i64::min).unwrap()), case["expected"]["combined_min"]);
    assert_eq!(serde_json::json!(bound(i64::max).unwrap()), case["expected"]["combined_max"]);
    assert_eq!(grid.touched_since(grid.version()), []);
}

#[test]
fn indices_are_floor_also_below_zero() {
    let case = case("vox-floor");
    let config = GridConfig::new(open(case["params"]["voxel_mm"].as_f64().unwrap())).unwrap();
    let points = case["data"]["points"].as_array().unwrap();
    let found: Vec<_> = points.iter().map(|point| config.index_of(triple(point), None).unwrap()).collect();
    assert_eq!(serde_json::json!(found), case["expected"]["ijk"]);
}

#[test]
fn interleaved_voxels_are_exact() {
    let case = case("vox-small-exact");
    let mut grid = grid(open(1.0));
    for row in case["data"]["i,j,k,value"].as_array().unwrap() {
        add(&mut grid, &[(triple(row).map(|part| part + 0.5), floats(row)[3])]);
    }
    let expected = case["expected"].as_object().unwrap();
    assert_eq!(grid.states().len(), expected.len());
    for (voxel, expected) in expected {
        let at: Vec<i32> = voxel.split(',').map(|part| part.parse().unwrap()).collect();
        let stats = grid.get(at.try_into().unwrap(), 0).unwrap();
        let number = |name: &str| expected[name].as_f64();
        assert_eq!(Some(f64::from(stats.count)), number("count"), "{voxel}");
        assert_eq!(Some(stats.mean), number("mean"), "{voxel}");
        assert_eq!(Some(stats.m2), number("M2"), "{voxel}");
        assert_eq!(Some(stats.min), number("min"), "{voxel}");
        assert_eq!(Some(stats.max), number("max"), "{voxel}");
        assert_eq!(stats.standard_deviation(), number("sd"), "{voxel}");
    }
}

#[test]
fn states_come_sorted_by_index() {
    let mut grid = grid(open(1.0));
    add(&mut grid, &[([40.5, 0.5, 0.5], 1.0), ([0.5, 40.5, 0.5], 2.0), ([0.5, 0.5, 3.5], 3.0), ([-0.5, 0.5, 0.5], 4.0)]);
    let indices: Vec<_> = grid.states().iter().map(|state| state.index).collect();
    assert_eq!(indices, [[-1, 0, 0], [0, 0, 3], [0, 40, 0], [40, 0, 0]]);
    assert_eq!(grid.states()[0].last, Some(4.0));
    assert_eq!(grid.states()[0].variance, None);
}

#[test]
fn last_goes_by_event_time_then_by_arrival() {
    let mut rows = batch(&[([0.5; 3], 1.0), ([0.5; 3], 2.0), ([0.5; 3], 3.0), ([0.5; 3], 4.0)]);
    rows.time = vec![5, 9, 9, 7];
    let mut settings = open(1.0);
    settings.lanes = Lanes { last: true, sum: true, first: true };
    let mut grid = grid(settings);
    grid.update(&rows, 0..4);
    let stats = grid.get([0; 3], 0).unwrap();
    assert_eq!((stats.first.unwrap().value, stats.last.unwrap().value), (1.0, 3.0));
    assert_eq!((stats.first.unwrap().time, stats.last.unwrap().time), (5, 9));
    assert_eq!(stats.sum(), 10.0);
}

#[test]
fn every_skipped_row_is_counted_once() {
    let mut rows = batch(&[
        ([0.5; 3], 1.0),
        ([f64::NAN; 3], 1.0),
        ([0.5, f64::INFINITY, 0.5], 1.0),
        ([0.5, f64::NAN, 0.5], 1.0),
        ([11.0, 0.5, 0.5], f64::NAN),
        ([0.5; 3], f64::NAN),
        ([0.5; 3], f64::INFINITY),
    ]);
    let mut grid = grid(boxed(10.0, 1.0));
    let touched = grid.update(&rows, 0..7);
    let want = Touched { version: 1, voxels: 1, rows: 1, rejected: 3, unplaced: 1, without_value: 2, full: 0 };
    assert_eq!(touched, want);
    rows.positions = None;
    assert_eq!(grid.update(&rows, 2..100), Touched { version: 1, unplaced: 5, ..Touched::default() });
    assert_eq!(grid.counters().unplaced, 6);
}

#[test]
fn trilinear_shares_add_up_to_the_row() {
    let mut settings = boxed(10.0, 1.0);
    settings.weights = Weights::Trilinear;
    let mut grid = grid(settings);
    let touched = add(&mut grid, &[([2.75, 2.5, 2.5], 8.0), ([0.0, 0.0, 0.0], 3.0)]);
    assert_eq!((touched.rows, touched.voxels), (2, 3));
    let weight = |index| grid.get(index, 0).map(|stats: Stats| (stats.weight, stats.mean));
    assert_eq!(weight([2, 2, 2]), Some((0.75, 8.0)));
    assert_eq!(weight([3, 2, 2]), Some((0.25, 8.0)));
    assert_eq!(weight([0, 0, 0]), Some((1.0, 3.0)));
}

/// Statistics recomputed from all values of a voxel at once.
fn recomputed(points: &[Point], voxel: f64) -> BTreeMap<[i32; 3], Vec<f64>> {
    let mut voxels = BTreeMap::<[i32; 3], Vec<f64>>::new();
    for (point, value) in points {
        // Points lie on a lattice of 1/8 mm, so this division is exact.
        voxels.entry(point.map(|part| (part / voxel).floor() as i32)).or_default().push(*value);
    }
    voxels
}

fn assert_matches(grid: &Grid, voxels: &BTreeMap<[i32; 3], Vec<f64>>) {
    let found: BTreeMap<[i32; 3], Stats> = grid.voxels(0).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), voxels.keys().collect::<Vec<_>>());
    for (index, values) in voxels {
        let stats = &found[index];
        let size: f64 = values.iter().map(|value| value.abs()).sum();
        let sum: f64 = values.iter().sum();
        let mean = sum / values.len() as f64;
        let m2: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        assert_eq!(stats.count as usize, values.len(), "{index:?}");
        assert_eq!(stats.min, values.iter().copied().fold(f64::INFINITY, f64::min), "{index:?}");
        assert_eq!(stats.max, values.iter().copied().fold(f64::NEG_INFINITY, f64::max), "{index:?}");
        assert!((stats.sum() - sum).abs() <= 1e-12 * size, "{index:?}: {} {sum}", stats.sum());
        assert!((stats.mean - mean).abs() <= 1e-12 * size, "{index:?}: {} {mean}", stats.mean);
        assert!((stats.m2 - m2).abs() <= 1e-9 * (size * size + 1.0), "{index:?}: {} {m2}", stats.m2);
        assert!(stats.m2 >= 0.0, "{index:?}");
    }
}

fn points() -> impl Strategy<Value = Vec<Point>> {
    let part = || (-400_i32..400).prop_map(|eighth| f64::from(eighth) / 8.0);
    let point = (part(), part(), (0_i32..32).prop_map(|eighth| f64::from(eighth) / 8.0), -1e3..1e3_f64);
    prop::collection::vec(point.prop_map(|(x, y, z, value)| ([x, y, z], value)), 1..600)
}

fn with_sum(voxel: f64) -> GridSettings {
    let mut settings = open(voxel);
    settings.lanes.sum = true;
    settings
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn incremental_equals_recomputed_whatever_the_batches_and_order(
        points in points(),
        cuts in prop::collection::vec(1_usize..300, 1..20),
        seed in any::<u64>(),
    ) {
        let mut shuffled = points.clone();
        let mut state = seed | 1;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (state >> 33) as usize % (at + 1));
        }
        let mut grid = grid(with_sum(0.5));
        let (mut rest, mut cuts) = (&shuffled[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            let touched = add(&mut grid, now);
            prop_assert_eq!(touched.voxels as usize, recomputed(now, 0.5).len());
            prop_assert_eq!(grid.latest_touched().len() as u64, touched.voxels);
            rest = later;
        }
        assert_matches(&grid, &recomputed(&points, 0.5));
    }

    #[test]
    fn merging_two_grids_equals_accumulating_both(points in points(), cut in 0_usize..600) {
        let (left, right) = points.split_at(cut.min(points.len()));
        let (mut first, mut second) = (grid(with_sum(0.5)), grid(with_sum(0.5)));
        add(&mut first, left);
        add(&mut second, right);
        first.merge(&second).unwrap();
        assert_matches(&first, &recomputed(&points, 0.5));
        let mut both = grid(with_sum(0.5));
        add(&mut both, &points);
        prop_assert_eq!(first.counters().rows, both.counters().rows);
    }

    #[test]
    fn restoring_equals_undisturbed(points in points(), cut in 0_usize..600) {
        let (before, after) = points.split_at(cut.min(points.len()));
        let mut undisturbed = grid(open(0.5));
        add(&mut undisturbed, before);
        let at_rest = undisturbed.clone();
        let (tiles, state) = (at_rest.touched_tiles(0), postcard::to_stdvec(&at_rest.snapshot()).unwrap());
        let state = postcard::from_bytes(&state).unwrap();
        let mut restored = Grid::restore(undisturbed.config().clone(), stream(), state).unwrap();
        for tile in tiles {
            restored.restore_tile(tile.key, &tile.bytes).unwrap();
        }
        let next = [add(&mut undisturbed, after), add(&mut restored, after)];
        prop_assert_eq!(next[0], next[1]);
        prop_assert_eq!(undisturbed.states(), restored.states());
        prop_assert_eq!(undisturbed.snapshot(), restored.snapshot());
        prop_assert_eq!(undisturbed.touched_tiles(0), restored.touched_tiles(0));
    }
}
