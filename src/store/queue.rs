//! The way to the writer: first come, first served, bounded in bytes and in commands.
//!
//! Appends and the rest (steps, cursors) have separate bounds: sources that are held back must not hold back the engine and the sinks,
//! which are what makes room again. The lock is held for a push or a swap, never while anything is done.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::Command;
use super::error::StoreError;

/// Commands that wait, of either sort.
const COMMANDS_MAX: usize = 16_384;
/// Bytes of steps and cursor moves that wait.
const CONTROL_BYTES_MAX: usize = 256 << 20;
/// Callbacks that wait for room.
const WAITERS_MAX: usize = 4_096;

/// Told once when there is room for another append.
pub type Waker = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// Commands and bytes: appends, then the rest.
    held: [(usize, usize); 2],
    wakers: Vec<Waker>,
    /// Set once; what every later command is answered with.
    closed: Option<StoreError>,
}

/// Commands on their way to the writer.
pub struct Queue {
    waiting: Mutex<Waiting>,
    /// For the writer: something came.
    filled: Condvar,
    /// For those who push: there may be room.
    drained: Condvar,
    append_bytes_max: usize,
}

/// Why a command was not taken.
pub enum Refused {
    /// There is no room now.
    NoRoom(Command),
    /// There never will be.
    Closed(Command, Box<StoreError>),
}

const fn sort(command: &Command) -> usize {
    if matches!(command, Command::Append(_)) { 0 } else { 1 }
}

impl Queue {
    /// A queue that holds up to `append_bytes_max` of appends, and always one of any size.
    pub fn new(append_bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Condvar::new(), drained: Condvar::new(), append_bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, waiting: &Waiting, command: &Command) -> bool {
        let (commands, bytes) = waiting.held[sort(command)];
        let bytes_max = [self.append_bytes_max, CONTROL_BYTES_MAX][sort(command)];
        commands == 0 || (commands < COMMANDS_MAX && bytes + command.bytes() <= bytes_max)
    }

    fn push(&self, waiting: &mut Waiting, command: Command) {
        let held = &mut waiting.held[sort(&command)];
        *held = (held.0 + 1, held.1 + command.bytes());
        waiting.commands.push_back(command);
        self.filled.notify_one();
    }

    /// Takes a command if there is room.
    pub fn try_push(&self, command: Command) -> Result<(), Refused> {
        let mut waiting = self.lock();
        if let Some(error) = &waiting.closed {
            return Err(Refused::Closed(command, Box::new(error.clone())));
        }
        if !self.has_room(&waiting, &command) {
            return Err(Refused::NoRoom(command));
        }
        self.push(&mut waiting, command);
        Ok(())
    }

    /// Takes a command, waiting for room.
    pub fn push_blocking(&self, command: Command) -> Result<(), Refused> {
        let mut waiting = self.lock();
        loop {
            if let Some(error) = &waiting.closed {
                return Err(Refused::Closed(command, Box::new(error.clone())));
            }
            if self.has_room(&waiting, &command) {
                self.push(&mut waiting, command);
                return Ok(());
            }
            waiting = self.drained.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls `waker` once there is room for another append: at once if there is.
    pub fn when_room(&self, waker: Waker) {
        let mut waiting = self.lock();
        let (commands, bytes) = waiting.held[0];
        let full = commands >= COMMANDS_MAX || bytes >= self.append_bytes_max;
        if full && waiting.closed.is_none() && waiting.wakers.len() < WAITERS_MAX {
            waiting.wakers.push(waker);
        } else {
            drop(waiting);
            waker();
        }
    }

    /// For the writer: what waits, up to `bytes_max` and `commands_max`, after waiting for it at most `timeout`.
    /// The flag says whether the queue is closed and nothing more will come.
    pub fn take(&self, bytes_max: usize, commands_max: usize, timeout: Duration) -> (Vec<Command>, bool) {
        let mut waiting = self.lock();
        if waiting.commands.is_empty() && waiting.closed.is_none() {
            waiting = self.filled.wait_timeout(waiting, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < commands_max && bytes < bytes_max {
            let Some(command) = waiting.commands.pop_front() else { break };
            let held = &mut waiting.held[sort(&command)];
            *held = (held.0 - 1, held.1 - command.bytes());
            bytes += command.bytes();
            group.push(command);
        }
        let wakers = std::mem::take(&mut waiting.wakers);
        let over = waiting.closed.is_some() && waiting.commands.is_empty();
        drop(waiting);
        self.drained.notify_all();
        wakers.into_iter().for_each(|waker| waker());
        (group, over)
    }

    /// Takes no more commands; what waits is still done.
    pub fn close(&self, error: StoreError) {
        let mut waiting = self.lock();
        waiting.closed.get_or_insert(error);
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        self.filled.notify_all();
        self.drained.notify_all();
        wakers.into_iter().for_each(|waker| waker());
    }

    /// Commands and bytes of appends that wait.
    pub fn held(&self) -> (usize, usize) {
        self.lock().held[0]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::model::Seq;
    use crate::store::command::{CursorMove, Lane, Prepared};

    fn append(bytes: usize) -> Command {
        let now = Instant::now();
        Command::Append(Prepared {
            parts: Vec::new(),
            dead_letters: Vec::new(),
            decoded_at: now,
            enqueued_at: now,
            bytes,
            on_synced: Box::new(|_| {}),
        })
    }

    fn cursor() -> Command {
        let go = CursorMove { sink: "s".into(), lane: Lane::Rows, from: Seq(1), through: Seq(1), delivered: 1 };
        Command::Move(go, Box::new(|_| {}))
    }

    #[test]
    fn full_of_appends_still_takes_cursors() {
        let queue = Queue::new(100);
        assert!(queue.try_push(append(1000)).is_ok(), "one of any size");
        assert!(matches!(queue.try_push(append(1)), Err(Refused::NoRoom(_))));
        assert!(queue.try_push(cursor()).is_ok());
        let woken = Arc::new(AtomicUsize::new(0));
        let waker = Arc::clone(&woken);
        queue.when_room(Box::new(move || {
            waker.fetch_add(1, Ordering::SeqCst);
        }));
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        let (group, over) = queue.take(usize::MAX, 10, Duration::ZERO);
        assert_eq!((group.len(), over, woken.load(Ordering::SeqCst)), (2, false, 1));
        assert_eq!(queue.held(), (0, 0));
    }

    #[test]
    fn closing_lets_what_waits_through() {
        let queue = Queue::new(100);
        assert!(queue.try_push(append(1)).is_ok());
        queue.close(StoreError::Closed);
        assert!(matches!(queue.try_push(append(1)), Err(Refused::Closed(..))));
        let (group, over) = queue.take(usize::MAX, 10, Duration::ZERO);
        assert_eq!((group.len(), over), (1, true));
    }
}
