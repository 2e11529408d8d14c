//! What arrived, held against what was sent: lost, doubled, out of order, for every stream at every far end.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
    fs,
    path::PathBuf,
};

use redis::streams::StreamRangeReply;
use serde_json::Value;

use crate::{
    ends::{self, Stored},
    oracle::{POSTED, PUBLISHED},
    process::Site,
    servers::Server,
    tap::Tap,
};

/// What Redis keeps of a stream.
pub const RECENT_ROWS: usize = 500;
/// The streams of the simulated machine, with their signals.
pub const MACHINE_STREAMS: [(&str, &str); 5] = [
    ("acoustic", "{ amplitude = \"V\" }"),
    ("optical", "{ intensity = \"V\", laser_power = \"W\" }"),
    ("thermal", "{ temperature = \"Cel\" }"),
    ("plume", "{ area = \"mm2\" }"),
    ("strain", "{ strain = \"um/m\" }"),
];

/// The file that the sink `lines` writes.
pub fn lines_path(site: &Site) -> PathBuf {
    site.folder().join("lines.jsonl")
}

/// What is wrong with a stream's numbers at a far end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    rows: usize,
    lost: usize,
    doubled: usize,
    out_of_order: usize,
    /// After a higher number that the broker itself had sent first.
    overtaken_at_the_broker: usize,
}

impl Count {
    /// `numbers` as they arrived, of those from `first` to `last`; `given` says whether the first of two numbers was given before the second.
    fn of(numbers: &[u64], first: u64, last: u64, given: impl Fn(u64, u64) -> bool) -> Self {
        let mut seen = HashSet::new();
        let mut count = Self { rows: numbers.len(), ..Self::default() };
        let mut highest = 0;
        for number in numbers {
            if !seen.insert(*number) {
                count.doubled += 1;
            } else if *number < highest {
                *(if given(highest, *number) { &mut count.overtaken_at_the_broker } else { &mut count.out_of_order }) += 1;
            }
            highest = highest.max(*number);
        }
        count.lost = (first..=last).filter(|number| !seen.contains(number)).count();
        count
    }

    fn is_good(self) -> bool {
        (self.lost, self.doubled, self.out_of_order) == (0, 0, 0)
    }
}

/// By stream, the numbers as they arrived.
type Arrived = BTreeMap<String, Vec<u64>>;

/// Where to look.
pub struct Ends<'a> {
    pub site: &'a Site,
    pub cache: &'a Server,
    pub archive: &'a Server,
    pub log: &'a Server,
    pub tap: &'a Tap,
}

