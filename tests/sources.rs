//! Sources against real devices, brokers and files: what comes in is handed on, acknowledged only when synced, and comes again when not.
//!
//! The inbox is played by the test, which decides when something is synced. Everything waits for what it needs, up to [`PATIENCE`].

#[path = "sources/bridge.rs"]
mod bridge;
#[path = "sources/file.rs"]
mod file;
#[path = "sources/kafka.rs"]
mod kafka;
#[path = "sources/modbus.rs"]
mod modbus;
#[path = "sources/mqtt.rs"]
mod mqtt;
#[path = "sources/mqtts.rs"]
mod mqtts;
#[path = "sources/serial.rs"]
mod serial;
mod servers;
#[path = "sources/sparkplug.rs"]
mod sparkplug;

use std::{sync::Arc, time::Duration};

use qadf_edge::{
    ingest::{Accepted, Parcel, SourceConfig, SourceKind, SourceState, SourceStatus, decode::Routes, run},
    model::Stream,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here may take on a busy machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running source and the test's end of its inbox.
struct Running {
    parcels: mpsc::Receiver<Parcel>,
    status: Arc<SourceStatus>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(kind: SourceKind) -> Self {
        let (inbox, parcels) = mpsc::channel(64);
        let (shutdown, end) = watch::channel(false);
        let status = Arc::new(SourceStatus::default());
        let config = SourceConfig { id: "floor".into(), kind };
        let task = tokio::spawn(run(config, inbox, Arc::clone(&status), end));
        Self { parcels, status, shutdown, task }
    }

    /// The next parcel, not yet synced.
    async fn parcel(&mut self) -> Parcel {
        timeout(PATIENCE, self.parcels.recv()).await.expect("a parcel comes in time").expect("the source runs")
    }

    /// Syncs parcels until `rows` rows and rejects came; gives the times of the rows and the reasons of the rejects.
    async fn sync(&mut self, rows: u64) -> (Vec<i64>, Vec<String>) {
        let (mut times, mut reasons) = (Vec::new(), Vec::new());
        while ((times.len() + reasons.len()) as u64) < rows {
            let parcel = self.parcel().await;
            let (more_times, more_reasons) = synced(parcel);
            times.extend(more_times);
            reasons.extend(more_reasons);
        }
        (times, reasons)
    }

    async fn until(&self, what: impl Fn(&SourceStatus) -> bool) {
        let reached = async {
            while !what(&self.status) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("not reached: {:?} {:?}", self.status.state(), self.status.counts()));
    }

    async fn until_up(&self) {
        self.until(|status| matches!(status.state(), SourceState::Up { .. })).await;
    }

    async fn until_down(&self, reason: &str) {
        self.until(|status| matches!(status.state(), SourceState::Down { why, .. } if why.contains(reason))).await;
    }

    /// Ends the source; gives what it handed on without an answer.
    async fn end(mut self) {
        self.shutdown.send_replace(true);
        self.parcels.close();
        while let Some(parcel) = self.parcels.recv().await {
            drop(parcel);
        }
        timeout(PATIENCE, self.task).await.expect("the source ends in time").expect("it does not panic");
        assert_eq!(self.status.state(), SourceState::Ended);
        let counts = self.status.counts();
        assert_eq!(counts.received, counts.accepted + counts.rejected + counts.duplicate + counts.shed);
    }
}

/// Answers a parcel as synced.
fn synced(parcel: Parcel) -> (Vec<i64>, Vec<String>) {
    assert!(parcel.decoded.batches.iter().all(qadf_edge::model::Batch::is_consistent));
    let times = parcel.decoded.batches.iter().flat_map(|batch| batch.time.clone()).collect();
    let reasons = parcel.decoded.rejects.iter().map(|reject| reject.reason.clone()).collect();
    let accepted = Accepted { rows: parcel.decoded.rows(), ..Accepted::default() };
    parcel.synced.send(Ok(accepted)).expect("the source waits for the answer");
    (times, reasons)
}

fn routes() -> Routes {
    Routes::one(&Arc::new(Stream::new("melt", &["intensity"], &["part"]))).expect("the names differ")
}
