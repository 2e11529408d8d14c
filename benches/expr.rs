//! Evaluations a second of configured expressions on one core: `cargo bench --bench expr`.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qadf_edge::{
    expr::{Bools, Expr, Scratch, Type},
    model::{Batch, Stream, TagColumn, Timestamp},
};

const ROWS: usize = 1000;

/// A thousand rows of a melt pool: two signals, a part in four, one value in a hundred missing.
fn batch() -> Batch {
    let stream = Arc::new(Stream::new("meltpool", &["intensity", "laser_power"], &["part"]));
    let mut batch = Batch::new(stream, "s".into(), "s".into(), Timestamp(0));
    batch.time = (0..ROWS as i64).collect();
    batch.signals[0] = (0..ROWS).map(|row| if row % 100 == 7 { f64::NAN } else { 3.0 + (row % 13) as f64 / 10.0 }).collect();
    batch.signals[1] = (0..ROWS).map(|row| 40.0 + (row * 7919 % 200) as f64).collect();
    let names: Vec<Arc<str>> = ["A1", "A2", "A3", "A4"].map(Arc::from).to_vec();
    batch.tags[0] = TagColumn { codes: (0..ROWS as u32).map(|row| row % 4).collect(), names };
    batch
}

fn expressions(criterion: &mut Criterion) {
    let batch = batch();
    let (mut scratch, mut out) = (Scratch::default(), Bools::default());
    let mut group = criterion.benchmark_group("expr");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, text) in [
        ("filter", r#"laser_power > 50.0 && intensity / laser_power < 0.02 && part == "A3""#),
        ("check", "laser_power >= 190.0 && laser_power <= 210.0"),
        ("in", r#"part in ["A1", "A3"] || intensity in [3.0, 3.1]"#),
    ] {
        let expr = Expr::compile(text, &batch.stream, Type::Bool).expect("the expression is right");
        group.bench_function(name, |bencher| bencher.iter(|| expr.eval_bool(black_box(&batch), 0..ROWS, &mut scratch, &mut out)));
    }
    let expr = Expr::compile("intensity / laser_power", &batch.stream, Type::Number).expect("the expression is right");
    group.bench_function("derive", |bencher| {
        bencher.iter(|| expr.eval_number(black_box(&batch), 0..ROWS, &mut scratch).len());
    });
    group.finish();
}

criterion_group!(benches, expressions);
criterion_main!(benches);
