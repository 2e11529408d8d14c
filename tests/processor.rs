//! The typed processor: steps, windows, life, checkpoints and threads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use qadf_edge::{
    dataflow::Accumulation,
    model::{Number, Timestamp, WindowResult},
    processor::{
        CountingSink, Custom, DeliveryGuarantee, FileSink, FileSource, GeneratorSource, KeyedState, MemorySink, MemorySource, Poll,
        Polled, ProcessorError, SessionWindow, Sink, SinkError, SlidingWindow, Source, SourceError, Status, StreamConfig,
        StreamProcessor, TumblingWindow, Watermark, channel, count, custom, distinct, first, last, max, mean, min, quantile, range,
        stddev, sum, variance,
    },
};

const PATIENCE: Option<Duration> = Some(Duration::from_mins(2));

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Row {
    time: i64,
    part: String,
    value: f64,
}

fn row(time: i64, part: &str, value: f64) -> Row {
    Row { time, part: part.into(), value }
}

/// Rows of seven parts, out of order by up to 500 ms; of fifty, one a little and one far too late.
fn rows(count: i64) -> Vec<Row> {
    let late = |n: i64| match n % 50 {
        49 => 5_000,
        24 => 1_500,
        _ => n * 7919 % 500,
    };
    (0..count).map(|n| row(n * 10 - late(n), &format!("p{}", n * 104_729 % 7), (n % 13) as f64)).collect()
}

fn watermark() -> Watermark<Row> {
    Watermark::by_ms(|row: &Row| row.time).delay(Duration::from_millis(500))
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn ended(processor: &mut StreamProcessor) {
    processor.start().expect("it starts");
    assert!(processor.await_termination(PATIENCE));
    assert_eq!(processor.error(), None);
    assert_eq!(processor.status(), Status::Stopped);
}

#[test]
fn steps_act_in_the_order_they_are_written() {
    let (seen, before, after) = (Arc::new(Mutex::new(Vec::new())), MemorySink::new(), MemorySink::new());
    let shared = Arc::clone(&seen);
    let mut processor = StreamProcessor::new(StreamConfig::default().max_records_per_batch(3));
    processor
        .from_source(MemorySource::new(1..=10))
        .filter(|n| n % 2 == 0)
        .to_sink(before.clone())
        .map(|n| n * 10)
        .flat_map(|n| vec![n; (n / 20) as usize])
        .foreach(move |n| shared.lock().expect("nobody panics").push(*n))
        .to_sink(after.clone());
    ended(&mut processor);
    assert_eq!(before.rows(), [2, 4, 6, 8, 10]);
    assert_eq!(after.rows(), [20, 40, 40, 60, 60, 60, 80, 80, 80, 80, 100, 100, 100, 100, 100]);
    assert_eq!(*seen.lock().expect("nobody panics"), after.rows());
    let metrics = processor.metrics();
    let of = |name: &str| metrics.steps.iter().find(|step| &*step.name == name).map(|step| (step.rows_in, step.rows_out));
    assert_eq!(metrics.records_processed, 10);
    for (name, counts) in [("filter", (10, 5)), ("map", (5, 5)), ("flat_map", (5, 15)), ("foreach", (15, 15)), ("sink-2", (15, 15))]
    {
        assert_eq!(of(name), Some(counts), "{name}");
    }
    let names: Vec<&str> = metrics.steps.iter().map(|step| &*step.name).collect();
    assert_eq!(names, ["filter", "sink", "map", "flat_map", "foreach", "sink-2"]);
}

#[test]
fn a_failing_row_is_counted_and_kept_and_the_flow_goes_on() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor
        .from_source(MemorySource::new(["1", "x", "3", "-4", "5"]))
        .try_map(|text| text.parse::<i32>().map_err(|error| format!("{text}: {error}")))
        .try_filter(|n| if *n < 0 { Err("negative") } else { Ok(*n != 3) })
        .to_sink(out.clone());
    ended(&mut processor);
    assert_eq!(out.rows(), [1, 5]);
    let letters = processor.dead_letters();
    let told: Vec<(&str, &str)> = letters.iter().map(|letter| (&*letter.step, &*letter.reason)).collect();
    assert_eq!(told, [("try_map", "x: invalid digit found in string"), ("try_filter", "negative")]);
    let metrics = processor.metrics();
    assert_eq!((metrics.failed_records, metrics.steps[0].failed, metrics.steps[1].failed), (2, 1, 1));
}

