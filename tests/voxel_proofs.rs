//! What holds of grids whatever the rows: several signals with gaps, weights, transforms, derived maps, checkpoints of what was touched, and
//! what a build takes in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use qadf_edge::{
    model::{Batch, Positions, Stream, Timestamp},
    voxel::{Grid, GridConfig, GridError, GridSettings, Lanes, Quantity, Stats, TileKey, Transform, Weights},
};

/// A point (mm), and the values of both signals.
type Point = ([f64; 3], [f64; 2]);

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity", "power"], &[]))
}

/// Rows at 1 ns distance from `start_ns` on.
fn batch(points: &[Point], start_ns: i64) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(0));
    let axis = |axis: usize| points.iter().map(|point| point.0[axis]).collect();
    batch.time = (start_ns..).take(points.len()).collect();
    batch.signals = [0, 1].map(|signal| points.iter().map(|point| point.1[signal]).collect()).into();
    batch.positions = Some(Positions { x: axis(0), y: axis(1), z: axis(2) });
    batch
}

/// From -50 mm on every axis, 100 mm long.
fn settings(voxel: f64) -> GridSettings {
    GridSettings::new("build", &["intensity", "power"], [-50.0; 3], Some([100.0; 3]), [voxel; 3])
}

fn grid(settings: GridSettings) -> Grid {
    Grid::new(GridConfig::new(settings).unwrap(), stream()).unwrap()
}

fn filled(settings: GridSettings, points: &[Point]) -> Grid {
    let mut grid = grid(settings);
    grid.update(&batch(points, 0), 0..points.len());
    grid
}

/// On a lattice of 1/8 mm, in a volume small enough that rows meet; a third of the values are missing.
fn points() -> impl Strategy<Value = Vec<Point>> {
    let part = || (-40_i32..40).prop_map(|eighth| f64::from(eighth) / 8.0);
    let value = || prop_oneof![2 => -1e3..1e3_f64, 1 => Just(f64::NAN)];
    let point = (part(), part(), part(), value(), value());
    prop::collection::vec(point.prop_map(|(x, y, z, first, second)| ([x, y, z], [first, second])), 1..500)
}

fn near(left: f64, right: f64, size: f64) -> bool {
    (left - right).abs() <= 1e-12 * size
}

/// Values of one signal by voxel of `voxel` mm, from -50 mm on, in order.
fn by_voxel(points: &[Point], signal: usize, voxel: f64) -> BTreeMap<[i32; 3], Vec<f64>> {
    let mut voxels = BTreeMap::<_, Vec<f64>>::new();
    for (point, values) in points.iter().filter(|(_, values)| values[signal].is_finite()) {
        voxels.entry(point.map(|part| ((part + 50.0) / voxel).floor() as i32)).or_default().push(values[signal]);
    }
    voxels
}

