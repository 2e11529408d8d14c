//! Windows of the typed processor on several threads: what comes out, and what becomes of failures.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use qadf_edge::{
    model::WindowResult,
    processor::{
        Custom, DeliveryGuarantee, MemorySink, MemorySource, ProcessorError, SessionWindow, Sink, SinkError, Status, StreamConfig,
        StreamProcessor, TumblingWindow, Watermark, count, custom, first, last,
    },
};

const PATIENCE: Option<Duration> = Some(Duration::from_mins(2));

/// Time in milliseconds, key and value.
type Row = (i64, u32, f64);

fn watermark() -> Watermark<Row> {
    Watermark::by_ms(|row: &Row| row.0).delay(Duration::from_millis(500))
}

fn ended(processor: &mut StreamProcessor) {
    processor.start().expect("it starts");
    assert!(processor.await_termination(PATIENCE));
    assert_eq!((processor.error(), processor.status()), (None, Status::Stopped));
}

/// Ten rows at each time, out of order by up to 500 ms; of fifty, one a little and one far too late.
fn rows(count: u32) -> impl Iterator<Item = Row> + Clone {
    (0..count).map(|n| {
        let late = match n % 50 {
            49 => 5_000,
            24 => 1_500,
            _ => i64::from(n) * 7919 % 500 / 100 * 100,
        };
        (i64::from(n / 10) * 100 - late, n * 104_729 % 7, f64::from(n))
    })
}

#[test]
fn rows_that_came_of_one_row_fire_in_their_order_whatever_the_threads() {
    let run = |threads: usize| {
        let out = MemorySink::new();
        let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads).max_records_per_batch(64));
        processor
            .from_source(MemorySource::new(rows(500)))
            .with_watermark(watermark())
            .flat_map(|(time, key, value)| [9, 2, 5, 0, 7, 1].map(|part| (time, key * 10 + part, value)))
            .window(TumblingWindow::new(Duration::from_secs(1)))
            .allowed_lateness(Duration::from_secs(3))
            .key_by("key", |row| Some(row.1))
            .aggregate([count()])
            .to_sink(out.clone());
        ended(&mut processor);
        out.take()
    };
    let expected = run(1);
    assert!(expected.iter().filter(|window| window.revision > 0).count() > 50);
    for threads in [2, 3, 5] {
        assert!(run(threads) == expected, "{threads} threads");
    }
}

#[test]
fn the_first_and_the_last_of_rows_at_one_time_are_the_same_for_all_batches() {
    let run = |threads: usize, batch: usize| {
        let out = MemorySink::new();
        let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads).max_records_per_batch(batch));
        processor
            .from_source(MemorySource::new(rows(2000)))
            .with_watermark(watermark())
            .window(TumblingWindow::new(Duration::from_secs(1)))
            .key_by("key", |row| Some(row.1 % 2))
            .aggregate([first(|row: &Row| row.2), last(|row: &Row| row.2)])
            .to_sink(out.clone());
        ended(&mut processor);
        out.take()
    };
    let expected = run(1, 10_000);
    for (threads, batch) in [(1, 1), (1, 7), (1, 33), (3, 10)] {
        assert!(run(threads, batch) == expected, "{threads} threads, batches of {batch}");
    }
}

#[test]
fn a_session_names_what_it_replaces() {
    for threads in [1, 2] {
        let out = MemorySink::new();
        let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads));
        processor
            .from_source(MemorySource::new([0, 9000, 800].map(|time| (time, 1, 0.0))))
            .with_watermark(watermark())
            .window(SessionWindow::new(Duration::from_secs(1)))
            .allowed_lateness(Duration::from_mins(1))
            .key_by("key", |row| Some(row.1))
            .aggregate([count()])
            .map(|window| (window.end.0, window.replaces))
            .to_sink(out.clone());
        ended(&mut processor);
        let rows: Vec<(i64, Vec<String>)> = out.take();
        let [(_, none), (end, replaced), (_, nothing)] = rows.as_slice() else { panic!("{rows:?}") };
        assert!(none.is_empty() && nothing.is_empty() && *end == 1_800_000_000, "{rows:?}");
        assert!(matches!(replaced.as_slice(), [id] if id.ends_with(":key=1:0:1000000000:0")), "{rows:?}");
    }
}

/// Does not like thirteen.
static SUPERSTITIOUS: Custom = Custom {
    name: "superstitious",
    start: || vec![0.0],
    add: |state, value| state[0] += if value == 13.0 { panic!("thirteen!") } else { value },
    merge: |state, other| state[0] += other[0],
    value: |state| Some(state[0]),
};

#[test]
fn a_panic_on_a_thread_of_a_window_fails_the_processor_and_says_why() {
    for threads in [1, 3] {
        let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads).max_records_per_batch(2));
        processor
            .from_source(MemorySource::new(rows(500)))
            .with_watermark(watermark())
            .window(TumblingWindow::new(Duration::from_secs(1)))
            .key_by("key", |row| Some(row.1))
            .aggregate([custom(&SUPERSTITIOUS, |row: &Row| row.2)]);
        processor.start().expect("it starts");
        assert!(processor.await_termination(PATIENCE));
        assert_eq!(processor.status(), Status::Failed);
        assert_eq!(processor.error(), Some(ProcessorError::Failed("a step panicked: thirteen!".into())));
    }
}