/// The largest of the squares.
static LARGEST_SQUARE: Custom = Custom {
    name: "largest_square",
    start: || vec![f64::NEG_INFINITY],
    add: |state, value| state[0] = state[0].max(value * value),
    merge: |state, other| state[0] = state[0].max(other[0]),
    value: |state| Some(state[0]),
};

#[test]
fn every_aggregate_can_be_named_and_is_what_it_says() {
    let out = MemorySink::new();
    let value = |row: &Row| row.value;
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor
        .from_source(MemorySource::new([row(0, "a", 4.0), row(20, "a", -6.0), row(10, "b", 2.0), row(30, "c", f64::NAN)]))
        .with_watermark(watermark())
        .window(TumblingWindow::new(seconds(1)))
        .aggregate([
            count(),
            count().alias("n"),
            sum(value),
            mean(value),
            min(value),
            max(value),
            stddev(value),
            variance(value),
            first(value),
            last(value),
            range(value),
            distinct(value),
            quantile(0.5, value).alias("median"),
            custom(&LARGEST_SQUARE, value),
            mean(|row: &Row| (row.part == "a").then_some(row.value)).alias("mean_of_a"),
        ])
        .to_sink(out.clone());
    ended(&mut processor);
    let [window] = &out.rows()[..] else { panic!("there is one window") };
    let expected = [
        ("sum", 0.0),
        ("mean", 0.0),
        ("min", -6.0),
        ("max", 4.0),
        ("stddev", 28_f64.sqrt()),
        ("variance", 28.0),
        ("first", 4.0),
        ("last", -6.0),
        ("range", 10.0),
        ("largest_square", 36.0),
        ("mean_of_a", -1.0),
    ];
    for (name, value) in expected {
        assert_eq!(window.real(name), Some(value), "{name}");
    }
    for (name, value) in [("count", 4), ("n", 4), ("distinct", 3)] {
        assert_eq!(window.integer(name), Some(value), "{name}");
    }
    let median = window.real("median").expect("there is one");
    assert!((median - 2.0).abs() <= 2.0 * window.errors["median"]);
}

#[test]
fn two_values_of_one_name_and_windows_without_size_are_refused_at_the_start() {
    let refused = |window: TumblingWindow, twice: bool| {
        let mut processor = StreamProcessor::new(StreamConfig::default());
        let mut aggregates = vec![count()];
        aggregates.extend(twice.then(count));
        processor.from_source(MemorySource::new(rows(1))).with_watermark(watermark()).window(window).aggregate(aggregates);
        processor.start().err()
    };
    assert_eq!(refused(TumblingWindow::new(seconds(1)), false), None);
    for (window, twice, word) in [
        (TumblingWindow::new(seconds(1)), true, "`count`"),
        (TumblingWindow::new(seconds(0)), false, "size"),
        (TumblingWindow::new(seconds(1)).timezone("Europe/Atlantis"), false, "Atlantis"),
    ] {
        let Some(ProcessorError::Configuration(message)) = refused(window, twice) else { panic!("{word} is refused") };
        assert!(message.contains(word), "{message}");
    }
}

/// Sliding windows by two tags, in all their results.
fn sliding(config: StreamConfig, source: impl Source<Row = Row>) -> (Vec<WindowResult>, Vec<Row>, u64) {
    let (out, late) = (MemorySink::new(), MemorySink::new());
    let mut processor = StreamProcessor::new(config);
    processor
        .from_source(source)
        .filter(|row| row.value != 7.0)
        .with_watermark(watermark())
        .filter(|row| row.value != 8.0)
        .window(SlidingWindow::new(seconds(2), Duration::from_millis(700)))
        .allowed_lateness(seconds(2))
        .late_to(late.clone())
        .group_by("part", |row| &row.part)
        .key_by("parity", |row| (row.value > 1.0).then_some(row.value as i64 % 2))
        .aggregate([count(), mean(|row: &Row| row.value), last(|row: &Row| row.value)])
        .to_sink(out.clone());
    ended(&mut processor);
    let count = processor.metrics().late_records;
    (out.take(), late.take(), count)
}

