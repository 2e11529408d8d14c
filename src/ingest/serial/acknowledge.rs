//! What a device that numbers its rows is told: up to where they are durable, and from where they are missing.
//!
//! ```text
//!  durable and heard │ under way │ missing │ heard beyond the gap
//!                    └ Ack       └ Resend
//! ```
//!
//! An [`Ack`] lets the device forget, so none goes beyond a gap. Rows behind a gap wait ([`Acknowledger::is_reached`]), so that they are stored in
//! order; when the device goes back and sends them too, the inbox knows them again. After [`ASKED_MAX`] requests without an answer, each given [`ANSWER_TIME`], the rows of the gap are lost: counted, and
//! gone beyond.
//!
//! Numbering begins at 0. A start of the device that is met in its middle is asked once for everything it still has: what is heard first need not
//! be that, for frames get lost on the way without a trace. What it does not send then was acknowledged in an earlier life.

use std::time::Duration;

use firmware_bridge::{Ack, Resend};
use tokio::time::Instant;

use crate::ingest::decode::Heard;

/// How often missing rows are asked for.
const ASKED_MAX: u32 = 3;
/// How long the device has to send them.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Pieces beyond a gap that are remembered; rows of others are asked for again.
const PIECES_MAX: usize = 1024;

/// The host's side of one device's numbering.
#[derive(Debug, Default)]
pub(super) struct Acknowledger {
    start: Option<Start>,
    lost_rows: u64,
    /// Gaps that were gone beyond.
    given_up: u64,
}

/// One start of a device.
#[derive(Debug)]
struct Start {
    device: u32,
    boot: u32,
    heard: Numbers,
    durable: Numbers,
    /// The first number that was not heard of yet.
    reach: u64,
    asked: Option<Asked>,
    /// Whether the device still has to have what is missing; otherwise it may have been acknowledged in an earlier life.
    certain: bool,
    /// Whether the device shall be told (again) up to where its rows are durable.
    ack_due: bool,
}

/// A request for missing rows.
#[derive(Debug, Clone, Copy)]
struct Asked {
    seq: u64,
    times: u32,
    at: Instant,
}

/// All numbers below `next`, and pieces beyond.
#[derive(Debug, Clone, Default)]
struct Numbers {
    next: u64,
    /// First and end (exclusive); ascending, never touching, all beyond `next`.
    beyond: Vec<(u64, u64)>,
}

impl Numbers {
    fn insert(&mut self, first: u64, end: u64) {
        if first <= self.next {
            self.next = self.next.max(end);
        } else {
            let from = self.beyond.partition_point(|piece| piece.1 < first);
            let to = self.beyond.partition_point(|piece| piece.0 <= end);
            let mut piece = (first, end);
            for known in &self.beyond[from..to] {
                piece = (piece.0.min(known.0), piece.1.max(known.1));
            }
            self.beyond.splice(from..to, [piece]);
            self.beyond.truncate(PIECES_MAX);
        }
        let reached = self.beyond.iter().take_while(|piece| piece.0 <= self.next).count();
        if let Some(piece) = self.beyond.drain(..reached).next_back() {
            self.next = self.next.max(piece.1);
        }
    }
}

impl Acknowledger {
    /// The line was opened: the device may have missed what it was told.
    pub fn opened(&mut self) {
        if let Some(start) = &mut self.start {
            start.ack_due = true;
        }
    }

    /// Rows came in.
    pub fn heard(&mut self, rows: &Heard) {
        let start = match &mut self.start {
            Some(start) if (start.device, start.boot) == (rows.device, rows.boot) => start,
            other => {
                let restarted = other.as_ref().is_some_and(|before| before.device == rows.device);
                other.insert(Start::new(rows, restarted))
            }
        };
        start.heard.insert(rows.first, rows.last.saturating_add(1));
        start.reach = start.reach.max(rows.last.saturating_add(1));
    }

    /// Whether no gap is before the end of these rows, or nobody will fill it.
    pub fn is_reached(&self, rows: &Heard) -> bool {
        let start = self.start.as_ref().filter(|start| (start.device, start.boot) == (rows.device, rows.boot));
        start.is_none_or(|start| rows.last < start.heard.next)
    }

    /// Rows are durable.
    pub fn synced(&mut self, rows: &Heard) {
        if let Some(start) = self.of(rows) {
            start.durable.insert(rows.first, rows.last.saturating_add(1));
            start.ack_due = true;
        }
    }

    /// Rows could not be stored: everything that is not durable has to come again, after a while.
    pub fn refused(&mut self, now: Instant) {
        if let Some(start) = &mut self.start {
            start.heard = start.durable.clone();
            start.asked = Some(Asked { seq: start.heard.next, times: 0, at: now });
        }
    }

