//! Session windows: rows of a key that follow each other within a gap.
//!
//! A session begins with a row and goes on with each row at most `gap` after the last one; it ends `gap` after its last row. With a longest
//! duration it is cut at its first time plus that: a row at or after the cut begins another session. Which rows make which session thus
//! depends on all rows of the key in the order of time. A row that comes out of order may move every cut behind it; a session
//! with a longest duration therefore keeps its rows apart by time (as *items*) until the watermark has passed them by the allowed
//! lateness and by the gap, and only then makes one item of them. Rows later than that move no cut: they go into a session that is
//! around them or within the gap, or begin one of their own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use serde::{Deserialize, Serialize};

use super::{
    Accumulation, WindowConfig, WindowKind,
    keys::{KeyMemo, KeyTable, KeyTexts},
    lanes::{Lanes, Pane, Plan},
    maker::Maker,
};
use crate::model::{Batch, Output, Seq};

/// Rows that no cut comes between.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Item {
    first: i64,
    last: i64,
    place: u32,
}

/// A session of one key: at least one item, by time.
#[derive(Debug, Default)]
struct Session {
    items: Vec<Item>,
    /// The revision of the next firing.
    revision: u32,
    /// Whether it has fired with the bounds that it has.
    spoken: bool,
    /// The revisions below this may have been given with one of the bounds that it, or what was taken into it, has had.
    given: u32,
    /// Rows came since the last firing.
    fresh: bool,
    /// The ids of firings that the next one replaces.
    replaces: Vec<String>,
}

/// A session as a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Saved {
    items: Vec<(i64, i64, Pane)>,
    revision: u32,
    spoken: bool,
    given: u32,
    fresh: bool,
    replaces: Vec<String>,
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionsState {
    by_key: BTreeMap<KeyTexts, Vec<Saved>>,
}

/// The sessions of one key, by start; they do not overlap.
#[derive(Debug)]
struct Line {
    sessions: Vec<Session>,
    /// No session fires or is freed before the watermark is here, and the agenda says so; none if there is no session.
    due: Option<i64>,
}

/// Sessions of all keys.
#[derive(Debug)]
pub struct Sessions {
    gap_ns: i64,
    max_ns: Option<i64>,
    lateness_ns: i64,
    lanes: Lanes,
    keys: KeyTable,
    memo: KeyMemo,
    lines: Vec<Line>,
    /// When to look at which key; entries that its line does not know are stale.
    agenda: BinaryHeap<Reverse<(i64, u32)>>,
    /// Keys without a session.
    empty: Vec<u32>,
    sum: Pane,
}

/// Items of a session before earlier ones are looked at to be made one.
const ITEMS_MIN: usize = 64;
/// Keys without a session that are kept, so that they need not be made anew.
const EMPTY_KEYS_MIN: usize = 64;

impl Session {
    fn start(&self) -> i64 {
        self.items.first().map_or(i64::MAX, |item| item.first)
    }

    fn last(&self) -> i64 {
        self.items.last().map_or(i64::MIN, |item| item.last)
    }
}

impl Sessions {
    /// Sessions of `config`, whose aggregates are `plan`; grouped by the tags in these columns.
    pub(super) fn new(config: &WindowConfig, plan: Plan, tags: Vec<usize>) -> Self {
        let (gap_ns, max_ns) = match config.kind {
            WindowKind::Session { gap_ns, max_duration_ns } => (gap_ns, max_duration_ns),
            _ => (1, None),
        };
        Self {
            gap_ns,
            max_ns,
            lateness_ns: config.allowed_lateness_ns,
            sum: plan.start(),
            lanes: Lanes::new(plan),
            keys: KeyTable::default(),
            memo: KeyMemo::new(tags),
            lines: Vec::new(),
            agenda: BinaryHeap::new(),
            empty: Vec::new(),
        }
    }

    /// A row at `time` makes no session that ends before this; nothing is settled that it could move.
    pub(super) fn shortest_ns(&self) -> i64 {
        self.max_ns.map_or(self.gap_ns, |max_ns| max_ns.min(self.gap_ns))
    }

    fn cut(&self, start: i64) -> i64 {
        self.max_ns.map_or(i64::MAX, |max_ns| start.saturating_add(max_ns))
    }

    fn end(&self, start: i64, last: i64) -> i64 {
        last.saturating_add(self.gap_ns).min(self.cut(start))
    }

    fn bounds(&self, session: &Session) -> (i64, i64) {
        (session.start(), self.end(session.start(), session.last()))
    }

    /// Whether what begins at `first` goes on with a session from `start` to `last`.
    fn goes_on(&self, start: i64, last: i64, first: i64) -> bool {
        first <= last.saturating_add(self.gap_ns) && (self.max_ns.is_none() || first < self.cut(start))
    }

