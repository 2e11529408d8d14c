//! What is handed to a typed processor and taken out of it: operators of one's own, outlets, recent rows, and batches by themselves.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use qadf_edge::{
    model::Timestamp,
    processor::{
        BatchError, BatchStatistics, Batches, MemorySink, MemorySource, Operator, ProcessorError, RecentSink, Status, StreamConfig,
        StreamProcessor, TumblingWindow, Watermark, channel, count, outlet, sum,
    },
};

const PATIENCE: Option<Duration> = Some(Duration::from_mins(2));
const LONG: Duration = Duration::from_mins(2);

/// An event as those libraries have it.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: String,
    at: f64,
    kind: &'static str,
    amount: f64,
    key: Option<String>,
    metadata: BTreeMap<&'static str, String>,
}

fn event(n: i32) -> Event {
    let amount = 50.0 + 25.0 * f64::from(n);
    let key = Some(format!("user-{}", n % 3));
    Event { id: format!("event_{n}"), at: 1000.0 + f64::from(n), kind: "purchase", amount, key, metadata: BTreeMap::new() }
}

/// Marks what is of high value; refuses what has no key.
struct Enrich {
    seen: u64,
}

impl Operator<Event> for Enrich {
    type Out = Event;

    fn process(&mut self, mut event: Event) -> Result<Option<Event>, String> {
        if event.key.is_none() {
            return Err(format!("{} has no key", event.id));
        }
        self.seen += 1;
        event.id = format!("enriched_{}", event.id);
        event.metadata.insert("is_high_value", (event.amount > 300.0).to_string());
        event.metadata.insert("number", self.seen.to_string());
        Ok(Some(event))
    }

    fn save(&self) -> Vec<u8> {
        self.seen.to_le_bytes().to_vec()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        self.seen = u64::from_le_bytes(state.try_into().map_err(|_| "a state of another operator")?);
        Ok(())
    }
}

fn ended(processor: &StreamProcessor) {
    assert!(processor.await_termination(PATIENCE));
    assert_eq!(processor.error(), None);
}

#[test]
fn of_twenty_events_the_seventeen_above_a_hundred_come_out_enriched() {
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor
        .from_source(MemorySource::new((0..20).map(event)))
        .filter(|event| event.amount > 100.0)
        .operator("enrich", Enrich { seen: 0 })
        .to_sink(out.clone());
    processor.start().expect("it starts");
    ended(&processor);
    let rows = out.rows();
    let ids: Vec<&str> = rows.iter().map(|event| &*event.id).collect();
    let expected: Vec<String> = (3..20).map(|n| format!("enriched_event_{n}")).collect();
    assert_eq!(ids, expected);
    for (n, row) in (3..).zip(&rows) {
        let before = event(n);
        assert_eq!((row.at, row.kind, row.key.as_ref()), (before.at, before.kind, before.key.as_ref()));
        assert_eq!(row.metadata["is_high_value"], (row.amount > 300.0).to_string());
    }
    let metrics = processor.metrics();
    let steps: Vec<_> = metrics.steps.iter().map(|step| (&*step.name, step.rows_in, step.rows_out, step.failed)).collect();
    assert_eq!(steps, [("filter", 20, 17, 0), ("enrich", 17, 17, 0), ("sink", 17, 17, 0)]);
    assert_eq!((metrics.records_processed, metrics.failed_records), (20, 0), "what a filter leaves out has not failed");
}

#[test]
fn an_operator_that_refuses_a_row_goes_on_with_the_next_and_keeps_its_state_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |rows: Vec<Event>| {
        let out = MemorySink::new();
        let mut processor = StreamProcessor::new(StreamConfig::default().checkpoint_dir(folder.path()));
        processor.from_source(MemorySource::new(rows)).operator("enrich", Enrich { seen: 0 }).to_sink(out.clone());
        processor.start().expect("it starts");
        ended(&processor);
        let numbers: Vec<String> = out.rows().iter().map(|event| event.metadata["number"].clone()).collect();
        (numbers, processor.metrics().steps[0].failed, processor.dead_letters())
    };
    let rows: Vec<Event> = (0..4).map(|n| Event { key: Some("k".to_owned()).filter(|_| n != 1), ..event(n) }).collect();
    let (numbers, failed, letters) = run(rows.clone());
    assert_eq!((numbers, failed), (vec!["1".into(), "2".into(), "3".into()], 1));
    assert_eq!((&*letters[0].step, &*letters[0].reason), ("enrich", "event_1 has no key"));
    // The same rows and two more: those before are not asked for again, and the numbers go on.
    let more: Vec<Event> = rows.into_iter().chain((4..6).map(event)).collect();
    assert_eq!(run(more).0, ["4", "5"]);
}

