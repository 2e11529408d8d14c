//! The way out of a source: parcels under way, and what to acknowledge when each is synced.

use std::{collections::VecDeque, future, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use super::{Accepted, InboxError, Parcel, Pressure, SourceStatus, decode::Decoded};

/// Most parcels of a source under way at a time.
const PARCELS_MAX: usize = 256;
/// Most rows of a source under way at a time. Half of the 65,536 rows of a device that are remembered, so that everything that comes again after
/// a crash is recognised.
pub(super) const ROWS_MAX: u64 = 32_768;
/// How long a source waits at its end for what is under way; the rest comes again, as after a crash.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Hands parcels on, each with receipts `R` that come back once it is synced, in order.
#[derive(Debug)]
pub(super) struct Outlet<R> {
    source: Arc<str>,
    inbox: mpsc::Sender<Parcel>,
    status: Arc<SourceStatus>,
    under_way: VecDeque<UnderWay<R>>,
    rows_under_way: u64,
    /// What a source that cannot wait has read, but found no room for yet.
    pending: Decoded,
    pending_receipts: Vec<R>,
}

#[derive(Debug)]
struct UnderWay<R> {
    answer: oneshot::Receiver<Result<Accepted, InboxError>>,
    rows: u64,
    rejected: u64,
    pressure: Pressure,
    receipts: Vec<R>,
}

/// What a parcel came to.
type Answer = Result<Accepted, InboxError>;

impl<R> Outlet<R> {
    pub fn new(source: Arc<str>, inbox: mpsc::Sender<Parcel>, status: Arc<SourceStatus>) -> Self {
        Self {
            source,
            inbox,
            status,
            under_way: VecDeque::new(),
            rows_under_way: 0,
            pending: Decoded::default(),
            pending_receipts: Vec::new(),
        }
    }

    /// Whether another parcel may be handed on.
    pub fn has_room(&self) -> bool {
        self.under_way.len() < PARCELS_MAX && self.rows_under_way < ROWS_MAX
    }

    /// Whether nothing is under way and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.pending.is_empty()
    }

    /// Hands on what a source that can wait has read; waits for room in the channel.
    pub async fn hand_on(&mut self, decoded: Decoded, receipts: Vec<R>) -> Result<(), InboxError> {
        let place = self.inbox.clone().reserve_owned().await.map_err(|_| InboxError::Closed)?;
        place.send(self.parcel(decoded, Pressure::Waits, receipts));
        Ok(())
    }

    /// Hands on what a source that cannot wait has read. What finds no room in the channel waits here, up to [`ROWS_MAX`] rows; beyond, it is
    /// shed and counted, and its receipts are dropped.
    pub fn offer(&mut self, decoded: Decoded, receipts: Vec<R>) -> Result<(), InboxError> {
        if self.pending.received() + decoded.received() > ROWS_MAX {
            self.status.shed(decoded.received());
            return Ok(());
        }
        self.pending.append(decoded);
        self.pending_receipts.extend(receipts);
        if !self.can_flush() {
            return Ok(());
        }
        match self.inbox.clone().try_reserve_owned() {
            Ok(place) => self.flush(place),
            Err(mpsc::error::TrySendError::Full(_)) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(InboxError::Closed),
        }
        Ok(())
    }

    /// The receipts of the oldest parcel, once it is synced; never resolves while none is under way. Meanwhile hands on what waits here. May be
    /// dropped and called again.
    pub async fn next_synced(&mut self) -> Result<Vec<R>, InboxError> {
        let answer = loop {
            if !self.can_flush() {
                break oldest(&mut self.under_way).await;
            }
            tokio::select! {
                place = self.inbox.clone().reserve_owned() => match place {
                    Ok(place) => self.flush(place),
                    Err(_) => return Err(InboxError::Closed),
                },
                answer = oldest(&mut self.under_way) => break answer,
            }
        };
        let Some(oldest) = self.under_way.pop_front() else { return future::pending().await };
        self.rows_under_way -= oldest.rows;
        if answer.is_err() && oldest.pressure == Pressure::Sheds {
            self.status.shed(oldest.rows + oldest.rejected);
        }
        self.status.synced(answer?, oldest.rejected);
        Ok(oldest.receipts)
    }

    /// Forgets what is under way: its receipts are worth nothing any more, its rows come again.
    pub fn forget(&mut self) {
        self.under_way.clear();
        self.rows_under_way = 0;
    }

    /// When draining ends: what is not synced by then is not acknowledged, and comes again.
    pub fn drain_deadline() -> time::Instant {
        time::Instant::now() + DRAIN_TIME_MAX
    }

    /// The receipts of the oldest parcel; `None` = nothing is under way any more, or it takes too long.
    pub async fn drain(&mut self, deadline: time::Instant) -> Option<Vec<R>> {
        if self.is_idle() {
            return None;
        }
        time::timeout_at(deadline, self.next_synced()).await.ok()?.ok()
    }

    fn can_flush(&self) -> bool {
        !self.pending.is_empty() && self.has_room()
    }

    fn flush(&mut self, place: mpsc::OwnedPermit<Parcel>) {
        let (decoded, receipts) = (mem::take(&mut self.pending), mem::take(&mut self.pending_receipts));
        place.send(self.parcel(decoded, Pressure::Sheds, receipts));
    }

    fn parcel(&mut self, decoded: Decoded, pressure: Pressure, receipts: Vec<R>) -> Parcel {
        let (synced, answer) = oneshot::channel();
        let (rows, rejected) = (decoded.rows(), decoded.rejects.len() as u64);
        self.rows_under_way += rows;
        self.under_way.push_back(UnderWay { answer, rows, rejected, pressure, receipts });
        Parcel { source: Arc::clone(&self.source), decoded, pressure, synced }
    }
}

