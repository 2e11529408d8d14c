//! Points a second into a grid, beside a dense array of the same cells and NumPy on the same points.
//!
//! `cargo bench --bench voxel` prints one line a figure: the median of several runs, one thread, by its time on the processor, so that other
//! processes of the machine count as little as possible. Where `python3` has `numpy`,
//! `voxel_numpy.py` reads the same points from a file and its figures follow. Ratios within one run are what to compare.

use std::{hint::black_box, io::Write, sync::Arc};

use qadf_edge::{
    model::{Batch, Positions, Stream, Timestamp},
    voxel::{Grid, GridConfig, GridSettings, Lanes, Transform},
};

const EDGE: usize = 256;
const VOXEL_MM: f64 = 0.1;
const POINTS: usize = 1 << 24;
const BATCH_ROWS: usize = 4096;
const RUNS: usize = 5;

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity"], &[]))
}

/// Scan lines along x, one voxel apart in y, layer on layer; a point every `step` voxels.
fn raster(step: f64) -> Vec<Batch> {
    let mut random = Random(1);
    let per_line = (EDGE as f64 / step) as usize;
    batches(|at| {
        let (line, place) = (at / per_line, at % per_line);
        let x = (place as f64 + random.unit()) * step;
        ([x, (line % EDGE) as f64 + 0.5, (line / EDGE % EDGE) as f64 + 0.5], random.unit())
    })
}

fn scattered() -> Vec<Batch> {
    let mut random = Random(2);
    batches(|_| ([(); 3].map(|()| random.unit() * EDGE as f64), random.unit()))
}

fn batches(mut point: impl FnMut(usize) -> ([f64; 3], f64)) -> Vec<Batch> {
    (0..POINTS / BATCH_ROWS)
        .map(|batch| {
            let mut rows = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(0));
            let mut at = Positions::default();
            for row in 0..BATCH_ROWS {
                let number = batch * BATCH_ROWS + row;
                let ([x, y, z], value) = point(number);
                at.x.push(x * VOXEL_MM);
                at.y.push(y * VOXEL_MM);
                at.z.push(z * VOXEL_MM);
                rows.signals[0].push(value);
                rows.time.push(number as i64 * 10_000);
            }
            rows.positions = Some(at);
            rows
        })
        .collect()
}

fn grid(lanes: Lanes, transform: Transform) -> Grid {
    let size = EDGE as f64 * VOXEL_MM;
    let mut settings = GridSettings::new("build", &["intensity"], [0.0; 3], Some([size; 3]), [VOXEL_MM; 3]);
    settings.lanes = lanes;
    settings.transform = transform;
    settings.bytes_max = 8 << 30;
    Grid::new(GridConfig::new(settings).expect("valid"), stream()).expect("the stream has it")
}

const BASIC: Lanes = Lanes::NONE;
const ALL: Lanes = Lanes { last: true, sum: true, first: true };

/// How long this thread has been on the processor.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).expect("its first number");
    ns as f64 / 1e9
}

fn measure(what: &str, mut run: impl FnMut()) -> f64 {
    run();
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = processor_seconds();
            run();
            POINTS as f64 / (processor_seconds() - start) / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    println!("{what:44} {:8.1} M points/s", rates[RUNS / 2]);
    rates[RUNS / 2]
}

fn into_grid(what: &str, batches: &[Batch], lanes: Lanes, transform: Transform) -> f64 {
    // The grid stays: tiles are made in the first run, which is not measured.
    let mut grid = grid(lanes, transform);
    measure(what, || {
        for batch in batches {
            black_box(grid.update(batch, 0..batch.rows()));
        }
    })
}

