//! Grids as the configuration has them, in the engine: layers that finish, are charted, leave memory and are there after a restart.

use std::{collections::BTreeMap, sync::Arc};

use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Parts, Step, cold_layer, cold_tile},
    model::{Batch, Body, Input, NO_LAYER, Positions, Seq, SpcPoint, Timestamp},
    voxel::{Grid, LayerSummary},
};

/// Layers of 64 × 64 voxels of 1 × 1 × 0.1 mm; two regions, one of which ends at half height.
const BUILD: &str = r#"
[streams.melt]
signals = { heat = "V" }
watermark = { delay = "0s" }
[streams.machine]
signals = { recoated = "1" }
watermark = { delay = "0s" }
[voxels.build]
stream = "melt"
signals = ["heat"]
size = [64.0, 64.0, 2.0]
voxel = [1.0, 1.0, 0.1]
regions = [
  { name = "left", lower = [0.0, 0.0, 0.0], upper = [8.0, 64.0, 2.0] },
  { name = "right", lower = [32.0, 0.0, 0.0], upper = [40.0, 64.0, 0.5] },
]
"#;

const CHARTS: &str = r#"
[[pipelines]]
id = "layers"
stream = "voxels.build"
[[pipelines.charts]]
id = "layer_mean"
type = "i_mr"
signal = "heat_mean"
limits = { center = 10.0, sigma = 1.0 }
rules = ["nelson_1"]
group_by = ["region"]
[[pipelines.windows]]
id = "all_layers"
type = "tumbling"
size = "1d"
aggregate = { layers = "count()", filled = "sum(heat_filled)", least = "min(heat_completeness)" }
"#;

fn engine(text: &str) -> Engine {
    let config = config::parse(text).unwrap_or_else(|faults| panic!("{faults:?}"));
    Engine::new(&config.engine, Emit::All, Clock::EventTime).unwrap()
}

/// A point of every voxel of the rows `rows` of a layer, heat as the layer's number but for what `heat` says; 1 ms a row.
fn layer(number: i32, lines: std::ops::Range<i32>, heat: impl Fn(i32, i32) -> f64) -> Batch {
    let stream = config::parse(BUILD).unwrap().streams()[0].clone();
    let mut batch = Batch::new(stream, "m".into(), "m/0".into(), Timestamp(0));
    let mut at = Positions::default();
    for j in lines {
        for i in 0..64 {
            at.x.push(f64::from(i) + 0.5);
            at.y.push(f64::from(j) + 0.5);
            at.z.push(f64::from(number) * 0.1 + 0.05);
            batch.time.push((i64::from(number) * 10_000 + i64::from(j * 64 + i)) * 1_000_000);
            batch.signals[0].push(heat(i, j));
        }
    }
    batch.layer = Some(vec![number + 1; batch.time.len()]);
    batch.positions = Some(at);
    batch.first_seq = Seq(number as u64 * 10_000 + 1);
    batch
}

fn flat(number: i32) -> Batch {
    layer(number, 0..64, |_, _| f64::from(number))
}

/// To nine decimals: the rest depends on the order of merging.
fn round(mean: f64) -> f64 {
    (mean * 1e9).round() / 1e9
}

#[expect(clippy::needless_pass_by_value, reason = "made in place by every caller")]
fn step(engine: &mut Engine, input: Input) -> Step {
    let mut step = Step::default();
    engine.step(&input, &mut step);
    step
}

fn feed(engine: &mut Engine, batch: Batch) -> Step {
    step(engine, Input::Batch(Arc::new(batch)))
}

fn points(step: &Step) -> Vec<&SpcPoint> {
    step.outputs.iter().filter_map(|output| if let Body::Spc(point) = &output.body { Some(&**point) } else { None }).collect()
}

fn grid(engine: &Engine) -> &Grid {
    &engine.grid("build").unwrap().grid
}

#[test]
fn charts_have_a_point_a_finished_layer_and_region() {
    let mut engine = engine(&format!("{BUILD}{CHARTS}"));
    // Half a plate at 9, of which the left region runs 5 hotter in layer 3.
    let heat = |number: i32| move |i: i32, _| if number == 3 && i < 8 { 14.0 } else { 9.0 };
    let mut told = Vec::new();
    for number in 0..8 {
        let step = feed(&mut engine, layer(number, 0..32, heat(number)));
        told.extend(points(&step).iter().map(|point| (point.key.clone(), point.statistic, point.violations.len(), number)));
    }
    let end = step(&mut engine, Input::End);
    told.extend(points(&end).iter().map(|point| (point.key.clone(), point.statistic, point.violations.len(), 8)));
    let of = |region: Option<&str>| -> Vec<(f64, usize, i32)> {
        let is_its = |key: &qadf_edge::model::Key| serde_json::to_value(key).unwrap()["region"] == serde_json::json!(region);
        told.iter()
            .filter(|(key, ..)| is_its(key))
            .map(|(_, mean, violations, at)| (round(mean.unwrap()), *violations, *at))
            .collect()
    };
    // A layer is told of when the next one has begun; the last one at the end.
    let hot = (9.0 * 56.0 + 14.0 * 8.0) / 64.0;
    let means = [9.0, 9.0, 9.0, hot, 9.0, 9.0, 9.0, 9.0];
    let wanted: Vec<(f64, usize, i32)> = means.iter().zip(1..).map(|(mean, at)| (*mean, 0, at)).collect();
    assert_eq!(of(None), wanted);
    let left: Vec<(f64, usize)> = of(Some("left")).into_iter().map(|(mean, violations, _)| (mean, violations)).collect();
    let mut wanted = [(9.0, 0); 8];
    wanted[3] = (14.0, 1);
    assert_eq!(left, wanted);
    assert_eq!(of(Some("right")).len(), 5, "the region ends at half a millimetre");
    let window = end.outputs.iter().find_map(|output| if let Body::Window(window) = &output.body { Some(window) } else { None });
    let values = serde_json::to_value(&window.unwrap().values).unwrap();
    // Eight layers, eight of the left region and five of the right one; half of each is filled.
    assert_eq!(values, serde_json::json!({"layers": 21, "filled": 8.0 * 2048.0 + 13.0 * 256.0, "least": 0.5}));
}

