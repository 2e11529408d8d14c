//! Charts at sensor speed on one core: rows a second of the usual types. `cargo bench --bench spc`

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qadf_edge::{
    model::{Batch, Stream, Timestamp},
    spc::{ChartConfig, ChartOperator, ChartSettings, Emit},
};

/// Rows of one batch.
const ROWS: usize = 1000;

/// In-control noise: about normal, without a generator's cost in the measured loop.
fn noise(seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..ROWS).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
}

fn batch(parts: usize) -> Batch {
    let stream = Arc::new(Stream::new("s", &["a", "b", "c", "d"], &["part"]));
    let mut batch = Batch::new(stream, "t".into(), "t/0".into(), Timestamp(0));
    batch.time = (0..ROWS as i64).collect();
    batch.signals = (0..4).map(|signal| noise(signal + 1)).collect();
    for row in 0..ROWS {
        batch.tags[0].push(Some(&format!("p{}", row % parts)));
    }
    batch
}

fn charts(criterion: &mut Criterion) {
    let cases = [
        ("i_mr, eight Nelson rules", 1, "type='i_mr'\nsignal='a'\nrules=['nelson']\nlimits={center=0.0,sigma=1.2}"),
        (
            "i_mr, eight Nelson rules, capability",
            1,
            "type='i_mr'\nsignal='a'\nrules=['nelson']\nlimits={center=0.0,sigma=1.2}\nspec={usl=9.0}",
        ),
        (
            "i_mr, eight Nelson rules, 100 keys interleaved",
            100,
            "type='i_mr'\nsignal='a'\nrules=['nelson']\ngroup_by=['part']\nlimits={center=0.0,sigma=1.2}",
        ),
        (
            "xbar_r of 5, all rules",
            1,
            "type='xbar_r'\nsignal='a'\nrules=['nelson','western_electric']\nlimits={center=0.0,sigma=1.2}",
        ),
        ("t2 of four", 1, "type='t2'\nsignals=['a','b','c','d']\nlimits={baseline=100}"),
        ("mewma of four", 1, "type='mewma'\nsignals=['a','b','c','d']\nlimits={baseline=100}"),
        ("ewma", 1, "type='ewma'\nsignal='a'\nlimits={center=0.0,sigma=1.2}"),
        ("cusum", 1, "type='cusum'\nsignal='a'\nlimits={center=0.0,sigma=1.2}"),
    ];
    let mut group = criterion.benchmark_group("spc");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, parts, toml) in cases {
        let settings: ChartSettings = toml::from_str(&format!("id='c'\n{toml}")).expect("a chart's settings");
        let config = ChartConfig::check(&settings).expect("a valid chart");
        let batch = batch(parts);
        let mut chart = ChartOperator::new("p".into(), config, &batch.stream).expect("known signals");
        let mut out = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                chart.push(black_box(&batch), 0..ROWS, Emit::Changes, &mut out);
                out.clear();
                chart.drain_onsets();
            });
        });
        let counters = chart.counters();
        eprintln!("{name}: {:.5} of points violate a rule", counters.violations as f64 / counters.points as f64);
    }
    group.finish();
}

criterion_group!(benches, charts);
criterion_main!(benches);
