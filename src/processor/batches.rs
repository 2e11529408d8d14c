//! Batches through functions that are registered by name, for programs that have their rows in batches already.
//!
//! Functions run in the order they were registered; one of a known name takes the place of the one before it. Batches do not see each other,
//! so that [`Batches::process_all`] gives the same on any number of threads. Statistics go by what was really done and how long it took.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Makes a batch of a batch, or says why not.
type Function<T> = Arc<dyn Fn(Vec<T>) -> Result<Vec<T>, String> + Send + Sync>;

/// What came of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed<T> {
    /// What the last function gave.
    pub rows: Vec<T>,
    /// Rows that went in.
    pub rows_in: usize,
    /// Time from the first function to the last.
    pub time: Duration,
}

/// A function refused a batch; those behind it have not seen it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{function}` refused the batch: {reason}")]
pub struct BatchError {
    /// Its name.
    pub function: Arc<str>,
    /// Why.
    pub reason: String,
}

/// What was done so far, or since the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchStatistics {
    /// Batches that came through.
    pub batches: u64,
    /// Rows that went in with them.
    pub rows: u64,
    /// Batches that were refused.
    pub errors: u64,
    /// The shortest time of a batch.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
    /// Of all batches together.
    pub busy: Duration,
    /// From the beginning of the first batch to the end of the last one.
    pub span: Duration,
}

impl BatchStatistics {
    /// The mean time of a batch.
    pub fn mean(&self) -> Duration {
        self.busy.checked_div(self.batches.try_into().unwrap_or(u32::MAX)).unwrap_or_default()
    }

    /// Rows a second, over the time in which there was something to do.
    pub fn rows_per_second(&self) -> f64 {
        if self.span.is_zero() { 0.0 } else { self.rows as f64 / self.span.as_secs_f64() }
    }
}

/// Functions by name, and what they did.
///
/// ```
/// use qadf_edge::processor::Batches;
///
/// let mut batches = Batches::new();
/// batches.register("double", |rows: Vec<i64>| Ok(rows.into_iter().map(|row| row * 2).collect()));
/// batches.register("add", |rows| Ok(rows.into_iter().map(|row| row + 10).collect()));
/// assert_eq!(batches.process(vec![1, 2, 3])?.rows, [12, 14, 16]);
/// assert_eq!(batches.statistics().rows, 3);
/// # Ok::<(), qadf_edge::processor::BatchError>(())
/// ```
pub struct Batches<T> {
    functions: Vec<(Arc<str>, Function<T>)>,
    figures: Mutex<(BatchStatistics, Option<Instant>)>,
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Self { functions: Vec::new(), figures: Mutex::default() }
    }
}

impl<T: Send> Batches<T> {
    /// Without functions: batches come out as they went in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `function` behind the others; one of this name is replaced where it is.
    pub fn register(
        &mut self,
        name: &str,
        function: impl Fn(Vec<T>) -> Result<Vec<T>, String> + Send + Sync + 'static,
    ) -> &mut Self {
        match self.functions.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, known)) => *known = Arc::new(function),
            None => self.functions.push((name.into(), Arc::new(function))),
        }
        self
    }

    /// Removes the function of this name; whether there was one.
    pub fn unregister(&mut self, name: &str) -> bool {
        let before = self.functions.len();
        self.functions.retain(|(known, _)| **known != *name);
        self.functions.len() < before
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().map(|(name, _)| &**name)
    }

    fn locked(&self) -> MutexGuard<'_, (BatchStatistics, Option<Instant>)> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `batch` through all functions.
    ///
    /// # Errors
    /// The first refusal.
    pub fn process(&self, batch: Vec<T>) -> Result<Processed<T>, BatchError> {
        let (rows_in, began) = (batch.len(), Instant::now());
        let made = self.functions.iter().try_fold(batch, |rows, (name, function)| {
            function(rows).map_err(|reason| BatchError { function: Arc::clone(name), reason })
        });
        let time = began.elapsed();
        let mut figures = self.locked();
        let first = *figures.1.get_or_insert(began);
        let statistics = &mut figures.0;
        statistics.span = first.elapsed();
        match made {
            Ok(rows) => {
                statistics.shortest = if statistics.batches == 0 { time } else { statistics.shortest.min(time) };
                statistics.longest = statistics.longest.max(time);
                statistics.batches += 1;
                statistics.rows += rows_in as u64;
                statistics.busy += time;
                Ok(Processed { rows, rows_in, time })
            }
            Err(error) => {
                statistics.errors += 1;
                Err(error)
            }
        }
    }

    /// Takes each of `batches` through all functions, on so many threads; what came of them is in their order.
    pub fn process_all(&self, batches: Vec<Vec<T>>, threads: usize) -> Vec<Result<Processed<T>, BatchError>> {
        let waiting: Vec<Mutex<Option<Vec<T>>>> = batches.into_iter().map(|batch| Mutex::new(Some(batch))).collect();
        let (waiting, next) = (&waiting[..], &AtomicUsize::new(0));
        let work = move || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = waiting.get(at) else { return done };
                let batch = batch.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
                done.push((at, self.process(batch)));
            }
        };
        let mut done: Vec<_> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(waiting.len())).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for other in others {
                done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        });
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, made)| made).collect()
    }

    /// What was done since the start or the last reset.
    pub fn statistics(&self) -> BatchStatistics {
        self.locked().0
    }

    /// Begins the statistics anew; the functions stay.
    pub fn reset(&self) {
        *self.locked() = Default::default();
    }
}
