//! Time and threads as a sink's loop sees them, so that a simulation can put its own in their place.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

/// A clock that never steps, and somewhere to do what blocks.
pub trait World: Send + Sync + 'static {
    /// Milliseconds since some moment.
    fn now_ms(&self) -> u64;

    /// Resolves after this long.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Begins `work`, which may touch the disk, at once; what it gives comes later. `Err` = it panicked.
    fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> BoxFuture<'static, Result<T, String>>;
}

/// The real ones, inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Threads {
    epoch: Instant,
}

impl Threads {
    /// Milliseconds count from now.
    pub fn new() -> Self {
        Self { epoch: Instant::now() }
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

impl World for Threads {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> BoxFuture<'static, Result<T, String>> {
        let task = tokio::task::spawn_blocking(work);
        Box::pin(async { task.await.map_err(|error| error.to_string()) })
    }
}

/// What comes of `work`, unless it takes longer than `time`.
pub async fn within<W: World, T>(world: &W, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = world.sleep(time) => None,
    }
}