/// The weights of a point, by voxels of 1 mm: recomputed from the distances to all centres around.
fn weights(point: [f64; 3]) -> BTreeMap<[i32; 3], f64> {
    let home = point.map(|part| (part + 50.0).floor() as i32);
    let mut weights = BTreeMap::new();
    for step in 0..27 {
        let index = [home[0] + step % 3 - 1, home[1] + step / 3 % 3 - 1, home[2] + step / 9 - 1];
        let share = |axis: usize| (1.0 - (point[axis] + 50.0 - (f64::from(index[axis]) + 0.5)).abs()).max(0.0);
        let weight: f64 = (0..3).map(share).product();
        if weight > 0.0 {
            weights.insert(index, weight);
        }
    }
    weights
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_signal_counts_its_own_rows(points in points(), cuts in prop::collection::vec(1_usize..200, 1..9)) {
        let mut lanes = settings(0.5);
        lanes.lanes = Lanes { last: true, sum: true, first: true };
        let mut grid = grid(lanes);
        let (mut rest, mut cuts, mut start) = (&points[..], cuts.iter().cycle(), 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            grid.update(&batch(now, start), 0..now.len());
            start += now.len() as i64;
            rest = later;
        }
        for signal in 0..2 {
            let (found, wanted): (BTreeMap<_, Stats>, _) = (grid.voxels(signal).collect(), by_voxel(&points, signal, 0.5));
            prop_assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            for (index, values) in &wanted {
                let (stats, size) = (&found[index], values.iter().map(|value| value.abs()).sum::<f64>());
                prop_assert_eq!(stats.count as usize, values.len());
                prop_assert_eq!(stats.min, values.iter().copied().fold(f64::INFINITY, f64::min));
                prop_assert_eq!(stats.max, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                prop_assert_eq!(stats.first.map(|first| first.value), values.first().copied());
                prop_assert_eq!(stats.last.map(|last| last.value), values.last().copied());
                prop_assert!(near(stats.sum(), values.iter().sum(), size));
                prop_assert!(near(stats.mean * values.len() as f64, values.iter().sum(), size));
            }
        }
        let without = points.iter().filter(|point| point.1.iter().all(|value| value.is_nan())).count() as u64;
        prop_assert_eq!((grid.counters().rows, grid.counters().without_value), (points.len() as u64 - without, without));
    }

    #[test]
    fn lanes_that_are_off_change_nothing_else(points in points()) {
        let mut bare = settings(0.5);
        bare.lanes = Lanes::NONE;
        let (bare, full) = (filled(bare, &points), filled(settings(0.5), &points));
        for signal in 0..2 {
            let without_last = full.voxels(signal).map(|(index, stats)| (index, Stats { last: None, ..stats })).collect::<Vec<_>>();
            prop_assert_eq!(bare.voxels(signal).collect::<Vec<_>>(), without_last);
        }
        prop_assert!(bare.states().iter().all(|state| state.last.is_none()));
        prop_assert_eq!(full.bytes() - bare.bytes(), full.tile_count() as u64 * 1024 * 2 * 16);
        let mut again = Grid::restore(bare.config().clone(), stream(), bare.snapshot()).unwrap();
        for tile in bare.touched_tiles(0) {
            again.restore_tile(tile.key, &tile.bytes).unwrap();
            prop_assert!(Grid::restore(full.config().clone(), stream(), full.snapshot()).unwrap().restore_tile(tile.key, &tile.bytes).is_err());
        }
        prop_assert_eq!(again.states(), bare.states());
    }

    #[test]
    fn trilinear_equals_weights_recomputed_from_distances(points in points(), cut in 0_usize..500) {
        let mut spread = settings(1.0);
        spread.weights = Weights::Trilinear;
        spread.lanes.sum = true;
        let cut = cut.min(points.len());
        let (mut found, second) = (filled(spread.clone(), &points[..cut]), filled(spread, &points[cut..]));
        found.merge(&second).unwrap();
        let mut wanted = BTreeMap::<[i32; 3], (u32, f64, f64, f64)>::new();
        for (point, values) in points.iter().filter(|(_, values)| values[0].is_finite()) {
            for (index, weight) in weights(*point) {
                let (count, all, sum, size) = wanted.entry(index).or_default();
                *count += 1;
                *all += weight;
                *sum += weight * values[0];
                *size += weight * values[0].abs();
            }
        }
        let found: BTreeMap<_, Stats> = found.voxels(0).collect();
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (index, (count, all, sum, size)) in wanted {
            let stats = &found[&index];
            prop_assert_eq!(stats.count, count);
            prop_assert!(near(stats.weight, all, all) && near(stats.sum(), sum, size), "{:?} {} {}", stats, all, sum);
            prop_assert!((stats.mean * all - sum).abs() <= 1e-10 * size, "{:?} {} {}", stats, all, sum);
        }
    }

    #[test]
    fn a_grid_with_a_transform_is_a_grid_of_transformed_points(
        points in points(),
        translate in prop::array::uniform3(-5.0..5.0_f64),
        rotate in prop::array::uniform3(-360.0..360.0_f64),
        scale in 0.1..3.0_f64,
    ) {
        let transform = Transform::from_euler(translate, rotate, scale).unwrap();
        let mut moved = settings(0.5);
        moved.transform = transform;
        let there: Vec<Point> = points.iter().map(|(point, values)| (transform.apply(*point), *values)).collect();
        prop_assert_eq!(filled(moved, &points).states(), filled(settings(0.5), &there).states());
        for (point, (there, _)) in points.iter().map(|point| point.0).zip(&there) {
            let back = transform.inverse().apply(*there);
            prop_assert!((0..3).all(|axis| (back[axis] - point[axis]).abs() < 1e-9), "{:?} {:?}", point, back);
        }
    }

    #[test]
    fn derived_maps_equal_their_formulas(points in points(), reference in points()) {
        let (grid, usual) = (filled(settings(4.0), &points), filled(settings(4.0), &reference));
        let mean = |index: [i32; 3], signal: usize| grid.get(index, signal).map(|stats| stats.mean);
        let held: Vec<[i32; 3]> = grid.voxels(0).map(|(index, _)| index).collect();

        let normal = grid.per_energy_density(0, Quantity::Signal(1), Quantity::Constant(800.0), 0.1);
        let per_density = |index: [i32; 3]| {
            let density = mean(index, 1)? / (800.0 * 0.1);
            (density > 0.0).then(|| (index, mean(index, 0).unwrap() / density))
        };
        prop_assert_eq!(normal.values, held.iter().filter_map(|index| per_density(*index)).collect::<Vec<_>>());

        let score = |index: [i32; 3]| {
            let usual = usual.get(index, 0).filter(|usual| usual.count > 1 && usual.m2 > 0.0)?;
            let deviation = (usual.m2 / f64::from(usual.count - 1)).sqrt();
            Some((index, (mean(index, 0).unwrap() - usual.mean) / deviation))
        };
        prop_assert_eq!(grid.z_scores(0, &usual).unwrap().values, held.iter().filter_map(|index| score(*index)).collect::<Vec<_>>());
        prop_assert!(grid.z_scores(0, &grid).unwrap().values.iter().all(|(_, score)| *score == 0.0));

        let deviation = |[i, j, k]: [i32; 3]| {
            let beside: Vec<f64> = [k - 1, k + 1].into_iter().filter_map(|k| mean([i, j, k], 0)).collect();
            (!beside.is_empty()).then(|| ([i, j, k], mean([i, j, k], 0).unwrap() - beside.iter().sum::<f64>() / beside.len() as f64))
        };
        let map = grid.neighbour_deviation(0);
        prop_assert_eq!(&map.values, &held.iter().filter_map(|index| deviation(*index)).collect::<Vec<_>>());
        let shown = grid.of_map(&map).unwrap();
        prop_assert_eq!(shown.voxels(0).map(|(index, stats)| (index, stats.mean)).collect::<Vec<_>>(), map.values);
    }

    /// A checkpoint writes the tiles touched since the one before; the process ends somewhere, and goes on from the last.
    #[test]
    fn checkpoints_of_touched_tiles_add_up_to_the_grid(
        points in points(),
        batch_rows in 1_usize..60,
        every in 1_usize..6,
        end in 0_usize..500,
    ) {
        let batches: Vec<Batch> = points.chunks(batch_rows).zip(0..).map(|(rows, at)| batch(rows, at * 1000)).collect();
        let end = end.min(batches.len());
        let (mut grid, mut stored, mut at_rest) = (grid(settings(0.25)), BTreeMap::new(), None);
        for (number, batch) in batches[..end].iter().enumerate() {
            grid.update(batch, 0..batch.rows());
            if number % every == every - 1 {
                let version = at_rest.as_ref().map_or(0, |(_, version, _)| *version);
                let (tiles, touched) = (grid.touched_tiles(version), grid.touched_since(version));
                prop_assert_eq!(tiles.iter().map(|tile| tile.key).collect::<Vec<_>>(), touched);
                stored.extend(tiles.into_iter().map(|tile| (tile.key, tile.bytes)));
                at_rest = Some((grid.snapshot(), grid.version(), number + 1));
            }
        }
        let (state, _, next) = at_rest.unwrap_or_else(|| (self::grid(settings(0.25)).snapshot(), 0, 0));
        let mut restored = Grid::restore(grid.config().clone(), stream(), state).unwrap();
        for (key, bytes) in &stored {
            restored.restore_tile(*key, bytes).unwrap();
        }
        let mut undisturbed = self::grid(settings(0.25));
        batches.iter().for_each(|batch| { undisturbed.update(batch, 0..batch.rows()); });
        batches[next..].iter().for_each(|batch| { restored.update(batch, 0..batch.rows()); });
        prop_assert_eq!(restored.snapshot(), undisturbed.snapshot());
        prop_assert_eq!(restored.states(), undisturbed.states());
    }
}

#[test]
fn a_checkpoint_holds_only_the_tiles_that_changed() {
    let row = |x: f64| vec![([x, 0.0, 0.0], [1.0, 2.0])];
    let mut grid = filled(settings(0.5), &[row(-40.0), row(0.0), row(40.0)].concat());
    let version = grid.version();
    grid.update(&batch(&row(40.0), 10), 0..1);
    let [tile] = &grid.touched_tiles(version)[..] else { panic!("one tile was touched") };
    assert_eq!((tile.key, grid.tile_count()), (TileKey::of([180, 100, 100]), 3));
    assert!(grid.touched_tiles(grid.version()).is_empty());
}

/// Squares of voxels at these places of a layer: the tiles they touch.
fn tiles(parts: &[[i32; 2]], edge: i32) -> u64 {
    let along = |from: i32| (from..from + edge).step_by(31).chain([from + edge - 1]);
    let of = |[x, y]: &[i32; 2]| along(*y).flat_map(|j| along(*x).map(move |i| TileKey::of([i, j, 0]))).collect::<Vec<_>>();
    parts.iter().flat_map(of).collect::<BTreeSet<_>>().len() as u64
}

/// A build of 250 × 250 × 325 mm in voxels of 50 µm and layers of 40 µm, one signal.
fn plate(lanes: Lanes) -> GridConfig {
    let mut settings = GridSettings::new("b", &["intensity"], [0.0; 3], Some([250.0, 250.0, 325.0]), [0.05, 0.05, 0.04]);
    settings.lanes = lanes;
    GridConfig::new(settings).unwrap()
}

#[test]
fn a_hot_layer_of_a_plate_stays_below_300_mb() {
    // Nine parts of 745 × 745 voxels are 20 % of the layer.
    let share = f64::from(9 * 745 * 745) / 25e6;
    assert!((share - 0.2).abs() < 1e-3, "{share}");
    let parts = |offset: i32| [0, 1, 2].map(|j| [0, 1, 2].map(|i| [201 + offset + i * 1611, 155 + offset + j * 1607])).concat();
    assert!(tiles(&parts(0), 745) * plate(Lanes::default()).tile_bytes() < 300_000_000);
    let most = (0..32).map(|offset| tiles(&parts(offset), 745)).max().unwrap();
    assert!(most * plate(Lanes::NONE).tile_bytes() < 215_000_000);

    // The grid counts the same: one of the parts, filled.
    let mut grid = Grid::new(plate(Lanes::default()), stream()).unwrap();
    let line = |j: i32| -> Vec<Point> {
        let center = |index: i32| (f64::from(index) + 0.5) * 0.05;
        (201..946).map(|i| ([center(i), center(j), 0.02], [1.0, 1.0])).collect()
    };
    for j in 155..900 {
        assert_eq!(grid.update(&batch(&line(j), 0), 0..745).voxels, 745);
    }
    assert_eq!(grid.tile_count() as u64, tiles(&[[201, 155]], 745));
    assert_eq!(grid.bytes(), grid.tile_count() as u64 * grid.config().tile_bytes());
}

#[test]
fn ten_million_voxels_take_less_than_600_mb() {
    let tiles = 10_000_000_u64.div_ceil(1024);
    assert!(tiles * plate(Lanes::NONE).tile_bytes() < 370_000_000);
    assert!(tiles * plate(Lanes::default()).tile_bytes() < 600_000_000);
}

#[test]
fn a_dense_volume_would_not_fit_and_is_never_made() {
    let voxels: u64 = plate(Lanes::NONE).dims().iter().product();
    assert!(voxels as f64 * 32.0 > 6.4e12);
    let mut grid = Grid::new(plate(Lanes::NONE), stream()).unwrap();
    grid.update(&batch(&[([250.0, 250.0, 325.0], [1.0, 1.0])], 0), 0..1);
    assert_eq!((grid.tile_count(), grid.voxels(0).next().map(|(index, _)| index)), (1, Some([4999, 4999, 8124])));
}

#[test]
fn a_layer_that_does_not_fit_is_refused_with_what_it_would_take() {
    let mut settings = plate(Lanes::NONE).settings().clone();
    settings.bytes_max = 100_000_000;
    let error = GridConfig::new(settings).unwrap_err();
    assert!(matches!(error, GridError::TooLarge { .. }));
    let bytes = plate(Lanes::NONE).layer_bytes().to_string();
    assert!(error.to_string().contains(&bytes) && error.to_string().contains("100000000"), "{error}");
}