#[test]
fn neither_batches_nor_threads_change_results_or_their_order() {
    let (expected, late, late_count) = sliding(StreamConfig::default(), MemorySource::new(rows(3000)));
    assert!(expected.len() > 500 && late.len() as u64 == late_count && !late.is_empty());
    assert!(expected.iter().any(|window| window.revision > 0));
    for (threads, batch) in [(1, 1), (1, 17), (2, 10_000), (2, 100), (3, 999), (7, 64)] {
        let config = StreamConfig::default().parallelism(threads).max_records_per_batch(batch);
        let got = sliding(config, MemorySource::new(rows(3000)));
        assert_eq!(got, (expected.clone(), late.clone(), late_count), "{threads} threads, batches of {batch}");
    }
}

#[test]
fn sessions_and_accumulation_are_those_of_the_engine() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(2));
    let at = [0, 100, 900, 2500, 1000, 9000, 2600];
    processor
        .from_source(MemorySource::new(at.map(|time| row(time, "a", 1.0))))
        .with_watermark(watermark())
        .window(SessionWindow::new(seconds(1)).max_duration(seconds(30)))
        .allowed_lateness(seconds(60))
        .accumulation(Accumulation::Discarding)
        .group_by("part", |row| &row.part)
        .aggregate([count()])
        .map(|window| (window.start.0 / 1_000_000, window.end.0 / 1_000_000, window.revision, window.integer("count")))
        .to_sink(out.clone());
    ended(&mut processor);
    assert_eq!(
        out.rows(),
        [(0, 1900, 0, 3), (0, 2000, 0, 1), (2500, 3500, 0, 1), (2500, 3600, 0, 1), (9000, 10_000, 0, 1)]
            .map(|(start, end, revision, count)| (start, end, revision, Some(count)))
    );
}

#[test]
fn days_of_a_time_zone_are_windows() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    let start = "2026-10-24T22:00:00Z".parse::<Timestamp>().expect("a time").0 / 1_000_000;
    processor
        .from_source(MemorySource::new((0..25).map(move |hour| row(start + hour * 3_600_000, "a", 1.0))))
        .with_watermark(watermark())
        .window(TumblingWindow::new(seconds(86_400)).timezone("Europe/Berlin"))
        .aggregate([count()])
        .map(|window| ((window.end.0 - window.start.0) / 3_600_000_000_000, window.integer("count")))
        .to_sink(out.clone());
    ended(&mut processor);
    assert_eq!(out.rows(), [(25, Some(25))]);
}

#[test]
fn windows_of_windows_go_by_event_time() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor
        .from_source(MemorySource::new((0..100).map(|n| row(n * 100, "a", n as f64))))
        .with_watermark(watermark())
        .window(TumblingWindow::new(seconds(1)))
        .group_by("part", |row| &row.part)
        .aggregate([sum(|row: &Row| row.value)])
        .window(TumblingWindow::new(seconds(5)))
        .aggregate([count(), max(|window: &WindowResult| window.real("sum"))])
        .map(|window| (window.integer("count"), window.real("max")))
        .to_sink(out.clone());
    ended(&mut processor);
    assert_eq!(out.rows(), [(Some(5), Some(445.0)), (Some(5), Some(945.0))]);
}

#[test]
fn the_slowest_partition_holds_windows_back_until_it_ends() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default().max_records_per_batch(10));
    let source = MemorySource::new((0..20).map(|n| row(n * 100, "a", 1.0)));
    processor
        .from_source(source.partition("slow", (0..10).map(|n| row(n * 100, "b", 1.0))))
        .with_watermark(watermark())
        .window(TumblingWindow::new(seconds(1)))
        .aggregate([count()])
        .map(|window| (window.integer("count"), window.revision))
        .to_sink(out.clone());
    ended(&mut processor);
    assert_eq!(out.rows(), [(Some(20), 0), (Some(10), 0)]);
    assert_eq!(processor.metrics().late_records, 0);
}

#[test]
fn a_row_of_the_future_is_kept_and_moves_nothing() {
    let (all, out) = (MemorySink::new(), MemorySink::new());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_millis() as i64;
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor
        .from_source(MemorySource::new([row(now, "a", 1.0), row(now + 86_400_000, "a", 1.0), row(now + 1, "a", 1.0)]))
        .with_watermark(watermark().max_future(seconds(3600)))
        .to_sink(all.clone())
        .window(TumblingWindow::new(seconds(7200)))
        .aggregate([count()])
        .to_sink(out.clone());
    ended(&mut processor);
    assert_eq!((all.len(), processor.metrics().late_records), (3, 0));
    let counted: i64 = out.rows().iter().filter_map(|window| window.integer("count")).sum();
    assert_eq!(counted, 2);
}

