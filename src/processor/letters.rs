//! Rows that a step or a source refused.

use std::{collections::VecDeque, sync::Arc};

/// A row that went no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The step that refused it, such as `try_map`, or `source`.
    pub step: Arc<str>,
    /// Why.
    pub reason: String,
    /// The row as far as it is known: the raw text of one that could not be read, else empty.
    pub raw: String,
}

/// The last ones; all are counted.
#[derive(Debug, Default)]
pub(super) struct Letters {
    pub count: u64,
    pub last: VecDeque<DeadLetter>,
}

const KEPT_MAX: usize = 1000;

impl Letters {
    pub fn add(&mut self, letter: DeadLetter) {
        self.count += 1;
        if self.last.len() == KEPT_MAX {
            self.last.pop_front();
        }
        self.last.push_back(letter);
    }
}
