//! How long to wait before the next try.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The first pause: long enough not to spin, short enough that a replugged device is back at once.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause: a device that comes back is read within this.
const LONGEST: Duration = Duration::from_secs(10);

/// Doubles from try to try, each pause between half and all of its length, so that many sources do not knock at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    pub fn new() -> Self {
        // A new `RandomState` has random keys: its hash of anything is a seed.
        Self { next: FIRST, random: RandomState::new().hash_one(0) | 1 }
    }

    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        // xorshift64 (Marsaglia 2003)
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = 0.5 + (self.random >> 11) as f64 / (1_u64 << 54) as f64;
        let pause = self.next.mul_f64(share);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }

    /// It worked: the next trouble starts from the beginning.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST / 2 && *pause <= LONGEST));
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
