//! The watermark along rows, whatever the batches they come in.

use std::sync::Arc;

use proptest::prelude::*;
use qadf_edge::{
    dataflow::{AllIdle, WatermarkConfig, WatermarkMode, Watermarks, WatermarksState},
    model::{Batch, Stream, Timestamp},
};

/// What a partition says at some time of arrival.
#[derive(Debug, Clone)]
enum Said {
    Rows(Vec<i64>),
    Statement(i64),
    /// Nothing; time passes.
    Tick,
}

/// By the definition, row by row: the newest time of each partition less the delay, the least of them, never falling.
fn one_by_one(watermarks: &mut Watermarks, partition: &str, arrival: i64, times: &[i64]) -> (Vec<i64>, Vec<usize>) {
    let (mut after, mut future) = (Vec::new(), Vec::new());
    for (row, time) in times.iter().enumerate() {
        let (flow, too_far) = watermarks.observe(&batch(partition, arrival, &[*time]));
        after.extend(flow.after());
        future.extend(too_far.iter().map(|_| row));
    }
    (after, future)
}

fn batch(partition: &str, arrival: i64, times: &[i64]) -> Batch {
    let mut batch = Batch::new(Arc::new(Stream::new("s", &[], &[])), "s".into(), partition.into(), Timestamp(arrival));
    batch.time = times.to_vec();
    batch
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn batches_change_nothing_of_the_watermark(
        said in proptest::collection::vec(
            (0..3_usize, 0..30_i64, prop_oneof![
                5 => proptest::collection::vec(prop_oneof![8 => -60..90_i64, 1 => any::<i64>()], 1..12).prop_map(Said::Rows),
                1 => (-60..90_i64).prop_map(Said::Statement),
                1 => Just(Said::Tick),
            ]),
            1..40,
        ),
        punctuated: bool,
        arrivals: bool,
        delay_ns in 0..50_i64,
        max_future_ns in proptest::option::of(0..60_i64),
        idle_ns in proptest::option::of(1..60_i64),
        all_idle in proptest::sample::select(vec![AllIdle::Close, AllIdle::Flush, AllIdle::Hold]),
    ) {
        let mode = if punctuated { WatermarkMode::Punctuated } else { WatermarkMode::Bounded };
        let config = WatermarkConfig { mode, delay_ns, idle_ns, max_future_ns, all_idle };
        let (mut whole, mut each) = (Watermarks::new(config.clone(), arrivals), Watermarks::new(config, arrivals));
        let mut now = 0;
        for (partition, step, said) in said {
            now += step;
            let partition = ["a", "b", "c"][partition];
            match said {
                Said::Rows(times) => {
                    let times: Vec<i64> = times.iter().map(|time| time.saturating_add(now)).collect();
                    let (flow, future) = whole.observe(&batch(partition, now, &times));
                    let after: Vec<i64> = flow.after().collect();
                    prop_assert_eq!((after.clone(), future), one_by_one(&mut each, partition, now, &times));
                    prop_assert!(after.is_sorted());
                    let state: WatermarksState = whole.snapshot();
                    whole.observe(&batch(partition, now, &[]));
                    prop_assert_eq!(whole.snapshot(), state, "no rows say nothing");
                }
                Said::Statement(time) => {
                    for watermarks in [&mut whole, &mut each] {
                        watermarks.punctuate(&partition.into(), Timestamp(now + time), Timestamp(now));
                    }
                }
                Said::Tick => prop_assert_eq!(whole.tick(Timestamp(now)), each.tick(Timestamp(now))),
            }
            prop_assert_eq!(whole.snapshot(), each.snapshot());
        }
    }
}