    /// When a session fires, or is freed if it has.
    fn deadline_of(&self, session: &Session) -> i64 {
        let end = self.bounds(session).1;
        if session.fresh { end } else { end.saturating_add(self.lateness_ns) }
    }

    /// Adds a row; whether it need not be reported as late.
    pub(super) fn push(&mut self, maker: &Maker, batch: &Batch, row: usize, watermark: i64, out: &mut Vec<Output>) -> bool {
        let time = batch.time[row];
        let key = self.memo.number(batch, row, &mut self.keys);
        while self.lines.len() <= key as usize {
            self.lines.push(Line { sessions: Vec::new(), due: None });
        }
        let mut sessions = std::mem::take(&mut self.lines[key as usize].sessions);
        let taken = self.take(maker, &mut sessions, batch, row, (key, time, watermark));
        if let Some((first, end)) = taken {
            for session in sessions.get_mut(first..end).unwrap_or_default() {
                if session.fresh && self.bounds(session).1 <= watermark {
                    self.fire(maker, key, session, batch.seq(row), out);
                }
            }
            let due = sessions[first..end].iter().map(|session| self.deadline_of(session)).min();
            self.schedule(key, due);
        }
        self.lines[key as usize].sessions = sessions;
        taken.is_some()
    }

    /// Puts a row into the sessions of its key; the places of those that changed, or none if it is late.
    fn take(
        &mut self,
        maker: &Maker,
        sessions: &mut Vec<Session>,
        batch: &Batch,
        row: usize,
        (key, time, watermark): (u32, i64, i64),
    ) -> Option<(usize, usize)> {
        let after = sessions.partition_point(|session| session.start() <= time);
        if let Some(at) = after.checked_sub(1)
            && self.goes_on(sessions[at].start(), sessions[at].last(), time)
        {
            let (before, last, known) = (self.bounds(&sessions[at]), sessions[at].last(), sessions[at].replaces.len());
            self.add(&mut sessions[at], batch, row, watermark);
            let end = if time > last { self.join(maker, key, sessions, at) } else { at + 1 };
            self.moved(maker, key, &mut sessions[at], before, known);
            return Some((at, end));
        }
        let last = self.reach(&sessions[after..], time);
        if self.end(time, last).saturating_add(self.lateness_ns) <= watermark {
            return None;
        }
        let place = self.lanes.allocate();
        self.lanes.add(batch, &[row as u32], &[place]);
        let session = Session { items: vec![Item { first: time, last: time, place }], fresh: true, ..Session::default() };
        sessions.insert(after, session);
        Some((after, self.join(maker, key, sessions, after)))
    }

    /// The last time of the session that a row at `time` would begin.
    fn reach(&self, sessions: &[Session], time: i64) -> i64 {
        let mut last = time;
        for item in sessions.iter().flat_map(|session| &session.items) {
            if !self.goes_on(time, last, item.first) || (self.max_ns.is_some() && item.last >= self.cut(time)) {
                break;
            }
            last = item.last;
        }
        last
    }

    /// Adds a row that belongs to `session`.
    fn add(&mut self, session: &mut Session, batch: &Batch, row: usize, watermark: i64) {
        let time = batch.time[row];
        session.fresh = true;
        if self.max_ns.is_none() {
            let item = &mut session.items[0];
            item.last = item.last.max(time);
            self.lanes.add(batch, &[row as u32], &[item.place]);
            return;
        }
        let settled = watermark.saturating_sub(self.lateness_ns).saturating_sub(self.shortest_ns());
        if session.items.len() >= ITEMS_MIN || time < settled {
            self.settle(session, settled);
        }
        let at = session.items.partition_point(|item| item.first <= time);
        let place = match at.checked_sub(1).map(|at| &mut session.items[at]) {
            Some(item) if time <= item.last || time < settled => {
                item.last = item.last.max(time);
                item.place
            }
            _ => {
                let place = self.lanes.allocate();
                session.items.insert(at, Item { first: time, last: time, place });
                place
            }
        };
        self.lanes.add(batch, &[row as u32], &[place]);
    }

    /// Makes one item of those before `settled`.
    fn settle(&mut self, session: &mut Session, settled: i64) {
        let count = session.items.partition_point(|item| item.last < settled);
        if count < 2 {
            return;
        }
        let mut first = session.items[0];
        for item in &session.items[1..count] {
            self.lanes.merge(first.place, item.place);
            self.lanes.release(item.place);
            first.last = item.last;
        }
        session.items.splice(..count, [first]);
    }

