//! Stores in directories that go away, and rows that say who they are.

use std::path::Path;
use std::sync::Arc;

use qadf_edge::model::{Batch, Input, Origin, Seq, Stream, TagColumn, Timestamp};
use qadf_edge::store::{Reader, RecordNo, Store, StoreConfig};
use tempfile::TempDir;

pub use self::steps::{output, step};

/// Now, ns since 1970: rows must not be older than the store keeps them.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

pub fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn open(directory: &Path) -> Store {
    Store::open(directory, StoreConfig::default()).unwrap().0
}

/// Rows of `stream` whose signal counts up from `first`.
pub fn rows_of(stream: &str, first: u64, count: usize) -> Batch {
    let stream = Arc::new(Stream::new(stream, &["number"], &["part"]));
    let mut batch = Batch::new(stream, "source".into(), "partition".into(), Timestamp(now()));
    batch.time = (first as i64..).take(count).collect();
    batch.signals[0] = (first..).take(count).map(|number| number as f64).collect();
    batch.tags[0] = TagColumn::constant(Some("a"), count);
    batch
}

pub fn rows(first: u64, count: usize) -> Input {
    Input::Batch(Arc::new(rows_of("s", first, count)))
}

/// The same with numbers of a device.
pub fn numbered(first: u64, count: usize) -> Input {
    let mut batch = rows_of("s", first, count);
    batch.origin = Some(Origin {
        device: TagColumn::constant(Some("device"), count),
        boot: vec![Some(1); count],
        seq: (first as i64..).take(count).map(Some).collect(),
    });
    Input::Batch(Arc::new(batch))
}

/// Every row in the store as (number, signal), after checking that numbers have no gap.
pub fn stored(directory: &Path) -> Vec<(u64, f64)> {
    let mut reader = Reader::open(directory).unwrap();
    let (mut found, mut after) = (Vec::new(), RecordNo(0));
    loop {
        let inputs = reader.inputs_after(after, 10_000).unwrap();
        let Some(last) = inputs.last() else { break };
        after = last.record;
        for input in &inputs {
            if let Input::Batch(batch) = &input.input {
                assert_eq!((batch.first_seq, batch.rows() as u64), (input.first_seq, input.rows));
                found.extend(batch.signals[0].iter().enumerate().map(|(row, value)| (batch.first_seq.0 + row as u64, *value)));
            }
        }
    }
    for pair in found.windows(2) {
        assert_eq!(pair[0].0 + 1, pair[1].0, "rows are numbered without gaps");
    }
    found
}

pub fn seq(number: u64) -> Seq {
    Seq(number)
}

mod steps {
    use qadf_edge::model::Timestamp;
    use qadf_edge::store::{Checkpoint, RecordNo, StepCommit, StepOutput};

    pub fn output(id: &str, pipeline: &str) -> StepOutput {
        StepOutput {
            id: id.to_owned(),
            kind: "window",
            pipeline: pipeline.into(),
            stream: Some("s".into()),
            time: Timestamp(1),
            json: format!("{{\"id\":\"{id}\"}}").into_bytes(),
        }
    }

    pub fn step(through: u64, outputs: Vec<StepOutput>, checkpoint: Option<Checkpoint>) -> StepCommit {
        StepCommit { through: RecordNo(through), outputs, dead_letters: Vec::new(), checkpoint, on_committed: Box::new(|_| {}) }
    }
}