#[test]
fn rows_are_taken_out_one_by_one_and_a_full_outlet_holds_the_source_back() {
    let (emitter, source) = channel(2);
    let (sink, out) = outlet(2);
    let mut processor = StreamProcessor::new(StreamConfig::default().max_records_per_batch(1));
    processor.from_source(source).map(|n: u64| n * n).to_sink(sink);
    processor.start().expect("it starts");
    assert_eq!(out.next(Duration::from_millis(1)), None, "nothing has come in");
    let producer = thread::spawn(move || (0..100).for_each(|n| emitter.emit(n).expect("it runs")));
    let taken: Vec<u64> = (0..100).filter_map(|_| out.next(LONG)).collect();
    assert_eq!(taken, (0..100).map(|n| n * n).collect::<Vec<_>>());
    producer.join().expect("it emits");
    ended(&processor);
    assert_eq!(out.next(Duration::ZERO), None);

    let (sink, out) = outlet(1);
    drop(out);
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(MemorySource::new([1])).to_sink(sink);
    processor.start().expect("it starts");
    assert!(processor.await_termination(PATIENCE));
    assert_eq!(processor.status(), Status::Failed);
    assert_eq!(processor.error(), Some(ProcessorError::Failed("the outlet is gone".into())));
}

#[test]
fn the_newest_rows_are_looked_at_by_count_by_time_and_by_key() {
    let recent = RecentSink::new(10_000, |row: &(i64, Option<&str>)| Timestamp(row.0));
    let key = |n: i64| ["a", "b", "c"].get(n as usize % 4).copied();
    let mut processor = StreamProcessor::new(StreamConfig::default());
    processor.from_source(MemorySource::new((0..20_000).map(move |n| (n, key(n))))).to_sink(recent.clone());
    processor.start().expect("it starts");
    ended(&processor);
    assert_eq!(recent.newest(2), [(19_998, Some("c")), (19_999, None)]);
    assert_eq!((recent.newest(0).len(), recent.newest(usize::MAX).len()), (0, 10_000));
    let times: Vec<i64> = recent.within(Timestamp(0), Timestamp(10_002)).iter().map(|row| row.0).collect();
    assert_eq!(times, [10_000, 10_001, 10_002], "both ends are included, and older rows are gone");
    let counts = recent.count_by(1000, |row| row.1.unwrap_or("unknown"));
    assert_eq!(counts, BTreeMap::from([("a", 250), ("b", 250), ("c", 250), ("unknown", 250)]));
    let groups = recent.group_by(5, |row| row.1);
    assert_eq!(groups[&Some("c")], [(19_998, Some("c"))]);
    assert_eq!(groups[&None], [(19_995, None), (19_999, None)]);
}

#[test]
fn six_producers_into_one_stream_are_six_keys_of_its_windows() {
    let (emitter, source) = channel(16);
    let out = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(2));
    processor
        .from_source(source)
        // A producer may be ahead of the others by all it has.
        .with_watermark(Watermark::by_ms(|row: &(i64, Arc<str>)| row.0).delay(Duration::from_secs(100)))
        .window(TumblingWindow::new(Duration::from_secs(10)))
        .group_by("instance", |row| &row.1)
        .aggregate([count().alias("count"), sum(|row: &(i64, Arc<str>)| row.0).alias("sum")])
        .map(|window| (window.tag("instance").map(str::to_owned), window.start.0, window.integer("count")))
        .to_sink(out.clone());
    processor.start().expect("it starts");
    let producers: Vec<_> = (1..=6)
        .map(|instance| {
            let emitter = emitter.clone();
            let name: Arc<str> = format!("instance-{instance}").into();
            thread::spawn(move || (0..200).for_each(|n| emitter.emit((n * 100, Arc::clone(&name))).expect("it runs")))
        })
        .collect();
    drop(emitter);
    producers.into_iter().for_each(|producer| producer.join().expect("it emits"));
    ended(&processor);
    let expected: Vec<_> = [0, 10_000_000_000]
        .into_iter()
        .flat_map(|start| (1..=6).map(move |instance| (Some(format!("instance-{instance}")), start, Some(100))))
        .collect();
    assert_eq!(out.rows(), expected);
    assert_eq!(processor.metrics().late_records, 0);
}