#[test]
fn a_row_that_says_so_finishes_a_layer() {
    let text = format!("{BUILD}finish = \"heat < 0.0\"\nlayers = {{ first = 1 }}\n");
    let mut engine = self::engine(&text);
    // The last row of a layer says that it is done; rows of the next come in the same batch.
    let mut rows = layer(0, 0..2, |i, j| if (i, j) == (63, 0) { -1.0 } else { 1.0 });
    rows.layer = Some((0..128).map(|row| if row < 64 { 1 } else { 2 }).collect());
    feed(&mut engine, rows);
    let layers = grid(&engine).layers();
    assert_eq!(
        layers.iter().map(|layer| (layer.is_finished, layer.rows, layer.rows_after)).collect::<Vec<_>>(),
        [(true, 64, 0), (false, 64, 0)]
    );

    // A machine's own stream says it, here for whatever has begun.
    let mut engine = self::engine(&format!("{BUILD}finish = {{ stream = \"machine\", when = \"recoated > 0.0\" }}\n"));
    feed(&mut engine, flat(0));
    let machine = config::parse(BUILD).unwrap().streams()[1].clone();
    let mut event = Batch::new(machine, "m".into(), "m/1".into(), Timestamp(0));
    event.time = vec![1, 2];
    event.signals[0] = vec![0.0, 1.0];
    event.layer = Some(vec![NO_LAYER; 2]);
    assert!(!grid(&engine).layer(0).unwrap().is_finished);
    feed(&mut engine, event);
    assert!(grid(&engine).layer(0).unwrap().is_finished);
}

/// What a store keeps of snapshots.
fn keep(store: &mut BTreeMap<String, Vec<u8>>, parts: Parts) {
    for (name, bytes) in parts {
        match bytes {
            Some(bytes) => drop(store.insert(name, bytes)),
            None if name.ends_with('/') => store.retain(|own, _| !own.starts_with(&name)),
            None => drop(store.remove(&name)),
        }
    }
}

/// The grid with every layer, wherever it is.
fn whole(engine: &Engine, store: &BTreeMap<String, Vec<u8>>) -> Grid {
    let mut grid = engine.grid("build").unwrap().whole().unwrap();
    for layer in grid.layers() {
        let prefix = cold_layer("build", layer.layer);
        let tiles = store.iter().filter(|(name, _)| name.starts_with(&prefix));
        let mut tiles: Vec<_> = tiles.map(|(name, bytes)| (cold_tile(name).unwrap(), bytes)).collect();
        tiles.sort_by_key(|((generation, _), _)| std::cmp::Reverse(*generation));
        tiles.iter().for_each(|((_, key), bytes)| grid.restore_tile(*key, bytes).unwrap());
    }
    grid
}

/// What does not depend on where a layer was when a row came.
fn exact(grid: &Grid) -> Vec<([i32; 3], u32, f64, f64, i64)> {
    grid.voxels(0).map(|(index, stats)| (index, stats.count, stats.min, stats.max, stats.last.unwrap().time)).collect()
}

fn figures(grid: &Grid) -> Vec<(u64, Option<f64>, u64, Option<f64>)> {
    let of = |summary: LayerSummary| (summary.count, summary.mean.map(round), summary.filled, summary.completeness);
    grid.layers().iter().map(|layer| of(grid.layer_summary(layer.layer, 0))).collect()
}