    /// For so long nothing was read; the device cannot be blamed for it.
    pub fn waited(&mut self, time: Duration) {
        if let Some(asked) = self.start.as_mut().and_then(|start| start.asked.as_mut()) {
            asked.at += time;
        }
    }

    /// When to look for [`Self::resend`] if nothing comes in.
    pub fn look_at(&self) -> Option<Instant> {
        let start = self.start.as_ref().filter(|start| start.has_gap())?;
        start.asked.map(|asked| asked.at + ANSWER_TIME)
    }

    /// What to ask for now, if something is missing.
    pub fn resend(&mut self, now: Instant) -> Option<Resend> {
        let start = self.start.as_mut()?;
        while start.has_gap() {
            let seq = start.heard.next;
            let times = match start.asked.filter(|asked| asked.seq == seq) {
                Some(asked) if now < asked.at + ANSWER_TIME => return None,
                Some(asked) => asked.times,
                None => 0,
            };
            if times < if start.certain { ASKED_MAX } else { 1 } {
                start.asked = Some(Asked { seq, times: times + 1, at: now });
                return Some(Resend { boot: start.boot, seq });
            }
            self.lost_rows += start.give_up();
            self.given_up += 1;
        }
        None
    }

    /// Up to where rows are durable, if the device should hear it now.
    pub fn ack(&mut self) -> Option<Ack> {
        let start = self.start.as_mut()?;
        let seq = start.durable.next.checked_sub(1).filter(|_| start.ack_due && start.has_durable())?;
        start.ack_due = false;
        Some(Ack { boot: start.boot, seq })
    }

    /// Gaps given up so far.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Rows given up since the last call.
    pub fn take_lost_rows(&mut self) -> u64 {
        std::mem::take(&mut self.lost_rows)
    }

    fn of(&mut self, rows: &Heard) -> Option<&mut Start> {
        self.start.as_mut().filter(|start| (start.device, start.boot) == (rows.device, rows.boot))
    }
}

impl Start {
    fn new(rows: &Heard, was_seen_to_begin: bool) -> Self {
        Self {
            device: rows.device,
            boot: rows.boot,
            heard: Numbers::default(),
            durable: Numbers::default(),
            reach: 0,
            asked: None,
            certain: was_seen_to_begin || rows.first == 0,
            ack_due: false,
        }
    }

    fn has_gap(&self) -> bool {
        self.heard.next < self.reach
    }

    /// Whether `durable` says more than where numbering was taken to begin.
    fn has_durable(&self) -> bool {
        self.certain || self.durable.next > 0
    }

