//! When to try a sink again: exponential back-off with jitter, and a circuit breaker.
//!
//! Pure: the caller says what time it is (milliseconds of a clock that never steps) and gives the seed of the jitter.
//!
//! ```text
//!            5 failures in a row              30 s
//!   closed ───────────────────────▶ open ─────────────▶ half-open ──2 successes──▶ closed
//!     ▲ each failure: wait, doubling  ▲                     │ at most 3 calls
//!                                     └──── a failure ──────┘
//! ```

/// How patient a sink's loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The wait after the first failure; each further one doubles it.
    pub backoff_first_ms: u64,
    /// The longest wait between two attempts while the circuit is closed.
    pub backoff_longest_ms: u64,
    /// Failures in a row that open the circuit.
    pub failures_to_open: u32,
    /// How long the open circuit lets nothing through.
    pub open_for_ms: u64,
    /// Attempts that a half-open circuit lets through before it must have closed.
    pub half_open_calls: u32,
    /// Successes that close a half-open circuit.
    pub successes_to_close: u32,
}

impl Default for Policy {
    /// The figures of HiveFrame's resilience module, with a first wait of 100 ms.
    fn default() -> Self {
        Self {
            backoff_first_ms: 100,
            backoff_longest_ms: 10_000,
            failures_to_open: 5,
            open_for_ms: 30_000,
            half_open_calls: 3,
            successes_to_close: 2,
        }
    }
}

/// What the circuit does with attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// Lets every attempt through.
    #[default]
    Closed,
    /// Lets nothing through.
    Open,
    /// Lets a few attempts through, to see whether the server is back.
    HalfOpen,
}

/// The state between attempts.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: Policy,
    circuit: Circuit,
    failures: u32,
    calls: u32,
    successes: u32,
    not_before_ms: u64,
    jitter: u64,
}

impl Breaker {
    /// A closed circuit.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, circuit: Circuit::Closed, failures: 0, calls: 0, successes: 0, not_before_ms: 0, jitter: seed }
    }

    /// What the circuit does at present.
    pub const fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Whether the next attempt may be made now.
    ///
    /// # Errors
    /// Not yet: the milliseconds to wait before asking again.
    pub fn admit(&mut self, now_ms: u64) -> Result<(), u64> {
        if now_ms < self.not_before_ms {
            return Err(self.not_before_ms - now_ms);
        }
        if self.circuit == Circuit::Open {
            (self.circuit, self.calls, self.successes) = (Circuit::HalfOpen, 0, 0);
        }
        if self.circuit == Circuit::HalfOpen {
            if self.calls >= self.policy.half_open_calls {
                self.open(now_ms);
                return Err(self.not_before_ms - now_ms);
            }
            self.calls += 1;
        }
        Ok(())
    }

    /// An attempt succeeded.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before_ms = 0;
        if self.circuit == Circuit::HalfOpen {
            self.successes += 1;
            if self.successes >= self.policy.successes_to_close {
                self.circuit = Circuit::Closed;
            }
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, now_ms: u64) {
        self.failures = self.failures.saturating_add(1);
        if self.circuit == Circuit::HalfOpen || self.failures >= self.policy.failures_to_open {
            self.open(now_ms);
        } else {
            let doubled = self.policy.backoff_first_ms.saturating_mul(1 << (self.failures - 1).min(32));
            self.not_before_ms = now_ms.saturating_add(self.jittered(doubled.min(self.policy.backoff_longest_ms)));
        }
    }

    /// An attempt failed in a way that trying again soon cannot mend.
    pub fn failed_for_good(&mut self, now_ms: u64) {
        self.open(now_ms);
    }

    fn open(&mut self, now_ms: u64) {
        self.circuit = Circuit::Open;
        self.not_before_ms = now_ms.saturating_add(self.policy.open_for_ms.max(1));
    }

    /// Between half of `wait_ms` and all of it, so that sinks which failed together do not come back together.
    fn jittered(&mut self, wait_ms: u64) -> u64 {
        self.jitter = split_mix(self.jitter);
        wait_ms / 2 + self.jitter % (wait_ms / 2 + 1)
    }
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
fn split_mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails until the circuit opens; returns the time.
    fn opened(breaker: &mut Breaker) -> u64 {
        let mut now = 0;
        while breaker.circuit() != Circuit::Open {
            match breaker.admit(now) {
                Ok(()) => breaker.failed(now),
                Err(wait) => now += wait,
            }
        }
        now
    }

    #[test]
    fn waits_double_with_jitter_up_to_the_longest() {
        let policy = Policy { failures_to_open: 100, ..Policy::default() };
        let mut breaker = Breaker::new(policy, 7);
        for attempt in 0..20 {
            breaker.failed(0);
            let wait = breaker.admit(0).unwrap_err();
            let full = (100_u64 << attempt).min(10_000);
            assert!(wait >= full / 2 && wait <= full, "attempt {attempt}: {wait} of {full}");
        }
        breaker.succeeded();
        assert_eq!(breaker.admit(0), Ok(()));
    }

    #[test]
    fn five_failures_open_the_circuit_for_thirty_seconds() {
        let mut breaker = Breaker::new(Policy::default(), 1);
        let now = opened(&mut breaker);
        assert_eq!(breaker.failures, 5);
        assert_eq!(breaker.admit(now), Err(30_000));
        assert_eq!(breaker.admit(now + 29_999), Err(1));
        assert_eq!(breaker.admit(now + 30_000), Ok(()));
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
    }

    #[test]
    fn two_successes_close_a_half_open_circuit() {
        let mut breaker = Breaker::new(Policy::default(), 1);
        let now = opened(&mut breaker) + 30_000;
        breaker.admit(now).unwrap();
        breaker.succeeded();
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        breaker.admit(now).unwrap();
        breaker.succeeded();
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[test]
    fn one_failure_opens_a_half_open_circuit_again() {
        let mut breaker = Breaker::new(Policy::default(), 1);
        let now = opened(&mut breaker) + 30_000;
        breaker.admit(now).unwrap();
        breaker.succeeded();
        breaker.admit(now).unwrap();
        breaker.failed(now);
        assert_eq!(breaker.admit(now), Err(30_000));
    }

    #[test]
    fn a_half_open_circuit_lets_three_calls_through() {
        let mut breaker = Breaker::new(Policy::default(), 1);
        let now = opened(&mut breaker) + 30_000;
        for _ in 0..3 {
            breaker.admit(now).unwrap();
        }
        assert_eq!(breaker.admit(now), Err(30_000));
    }

    #[test]
    fn what_cannot_be_mended_opens_the_circuit_at_once() {
        let mut breaker = Breaker::new(Policy::default(), 1);
        breaker.admit(5).unwrap();
        breaker.failed_for_good(5);
        assert_eq!(breaker.admit(5), Err(30_000));
    }
}