#[expect(clippy::unnecessary_wraps, reason = "a function of a batch may refuse it")]
fn doubled(rows: Vec<i64>) -> Result<Vec<i64>, String> {
    Ok(rows.into_iter().map(|row| row * 2).collect())
}

fn positive(rows: Vec<i64>) -> Result<Vec<i64>, String> {
    match rows.iter().find(|row| **row < 0) {
        Some(row) => Err(format!("{row} is negative")),
        None => Ok(rows),
    }
}

#[test]
fn functions_run_in_the_order_they_were_registered_and_each_registry_by_itself() {
    let (mut first, mut second) = (Batches::new(), Batches::new());
    first.register("double", doubled).register("add", |rows| Ok(rows.into_iter().map(|row| row + 10).collect()));
    second.register("add", |rows: Vec<i64>| Ok(rows.into_iter().map(|row| row + 1).collect()));
    assert_eq!(first.process(vec![1, 2, 3]).expect("it passes").rows, [12, 14, 16]);
    assert_eq!(second.process(vec![1, 2, 3]).expect("it passes").rows, [2, 3, 4]);
    // The last one of a name wins, in the place of the first.
    first.register("double", |rows| Ok(rows.into_iter().map(|row| row * 3).collect()));
    assert_eq!(first.names().collect::<Vec<_>>(), ["double", "add"]);
    assert_eq!(first.process(vec![1]).expect("it passes").rows, [13]);
    assert!(first.unregister("double") && !first.unregister("double"));
    assert_eq!(first.process(vec![1]).expect("it passes").rows, [11]);
    assert_eq!((first.statistics().batches, second.statistics().batches), (3, 1));
}

#[test]
fn batches_on_several_threads_keep_their_order_and_one_refusal_is_one_error() {
    let mut batches = Batches::new();
    batches.register("positive", positive).register("double", doubled);
    let all: Vec<Vec<i64>> = (0..100).map(|n| vec![if n == 41 { -1 } else { n }; 1 + n as usize % 7]).collect();
    let alone = batches.process_all(all.clone(), 1);
    let together = batches.process_all(all.clone(), 4);
    assert_eq!(together.len(), 100);
    for (at, (alone, together)) in alone.iter().zip(&together).enumerate() {
        match together {
            Ok(made) => {
                assert_eq!((made.rows_in, &made.rows), (all[at].len(), &vec![2 * at as i64; all[at].len()]));
                assert_eq!(alone.as_ref().map(|made| &made.rows).ok(), Some(&made.rows));
            }
            Err(error) => {
                assert_eq!(*error, BatchError { function: "positive".into(), reason: "-1 is negative".into() });
                assert_eq!((at, alone), (41, together));
            }
        }
    }
    let statistics = batches.statistics();
    let rows: usize = all.iter().enumerate().filter(|(at, _)| *at != 41).map(|(_, rows)| rows.len()).sum();
    assert_eq!((statistics.batches, statistics.rows, statistics.errors), (198, 2 * rows as u64, 2));
    assert!(statistics.shortest <= statistics.mean() && statistics.mean() <= statistics.longest);
    assert!(statistics.span > Duration::ZERO && statistics.rows_per_second() > 0.0);
    batches.reset();
    assert_eq!((batches.statistics(), batches.names().count()), (BatchStatistics::default(), 2));
    assert!(batches.process_all(Vec::new(), 4).is_empty());
}