    /// Takes into the session at `at` what goes on with it, and so on behind it; the place behind the last one that changed.
    fn join(&mut self, maker: &Maker, key: u32, sessions: &mut Vec<Session>, mut at: usize) -> usize {
        while let Some(next) = sessions.get(at + 1) {
            let (start, last) = (sessions[at].start(), sessions[at].last());
            let first = next.items[0];
            let fits = |item: &Item, last: i64| {
                self.goes_on(start, last, item.first) && (self.max_ns.is_none() || item.last < self.cut(start))
            };
            if !fits(&first, last) {
                break;
            }
            let next = sessions.remove(at + 1);
            let bounds = self.bounds(&next);
            let mut reached = last;
            let count = next.items.iter().take_while(|item| {
                fits(item, reached) && {
                    reached = item.last;
                    true
                }
            });
            let count = count.count();
            let session = &mut sessions[at];
            session.fresh = true;
            session.replaces.extend(next.replaces);
            let given = next.given.max(next.revision);
            session.given = session.given.max(given);
            if next.spoken {
                session.replaces.push(maker.id(self.keys.texts(key), bounds.0, bounds.1, next.revision - 1));
            }
            let (into, rest) = next.items.split_at(count);
            if self.max_ns.is_some() {
                session.items.extend(into);
            } else {
                for item in into {
                    self.lanes.merge(session.items[0].place, item.place);
                    self.lanes.release(item.place);
                    session.items[0].last = session.items[0].last.max(item.last);
                }
            }
            if !rest.is_empty() {
                at += 1;
                // It may have the bounds that `next`, or what that had taken in, has fired with.
                let rest = Session { items: rest.to_vec(), revision: given, given, fresh: true, ..Session::default() };
                sessions.insert(at, rest);
            }
        }
        at + 1
    }

    /// If the bounds of `session` are no longer `before`, its next firing replaces what it has said, behind the first `known` ones.
    fn moved(&self, maker: &Maker, key: u32, session: &mut Session, before: (i64, i64), known: usize) {
        if session.spoken && self.bounds(session) != before {
            session.replaces.insert(known, maker.id(self.keys.texts(key), before.0, before.1, session.revision - 1));
            session.given = session.given.max(session.revision);
            (session.revision, session.spoken) = (0, false);
        }
    }

    fn fire(&mut self, maker: &Maker, key: u32, session: &mut Session, at: Seq, out: &mut Vec<Output>) {
        self.lanes.copy_to(&mut self.sum, session.items[0].place);
        for item in &session.items[1..] {
            self.lanes.add_to(&mut self.sum, item.place);
        }
        let replaces = std::mem::take(&mut session.replaces);
        let bounds = self.bounds(session);
        maker.fire(self.keys.texts(key), bounds, session.revision, &self.sum, replaces, at, out);
        session.revision += 1;
        session.spoken = true;
        session.fresh = false;
        if maker.config().accumulation == Accumulation::Discarding {
            for item in &session.items {
                self.lanes.forget(item.place);
            }
        }
    }

    fn schedule(&mut self, key: u32, due: Option<i64>) {
        let line = &mut self.lines[key as usize];
        if let Some(due) = due
            && line.due.is_none_or(|known| due < known)
        {
            line.due = Some(due);
            self.agenda.push(Reverse((due, key)));
        }
    }