/// The answer to the oldest parcel; it stays where it is.
async fn oldest<R>(under_way: &mut VecDeque<UnderWay<R>>) -> Answer {
    match under_way.front_mut() {
        Some(oldest) => (&mut oldest.answer).await.unwrap_or_else(|_| Err(InboxError::Refused("no answer".into()))),
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::decode::{Context, Json, Routes};
    use crate::model::{Stream, Timestamp};

    fn rows(count: usize) -> Decoded {
        let mut decoded = Decoded::default();
        let routes = Routes::one(&Arc::new(Stream::new("a", &[], &[]))).unwrap();
        let context = Context::new("s".into(), "p".into(), Timestamp(0));
        Json::new(routes).message(format!("[{}{{}}]", "{\"time\":1},".repeat(count)).as_bytes(), &context, &mut decoded);
        decoded
    }

    fn outlet(capacity: usize) -> (Outlet<u32>, mpsc::Receiver<Parcel>, Arc<SourceStatus>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let status = Arc::new(SourceStatus::default());
        (Outlet::new("s".into(), sender, Arc::clone(&status)), receiver, status)
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is an answer")]
    fn all(parcel: &Parcel) -> Answer {
        Ok(Accepted { rows: parcel.decoded.rows(), ..Accepted::default() })
    }

    #[tokio::test]
    async fn receipts_come_back_in_order_whatever_is_synced_first() {
        let (mut outlet, mut inbox, status) = outlet(8);
        outlet.hand_on(rows(1), vec![1]).await.unwrap();
        outlet.hand_on(rows(2), vec![2]).await.unwrap();
        let (first, second) = (inbox.recv().await.unwrap(), inbox.recv().await.unwrap());
        let answer = all(&second);
        second.synced.send(answer).unwrap();
        assert!(futures_util::FutureExt::now_or_never(outlet.next_synced()).is_none());
        assert_eq!(status.counts().received, 0);
        let answer = all(&first);
        first.synced.send(answer).unwrap();
        assert_eq!(outlet.next_synced().await, Ok(vec![1]));
        assert_eq!(outlet.next_synced().await, Ok(vec![2]));
        assert_eq!((status.counts().accepted, status.counts().rejected, status.counts().received), (3, 2, 5));
    }

    #[tokio::test]
    async fn a_parcel_without_an_answer_is_refused() {
        let (mut outlet, mut inbox, status) = outlet(8);
        outlet.hand_on(rows(1), vec![1]).await.unwrap();
        drop(inbox.recv().await);
        assert!(matches!(outlet.next_synced().await, Err(InboxError::Refused(_))));
        assert_eq!(status.counts().received, 0);
        drop(inbox);
        assert_eq!(outlet.hand_on(rows(1), vec![2]).await, Err(InboxError::Closed));
    }

    #[tokio::test]
    async fn a_source_that_cannot_wait_sheds_what_finds_no_room_and_counts_it() {
        let (mut outlet, mut inbox, status) = outlet(1);
        let half = ROWS_MAX as usize / 2 - 1;
        for receipt in 0..4 {
            outlet.offer(rows(half), vec![receipt]).unwrap();
        }
        assert_eq!(status.counts().shed, ROWS_MAX / 2, "the first is in the channel, two wait, the fourth is shed");
        let first = inbox.recv().await.unwrap();
        let answer = all(&first);
        first.synced.send(answer).unwrap();
        assert_eq!(outlet.next_synced().await, Ok(vec![0]));
        assert!(futures_util::FutureExt::now_or_never(outlet.next_synced()).is_none());
        let second = inbox.recv().await.unwrap();
        assert_eq!(second.decoded.received(), ROWS_MAX);
        let answer = all(&second);
        second.synced.send(answer).unwrap();
        assert_eq!(outlet.next_synced().await, Ok(vec![1, 2]));
        let counts = status.counts();
        assert_eq!(counts.received, counts.accepted + counts.rejected + counts.duplicate + counts.shed);
        assert_eq!(counts.received, 2 * ROWS_MAX);
    }
}
