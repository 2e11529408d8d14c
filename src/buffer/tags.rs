//! A text column of a ring: codes in a mirrored column, texts interned once a ring.
//!
//! The table of texts is bounded: when it outgrows twice the ring, texts that no row holds any more are forgotten and the codes are
//! renumbered. So a tag that never repeats costs memory for the rows in the ring and no more.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{NO_TAG, TagColumn};

use super::mirror::Mirror;

/// Texts kept beyond what the ring could need, so that a small ring does not tidy up all the time.
const NAMES_SPARE: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct Tags {
    codes: Mirror<u32>,
    names: Vec<Arc<str>>,
    /// The place of a text in `names`; looked up, never iterated.
    lookup: FxHashMap<Arc<str>, u32>,
    /// By the code of the last column that was written: its text, and our code for it. Batches of one source mostly share their texts.
    known: Vec<(Arc<str>, u32)>,
    names_max: usize,
}

impl Tags {
    pub fn new(capacity: usize) -> Self {
        Self {
            codes: Mirror::new(capacity, NO_TAG),
            names: Vec::new(),
            lookup: FxHashMap::default(),
            known: Vec::new(),
            names_max: capacity * 2 + NAMES_SPARE,
        }
    }

    /// Codes of the `len` rows from `slot` on.
    pub fn codes(&self, slot: usize, len: usize) -> &[u32] {
        self.codes.window(slot, len)
    }

    /// The distinct texts, by code.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Writes the codes of `column` (rows `from..to`) from `slot` on. `held` is (slot, length) of the rows that stay in the ring.
    pub fn write(&mut self, slot: usize, column: &TagColumn, from: usize, to: usize, held: (usize, usize)) {
        if self.names.len() + column.names.len() > self.names_max {
            self.forget_unused(held);
        }
        self.know(&column.names);
        let own = |code: &u32| self.known.get(*code as usize).map_or(NO_TAG, |(_, code)| *code);
        let translated: Vec<u32> = column.codes[from..to].iter().map(own).collect();
        self.codes.write(slot, &translated);
    }

    fn know(&mut self, names: &[Arc<str>]) {
        self.known.truncate(names.len());
        for (place, name) in names.iter().enumerate() {
            if self.known.get(place).is_some_and(|(known, _)| Arc::ptr_eq(known, name)) {
                continue;
            }
            let entry = (Arc::clone(name), self.intern(name));
            match self.known.get_mut(place) {
                Some(known) => *known = entry,
                None => self.known.push(entry),
            }
        }
    }

    fn intern(&mut self, name: &Arc<str>) -> u32 {
        if let Some(code) = self.lookup.get(name) {
            return *code;
        }
        let code = self.names.len() as u32;
        self.names.push(Arc::clone(name));
        self.lookup.insert(Arc::clone(name), code);
        code
    }

    fn forget_unused(&mut self, (slot, len): (usize, usize)) {
        let held = self.codes.window(slot, len).to_vec();
        let names = std::mem::take(&mut self.names);
        self.lookup.clear();
        self.known.clear();
        let renumbered: Vec<u32> =
            held.iter().map(|code| names.get(*code as usize).map_or(NO_TAG, |name| self.intern(name))).collect();
        self.codes.write(slot, &renumbered);
    }
}
