//! Frames of a simulated machine over a real pseudo-terminal with everything that goes wrong on one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use qadf_edge::{
    ingest::{Accepted, Parcel, SerialCodec, SerialConfig, SerialParity, SerialStopBits, SourceKind, SourceState, decode::Routes},
    model::{Batch, Stream, Timestamp},
    simulate::{Outlets, Report, STREAMS, Settings, Simulator},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::Running;

/// The machine's streams.
fn streams() -> Vec<Arc<Stream>> {
    let stream = |info: &qadf_edge::simulate::StreamInfo| {
        let signals: Vec<&str> = info.signals.iter().map(|signal| signal.name).collect();
        Arc::new(Stream::new(info.name, &signals, &["part"]))
    };
    STREAMS.iter().map(stream).collect()
}

fn kind(link: &Path) -> SourceKind {
    let streams = streams();
    SourceKind::Serial(SerialConfig {
        device: link.display().to_string(),
        baud: 921_600,
        parity: SerialParity::None,
        stop_bits: SerialStopBits::One,
        routes: Routes::by_row(&streams, None).expect("the names differ"),
        codec: SerialCodec::Bridge { streams },
    })
}

/// A machine running at a line, and how to end it.
struct Machine {
    end: oneshot::Sender<()>,
    task: JoinHandle<Report>,
}

impl Machine {
    fn start(link: &Path, boot: u32, faults: &str) -> Self {
        let settings = Settings { seed: 7, boot, start: Timestamp(1_700_000_000_000_000_000), ..Settings::default() };
        let settings = Settings { faults: faults.parse().expect("faults"), ..settings }.with_rate_hz(20_000.0);
        let outlets = Outlets { serial: Some(link.to_owned()), mqtt: None };
        let simulator = Simulator::open(settings, &outlets).expect("pseudo-terminals are there");
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let until = async {
                let _ = ended.await;
            };
            simulator.run(until).await.expect("the line stays")
        });
        Self { end, task }
    }

    async fn end(self) -> Report {
        self.end.send(()).expect("the machine runs");
        self.task.await.expect("the machine does not panic")
    }
}

/// The rows that an inbox holds by number, of one boot.
#[derive(Default)]
struct Inbox {
    rows: BTreeSet<i64>,
    duplicates: u64,
    rejects: u64,
    rows_by_stream: BTreeMap<String, u64>,
}

impl Inbox {
    /// How many rows from 0 on are there without a gap.
    fn prefix(&self) -> usize {
        self.rows.iter().zip(0..).take_while(|(seq, place)| *seq == place).count()
    }

    fn take(&mut self, parcel: Parcel) {
        let mut accepted = Accepted::default();
        for batch in &parcel.decoded.batches {
            assert!(batch.is_consistent());
            for row in 0..batch.rows() {
                check(batch, row);
                let seq = batch.origin.as_ref().and_then(|origin| origin.seq[row]).expect("a number");
                let new = self.rows.insert(seq);
                *if new { &mut accepted.rows } else { &mut accepted.duplicates } += 1;
                *self.rows_by_stream.entry(batch.stream.id.to_string()).or_default() += u64::from(new);
            }
        }
        self.duplicates += accepted.duplicates;
        self.rejects += parcel.decoded.rejects.len() as u64;
        parcel.synced.send(Ok(accepted)).expect("the source waits for the answer");
    }
}

/// A row is one of the machine's.
fn check(batch: &Batch, row: usize) {
    assert!(batch.time[row] >= 1_700_000_000_000_000_000);
    assert_eq!(batch.origin.as_ref().and_then(|origin| origin.device.get(row)).map(|device| &**device), Some("1"));
    assert!(batch.position(row).is_some() && batch.layer(row).is_some());
    if let Some(power) = batch.stream.signal("laser_power") {
        let power = batch.value(power, row).expect("a value");
        assert!(power == 0.0 || power > 50.0, "{power}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_a_damaged_and_unplugged_line_arrives_once() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("machine");
    let machine = Machine::start(&link, 1, "crc=0.03,drop=0.02,duplicate=0.02,garbage=0.02,unplug=1s/300ms");
    let mut source = Running::start(kind(&link));
    let mut inbox = Inbox::default();
    while inbox.prefix() < 50_000 || inbox.rejects < 5 {
        let parcel = source.parcel().await;
        inbox.take(parcel);
    }
    assert_eq!(source.status.lost(), 0);
    assert!(inbox.duplicates > 0 && inbox.rows_by_stream.len() == 5);
    let counts = source.status.counts();
    assert_eq!(counts.shed, 0);
    source.end().await;
    let report = machine.end().await.serial.expect("a line");
    assert!(report.unplugged >= 1 && report.faults.crc > 0 && report.faults.drop > 0, "{report:?}");
    assert!(report.rows.acknowledged >= 20_000 && report.rows.overrun == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_not_stored_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("machine");
    let machine = Machine::start(&link, 2, "");
    let mut source = Running::start(kind(&link));
    let mut inbox = Inbox::default();
    let (mut number, mut refused) = (0, None);
    while inbox.prefix() < 20_000 {
        let parcel = source.parcel().await;
        number += 1;
        match number {
            5 => refused = Some(parcel),
            // Dropped without an answer, when others are under way behind it: refused.
            7 => {
                drop(refused.take());
                inbox.take(parcel);
            }
            _ => inbox.take(parcel),
        }
    }
    assert!(inbox.duplicates > 0);
    assert_eq!((source.status.lost(), source.status.counts().shed), (0, 0));
    source.end().await;
    machine.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_synced_while_the_line_is_gone_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("machine");
    let machine = Machine::start(&link, 4, "");
    let mut source = Running::start(kind(&link));
    let mut inbox = Inbox::default();
    let first = source.parcel().await;
    machine.end().await;
    source.until(|status| matches!(status.state(), SourceState::Down { .. })).await;
    inbox.take(first);
    // Although nobody has opened the line again.
    source.until(|status| status.counts().accepted == inbox.rows.len() as u64).await;
    source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_synced_at_the_end_is_acknowledged_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("machine");
    let machine = Machine::start(&link, 3, "");
    let mut source = Running::start(kind(&link));
    let mut inbox = Inbox::default();
    while inbox.rows.len() < 2_000 {
        let parcel = source.parcel().await;
        inbox.take(parcel);
    }
    let first = inbox.rows.len();
    source.end().await;
    // Another host goes on where this one ended.
    let mut source = Running::start(kind(&link));
    while inbox.prefix() < first + 10_000 {
        let parcel = source.parcel().await;
        inbox.take(parcel);
    }
    source.end().await;
    let report = machine.end().await.serial.expect("a line");
    assert_eq!(report.rows.overrun, 0);
    assert!(report.rows.acknowledged <= inbox.rows.len() as u64);
}
