//! Session windows: rows of a key that follow each other within a gap.
//!
//! A row opens `[time, time + gap)`; sessions of a key that overlap or touch merge, with their state. With a longest duration, a session
//! is cut at its first time plus that, and a row at or after the cut begins another: merging never makes a session longer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Accumulation,
    keys::KeyTexts,
    lanes::{Pane, Plan},
    maker::Maker,
};
use crate::model::{Batch, Output, Seq};

/// A session of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Session {
    start: i64,
    end: i64,
    pane: Pane,
    /// The revision of the next firing.
    revision: u32,
    /// Rows came since the last firing.
    fresh: bool,
    /// The ids of firings that the next one replaces.
    replaces: Vec<String>,
}

/// All sessions, by key, then by start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sessions {
    by_key: BTreeMap<KeyTexts, Vec<Session>>,
}

impl Session {
    fn around(start: i64, end: i64, plan: &Plan) -> Self {
        Self { start, end, pane: plan.start(), revision: 0, fresh: false, replaces: Vec::new() }
    }

    fn fire(&mut self, maker: &Maker, key: &KeyTexts, at: Seq, out: &mut Vec<Output>) {
        let replaces = std::mem::take(&mut self.replaces);
        maker.fire(key, (self.start, self.end), self.revision, &self.pane, replaces, at, out);
        self.revision += 1;
        self.fresh = false;
        if maker.config().accumulation == Accumulation::Discarding {
            self.pane = Pane { rows: self.pane.rows, ..maker.plan().start() };
        }
    }
}

impl Sessions {
    /// Whether all were made by a plan like this.
    pub(super) fn fit(&self, plan: &Plan) -> bool {
        self.by_key.values().flatten().all(|session| plan.fits(&session.pane))
    }

    /// Adds a row; whether it need not be reported as late.
    pub(super) fn push(
        &mut self,
        maker: &Maker,
        (gap_ns, max_ns): (i64, Option<i64>),
        batch: &Batch,
        row: usize,
        watermark: i64,
        out: &mut Vec<Output>,
    ) -> bool {
        let time = batch.time[row];
        let key = maker.key_of(batch, row);
        let sessions = self.by_key.entry(key.clone()).or_default();
        let mut merged = Session::around(time, time.saturating_add(gap_ns), maker.plan());
        let mut rest = Vec::with_capacity(sessions.len() + 1);
        let fits = |session: &Session, merged: &Session| {
            let touch = session.start <= merged.end && merged.start <= session.end;
            let first = session.start.min(merged.start);
            touch && max_ns.is_none_or(|max| time < session.start.saturating_add(max) && session.end <= first.saturating_add(max))
        };
        let (touching, others): (Vec<Session>, Vec<Session>) = sessions.drain(..).partition(|session| fits(session, &merged));
        rest.extend(others);
        for session in &touching {
            merged.start = merged.start.min(session.start);
            merged.end = merged.end.max(session.end);
        }
        if let Some(max) = max_ns {
            merged.end = merged.end.min(merged.start.saturating_add(max));
        }
        if maker.is_freed(merged.end, watermark) {
            rest.extend(touching);
            restore(&mut self.by_key, key, rest);
            return false;
        }
        for session in touching {
            absorb(maker, &key, &mut merged, session);
        }
        maker.plan().add(&mut merged.pane, batch, row);
        merged.fresh = true;
        if merged.end <= watermark {
            merged.fire(maker, &key, batch.seq(row), out);
        }
        rest.push(merged);
        restore(&mut self.by_key, key, rest);
        true
    }

    /// Fires sessions that end at or before `watermark`, in the order end, start, key, and frees those past their lateness.
    pub(super) fn advance(&mut self, maker: &Maker, watermark: i64, out: &mut Vec<Output>) {
        self.fire(maker, |session| session.end <= watermark, out);
        self.by_key.retain(|_, sessions| {
            sessions.retain(|session| !maker.is_freed(session.end, watermark));
            !sessions.is_empty()
        });
    }

    /// Fires every session that has something new.
    pub(super) fn fire_open(&mut self, maker: &Maker, out: &mut Vec<Output>) {
        self.fire(maker, |_| true, out);
    }

    fn fire(&mut self, maker: &Maker, is_due: impl Fn(&Session) -> bool, out: &mut Vec<Output>) {
        let mut due: Vec<(&KeyTexts, &mut Session)> = self
            .by_key
            .iter_mut()
            .flat_map(|(key, sessions)| sessions.iter_mut().map(move |session| (key, session)))
            .filter(|(_, session)| session.fresh && is_due(session))
            .collect();
        due.sort_by(|(left_key, left), (right_key, right)| {
            (left.end, left.start, left_key).cmp(&(right.end, right.start, right_key))
        });
        for (key, session) in due {
            session.fire(maker, key, Seq(0), out);
        }
    }

    /// The earliest watermark at which a session fires or is freed.
    pub(super) fn deadline(&self, maker: &Maker) -> Option<i64> {
        let lateness = maker.config().allowed_lateness_ns;
        let due = |session: &Session| if session.fresh { session.end } else { session.end.saturating_add(lateness) };
        self.by_key.values().flatten().map(due).min()
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.by_key.values().map(Vec::len).sum()
    }

    /// All of them: start and end, key, rows.
    pub(super) fn open(&self) -> impl Iterator<Item = ((i64, i64), &KeyTexts, u64)> {
        self.by_key
            .iter()
            .flat_map(|(key, sessions)| sessions.iter().map(move |session| ((session.start, session.end), key, session.pane.rows)))
    }
}

fn restore(by_key: &mut BTreeMap<KeyTexts, Vec<Session>>, key: KeyTexts, mut sessions: Vec<Session>) {
    if sessions.is_empty() {
        by_key.remove(&key);
        return;
    }
    sessions.sort_by_key(|session| (session.start, session.end));
    by_key.insert(key, sessions);
}

/// Puts what `session` has seen into `merged`. If its bounds change, what it has said before is replaced by the next firing.
fn absorb(maker: &Maker, key: &KeyTexts, merged: &mut Session, session: Session) {
    let same = (session.start, session.end) == (merged.start, merged.end);
    merged.pane.merge(&session.pane);
    merged.fresh |= session.fresh;
    merged.replaces.extend(session.replaces);
    if same {
        merged.revision = merged.revision.max(session.revision);
    } else if session.revision > 0 {
        merged.replaces.push(maker.id(key, session.start, session.end, session.revision - 1));
    }
}
