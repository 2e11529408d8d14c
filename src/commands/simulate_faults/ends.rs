//! The far ends: servers that are away, hang, take half a parcel, or take all of it and lose the answer; and the model that knows what
//! each must hold.
//!
//! Rows come to an end in the order of the inbox, so what is right is simple: row `n` of the inbox follows row `n − 1`, and carries the
//! number that its source gave after the last one of that source. A gap is a loss, a number that was there is a double.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::clock::{Clock, locked};
use crate::{
    deliver::{Connect, Delivered, Parcel, Progress, Sink, SinkError},
    simulate::Random,
};

/// Rows and results of which an end remembers what they were, to compare them when they come again.
const REMEMBERED: usize = 1 << 18;

/// How an end makes repeating harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the id of each, like MongoDB.
    Upserts,
    /// By comparing sequence numbers, like Redis.
    Compares,
    /// Transactions that carry the cursor, like Kafka.
    Transactions,
    /// Not at all: it must not be asked twice.
    AtMostOnce,
}

/// What is wrong with what arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Wrongs {
    /// Rows and results that were passed over.
    pub lost: u64,
    /// Rows and results that came in twice.
    pub doubled: u64,
    /// Rows that came in before one that their source had numbered lower, and results that changed.
    pub out_of_order: u64,
}

impl Wrongs {
    /// Whether something is.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// What an end holds of one lane.
#[derive(Debug, Default)]
struct Held {
    /// The last number.
    last: u64,
    /// How many.
    count: u64,
    /// What the last of them were.
    recent: VecDeque<u64>,
}

impl Held {
    /// Takes number `seq`, which is `what`; whether it is new.
    fn take(&mut self, seq: u64, what: u64, kind: Kind, wrongs: &mut Wrongs) -> bool {
        if seq <= self.last {
            let back = (self.last - seq) as usize;
            let was = self.recent.len().checked_sub(back + 1).and_then(|place| self.recent.get(place));
            wrongs.out_of_order += u64::from(was.is_some_and(|was| *was != what));
            wrongs.doubled += u64::from(matches!(kind, Kind::Transactions | Kind::AtMostOnce));
            return false;
        }
        let gap = seq - self.last - 1;
        if kind == Kind::AtMostOnce {
            self.recent.clear();
        } else {
            wrongs.lost += gap;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(what);
        (self.last, self.count) = (seq, self.count + 1);
        true
    }
}

/// The state of a server.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    random: Random,
    is_faulty: bool,
    rows: Held,
    results: Held,
    /// The next number of each source, by stream.
    numbers: BTreeMap<Arc<str>, u64>,
    /// What is wrong so far.
    pub wrongs: Wrongs,
    /// The first thing that was wrong, in words.
    pub first_wrong: Option<String>,
    /// Away until then.
    pub away_until_ns: u64,
    /// Takes everything and says nothing until then.
    pub frozen_until_ns: u64,
    /// Answers that were lost after all had been applied.
    pub answers_lost: u64,
    /// Windows by pipeline and start: revision and rows, as fired last.
    pub windows: BTreeMap<(String, String), (u64, u64)>,
    /// Rows reported late, by pipeline.
    pub late: BTreeMap<String, u64>,
    /// Everything that was applied, in order, as one number.
    pub digest: u64,
}

/// What becomes of an attempt.
enum Fate {
    Good,
    LosesAnswer,
    Hangs,
    TakesSome,
    Fails,
}

impl Server {
    /// How many rows and results it holds.
    pub fn counts(&self) -> (u64, u64) {
        (self.rows.count, self.results.count)
    }

    /// The rows in each window of a pipeline, as it fired last.
    pub fn windows_of(&self, pipeline: &str) -> Vec<u64> {
        self.windows.iter().filter(|((of, _), _)| of == pipeline).map(|(_, (_, rows))| *rows).collect()
    }

    fn fate(&mut self, now_ns: u64) -> Fate {
        if now_ns < self.away_until_ns {
            return Fate::Fails;
        }
        if now_ns < self.frozen_until_ns {
            return if self.random.chance(0.5) { Fate::Hangs } else { Fate::LosesAnswer };
        }
        if !self.is_faulty || !self.random.chance(0.03) {
            return Fate::Good;
        }
        match self.random.below(3) {
            0 => Fate::LosesAnswer,
            1 if matches!(self.kind, Kind::Upserts | Kind::Compares) => Fate::TakesSome,
            _ => Fate::Fails,
        }
    }