impl Ends<'_> {
    /// Counts everywhere; fails unless all counts are 0. The machine has been told of `acknowledged` rows. Gives how many rows there are.
    pub fn check(&self, sent: &[(&'static str, u64)], acknowledged: u64) -> usize {
        let mut store = self.site.store();
        let prefix = format!("{}-{:016x}-", self.site.id, store.identity().expect("the store is readable"));
        let rows = ends::stored(&mut store);
        let place = |id: &str| id.strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok());
        let number = |id: &str| place(id).and_then(|place| rows.get(&place)).and_then(number_of);

        let mut journal = Arrived::new();
        for row in rows.values() {
            journal.entry(row.stream.clone()).or_default().push(number_of(row).expect("every row is numbered"));
        }
        let mut kafka = Arrived::new();
        for record in ends::kafka(self.log, &self.site.id).iter().filter(|record| record.kind == "row") {
            let number = own_number(&record.value).or_else(|| number(&record.id)).expect("a row that was sent");
            kafka.entry(record.key.clone()).or_default().push(number);
        }
        let mut documents: Vec<_> = ends::mongodb(self.archive, &self.site.id, "stream_data")
            .into_iter()
            .map(|document| {
                let id = document.get_str("_id").expect("text").to_owned();
                let own = document.get("n").and_then(mongodb::bson::Bson::as_f64).map(|number| number as u64);
                let number = own.or_else(|| number(&id)).expect("a row that was sent");
                (place(&id), document.get_str("stream").expect("text").to_owned(), number)
            })
            .collect();
        documents.sort_unstable();
        let mut archive = Arrived::new();
        documents.into_iter().for_each(|(_, stream, number)| archive.entry(stream).or_default().push(number));
        let mut lines = Arrived::new();
        for line in fs::read_to_string(lines_path(self.site)).expect("the sink made it").lines() {
            let value: Value = serde_json::from_str(line).expect("a line is JSON");
            if value["kind"] == "row" {
                let number = own_number(&value).or_else(|| number(value["id"].as_str()?)).expect("a row that was sent");
                lines.entry(value["stream"].as_str().expect("text").to_owned()).or_default().push(number);
            }
        }

        let mut report = String::new();
        let mut good = true;
        for (end, arrived) in [("journal", &journal), ("kafka", &kafka), ("mongodb", &archive), ("file", &lines)] {
            for (stream, count) in count(arrived, &journal, sent, acknowledged, self.tap) {
                good &= count.is_good();
                let _ = writeln!(report, "{end:8} {stream:10} {count:?}");
            }
        }
        for (stream, count) in self.recent(&journal, number) {
            good &= count.is_good();
            let _ = writeln!(report, "{:8} {stream:10} {count:?}", "redis");
        }
        if crate::from_environment("QADF_VERBOSE").is_some() {
            eprint!("{report}");
        }
        assert!(good, "lost, doubled or out of order:\n{report}");
        ends::check_everything_arrived_once(self.site, self.archive, self.log);
        self.check_windows(sent);
        rows.len()
    }

    /// The tail of every stream in Redis, which must be whole up to the last row.
    fn recent(&self, journal: &Arrived, number: impl Fn(&str) -> Option<u64>) -> Vec<(String, Count)> {
        let mut cache = ends::redis(self.cache);
        let mut counts = Vec::new();
        for (stream, all) in journal {
            let key = format!("qadf:{}:{stream}:recent", self.site.id);
            let reply: StreamRangeReply = redis::Commands::xrange_all(&mut cache, key).expect("a stream");
            let entries = reply.ids.iter().map(|entry| entry.get::<String>("id").expect("every entry has it"));
            let numbers: Vec<u64> = entries.map(|id| number(&id).expect("a row that was sent")).collect();
            let tail = &all[all.len().saturating_sub(numbers.len())..];
            // What Redis held when it was killed is gone with it, and it keeps `RECENT_ROWS` at least of the rest.
            let mut count = Count::of(&numbers, 1, 0, |first, then| self.tap.sent_before(stream, first, then));
            count.lost = tail.iter().filter(|number| !numbers.contains(number)).count() + usize::from(numbers.is_empty());
            counts.push((stream.clone(), count));
        }
        counts
    }

    /// Every row is in exactly one window, as it fired last, or is reported late: by number and by sum. No firing is there twice.
    fn check_windows(&self, sent: &[(&'static str, u64)]) {
        let records = ends::kafka(self.log, &self.site.id);
        for (stream, last) in sent {
            let (mut windows, mut late) = (BTreeMap::new(), Vec::new());
            let pipeline = format!("{stream}_counts");
            for value in records.iter().filter(|record| record.key == pipeline).map(|record| &record.value) {
                match value["kind"].as_str() {
                    Some("window") => {
                        let revision = value["revision"].as_u64().expect("a number");
                        let firings: &mut Vec<_> = windows.entry(value["start"].to_string()).or_default();
                        assert_eq!(firings.len() as u64, revision, "revisions follow each other: {value}");
                        let values = &value["values"];
                        firings.push((values["rows"].as_u64().expect("a count"), values["sum"].as_f64().expect("a sum")));
                    }
                    Some("late") => late.push((1, value["row"]["n"].as_f64().expect("the row"))),
                    _ => {}
                }
            }
            let counted = windows.values().filter_map(|firings| firings.last()).chain(&late);
            let (rows, sum) = counted.fold((0, 0.0), |(rows, sum), (more, value)| (rows + more, sum + value));
            eprintln!("windows  {stream:10} {} windows, {} late, {rows} rows", windows.len(), late.len());
            assert_eq!((rows, sum), (*last, (*last * (*last + 1) / 2) as f64), "{stream}: rows in windows or late");
        }
    }
}

/// What a row of the oracle says of itself.
fn own_number(value: &Value) -> Option<u64> {
    value["n"].as_f64().map(|number| number as u64)
}

/// The oracle's number, or that of the machine.
fn number_of(row: &Stored) -> Option<u64> {
    let is_of_oracle = row.stream == POSTED || PUBLISHED.iter().any(|(stream, _)| *stream == row.stream);
    if is_of_oracle { row.first_value.map(|number| number as u64) } else { row.number.as_ref().map(|(_, _, seq)| *seq as u64) }
}

/// The oracle's streams each from 1 to the last sent; the machine's streams each in order, and together from 0 to the last in the
/// journal, or the last that was acknowledged if that is later.
fn count(arrived: &Arrived, journal: &Arrived, sent: &[(&'static str, u64)], acknowledged: u64, tap: &Tap) -> Vec<(String, Count)> {
    let numbers = |stream: &str| arrived.get(stream).map_or(&[][..], Vec::as_slice);
    let of_oracle = |(stream, last): &(&'static str, u64)| {
        let count = Count::of(numbers(stream), 1, *last, |first, then| tap.sent_before(stream, first, then));
        ((*stream).to_owned(), count)
    };
    let never = |_, _| false;
    let mut counts: Vec<_> = sent.iter().map(of_oracle).collect();
    let machine = |arrived: &Arrived| -> Vec<u64> {
        MACHINE_STREAMS.iter().filter_map(|(stream, _)| arrived.get(*stream)).flatten().copied().collect()
    };
    let last = machine(journal).into_iter().max().unwrap_or(0).max(acknowledged.saturating_sub(1));
    let mut all = machine(arrived);
    all.sort_unstable();
    counts.push(("machine".to_owned(), Count::of(&all, 0, last, never)));
    for (stream, _) in MACHINE_STREAMS {
        counts.push((stream.to_owned(), Count::of(numbers(stream), 1, 0, never)));
    }
    counts
}

#[test]
fn the_verdict_counts_what_is_wrong() {
    let count = |numbers: &[u64]| {
        let Count { lost, doubled, out_of_order, overtaken_at_the_broker, .. } =
            Count::of(numbers, 1, 4, |first, then| (first, then) == (4, 3));
        (lost, doubled, out_of_order + 10 * overtaken_at_the_broker)
    };
    assert_eq!(count(&[1, 2, 3, 4]), (0, 0, 0));
    assert_eq!(count(&[1, 3, 4]), (1, 0, 0));
    assert_eq!(count(&[1, 2, 2, 3, 4, 1]), (0, 2, 0));
    assert_eq!(count(&[1, 3, 2, 4]), (0, 0, 1));
    assert_eq!(count(&[1, 2, 4, 3]), (0, 0, 10));
    assert_eq!(count(&[1, 4, 2, 3]), (0, 0, 11));
}
