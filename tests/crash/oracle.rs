//! Sends numbered rows and knows which of them were acknowledged.
//!
//! Row `n` of a stream carries the signal `n`, the device's name and the number `n` by which redelivery is recognised, and the time
//! [`Oracle::time_ns`]. Each stream has a thread of its own, which repeats a row until it is acknowledged and never sends a row
//! before the one in front of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    campaign::Random,
    mqtt::Publisher,
    process::{Site, ask, until},
};

/// Streams that come over MQTT, with their quality of service.
pub const PUBLISHED: [(&str, u8); 2] = [("once", 1), ("exactly", 2)];
/// The stream that comes over HTTP.
pub const POSTED: &str = "posted";
/// From a published row to the next: Mosquitto writes all that it keeps at every change.
const PERIOD: Duration = Duration::from_millis(15);
/// From one row's time to the next, ns.
const STEP_NS: i64 = 15_000_000;
/// Rows in a request.
const POSTED_ROWS_MAX: usize = 40;
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Published rows of a stream that may wait at the broker for the appliance. Mosquitto writes all that waits at every change: with
/// thousands, a change takes longer than there is from one row to the next, and the queue would only ever grow.
const AHEAD_MAX: u64 = 500;

/// How far a stream is.
#[derive(Default)]
struct Progress {
    issued: AtomicU64,
    acknowledged: AtomicU64,
    /// Seen in the appliance's journal.
    journaled: AtomicU64,
}

/// What the threads look at.
struct Orders {
    /// Issue nothing new.
    hold: AtomicBool,
    /// End once everything is acknowledged.
    end: AtomicBool,
    /// Of row 0.
    start_ns: i64,
}

/// The senders of all streams.
pub struct Oracle {
    orders: Arc<Orders>,
    streams: Vec<(&'static str, Arc<Progress>, JoinHandle<()>)>,
}

/// Stream and rows, all acknowledged.
pub type Sent = Vec<(&'static str, u64)>;

impl Oracle {
    /// Starts sending to the site's appliance and the broker on `broker_port`.
    pub fn start(site: &Site, broker_port: u16, seed: u64) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let start_ns = now.as_secs() as i64 * 1_000_000_000;
        let orders = Arc::new(Orders { hold: AtomicBool::new(false), end: AtomicBool::new(false), start_ns });
        let mut streams = Vec::new();
        for (stream, qos) in PUBLISHED {
            let (progress, orders) = (Arc::new(Progress::default()), Arc::clone(&orders));
            let publisher = Publisher::new(broker_port, topic(site, stream), qos);
            let own = Arc::clone(&progress);
            let sender = thread::spawn(move || publish(publisher, stream, &own, &orders));
            streams.push((stream, progress, sender));
        }
        let (progress, own) = (Arc::new(Progress::default()), Arc::clone(&orders));
        let (url, sent) = (format!("{}/rows?stream={POSTED}", site.api()), Arc::clone(&progress));
        let sender = thread::spawn(move || post(&url, &mut Random::new(seed), &sent, &own));
        streams.push((POSTED, progress, sender));
        Self { orders, streams }
    }

    /// Holds everything back and waits until the broker has acknowledged what it was sent; to be let go with [`Self::go_on`].
    pub fn hold_published(&self) {
        self.hold();
        until("the broker has everything", || {
            let published = self.streams.iter().filter(|(stream, ..)| *stream != POSTED);
            published.into_iter().all(|(_, progress, _)| progress.is_acknowledged()).then_some(())
        });
    }

    /// How many rows of a stream are acknowledged by now.
    pub fn acknowledged(&self) -> Sent {
        self.streams.iter().map(|(stream, progress, _)| (*stream, progress.acknowledged.load(Ordering::SeqCst))).collect()
    }

    /// The journal has this many rows of a stream.
    pub fn journaled(&self, rows: impl Fn(&str) -> u64) {
        for (stream, progress, _) in &self.streams {
            progress.journaled.fetch_max(rows(stream), Ordering::SeqCst);
        }
    }

    /// Issues nothing new until [`Self::go_on`].
    pub fn hold(&self) {
        self.orders.hold.store(true, Ordering::SeqCst);
    }

    /// Sends again.
    pub fn go_on(&self) {
        self.orders.hold.store(false, Ordering::SeqCst);
    }

    /// Ends once everything is acknowledged.
    pub fn finish(self) -> Sent {
        self.orders.end.store(true, Ordering::SeqCst);
        let finish = |(stream, progress, sender): (&'static str, Arc<Progress>, JoinHandle<()>)| {
            until(&format!("{stream} is acknowledged"), || sender.is_finished().then_some(()));
            sender.join().expect("the oracle does not fail");
            assert!(progress.is_acknowledged());
            (stream, progress.issued.load(Ordering::SeqCst))
        };
        self.streams.into_iter().map(finish).collect()
    }
}

impl Progress {
    fn is_far_ahead(&self) -> bool {
        self.issued.load(Ordering::SeqCst) >= self.journaled.load(Ordering::SeqCst) + AHEAD_MAX
    }