    fn note(&mut self, what: u64) {
        self.digest = (self.digest ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }

    /// Applies the first `rows_max` rows, and the results if that is all.
    fn apply(&mut self, parcel: &Parcel, rows_max: usize) -> u64 {
        let before = self.wrongs;
        let (mut left, mut repeated) = (rows_max, 0);
        for lot in &parcel.rows {
            let mut expected = self.numbers.get(&lot.batch.stream.id).copied().unwrap_or(0);
            for (row, number) in lot.batch.signals[0].iter().take(left).enumerate() {
                let (seq, number) = (lot.batch.seq(row).0, *number as u64);
                self.note(seq.wrapping_mul(31) ^ number);
                if !self.rows.take(seq, number, self.kind, &mut self.wrongs) {
                    repeated += 1;
                    continue;
                }
                self.wrongs.doubled += u64::from(number < expected);
                self.wrongs.out_of_order += u64::from(number > expected && self.kind != Kind::AtMostOnce);
                expected = expected.max(number + 1);
            }
            left = left.saturating_sub(lot.batch.rows());
            self.numbers.insert(Arc::clone(&lot.batch.stream.id), expected);
        }
        if rows_max == usize::MAX {
            repeated +=
                parcel.results.iter().filter(|result| !self.apply_result(result.seq.0, &result.id, &result.json)).count() as u64;
        }
        if self.wrongs != before && self.first_wrong.is_none() {
            let lots: Vec<_> = parcel
                .rows
                .iter()
                .map(|lot| (&lot.batch.stream.id, lot.batch.first_seq.0, lot.batch.signals[0].first(), lot.batch.rows()))
                .collect();
            let (through, taken) = (parcel.through, rows_max.min(parcel.row_count()));
            self.first_wrong =
                Some(format!("{:?} with {taken} rows of the parcel through {through:?}, {lots:?}: {:?}", self.kind, self.wrongs));
        }
        repeated
    }

    fn apply_result(&mut self, seq: u64, id: &str, json: &[u8]) -> bool {
        let what =
            json.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        self.note(seq ^ what);
        if !self.results.take(seq, what, self.kind, &mut self.wrongs) {
            return false;
        }
        let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        match value["kind"].as_str() {
            Some("window") => {
                let revision = value["revision"].as_u64().unwrap_or(u64::MAX);
                let rows = value["values"]["rows"].as_f64().unwrap_or(-1.0) as u64;
                let known = self.windows.insert((text("pipeline"), text("start")), (revision, rows));
                let follows = known.map_or(0, |(before, _)| before + 1);
                if revision < follows {
                    self.wrongs.doubled += 1;
                }
                if revision > follows && self.kind != Kind::AtMostOnce {
                    self.wrongs.lost += 1;
                }
            }
            Some("late") => *self.late.entry(text("pipeline")).or_default() += 1,
            _ => tracing::debug!(id, "a result of another kind"),
        }
        true
    }
}

/// A far end; a clone is the same one.
#[derive(Debug, Clone)]
pub struct FarEnd {
    /// How it makes repeating harmless.
    pub kind: Kind,
    clock: Clock,
    server: Arc<Mutex<Server>>,
}

impl FarEnd {
    /// One that holds nothing.
    pub fn new(kind: Kind, clock: &Clock, random: Random, is_faulty: bool) -> Self {
        let server = Server {
            kind,
            random,
            is_faulty,
            rows: Held::default(),
            results: Held::default(),
            numbers: BTreeMap::new(),
            wrongs: Wrongs::default(),
            first_wrong: None,
            away_until_ns: 0,
            frozen_until_ns: 0,
            answers_lost: 0,
            windows: BTreeMap::new(),
            late: BTreeMap::new(),
            digest: 0,
        };
        Self { kind, clock: clock.clone(), server: Arc::new(Mutex::new(server)) }
    }

    /// Looks at it, or changes it.
    pub fn server<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut locked(&self.server))
    }

    async fn travel(&self) {
        let took = self.server(|server| 200 + server.random.below(20_000) as u64);
        self.clock.sleep(Duration::from_micros(took)).await;
    }
}

impl Connect for FarEnd {
    type Sink = Self;

    async fn connect(&self) -> Result<(Self, Option<Progress>), SinkError> {
        self.travel().await;
        let now_ns = self.clock.now_ns();
        self.server(|server| {
            if now_ns < server.away_until_ns {
                return Err(SinkError::Retry("connection refused".to_owned()));
            }
            let progress = Progress { rows: crate::model::Seq(server.rows.last), results: crate::model::Seq(server.results.last) };
            Ok((self.clone(), (self.kind == Kind::Transactions).then_some(progress)))
        })
    }
}

impl Sink for FarEnd {
    async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        self.travel().await;
        let now_ns = self.clock.now_ns();
        let fate = self.server(|server| server.fate(now_ns));
        let failed = Err(SinkError::Retry("connection reset".to_owned()));
        let outcome = match fate {
            Fate::Good => {
                let repeated = self.server(|server| server.apply(parcel, usize::MAX));
                let (rows, results) = (parcel.row_count() as u64, parcel.results.len() as u64);
                Ok(Delivered { rows, results, repeated })
            }
            Fate::LosesAnswer => {
                self.server(|server| {
                    server.answers_lost += 1;
                    server.apply(parcel, usize::MAX)
                });
                failed
            }
            Fate::TakesSome => {
                self.server(|server| {
                    let rows = server.random.below(parcel.row_count() + 1);
                    server.apply(parcel, rows)
                });
                failed
            }
            Fate::Hangs => {
                self.clock.sleep(Duration::from_hours(24)).await;
                failed
            }
            Fate::Fails => failed,
        };
        self.travel().await;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrongs(kind: Kind, rows: &[(u64, u64)]) -> Wrongs {
        let (mut held, mut wrongs) = (Held::default(), Wrongs::default());
        for (seq, what) in rows {
            held.take(*seq, *what, kind, &mut wrongs);
        }
        wrongs
    }

    #[test]
    fn a_gap_is_a_loss_and_a_number_that_was_there_a_double() {
        let good = Wrongs::default();
        assert_eq!(wrongs(Kind::Upserts, &[(1, 7), (2, 8), (1, 7), (2, 8), (3, 9)]), good);
        assert_eq!(wrongs(Kind::Upserts, &[(1, 7), (4, 8)]), Wrongs { lost: 2, ..good });
        assert_eq!(wrongs(Kind::Compares, &[(1, 7), (2, 8), (1, 9)]), Wrongs { out_of_order: 1, ..good });
        assert_eq!(wrongs(Kind::Transactions, &[(1, 7), (1, 7)]), Wrongs { doubled: 1, ..good });
        assert_eq!(wrongs(Kind::AtMostOnce, &[(1, 7), (5, 8)]), good);
        assert_eq!(wrongs(Kind::AtMostOnce, &[(1, 7), (1, 7)]), Wrongs { doubled: 1, ..good });
    }
}
