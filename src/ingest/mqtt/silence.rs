//! When a broker that does not answer a ping counts as gone.
//!
//! A broker answers a ping after it has read what was sent before it. One that writes its queue to disk at every change takes
//! tens of milliseconds for each acknowledgement, and thousands of them may be on their way: whoever hangs up meanwhile throws the unread
//! ones away, the broker brings their messages again, and the next connection ends like this one, without end. So the answer may take as
//! much longer as there are acknowledgements in front of the ping; and whatever else comes in is a sign of life too.

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which a broker that has nothing to read is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// What a slow broker takes to read an acknowledgement.
const ACKNOWLEDGEMENT_TAKES: Duration = Duration::from_millis(100);
/// Nobody waits longer, however much is on its way.
const SILENCE_MAX: Duration = Duration::from_mins(10);

/// What is known of a broker's progress.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Acknowledgements sent so far.
    sent: u64,
    /// Of these, how many the broker has read for certain.
    read: u64,
    /// The ping that waits for its answer.
    ping: Option<Ping>,
}

#[derive(Debug, Clone, Copy)]
struct Ping {
    /// When it was sent, or something else came in later.
    since: Instant,
    /// Acknowledgements sent before it.
    behind: u64,
}

impl Silence {
    /// An acknowledgement is on its way.
    pub fn acknowledged(&mut self) {
        self.sent += 1;
    }

    /// Something came in.
    pub fn heard(&mut self, now: Instant) {
        if let Some(ping) = &mut self.ping {
            ping.since = now;
        }
    }

    /// A ping was answered.
    pub fn answered(&mut self) {
        if let Some(ping) = self.ping.take() {
            self.read = ping.behind;
        }
    }

    /// A ping is on its way; whether the broker has been silent for too long by now.
    pub fn pinged(&mut self, now: Instant) -> bool {
        let ping = *self.ping.get_or_insert(Ping { since: now, behind: self.sent });
        let unread = u32::try_from(ping.behind - self.read).unwrap_or(u32::MAX);
        let allowed = ANSWER_WITHIN.saturating_add(ACKNOWLEDGEMENT_TAKES.saturating_mul(unread)).min(SILENCE_MAX);
        now.saturating_duration_since(ping.since) > allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    /// Pings in a row without an answer until the broker is gone.
    fn pings_until_gone(silence: &mut Silence, start: Instant) -> u32 {
        (0..1000).find(|count| silence.pinged(start + PERIOD * *count)).unwrap()
    }

    #[test]
    fn a_broker_with_nothing_to_read_is_gone_after_the_second_ping_without_an_answer() {
        assert_eq!(pings_until_gone(&mut Silence::default(), Instant::now()), 2);
    }

    #[test]
    fn a_broker_has_as_much_longer_as_there_is_to_read() {
        let mut silence = Silence::default();
        (0..1_000).for_each(|_| silence.acknowledged());
        assert_eq!(pings_until_gone(&mut silence, Instant::now()), 12);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut silence = Silence::default();
        (0..1_000_000).for_each(|_| silence.acknowledged());
        assert_eq!(pings_until_gone(&mut silence, Instant::now()), 61);
    }

    #[test]
    fn what_was_in_front_of_an_answered_ping_is_read() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        (0..1_000).for_each(|_| silence.acknowledged());
        assert!(!silence.pinged(start));
        silence.answered();
        assert_eq!(pings_until_gone(&mut silence, start + PERIOD), 2);
    }

    #[test]
    fn whatever_comes_in_is_a_sign_of_life() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        for count in 0..100 {
            assert!(!silence.pinged(start + PERIOD * count));
            silence.heard(start + PERIOD * count);
        }
    }
}