    /// Fires sessions that end at or before `watermark`, in the order end, start, key, and frees those past their lateness.
    pub(super) fn advance(&mut self, maker: &Maker, watermark: i64, out: &mut Vec<Output>) {
        let mut keys = Vec::new();
        while let Some(Reverse((due, key))) = self.agenda.peek().copied().filter(|Reverse((due, _))| *due <= watermark) {
            self.agenda.pop();
            if self.lines[key as usize].due == Some(due) {
                self.lines[key as usize].due = None;
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return;
        }
        self.fire_all(maker, keys.iter().copied(), watermark, out);
        for key in keys {
            let mut sessions = std::mem::take(&mut self.lines[key as usize].sessions);
            sessions.retain(|session| {
                let is_kept = !maker.is_freed(self.bounds(session).1, watermark);
                if !is_kept {
                    session.items.iter().for_each(|item| self.lanes.release(item.place));
                }
                is_kept
            });
            let due = sessions.iter().map(|session| self.deadline_of(session)).min();
            if sessions.is_empty() {
                self.empty.push(key);
            }
            self.lines[key as usize].sessions = sessions;
            self.schedule(key, due);
        }
        self.release_keys();
    }

    /// Gives back the numbers of keys without sessions, once they are many.
    fn release_keys(&mut self) {
        if self.empty.len() < EMPTY_KEYS_MIN.max(self.keys.len() / 2) {
            return;
        }
        for key in std::mem::take(&mut self.empty) {
            if self.lines[key as usize].sessions.is_empty() {
                self.keys.release(key);
            }
        }
        self.memo.clear();
    }

    /// Fires every session that has something new.
    pub(super) fn fire_open(&mut self, maker: &Maker, out: &mut Vec<Output>) {
        let keys: Vec<u32> = self.keys.numbers().collect();
        self.fire_all(maker, keys.into_iter(), i64::MAX, out);
    }

    /// Fires the sessions of `keys` that end by `until` and have something new.
    fn fire_all(&mut self, maker: &Maker, keys: impl Iterator<Item = u32>, until: i64, out: &mut Vec<Output>) {
        let mut due = Vec::new();
        for key in keys {
            let Some(line) = self.lines.get(key as usize) else { continue };
            for (at, session) in line.sessions.iter().enumerate().filter(|(_, session)| session.fresh) {
                let (start, end) = self.bounds(session);
                if end <= until {
                    due.push((end, start, key, at));
                }
            }
        }
        due.sort_unstable_by(|left, right| {
            (left.0, left.1, self.keys.texts(left.2)).cmp(&(right.0, right.1, self.keys.texts(right.2)))
        });
        for (_, _, key, at) in due {
            let mut session = std::mem::take(&mut self.lines[key as usize].sessions[at]);
            self.fire(maker, key, &mut session, Seq(0), out);
            self.lines[key as usize].sessions[at] = session;
        }
    }

    /// No session fires or is freed before the watermark is here.
    pub(super) fn deadline(&self) -> Option<i64> {
        self.agenda.peek().map(|Reverse((due, _))| *due)
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(|line| line.sessions.len()).sum()
    }

    /// All of them by end, start and key: start and end, key, rows.
    pub(super) fn open(&self) -> impl Iterator<Item = ((i64, i64), &KeyTexts, u64)> {
        let rows = |session: &Session| session.items.iter().map(|item| self.lanes.rows(item.place)).sum();
        let mut open: Vec<_> = self
            .lines
            .iter()
            .zip(0..)
            .flat_map(|(line, key)| line.sessions.iter().map(move |session| (key, session)))
            .map(|(key, session)| (self.bounds(session), self.keys.texts(key), rows(session)))
            .collect();
        open.sort_unstable_by(|left, right| (left.0.1, left.0.0, left.1).cmp(&(right.0.1, right.0.0, right.1)));
        open.into_iter()
    }

    /// What a checkpoint keeps.
    pub(super) fn snapshot(&self) -> SessionsState {
        let save = |session: &Session| Saved {
            items: session.items.iter().map(|item| (item.first, item.last, self.lanes.get(item.place))).collect(),
            revision: session.revision,
            spoken: session.spoken,
            given: session.given,
            fresh: session.fresh,
            replaces: session.replaces.clone(),
        };
        let of = |(line, key): (&Line, u32)| (self.keys.texts(key).clone(), line.sessions.iter().map(save).collect());
        SessionsState { by_key: self.lines.iter().zip(0..).filter(|(line, _)| !line.sessions.is_empty()).map(of).collect() }
    }

    /// Goes on from a checkpoint.
    pub(super) fn restore(&mut self, state: SessionsState) {
        for (texts, saved) in state.by_key {
            let key = self.keys.number(texts.iter().map(Option::as_ref));
            while self.lines.len() <= key as usize {
                self.lines.push(Line { sessions: Vec::new(), due: None });
            }
            for Saved { items, revision, spoken, given, fresh, replaces } in saved {
                let mut session = Session { items: Vec::new(), revision, spoken, given, fresh, replaces };
                for (first, last, pane) in items {
                    let place = self.lanes.allocate();
                    self.lanes.set(place, pane);
                    session.items.push(Item { first, last, place });
                }
                let due = Some(self.deadline_of(&session));
                self.lines[key as usize].sessions.push(session);
                self.schedule(key, due);
            }
        }
    }
}

impl SessionsState {
    /// Adds `other`, which has no key in common.
    pub(super) fn add(&mut self, other: Self) {
        self.by_key.extend(other.by_key);
    }

    /// In parts, each key in the one that `part_of` says.
    pub(super) fn split(self, parts: usize, part_of: impl Fn(&[Option<std::sync::Arc<str>>]) -> usize) -> Vec<Self> {
        let mut split = vec![Self::default(); parts];
        for (key, saved) in self.by_key {
            if let Some(part) = split.get_mut(part_of(&key)) {
                part.by_key.insert(key, saved);
            }
        }
        split
    }

    /// Whether all were made by a plan like this, over as many tags.
    pub(super) fn fit(&self, plan: &Plan, tags: usize) -> bool {
        let mut panes = self.by_key.values().flatten().flat_map(|saved| &saved.items);
        let whole = self.by_key.values().flatten().all(|saved| !saved.items.is_empty());
        whole && panes.all(|(_, _, pane)| plan.fits(pane)) && self.by_key.keys().all(|key| key.len() == tags)
    }
}
