//! The two clocks of the machine: the wall clock, which is set and steps, and the one that counts from the boot and does neither.

use std::{
    fmt, fs,
    panic::RefUnwindSafe,
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime},
};

use sd_notify::NotifyState;

/// Both clocks, read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Since 1970, ns.
    pub wall_ns: i64,
    /// Since the machine was booted, ns; goes on while the wall clock is set, not while the machine sleeps.
    pub monotonic_ns: i64,
    /// Which boot that is: `monotonic_ns` of two boots have nothing to do with each other.
    pub boot: Arc<str>,
}

impl Reading {
    /// What the wall clock shows beyond the other one, ns: changes only when the wall clock is set.
    pub const fn offset_ns(&self) -> i64 {
        self.wall_ns.saturating_sub(self.monotonic_ns)
    }
}

/// Where the time comes from; a clone reads the same clocks.
#[derive(Clone)]
pub struct Clocks(Arc<dyn Fn() -> Reading + Send + Sync + RefUnwindSafe>);

impl Clocks {
    /// Others than the machine's, for a simulation.
    pub fn new(read: impl Fn() -> Reading + Send + Sync + RefUnwindSafe + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What they show.
    pub fn read(&self) -> Reading {
        (self.0)()
    }
}

impl Default for Clocks {
    /// Those of the machine.
    fn default() -> Self {
        Self::new(|| Reading { wall_ns: wall_ns(), monotonic_ns: monotonic_ns(), boot: Arc::clone(&BOOT) })
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.read())
    }
}

impl PartialEq for Clocks {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Clocks {}

/// The wall clock, ns since 1970.
pub fn wall_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// As told by the system to the microsecond; where it does not tell, since the process began, which is then a boot of its own.
fn monotonic_ns() -> i64 {
    match NotifyState::monotonic_usec_now() {
        Ok(NotifyState::MonotonicUsec(us)) => i64::try_from(us).unwrap_or(i64::MAX).saturating_mul(1_000),
        _ => i64::try_from(STARTED.elapsed().as_nanos()).unwrap_or(i64::MAX),
    }
}

static BOOT: LazyLock<Arc<str>> = LazyLock::new(|| {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    match told.trim() {
        "" => format!("process {} of {}", std::process::id(), wall_ns()).into(),
        id => id.into(),
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_two_clocks_and_one_boot() {
        let (first, second) = (Clocks::default().read(), Clocks::default().read());
        assert!(second.monotonic_ns >= first.monotonic_ns && first.monotonic_ns > 0);
        assert_eq!(first.boot, second.boot);
        assert_eq!(first.offset_ns(), first.wall_ns - first.monotonic_ns);
    }
}
