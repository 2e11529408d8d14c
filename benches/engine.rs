//! One step of the engine over batches of 1,000 rows: a pipeline alone, with one part each, and with all of them.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Step},
    model::{Batch, Input, Positions, Seq, Stream, Timestamp},
};

const ROWS: usize = 1000;
const BATCHES: usize = 200;

const STREAM: &str = r#"
[appliance]
id = "bench"
[streams.s]
signals = { intensity = "V", laser_power = "W" }
watermark = { delay = "10ms" }
[[pipelines]]
id = "p"
stream = "s"
"#;
const DERIVE: &str = "filter = \"laser_power > 50.0\"\nderive = { ratio = \"intensity / laser_power\" }\n";
const CHECKPOINT: &str = "[[pipelines.checkpoints]]\nname = \"power\"\ncheck = \"laser_power >= 190.0\"\non_fail = \"alert\"\n";
const WINDOW: &str = "[[pipelines.windows]]\nid = \"w\"\ntype = \"tumbling\"\nsize = \"1s\"\n\
    aggregate = { n = \"count()\", mean = \"mean(intensity)\", min = \"min(intensity)\", max = \"max(intensity)\" }\n";
const CHART: &str = "[[pipelines.charts]]\nid = \"c\"\ntype = \"xbar_r\"\nsignal = \"intensity\"\nsubgroup = { size = 5 }\n\
    limits = { baseline = 25 }\nrules = [\"nelson\"]\n";
const GRID: &str =
    "[voxels.g]\nstream = \"s\"\nsignals = [\"intensity\"]\norigin = [0.0, 0.0, 0.0]\nsize = [250.0, 250.0, 60.0]\nvoxel = 0.5\n";

fn batches(stream: &Arc<Stream>) -> Vec<Input> {
    (0..BATCHES)
        .map(|number| {
            let mut batch = Batch::new(Arc::clone(stream), "bench".into(), "bench".into(), Timestamp(0));
            batch.first_seq = Seq((number * ROWS) as u64 + 1);
            batch.time = (0..ROWS).map(|row| ((number * ROWS + row) * 100_000) as i64).collect();
            // A sum of waves that share no period: no two subgroups are alike, and no run of them is.
            let wave = |row: usize| ((number * ROWS + row) as f64 * 0.7).sin() + ((number * ROWS + row) as f64 * 1.9).cos();
            batch.signals = vec![(0..ROWS).map(|row| 74.0 + wave(row) * 0.01).collect(), vec![200.0; ROWS]];
            let along = |row: usize| 50.0 + (row as f64 * 0.1) % 20.0;
            batch.positions = Some(Positions {
                x: (0..ROWS).map(along).collect(),
                y: vec![50.0 + number as f64 * 0.1; ROWS],
                z: vec![0.04; ROWS],
            });
            Input::Batch(Arc::new(batch))
        })
        .collect()
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine_step");
    group.throughput(Throughput::Elements((ROWS * BATCHES) as u64)).sample_size(20);
    let all = [DERIVE, CHECKPOINT, WINDOW, CHART, GRID].concat();
    let cases = [
        ("ring", String::new()),
        ("filter_derive", DERIVE.to_owned()),
        ("checkpoint", CHECKPOINT.to_owned()),
        ("window", WINDOW.to_owned()),
        ("chart", CHART.to_owned()),
        ("voxels", GRID.to_owned()),
        ("everything", all),
    ];
    for (name, parts) in cases {
        let config = config::parse(&format!("{STREAM}{parts}")).expect("the text above is a configuration");
        let inputs = batches(&config.engine.streams[0].stream);
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || Engine::new(&config.engine, Emit::Changes, Clock::Arrivals).expect("and fits together"),
                |mut engine| {
                    let mut results = 0;
                    let mut step = Step::default();
                    for input in &inputs {
                        engine.step(input, &mut step);
                        results += step.outputs.len();
                        step.clear();
                    }
                    results
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