#[test]
fn rows_are_counted_by_key() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(MemorySource::new(["a", "b", "a", "a"])).count_by_key(|text| (*text).to_owned()).to_sink(out.clone());
    ended(&mut processor);
    let got: Vec<(String, u64)> = out.rows();
    assert_eq!(got, [("a".into(), 1), ("b".into(), 1), ("a".into(), 2), ("a".into(), 3)]);
}

#[test]
fn state_is_listed_by_prefix_and_forgotten_by_event_time() {
    let state = KeyedState::with_ttl(seconds(10));
    let mut processor = StreamProcessor::new(StreamConfig::default());
    let at = [(0, "melt/a"), (5, "melt/b"), (8, "melt/a"), (12, "plume/c"), (16, "melt/d")];
    processor
        .from_source(MemorySource::new(at.map(|(second, part)| row(second * 1000, part, second as f64))))
        .with_watermark(watermark())
        .with_state(state.clone(), |state, row: Row| {
            state.put(&row.part, &row.value);
            [row]
        });
    ended(&mut processor);
    assert_eq!(state.list::<f64>("melt/"), [("melt/a".into(), 8.0), ("melt/d".into(), 16.0)]);
    assert_eq!(state.list::<f64>("").len(), 3);
    assert_eq!((state.get::<f64>("melt/b"), state.get("plume/c")), (None, Some(12.0)));
    assert!(state.remove("plume/c") && !state.remove("plume/c"));
    assert_eq!(state.len(), 2);
}

#[test]
fn life_is_created_running_stopped() {
    let out = CountingSink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    assert_eq!(processor.status(), Status::Created);
    assert!(!processor.await_termination(Some(Duration::ZERO)));
    let (emitter, source) = channel(10);
    processor.from_source(source).to_sink(out.clone());
    processor.start().expect("it starts");
    assert_eq!(processor.status(), Status::Running);
    assert_eq!(processor.start().err(), Some(ProcessorError::Started));
    assert!(!processor.await_termination(Some(Duration::from_millis(1))));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let emitter = emitter.clone();
            std::thread::spawn(move || (0..100).for_each(|n| emitter.emit(thread * 100 + n).expect("it runs")))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("it emits"));
    drop(emitter);
    assert!(processor.await_termination(PATIENCE));
    assert_eq!((processor.status(), processor.error(), out.count()), (Status::Stopped, None, 400));
    assert_eq!(processor.start().err(), Some(ProcessorError::Started));
}

#[test]
fn a_step_that_panics_fails_the_processor_and_says_why() {
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(MemorySource::new([1])).map(|n: i32| if n == 1 { panic!("no ones") } else { n });
    processor.start().expect("it starts");
    assert!(processor.await_termination(PATIENCE));
    assert_eq!(processor.status(), Status::Failed);
    assert!(processor.error().is_some_and(|error| error.to_string().contains("no ones")));
}

/// Takes rows only from its third call on.
struct Reluctant(MemorySink<i32>, u32);

impl Sink<i32> for Reluctant {
    fn write(&mut self, rows: &[i32]) -> Result<(), SinkError> {
        self.1 += 1;
        if self.1 < 3 { Err(SinkError::Retry("not yet".into())) } else { self.0.write(rows) }
    }
}

struct Broken;

impl Sink<i32> for Broken {
    fn write(&mut self, _: &[i32]) -> Result<(), SinkError> {
        Err(SinkError::Fatal("the disk is gone".into()))
    }
}

#[test]
fn a_sink_of_ones_own_is_tried_again_and_a_fatal_one_fails() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(MemorySource::new([1, 2])).to_sink(Reluctant(out.clone(), 0));
    ended(&mut processor);
    assert_eq!(out.rows(), [1, 2]);

    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(MemorySource::new([1, 2])).to_sink(Broken);
    processor.start().expect("it starts");
    assert!(processor.await_termination(PATIENCE));
    assert_eq!(processor.error(), Some(ProcessorError::Failed("the disk is gone".into())));
}