/// The same statistics in one array of all cells, with indices by plain multiplication.
fn into_dense(what: &str, batches: &[Batch]) -> f64 {
    #[derive(Clone, Copy)]
    struct Cell {
        count: u32,
        mean: f64,
        m2: f64,
        min: f64,
        max: f64,
    }
    let empty = Cell { count: 0, mean: 0.0, m2: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
    let mut cells = vec![empty; EDGE * EDGE * EDGE];
    measure(what, || {
        for batch in batches {
            let at = batch.positions.as_ref().expect("made with them");
            for (((x, y), z), value) in at.x.iter().zip(&at.y).zip(&at.z).zip(&batch.signals[0]) {
                let index = |mm: f64| ((mm * (1.0 / VOXEL_MM)) as usize).min(EDGE - 1);
                let cell = &mut cells[(index(*z) * EDGE + index(*y)) * EDGE + index(*x)];
                cell.count += 1;
                let deviation = value - cell.mean;
                cell.mean += deviation / f64::from(cell.count);
                cell.m2 += deviation * (value - cell.mean);
                cell.min = if *value < cell.min { *value } else { cell.min };
                cell.max = if *value > cell.max { *value } else { cell.max };
            }
        }
        black_box(&cells);
    })
}

fn numpy(what: &str, batches: &[Batch]) {
    let path = std::env::temp_dir().join(format!("voxel-points-{}.f64", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        let column = |file: &mut std::io::BufWriter<_>, pick: &dyn Fn(&Batch) -> &[f64]| {
            batches.iter().flat_map(pick).try_for_each(|value| file.write_all(&value.to_le_bytes()))
        };
        column(&mut file, &|batch| &batch.positions.as_ref().expect("made with them").x)?;
        column(&mut file, &|batch| &batch.positions.as_ref().expect("made with them").y)?;
        column(&mut file, &|batch| &batch.positions.as_ref().expect("made with them").z)?;
        column(&mut file, &|batch| &batch.signals[0])
    };
    if let Err(error) = write() {
        println!("{what}: NumPy not measured (the temporary directory has to take 512 MB: {error})");
        let _ = std::fs::remove_file(&path);
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/voxel_numpy.py");
    let python = std::env::var("QADF_PYTHON").unwrap_or_else(|_| "python3".into());
    let run = std::process::Command::new(python).arg(script).arg(&path).arg(what).status();
    if !run.is_ok_and(|status| status.success()) {
        println!("{what}: NumPy not measured (python3 with numpy needed; set QADF_PYTHON)");
    }
    let _ = std::fs::remove_file(&path);
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// 10 million voxels in filled tiles, and a hot layer at 50 µm of which parts cover 20 %.
fn memory() {
    let fill = |mut grid: Grid, parts: &[[usize; 2]], edge: [usize; 2], layers: usize, voxel: f64| {
        let before = resident_bytes();
        let mut voxels = 0_u64;
        for k in 0..layers {
            for [from_x, from_y] in parts {
                for j in 0..edge[1] {
                    let mut batch = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(0));
                    let centre = |index: usize| (index as f64 + 0.5) * voxel;
                    batch.positions = Some(Positions {
                        x: (0..edge[0]).map(|i| centre(from_x + i)).collect(),
                        y: vec![centre(from_y + j); edge[0]],
                        z: vec![centre(k); edge[0]],
                    });
                    batch.time = vec![0; edge[0]];
                    batch.signals[0] = vec![1.0; edge[0]];
                    voxels += grid.update(&batch, 0..edge[0]).voxels;
                }
            }
        }
        (voxels, (resident_bytes() - before) as f64 / 1e6, grid.bytes() as f64 / 1e6)
    };
    for (what, lanes) in [("basic", BASIC), ("all", ALL)] {
        let (voxels, resident, counted) = fill(grid(lanes, Transform::IDENTITY), &[[0, 0]], [256, 256], 153, VOXEL_MM);
        println!("{voxels} voxels in filled tiles, {what}: {resident:.0} MB resident, {counted:.0} MB counted");
        // Nine parts of 37.3 mm, wherever they lie on the tiles: 20 % of a plate of 250 mm.
        let mut settings = GridSettings::new("b", &["intensity"], [0.0; 3], Some([250.0, 250.0, 325.0]), [0.05, 0.05, 0.04]);
        settings.lanes = lanes;
        let plate = Grid::new(GridConfig::new(settings).expect("valid"), stream()).expect("the stream has it");
        let parts: Vec<_> = (0..9).map(|part| [201 + part % 3 * 1611, 155 + part / 3 * 1607]).collect();
        let (voxels, resident, counted) = fill(plate, &parts, [745, 745], 1, 0.05);
        println!("{voxels} voxels of a hot layer (20 %), {what}: {resident:.0} MB resident, {counted:.0} MB counted");
    }
}

fn main() {
    let identity = Transform::IDENTITY;
    for (name, points) in
        [("raster, 4 points a voxel", raster(0.25)), ("raster, 1 point a voxel", raster(1.0)), ("random", scattered())]
    {
        let dense = into_dense(&format!("{name}: dense array"), &points);
        let basic = into_grid(&format!("{name}: grid, basic lanes"), &points, BASIC, identity);
        let default = into_grid(&format!("{name}: grid, with last (default)"), &points, Lanes::default(), identity);
        into_grid(&format!("{name}: grid, all lanes"), &points, ALL, identity);
        let turned = Transform::from_euler([0.0, 25.6, 0.0], [0.0, 0.0, -90.0], 1.0).expect("valid");
        into_grid(&format!("{name}: grid, turned by 90 degrees"), &points, Lanes::default(), turned);
        println!("{name}: dense / grid {:.2} basic, {:.2} with last", dense / basic, dense / default);
        numpy(name, &points);
    }
    memory();
}