    fn is_acknowledged(&self) -> bool {
        self.issued.load(Ordering::SeqCst) == self.acknowledged.load(Ordering::SeqCst)
    }
}

impl Orders {
    fn row(&self, stream: &str, number: u64) -> String {
        let time = self.start_ns + number as i64 * STEP_NS;
        format!("{{\"time\":{time},\"n\":{number},\"device\":\"{stream}\",\"boot\":1,\"seq\":{number}}}")
    }

    fn may_issue(&self) -> bool {
        !self.hold.load(Ordering::SeqCst) && !self.end.load(Ordering::SeqCst)
    }

    fn is_over(&self, progress: &Progress) -> bool {
        self.end.load(Ordering::SeqCst) && progress.is_acknowledged()
    }
}

/// Where a stream is published.
pub fn topic(site: &Site, stream: &str) -> String {
    format!("plant/{}/{stream}", site.id)
}

fn publish(mut publisher: Publisher, stream: &str, progress: &Progress, orders: &Orders) {
    let mut due = Instant::now();
    while !orders.is_over(progress) {
        while publisher.has_room() && orders.may_issue() && !progress.is_far_ahead() && Instant::now() >= due {
            let number = progress.issued.fetch_add(1, Ordering::SeqCst) + 1;
            publisher.publish(number, orders.row(stream, number).into_bytes());
            // A row more at once for every period of an outage, but not without end.
            due = (due + PERIOD).max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(due));
        }
        match publisher.listen() {
            Some(acknowledged) => progress.acknowledged.store(acknowledged, Ordering::SeqCst),
            None if publisher.is_idle() => thread::sleep(Duration::from_millis(1)),
            None => {}
        }
    }
}

fn post(url: &str, random: &mut Random, progress: &Progress, orders: &Orders) {
    while !orders.is_over(progress) {
        if !orders.may_issue() {
            thread::sleep(AGAIN_AFTER);
            continue;
        }
        let first = progress.issued.load(Ordering::SeqCst) + 1;
        let rows = 1 + random.below(POSTED_ROWS_MAX) as u64;
        let lines: Vec<String> = (first..first + rows).map(|number| orders.row(POSTED, number)).collect();
        progress.issued.store(first + rows - 1, Ordering::SeqCst);
        let body = lines.join("\n");
        loop {
            match ask("POST", url, &body) {
                Ok(reply) if reply.status == 202 => break,
                Ok(reply) if reply.status == 503 => {}
                Ok(reply) => panic!("rows were refused: {reply:?}"),
                Err(_) => {}
            }
            thread::sleep(AGAIN_AFTER);
        }
        progress.acknowledged.store(first + rows - 1, Ordering::SeqCst);
        thread::sleep(PERIOD * rows as u32);
    }
}