#[test]
fn two_keys_of_one_name_and_too_many_threads_are_refused() {
    for (name, threads, word) in [("a", 2, "`a`"), ("b", 65, "65"), ("b", 64, "")] {
        let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads));
        processor
            .from_source(MemorySource::new(rows(1)))
            .with_watermark(watermark())
            .window(TumblingWindow::new(Duration::from_secs(1)))
            .key_by("a", |row| Some(row.1))
            .key_by(name, |row| Some(row.0))
            .aggregate([count()]);
        let refused = processor.start().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains(word) && refused.is_empty() == word.is_empty(), "{refused}");
    }
}

#[test]
fn more_texts_than_are_remembered_are_counted_right() {
    const ROWS: u32 = 160_000;
    let texts: Vec<String> =
        (0..70_001).map(|n| if n % 2 == 0 { format!("k{n}") } else { format!("a long name of key {n}") }).collect();
    let texts = Arc::new(texts);
    let key = |n: u32| (n.wrapping_mul(7919) % 70_001) as usize;
    let mut expected: BTreeMap<(i64, &str), i64> = BTreeMap::new();
    for n in 0..ROWS {
        *expected.entry((i64::from(n / 60_000) * 60_000_000_000, &texts[key(n)])).or_default() += 1;
    }
    for threads in [1, 3] {
        let (out, texts) = (MemorySink::new(), Arc::clone(&texts));
        let rows = (0..ROWS).map(move |n| (i64::from(n), Arc::clone(&texts), key(n)));
        let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads).max_records_per_batch(5000));
        processor
            .from_source(MemorySource::new(rows))
            .with_watermark(Watermark::by_ms(|row: &(i64, Arc<Vec<String>>, usize)| row.0).delay(Duration::from_millis(500)))
            .window(TumblingWindow::new(Duration::from_mins(1)))
            .group_by("key", |row| &row.1[row.2])
            .aggregate([count()])
            .to_sink(out.clone());
        ended(&mut processor);
        let windows: Vec<WindowResult> = out.take();
        let got: Vec<((i64, &str), i64)> = windows
            .iter()
            .map(|window| ((window.start.0, window.tag("key").unwrap_or("")), window.integer("count").unwrap_or(0)))
            .collect();
        assert!(got == expected.clone().into_iter().collect::<Vec<_>>(), "{threads} threads");
    }
}

/// Breaks at some call.
struct Breaking<T>(MemorySink<T>, u32);

impl<T: Send + Sync + Clone + 'static> Sink<T> for Breaking<T> {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        match self.1.checked_sub(1) {
            Some(left) => self.1 = left,
            None => return Err(SinkError::Fatal("the disk is gone".into())),
        }
        self.0.write(rows)
    }
}

#[test]
fn a_sink_that_breaks_while_chunks_are_under_way_costs_no_result_and_no_late_row() {
    let run = |folder: &std::path::Path, threads: usize, writes: u32, late_writes: u32| {
        let (out, late) = (MemorySink::new(), MemorySink::new());
        let config = StreamConfig::default()
            .parallelism(threads)
            .max_records_per_batch(20)
            .checkpoint_dir(folder)
            .delivery_guarantee(DeliveryGuarantee::AtLeastOnce)
            .checkpoint_interval(Duration::from_millis(1));
        let mut processor = StreamProcessor::new(config);
        processor
            .from_source(MemorySource::new(rows(2000)))
            .with_watermark(watermark())
            .window(TumblingWindow::new(Duration::from_secs(1)))
            .allowed_lateness(Duration::from_secs(2))
            .late_to(Breaking(late.clone(), late_writes))
            .key_by("key", |row| Some(row.1))
            .aggregate([count(), last(|row: &Row| row.2)])
            .to_sink(Breaking(out.clone(), writes));
        processor.start().expect("it starts");
        assert!(processor.await_termination(PATIENCE));
        (out.take(), late.take(), processor.status())
    };
    let named = |windows: &[WindowResult]| -> BTreeMap<String, String> {
        let name = |window: &WindowResult| format!("{} {:?} {}", window.start.0, window.tag("key"), window.revision);
        windows.iter().map(|window| (name(window), format!("{window:?}"))).collect()
    };
    let times = |rows: &[Row]| -> Vec<i64> {
        let mut values: Vec<i64> = rows.iter().map(|row| row.2 as i64).collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    let folder = || tempfile::tempdir().expect("a folder");
    let (expected, expected_late, status) = run(folder().path(), 1, u32::MAX, u32::MAX);
    assert!(status == Status::Stopped && expected.len() > 100 && expected_late.len() > 20);
    for (threads, writes, late_writes) in [(1, 9, u32::MAX), (3, 9, u32::MAX), (3, u32::MAX, 7), (2, 30, u32::MAX)] {
        let folder = folder();
        let (mut out, mut late, status) = run(folder.path(), threads, writes, late_writes);
        assert_eq!(status, Status::Failed);
        let (then, late_then, status) = run(folder.path(), 4 - threads, u32::MAX, u32::MAX);
        assert_eq!(status, Status::Stopped);
        out.extend(then);
        late.extend(late_then);
        assert!(named(&out) == named(&expected), "{threads} threads: what came twice is the same");
        assert_eq!(times(&late), times(&expected_late), "{threads} threads");
    }
}