#[test]
fn a_sink_that_cannot_keep_the_guarantee_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (guarantee, is_refused) in [(DeliveryGuarantee::ExactlyOnce, true), (DeliveryGuarantee::AtLeastOnce, false)] {
        let config = StreamConfig::default().checkpoint_dir(folder.path()).delivery_guarantee(guarantee);
        let mut processor = StreamProcessor::new(config);
        processor.from_source(MemorySource::new([1, 2])).to_sink(Reluctant(MemorySink::new(), 9));
        assert_eq!(processor.start().is_err(), is_refused);
    }
}

/// Rows that stop at some number, as if the source were silent, until a flag is set.
struct Pausing {
    rows: GeneratorSource<fn(u64) -> Row>,
    given: u64,
    pause_at: u64,
    reached: Arc<AtomicBool>,
}

fn made(n: u64) -> Row {
    row(n as i64 * 10 - (n as i64 * 7919 % 500), &format!("p{}", n % 5), (n % 13) as f64)
}

const MADE: u64 = 5000;

impl Pausing {
    fn at(pause_at: u64) -> (Self, Arc<AtomicBool>) {
        let reached = Arc::new(AtomicBool::new(false));
        let rows = GeneratorSource::new(made as fn(u64) -> Row).rows(MADE);
        (Self { rows, given: 0, pause_at, reached: Arc::clone(&reached) }, reached)
    }
}

impl Source for Pausing {
    type Row = Row;

    fn poll(&mut self, max: usize, into: &mut Polled<Row>) -> Result<Poll, SourceError> {
        let left = self.pause_at.saturating_sub(self.given) as usize;
        if left == 0 {
            self.reached.store(true, Ordering::Release);
            return Ok(Poll::Pending);
        }
        let poll = self.rows.poll(max.min(left), into)?;
        self.given += into.rows.len() as u64;
        Ok(poll)
    }

    fn position(&self) -> Vec<u8> {
        self.rows.position()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
        self.rows.seek(position)
    }
}

fn config(folder: &std::path::Path, threads: usize) -> StreamConfig {
    StreamConfig::default()
        .checkpoint_dir(folder)
        .max_records_per_batch(64)
        .parallelism(threads)
        .checkpoint_interval(Duration::ZERO)
}

fn flow(processor: &mut StreamProcessor, source: impl Source<Row = Row>, file: &std::path::Path) {
    processor
        .from_source(source)
        .with_watermark(watermark())
        .window(SlidingWindow::new(seconds(3), seconds(1)))
        .group_by("part", |row| &row.part)
        .aggregate([count(), mean(|row: &Row| row.value), quantile(0.9, |row: &Row| row.value)])
        .to_sink(FileSink::json_lines(file));
}

fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
}

#[test]
fn stopped_or_aborted_anywhere_it_goes_on_and_each_result_is_in_the_file_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole.jsonl");
    let mut processor = StreamProcessor::new(StreamConfig::default());
    flow(&mut processor, GeneratorSource::new(made).rows(MADE), &whole);
    ended(&mut processor);
    let expected = std::fs::read_to_string(&whole).expect("it was written");
    assert!(expected.lines().count() > 200);
    for graceful in [true, false] {
        let file = folder.path().join(format!("{graceful}.jsonl"));
        let kept = folder.path().join(format!("{graceful}"));
        // Each life has another number of threads, and ends somewhere else.
        for (threads, pause_at) in [(1, 0), (2, 700), (3, 64), (1, 1999), (2, 1)] {
            let (source, reached) = Pausing::at(pause_at);
            let mut processor = StreamProcessor::new(config(&kept, threads));
            flow(&mut processor, source, &file);
            processor.start().expect("it goes on");
            until(&reached);
            processor.stop(graceful);
            assert!(processor.await_termination(PATIENCE));
            assert_eq!((processor.status(), processor.error()), (Status::Stopped, None));
        }
        let mut processor = StreamProcessor::new(config(&kept, 2));
        flow(&mut processor, Pausing::at(u64::MAX).0, &file);
        ended(&mut processor);
        assert_eq!(std::fs::read_to_string(&file).expect("it was written"), expected, "graceful {graceful}");
    }
}

