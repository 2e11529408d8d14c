//! A clock that stands until somebody moves it, and the tasks that wait for it: one thread, everything in a fixed order.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::future::BoxFuture;

use crate::{deliver::world::World, simulate::Random};

/// Whatever a lock holds here is whole between any two statements.
pub fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Timers {
    now_ns: u64,
    /// Timers of the same moment ring in the order in which they were set.
    count: u64,
    waiting: BTreeMap<(u64, u64), Waker>,
}

/// The clock; a clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Timers>>);

impl Clock {
    /// Since the start of the simulation.
    pub fn now_ns(&self) -> u64 {
        locked(&self.0).now_ns
    }

    /// When the next timer rings.
    pub fn next_ns(&self) -> Option<u64> {
        locked(&self.0).waiting.keys().next().map(|(at_ns, _)| *at_ns)
    }

    /// Moves the clock on and wakes who waited for that.
    pub fn advance(&self, to_ns: u64) {
        let mut timers = locked(&self.0);
        timers.now_ns = timers.now_ns.max(to_ns);
        let after = (timers.now_ns + 1, 0);
        let later = timers.waiting.split_off(&after);
        let due = std::mem::replace(&mut timers.waiting, later);
        drop(timers);
        due.into_values().for_each(Waker::wake);
    }

    /// Resolves after this long.
    pub fn sleep(&self, time: Duration) -> Sleep {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        Sleep { at_ns: self.now_ns().saturating_add(ns), clock: self.clone(), timer: None }
    }
}

/// See [`Clock::sleep`].
#[derive(Debug)]
pub struct Sleep {
    clock: Clock,
    at_ns: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut timers = locked(&clock.0);
        if timers.now_ns >= self.at_ns {
            return Poll::Ready(());
        }
        let timer = self.timer.unwrap_or_else(|| {
            timers.count += 1;
            (self.at_ns, timers.count)
        });
        self.timer = Some(timer);
        timers.waiting.insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            locked(&self.clock.0).waiting.remove(&timer);
        }
    }
}

/// Time and threads of the simulation, as the sinks' loops see them.
#[derive(Debug, Clone)]
pub struct SimulatedWorld {
    clock: Clock,
    random: Arc<Mutex<Random>>,
}

impl SimulatedWorld {
    /// In which the disk takes as long as `random` says.
    pub fn new(clock: &Clock, random: Random) -> Self {
        Self { clock: clock.clone(), random: Arc::new(Mutex::new(random)) }
    }
}

impl World for SimulatedWorld {
    fn now_ms(&self) -> u64 {
        self.clock.now_ns() / 1_000_000
    }

    async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> BoxFuture<'static, Result<T, String>> {
        let took = Duration::from_micros(locked(&self.random).below(5_000) as u64);
        let (done, later) = (work(), self.clock.sleep(took));
        Box::pin(async move {
            later.await;
            Ok(done)
        })
    }
}

#[derive(Debug)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task<T> {
    name: usize,
    future: BoxFuture<'static, T>,
    woken: Arc<Flag>,
}

/// Tasks by name, polled in the order in which they were added.
pub struct Tasks<T>(Vec<Task<T>>);

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Tasks<T> {
    /// Adds one, to be polled at the next [`Self::run`].
    pub fn add(&mut self, name: usize, future: BoxFuture<'static, T>) {
        self.0.push(Task { name, future, woken: Arc::new(Flag(AtomicBool::new(true))) });
    }

    /// Polls until nobody has anything to do at this moment; who has ended, with what.
    pub fn run(&mut self) -> Vec<(usize, T)> {
        let mut ended = Vec::new();
        while let Some(place) = self.0.iter().position(|task| task.woken.0.swap(false, Ordering::Relaxed)) {
            let task = &mut self.0[place];
            let waker = Waker::from(Arc::clone(&task.woken));
            if let Poll::Ready(end) = task.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                ended.push((self.0.remove(place).name, end));
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        let (clock, log, mut tasks) = (Clock::default(), Arc::new(Mutex::new(Vec::new())), Tasks::default());
        for ms in [30, 10, 20, 10] {
            let (clock, log) = (clock.clone(), Arc::clone(&log));
            tasks.add(
                ms as usize,
                Box::pin(async move {
                    clock.sleep(Duration::from_millis(ms)).await;
                    locked(&log).push((clock.now_ns() / 1_000_000, ms));
                }),
            );
        }
        assert_eq!(tasks.run().len(), 0);
        let mut ended = Vec::new();
        while let Some(next) = clock.next_ns() {
            clock.advance(next);
            ended.extend(tasks.run().into_iter().map(|(name, ())| name));
        }
        assert_eq!(*locked(&log), [(10, 10), (10, 10), (20, 20), (30, 30)]);
        assert_eq!(ended, [10, 10, 20, 30]);
    }

    #[test]
    fn a_sleep_that_is_dropped_rings_no_more() {
        let (clock, mut tasks) = (Clock::default(), Tasks::default());
        let world = SimulatedWorld::new(&clock, Random::new(1, 1));
        tasks.add(0, {
            let world = world.clone();
            Box::pin(async move {
                crate::deliver::world::within(&world, Duration::from_secs(9), world.sleep(Duration::from_secs(1))).await
            })
        });
        assert!(tasks.run().is_empty());
        clock.advance(1_000_000_000);
        assert_eq!(tasks.run(), [(0, Some(()))]);
        assert_eq!(clock.next_ns(), None);
    }
}