#[test]
fn layers_beyond_the_memory_are_there_after_a_restart_too() {
    // Four tiles a layer, 53.6 kB each: memory for four layers and a half.
    let bounded = format!("{BUILD}memory = \"1MB\"\n");
    let (mut engine, mut free) = (self::engine(&bounded), self::engine(BUILD));
    let mut store = BTreeMap::new();
    for number in 0..20 {
        // Each layer is followed by a straggler for the first one.
        let straggler = || Batch { first_seq: Seq(number as u64 * 10_000 + 9_000), ..layer(0, 3..4, |_, _| 50.0) };
        for engine in [&mut engine, &mut free] {
            feed(engine, flat(number));
            feed(engine, straggler());
        }
        if number % 3 == 0 {
            keep(&mut store, engine.snapshot().unwrap());
        }
        if number == 10 {
            // A crash: what came since the last snapshot comes again.
            engine = self::engine(&bounded);
            let hot: Parts =
                store.iter().filter(|(name, _)| !name.starts_with("cold/")).map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
            assert_eq!(engine.restore(hot).unwrap(), Vec::<String>::new());
            feed(&mut engine, flat(10));
            feed(&mut engine, straggler());
        }
        assert!(grid(&engine).bytes() <= 1_000_000);
    }
    keep(&mut store, engine.snapshot().unwrap());
    let hot = store.keys().filter(|name| name.starts_with("grid/build/")).count();
    assert!(hot < 20, "tiles that left are not among those that are read at a start: {hot}");
    let counters = grid(&engine).counters();
    assert_eq!((counters.full, counters.rows), (0, grid(&free).counters().rows));
    assert!(grid(&engine).layer(0).unwrap().generations > 1 && grid(&engine).layer(5).unwrap().generations == 1);
    assert_eq!(figures(grid(&engine)), figures(grid(&free)));
    assert_eq!(exact(&whole(&engine, &store)), exact(grid(&free)));
}

#[test]
fn beyond_their_share_of_the_disk_the_lowest_layers_keep_only_figures() {
    // A full layer of one signal takes 64 · 64 · 52 bytes and what the tiles' heads take.
    let mut engine = self::engine(&format!("{BUILD}memory = \"1MB\"\ndisk = \"1MB\"\n"));
    let mut store = BTreeMap::new();
    for number in 0..20 {
        feed(&mut engine, flat(number));
        keep(&mut store, engine.snapshot().unwrap());
    }
    let kept: usize = store.iter().filter(|(name, _)| name.starts_with("cold/")).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(kept as u64, grid(&engine).stored_bytes());
    assert!(kept <= 1_000_000 && kept > 500_000, "{kept}");
    let first = grid(&engine).layer(0).unwrap();
    assert!(first.is_forgotten && !store.keys().any(|name| name.starts_with("cold/build/0/")));
    assert_eq!(grid(&engine).layer_summary(3, 0).mean, Some(3.0));
    assert_eq!(grid(&engine).layer_summary(3, 0).completeness, Some(1.0));
}

#[test]
fn a_grid_that_is_configured_anew_starts_empty() {
    let mut engine = self::engine(BUILD);
    feed(&mut engine, flat(0));
    let mut store = BTreeMap::new();
    keep(&mut store, engine.snapshot().unwrap());
    store.insert("cold/build/7/0/1".into(), vec![1]);
    let mut coarser = self::engine(&BUILD.replace("voxel = [1.0, 1.0, 0.1]", "voxel = [2.0, 2.0, 0.1]"));
    let left_out = coarser.restore(store.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect()).unwrap();
    assert!(left_out.len() == 1 && left_out[0].contains("`build`"), "{left_out:?}");
    assert_eq!(grid(&coarser).states().len(), 0);
    keep(&mut store, coarser.snapshot().unwrap());
    assert_eq!(store.keys().filter(|name| name.contains("/build/")).count(), 0, "nothing of the earlier grid stays");
}

#[test]
fn what_cannot_be_a_grid_is_refused_with_its_place() {
    let faults = |from: &str, to: &str| {
        let faults = config::parse(&BUILD.replacen(from, to, 1)).expect_err(to);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let voxel = "voxel = [1.0, 1.0, 0.1]";
    for (to, what) in [
        ("voxel = 0.0", "12:9: "),
        ("voxel = [1.0, -1.0, 0.1]", "-1"),
        ("voxel = 0.00001", "bytes, more than the"),
        ("voxel = [0.002, 0.002, 0.1]", "53568000000 bytes"),
        ("voxel = 1.0\ntransform = { scale = 0.0 }", "scale"),
        ("voxel = 1.0\ntransform = { rotate = [0.0, nan, 0.0] }", "rotate"),
        ("voxel = 1.0\nfinish = { stream = \"melting\", when = \"heat > 0.0\" }", "`melt`"),
        ("voxel = 1.0\nfinish = \"heet > 0.0\"", "heet"),
        ("voxel = 1.0\nexpected = \"everything\"", "everything"),
        ("voxel = 1.0\nstatistics = [\"median\"]", "median"),
    ] {
        let found = faults(voxel, to);
        assert!(found.contains(what), "{to}: {found}");
    }
    assert!(faults("upper = [8.0", "upper = [0.0").contains("`left` is empty"));
    assert!(faults("name = \"right\"", "name = \"left\"").contains("two regions"));
    let two = BUILD.replace("stream = \"melt\"", "stream = \"melt\"\npipeline = \"p\"")
        + "[[pipelines]]\nid = \"p\"\nstream = \"machine\"\n";
    assert!(config::parse(&two).unwrap_err()[0].to_string().contains("reads the stream `machine`"));
}