    /// Goes beyond the gap; how many rows that loses.
    fn give_up(&mut self) -> u64 {
        let from = self.heard.next;
        let to = self.heard.beyond.first().map_or(self.reach, |piece| piece.0);
        self.heard.insert(from, to);
        self.durable.insert(from, to);
        self.ack_due = true;
        if std::mem::replace(&mut self.certain, true) { to - from } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(first: u64, end: u64) -> Heard {
        Heard { device: 1, boot: 4, first, last: end - 1 }
    }

    fn all(acknowledger: &mut Acknowledger, pieces: &[(u64, u64)]) {
        for (first, end) in pieces {
            acknowledger.heard(&rows(*first, *end));
            acknowledger.synced(&rows(*first, *end));
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is compared with an option")]
    const fn resend(seq: u64) -> Option<Resend> {
        Some(Resend { boot: 4, seq })
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is compared with an option")]
    const fn ack(seq: u64) -> Option<Ack> {
        Some(Ack { boot: 4, seq })
    }

    #[test]
    fn what_is_durable_is_acknowledged_once_and_again_when_it_comes_again() {
        let mut acknowledger = Acknowledger::default();
        acknowledger.heard(&rows(0, 20));
        assert_eq!(acknowledger.ack().map(|ack| ack.seq), None);
        acknowledger.synced(&rows(0, 20));
        assert_eq!((acknowledger.ack(), acknowledger.ack()), (ack(19), None));
        acknowledger.synced(&rows(0, 20));
        assert_eq!(acknowledger.ack(), ack(19));
        acknowledger.opened();
        assert_eq!((acknowledger.ack(), acknowledger.resend(Instant::now())), (ack(19), None));
    }

    #[test]
    fn no_acknowledgement_goes_beyond_a_gap_until_it_is_filled() {
        let (mut acknowledger, now) = (Acknowledger::default(), Instant::now());
        all(&mut acknowledger, &[(0, 10), (20, 30), (35, 40)]);
        assert!(acknowledger.is_reached(&rows(0, 10)) && !acknowledger.is_reached(&rows(20, 30)));
        assert!(acknowledger.is_reached(&Heard { boot: 3, ..rows(20, 30) }));
        assert_eq!((acknowledger.ack(), acknowledger.resend(now)), (ack(9), resend(10)));
        assert_eq!(acknowledger.resend(now), None);
        all(&mut acknowledger, &[(40, 50), (10, 20)]);
        assert_eq!(acknowledger.ack(), ack(29));
        assert_eq!((acknowledger.resend(now), acknowledger.resend(now)), (resend(30), None));
        all(&mut acknowledger, &[(20, 40)]);
        assert_eq!((acknowledger.ack(), acknowledger.resend(now), acknowledger.look_at()), (ack(49), None, None));
        assert_eq!(acknowledger.take_lost_rows(), 0);
    }

    #[test]
    fn rows_that_do_not_come_are_counted_and_gone_beyond() {
        let (mut acknowledger, mut now) = (Acknowledger::default(), Instant::now());
        all(&mut acknowledger, &[(0, 10), (20, 30), (40, 41)]);
        for _ in 0..ASKED_MAX {
            assert_eq!((acknowledger.resend(now), acknowledger.resend(now)), (resend(10), None));
            now += ANSWER_TIME;
        }
        acknowledger.waited(ANSWER_TIME);
        assert_eq!((acknowledger.resend(now), acknowledger.look_at()), (None, Some(now + ANSWER_TIME)));
        now += ANSWER_TIME;
        assert_eq!((acknowledger.resend(now), acknowledger.ack(), acknowledger.take_lost_rows()), (resend(30), ack(29), 10));
    }

    #[test]
    fn a_device_met_in_the_middle_is_asked_once_for_everything_it_has() {
        let (mut acknowledger, now) = (Acknowledger::default(), Instant::now());
        all(&mut acknowledger, &[(50, 60)]);
        assert_eq!((acknowledger.resend(now), acknowledger.ack()), (resend(0), None));
        all(&mut acknowledger, &[(30, 50)]);
        assert_eq!((acknowledger.resend(now + ANSWER_TIME), acknowledger.ack()), (None, ack(59)));
        assert_eq!(acknowledger.take_lost_rows(), 0, "what came before was acknowledged in an earlier life");
    }

    #[test]
    fn a_start_that_was_seen_to_begin_counts_from_0() {
        let (mut acknowledger, now) = (Acknowledger::default(), Instant::now());
        all(&mut acknowledger, &[(7, 9)]);
        let restarted = Heard { boot: 5, ..rows(3, 6) };
        acknowledger.heard(&restarted);
        acknowledger.synced(&rows(9, 12));
        assert_eq!((acknowledger.resend(now), acknowledger.ack()), (Some(Resend { boot: 5, seq: 0 }), None));
        let other = Heard { device: 2, ..rows(3, 6) };
        acknowledger.heard(&other);
        acknowledger.synced(&other);
        assert_eq!((acknowledger.resend(now), acknowledger.ack()), (resend(0), None));
        assert_eq!((acknowledger.resend(now + ANSWER_TIME), acknowledger.ack()), (None, ack(5)));
    }

    #[test]
    fn refused_rows_are_asked_for_after_a_while() {
        let (mut acknowledger, now) = (Acknowledger::default(), Instant::now());
        all(&mut acknowledger, &[(0, 10)]);
        acknowledger.heard(&rows(10, 30));
        acknowledger.synced(&rows(20, 30));
        acknowledger.refused(now);
        assert_eq!((acknowledger.resend(now), acknowledger.look_at()), (None, Some(now + ANSWER_TIME)));
        assert_eq!((acknowledger.resend(now + ANSWER_TIME), acknowledger.ack()), (resend(10), ack(9)));
        all(&mut acknowledger, &[(10, 20)]);
        assert_eq!(acknowledger.ack(), ack(29));
    }

    proptest::proptest! {
        #[test]
        fn pieces_are_remembered_as_a_plain_set_does(pieces in proptest::collection::vec((0u64..60, 1u64..8), 0..40)) {
            let (mut numbers, mut plain) = (Numbers::default(), std::collections::BTreeSet::new());
            for (first, count) in pieces {
                numbers.insert(first, first + count);
                plain.extend(first..first + count);
                let next = (0..=u64::MAX).find(|number| !plain.contains(number)).unwrap_or(0);
                let beyond: Vec<u64> = plain.range(next..).copied().collect();
                proptest::prop_assert_eq!(numbers.next, next);
                let held: Vec<u64> = numbers.beyond.iter().flat_map(|piece| piece.0..piece.1).collect();
                proptest::prop_assert_eq!(held, beyond);
                proptest::prop_assert!(numbers.beyond.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }
}
