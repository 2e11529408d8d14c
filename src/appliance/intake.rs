//! Parcels into the store: every piece of a parcel is appended, and the parcel is answered once all of it is synced.
//!
//! While the disk budget is nearly full of what some sink still needs, parcels of sources that can wait (MQTT, Kafka, files) wait here, and
//! with them their sources: what the outside can keep costs no row of those that cannot wait.
//!
//! A full queue makes this wait, and with it the one source whose parcels it carries; a source that cannot wait sheds on its own side.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::locked;
use crate::{
    ingest::{
        Accepted, InboxError, Parcel, Pressure,
        decode::{Decoded, Reject},
    },
    model::{Input, Seq},
    store::{self, Append, DeadLetter, StoreError, Writer},
};

/// From one look at whether sources may go on to the next.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The way of rows into the store; cheap to clone.
#[derive(Clone)]
pub struct Intake {
    writer: Writer,
    committed: Arc<watch::Sender<(Seq, Seq)>>,
    /// How often a parcel found no room at once.
    waits: Arc<AtomicU64>,
}

/// A parcel of which some pieces are under way.
struct Pending {
    missing: usize,
    accepted: Accepted,
    failed: Option<StoreError>,
    synced: Option<oneshot::Sender<Result<Accepted, InboxError>>>,
}

impl Pending {
    /// Notes a piece; answers with the last one.
    fn settle(&mut self, outcome: Result<store::Accepted, StoreError>) {
        self.missing -= 1;
        match outcome {
            Ok(piece) => {
                self.accepted.rows += piece.rows + piece.waiting;
                self.accepted.duplicates += piece.duplicates;
            }
            Err(error) => self.failed = Some(error),
        }
        if self.missing > 0 {
            return;
        }
        let answer = match self.failed.take() {
            None => Ok(self.accepted),
            Some(StoreError::Closed) => Err(InboxError::Closed),
            Some(error) => Err(InboxError::Refused(error.to_string())),
        };
        if let Some(synced) = self.synced.take() {
            // A source that has ended meanwhile needs no answer.
            let _ = synced.send(answer);
        }
    }
}

impl Intake {
    pub(super) fn new(writer: Writer, committed: Arc<watch::Sender<(Seq, Seq)>>) -> Self {
        Self { writer, committed, waits: Arc::default() }
    }

    /// How often a source had to wait for room since the start.
    pub(super) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Takes parcels until their source is gone.
    pub(super) async fn run(self, mut parcels: mpsc::Receiver<Parcel>) {
        while let Some(parcel) = parcels.recv().await {
            if parcel.pressure == Pressure::Waits && self.writer.holds_sources() {
                self.waits.fetch_add(1, Ordering::Relaxed);
                while self.writer.holds_sources() {
                    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                }
            }
            self.take(parcel.decoded, parcel.synced).await;
        }
    }

    /// Appends what was decoded; `synced` tells what became of it.
    pub async fn take(&self, decoded: Decoded, synced: oneshot::Sender<Result<Accepted, InboxError>>) {
        let (inputs, rejects) = decoded.into_inputs();
        let dead_letters: Vec<DeadLetter> = rejects.into_iter().map(dead_letter).collect();
        let missing = inputs.len() + usize::from(inputs.is_empty());
        let pending = Pending { missing, accepted: Accepted::default(), failed: None, synced: Some(synced) };
        let pending = Arc::new(Mutex::new(pending));
        let decoded_at = Instant::now();
        let mut inputs = inputs.into_iter();
        // The dead letters go with the first piece, so that they are committed with it.
        self.append(inputs.next(), dead_letters, decoded_at, &pending).await;
        for input in inputs {
            self.append(Some(input), Vec::new(), decoded_at, &pending).await;
        }
    }

    async fn append(
        &self,
        input: Option<Input>,
        dead_letters: Vec<DeadLetter>,
        decoded_at: Instant,
        pending: &Arc<Mutex<Pending>>,
    ) {
        let (pending, committed) = (Arc::clone(pending), Arc::clone(&self.committed));
        let on_synced = move |outcome: Result<store::Accepted, StoreError>| {
            if let Ok(accepted) = &outcome {
                let last = Seq((accepted.first_seq.0 + accepted.rows).saturating_sub(1));
                advance(&committed, last, Seq(0));
            }
            locked(&pending).settle(outcome);
        };
        let mut waiting = match self.writer.try_append(Append { input, dead_letters, decoded_at, on_synced: Box::new(on_synced) }) {
            Ok(()) => return,
            Err(waiting) => waiting,
        };
        self.waits.fetch_add(1, Ordering::Relaxed);
        loop {
            let (waker, woken) = oneshot::channel();
            self.writer.when_room(Box::new(move || {
                let _ = waker.send(());
            }));
            // An error means that the store is gone, which the next attempt answers.
            let _ = woken.await;
            match self.writer.try_again(waiting) {
                Ok(()) => return,
                Err(again) => waiting = again,
            }
        }
    }
}

/// Tells the sinks how far rows and results are committed.
pub(super) fn advance(committed: &watch::Sender<(Seq, Seq)>, rows: Seq, results: Seq) {
    committed.send_if_modified(|seen| {
        let later = (seen.0.max(rows), seen.1.max(results));
        let moved = later != *seen;
        *seen = later;
        moved
    });
}

/// What is kept of refused bytes.
pub(crate) fn dead_letter(reject: Reject) -> DeadLetter {
    DeadLetter {
        source: reject.source,
        partition: reject.partition,
        stream: reject.stream,
        arrival: reject.arrival,
        reason: "undecodable".to_owned(),
        detail: reject.reason,
        raw: reject.raw,
    }
}
