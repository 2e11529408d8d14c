//! Rows, results and a backlog to deliver.

use std::sync::{Arc, Mutex, MutexGuard};

use qadf_edge::{
    deliver::{
        Backlog, BacklogError, Confirmation, Count, Identity, Lot, Parcel, Progress, ReadLimits, Refusal, ResultRecord, RowLot,
    },
    model::{Batch, Positions, Seq, Stream, Timestamp},
};

pub const STORE: u64 = 0x0123_4567_89ab_cdef;
/// 2026-01-31T12:00:00Z
pub const START_NS: i64 = 1_769_860_800_000_000_000;

/// A name that no other test uses, so that tests may share a server, a user's own too.
pub fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{name}_{}_{}_{}", std::process::id(), now, NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn identity(appliance: &str) -> Identity {
    Identity { appliance: appliance.into(), store: STORE }
}

/// `rows` rows of `stream` from number `first` on; row `n` is `n` ms after the start and has intensity `n`.
pub fn batch(stream: &str, first: u64, rows: usize) -> Arc<Batch> {
    let shape = Arc::new(Stream::new(stream, &["intensity", "laser_power"], &["part", "recipe"]));
    let mut batch = Batch::new(shape, "scan_head".into(), "scan_head".into(), Timestamp(START_NS));
    let numbers: Vec<u64> = (first..).take(rows).collect();
    batch.first_seq = Seq(first);
    batch.time = numbers.iter().map(|n| START_NS + (*n as i64) * 1_000_000 + 7).collect();
    batch.signals = vec![numbers.iter().map(|n| *n as f64).collect(), vec![f64::NAN; rows]];
    for _ in 0..rows {
        batch.tags[0].push(Some("A3"));
        batch.tags[1].push(None);
    }
    batch.positions = Some(Positions { x: vec![1.5; rows], y: vec![-2.0; rows], z: vec![0.03; rows] });
    batch.layer = Some(vec![4; rows]);
    Arc::new(batch)
}

pub fn alert(seq: u64) -> ResultRecord {
    let json = format!(
        r#"{{"kind":"alert","severity":"high","source":"melt_xbar","time":"2026-01-31T12:00:00Z","message":"look {seq}","evidence":{{"n":{seq},"x":1.0}},"id":"alert-{seq}","pipeline":"melt_quality"}}"#
    );
    result(seq, "alert", &json)
}

pub fn window(seq: u64) -> ResultRecord {
    let json = format!(
        r#"{{"kind":"window","window":"melt_1s","start":"2026-01-31T12:00:00Z","end":"2026-01-31T12:00:01Z","key":{{"part":"A3"}},"values":{{"n":{seq},"mean":1.0}},"revision":0,"id":"window-{seq}","pipeline":"melt_quality"}}"#
    );
    result(seq, "window", &json)
}

fn result(seq: u64, kind: &str, json: &str) -> ResultRecord {
    ResultRecord {
        seq: Seq(seq),
        id: format!("{kind}-{seq}").into(),
        kind: kind.into(),
        pipeline: "melt_quality".into(),
        stream: Some("meltpool".into()),
        historical: false,
        json: json.as_bytes().into(),
    }
}

/// Rows `first..first + rows` of one stream, and an alert and a window.
pub fn parcel(first: u64, rows: usize) -> Arc<Parcel> {
    Arc::new(Parcel {
        rows: vec![RowLot { batch: batch("meltpool", first, rows), historical: false }],
        results: vec![alert(first * 2), window(first * 2 + 1)],
        through: Progress { rows: Seq(first + rows as u64 - 1), results: Seq(first * 2 + 1) },
    })
}

/// Every row id from 1 to `last`.
pub fn row_ids(appliance: &str, last: u64) -> Vec<String> {
    (1..=last).map(|seq| identity(appliance).row_id(Seq(seq))).collect()
}

/// Batches and results in memory with a cursor, shared with the test. A clone is the same backlog: what a restarted process finds.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Content>>);

#[derive(Default)]
pub struct Content {
    pub batches: Vec<Arc<Batch>>,
    pub results: Vec<ResultRecord>,
    pub cursor: Progress,
    pub confirmed: Vec<Confirmation>,
    pub refusals: Vec<Refusal>,
    /// Whether confirmations get lost, as in a crash before the store has written them.
    pub forgetful: bool,
}

impl Memory {
    /// `rows` rows in batches of `a_batch`, and a window for each batch.
    pub fn of(rows: u64, a_batch: u64) -> Self {
        let memory = Self::default();
        for (index, first) in (1..=rows).step_by(a_batch as usize).enumerate() {
            let length = a_batch.min(rows + 1 - first);
            memory.content().batches.push(batch("meltpool", first, length as usize));
            memory.content().results.push(window(index as u64 + 1));
        }
        memory
    }

    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no test panics while it holds this")
    }

    /// The last row and result.
    pub fn head(&self) -> (Seq, Seq) {
        let content = self.content();
        let rows = content.batches.last().map_or(0, |batch| batch.first_seq.0 + batch.rows() as u64 - 1);
        (Seq(rows), content.results.last().map_or(Seq(0), |result| result.seq))
    }
}

impl Backlog for Memory {
    fn cursor(&mut self) -> Result<Progress, BacklogError> {
        Ok(self.content().cursor)
    }

    fn read(&mut self, after: Progress, limits: ReadLimits) -> Result<Lot, BacklogError> {
        let content = self.content();
        let mut lot = Lot { parcel: Parcel { through: after, ..Parcel::default() }, full: false };
        let mut rows = 0;
        for batch in content.batches.iter().filter(|batch| batch.first_seq > after.rows) {
            if rows + batch.rows() > limits.rows {
                lot.full = true;
                break;
            }
            rows += batch.rows();
            lot.parcel.rows.push(RowLot { batch: Arc::clone(batch), historical: false });
            lot.parcel.through.rows = Seq(batch.first_seq.0 + batch.rows() as u64 - 1);
        }
        for result in content.results.iter().filter(|result| result.seq > after.results).take(limits.results) {
            lot.parcel.results.push(result.clone());
            lot.parcel.through.results = result.seq;
        }
        lot.full |= lot.parcel.results.len() == limits.results;
        Ok(lot)
    }

    fn confirm(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        let mut content = self.content();
        if !content.forgetful {
            content.cursor = done.through;
            content.confirmed.push(done);
        }
        Ok(())
    }

    fn confirm_durably(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        self.confirm(done)
    }

    fn catch_up(&mut self, cursor: Progress, through: Progress) -> Result<Count, BacklogError> {
        let mut content = self.content();
        if !content.forgetful {
            content.cursor = through;
        }
        Ok(Count { rows: through.rows.0 - cursor.rows.0, results: through.results.0 - cursor.results.0 })
    }

    fn reject(&mut self, refusals: Vec<Refusal>) -> Result<(), BacklogError> {
        self.content().refusals.extend(refusals);
        Ok(())
    }
}
