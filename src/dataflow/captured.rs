//! What a checkpoint keeps of windows, and the windows of a moment before they have that form: the operator's time is taken for a copy,
//! column by column; the sorting of keys and a list for every pane are left to whoever makes bytes of it.

use std::{sync::Arc, vec};

use serde::{Deserialize, Serialize};

use super::{aggregate::Accumulator, keys::KeyTexts, lanes::Pane, panes::Spoken, session::SessionsState, slices::Signature};

/// What a checkpoint keeps of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyState {
    pub key: KeyTexts,
    pub panes: Vec<(i64, Pane)>,
    pub spoken: Vec<(i64, Spoken)>,
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowState {
    pub(super) cut: Option<Signature>,
    pub(super) watermark: i64,
    pub(super) keys: Vec<KeyState>,
    pub(super) sessions: SessionsState,
    pub(super) late: u64,
    pub(super) fired: u64,
}

impl WindowState {
    /// This and `other`, which have no key in common.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        self.keys.sort_by(|left, right| left.key.cmp(&right.key));
        self.sessions.add(other.sessions);
        self.watermark = self.watermark.max(other.watermark);
        self.late += other.late;
        self.fired += other.fired;
        self
    }

    /// The state in parts, each key in the part that `part_of` says; counters go to the first.
    pub fn split(self, parts: usize, part_of: impl Fn(&[Option<Arc<str>>]) -> usize) -> Vec<Self> {
        let empty = Self { keys: Vec::new(), sessions: SessionsState::default(), late: 0, fired: 0, ..self };
        let mut whole = vec![empty; parts];
        if let Some(first) = whole.first_mut() {
            (first.late, first.fired) = (self.late, self.fired);
        }
        for key in self.keys {
            if let Some(part) = whole.get_mut(part_of(&key.key)) {
                part.keys.push(key);
            }
        }
        for (part, sessions) in whole.iter_mut().zip(self.sessions.split(parts, part_of)) {
            part.sessions = sessions;
        }
        whole
    }
}

/// A key, whose panes are the next `panes` of all.
pub(super) struct CapturedKey {
    pub key: KeyTexts,
    pub panes: usize,
    pub spoken: Vec<(i64, Spoken)>,
}

/// One operator's part.
pub(super) struct CapturedShard {
    pub cut: Option<Signature>,
    pub watermark: i64,
    pub keys: Vec<CapturedKey>,
    /// Of all panes, key by key.
    pub slices: Vec<i64>,
    /// Likewise, how many rows.
    pub rows: Vec<u64>,
    /// `[lane][pane]`, likewise.
    pub cells: Vec<Vec<Accumulator>>,
    pub sessions: SessionsState,
    pub late: u64,
    pub fired: u64,
}

/// See the module.
pub struct CapturedWindows {
    pub(super) shards: Vec<CapturedShard>,
}

impl CapturedWindows {
    /// What a checkpoint keeps: that of one operator, whatever the number of shards.
    pub fn state(self) -> WindowState {
        self.shards.into_iter().map(CapturedShard::state).reduce(WindowState::with).unwrap_or_default()
    }
}

impl CapturedShard {
    pub fn state(self) -> WindowState {
        let mut slices = self.slices.into_iter().zip(self.rows);
        let mut cells: Vec<vec::IntoIter<Accumulator>> = self.cells.into_iter().map(Vec::into_iter).collect();
        let mut panes = |count: usize| {
            let pane = |(slice, rows)| (slice, Pane { rows, accumulators: cells.iter_mut().filter_map(Iterator::next).collect() });
            slices.by_ref().take(count).map(pane).collect()
        };
        let keys =
            self.keys.into_iter().map(|CapturedKey { key, panes: count, spoken }| KeyState { key, panes: panes(count), spoken });
        let mut keys: Vec<KeyState> = keys.collect();
        keys.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        let Self { cut, watermark, sessions, late, fired, .. } = self;
        WindowState { cut, watermark, keys, sessions, late, fired }
    }
}