#[test]
fn at_least_once_repeats_and_at_most_once_loses_but_never_the_other_way_round() {
    for guarantee in [DeliveryGuarantee::AtLeastOnce, DeliveryGuarantee::AtMostOnce] {
        let folder = tempfile::tempdir().expect("a folder");
        let out = MemorySink::new();
        let config = || {
            let config = StreamConfig::default().checkpoint_dir(folder.path()).max_records_per_batch(64);
            // No checkpoint comes by itself: what follows the abort is all that is to be repeated.
            config.delivery_guarantee(guarantee).checkpoint_interval(seconds(3600))
        };
        let (source, reached) = Pausing::at(1000);
        let mut processor = StreamProcessor::new(config());
        processor.from_source(source).map(|row| row.time).to_sink(out.clone());
        processor.start().expect("it starts");
        until(&reached);
        processor.stop(false);
        assert!(processor.await_termination(PATIENCE));
        let before = out.len();
        let mut processor = StreamProcessor::new(config());
        processor.from_source(Pausing::at(u64::MAX).0).map(|row| row.time).to_sink(out.clone());
        ended(&mut processor);
        let mut often: BTreeMap<i64, u32> = BTreeMap::new();
        let mut expected: BTreeMap<i64, u32> = BTreeMap::new();
        out.rows().into_iter().for_each(|time| *often.entry(time).or_default() += 1);
        (0..MADE).for_each(|n| *expected.entry(made(n).time).or_default() += 1);
        let at_least = expected.iter().all(|(time, count)| often.get(time) >= Some(count));
        let at_most = often.iter().all(|(time, count)| expected.get(time) >= Some(count));
        match guarantee {
            DeliveryGuarantee::AtLeastOnce => assert!(at_least && out.len() == MADE as usize + before, "repeated {before}"),
            _ => assert!(at_most && out.len() == MADE as usize),
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |pause_at: u64, out: &MemorySink<i64>| {
        let (source, reached) = Pausing::at(pause_at);
        let mut processor = StreamProcessor::new(config(folder.path(), 1).checkpoint_interval(seconds(3600)));
        processor.from_source(source).map(|row| row.time).to_sink(out.clone());
        processor.start().expect("it starts");
        if pause_at < MADE {
            until(&reached);
            processor.stop(true);
        }
        assert!(processor.await_termination(PATIENCE));
        assert_eq!(processor.error(), None);
    };
    let out = MemorySink::new();
    run(100, &out);
    run(200, &out);
    let newest = folder.path().join(format!("checkpoint-{:020}", 2));
    let mut bytes = std::fs::read(&newest).expect("it is there");
    bytes[10] ^= 1;
    std::fs::write(&newest, bytes).expect("it is written");
    run(u64::MAX, &out);
    assert_eq!(out.rows(), (0..MADE).map(|n| made(n).time).collect::<Vec<_>>());
}

#[test]
fn a_file_of_json_lines_is_read_and_bad_lines_are_dead_letters() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.jsonl");
    let text = "{\"time\":1,\"part\":\"a\",\"value\":1.5}\n\nnonsense\n{\"time\":2,\"part\":\"b\"}\n{\"time\":3,\"part\":\"c\",\"value\":2}";
    std::fs::write(&path, text).expect("it is written");
    let (out, copy) = (MemorySink::new(), folder.path().join("copy.jsonl"));
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(FileSource::<Row>::json_lines(&path)).to_sink(out.clone()).to_sink(FileSink::json_lines(&copy));
    ended(&mut processor);
    assert_eq!(out.rows(), [row(1, "a", 1.5), row(3, "c", 2.0)]);
    let letters = processor.dead_letters();
    assert_eq!(letters.iter().map(|letter| &*letter.raw).collect::<Vec<_>>(), ["nonsense", "{\"time\":2,\"part\":\"b\"}"]);
    assert!(letters[1].reason.contains("value") && &*letters[0].step == "source");
    assert_eq!(std::fs::read_to_string(&copy).expect("it was written").lines().count(), 2);
}

#[test]
fn the_first_file_of_the_readme_of_every_stream_library() {
    // A hundred events, one every 100 ms, in windows of ten seconds: the typed form of what users come with.
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor
        .from_source(GeneratorSource::new(|n| row(n as i64 * 100, "all", n as f64)).rows(100))
        .with_watermark(Watermark::by_ms(|row: &Row| row.time).delay(Duration::ZERO))
        .window(TumblingWindow::new(seconds(10)))
        .aggregate([count().alias("count"), sum(|row: &Row| row.value).alias("sum")])
        .to_sink(out.clone());
    ended(&mut processor);
    let [window] = &out.rows()[..] else { panic!("there is one window") };
    assert_eq!((window.values["count"], window.values["sum"]), (Number::Integer(100), Number::Real(4950.0)));
}
