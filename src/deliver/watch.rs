//! Whether a sink gets on: progress counts, not state.
//!
//! A sink may be connected, confirm nothing, and still look healthy. What cannot deceive is the cursor: while something waits behind
//! it, it moves, or the sink has stalled. Pure: the caller says where cursor and end are, and what time it is (milliseconds of a clock that
//! never steps).
//!
//! ```text
//! nothing waits ─▶ idle ─▶ something waits ─▶ the cursor moves: the wait begins anew
//!                                          └▶ it has not moved for as long as is allowed: stalled, until it moves or nothing waits
//! ```

use super::Progress;
use crate::model::Seq;

/// One sink's cursor, and since when it stands.
#[derive(Debug, Clone)]
pub struct ProgressWatch {
    allowed_ms: u64,
    /// Where the cursor was, and since when something waits behind it without it having moved.
    standing: Option<(Progress, u64)>,
    /// When a stalled sink was last told to start again.
    restarted_ms: Option<u64>,
}

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing waits, or the cursor has moved not long ago.
    GetsOn,
    /// The cursor stands for this long, with something behind it.
    Stalled {
        /// Milliseconds.
        for_ms: u64,
        /// Whether the sink is to be started again now: at the first such look, and after each further time allowed.
        restart: bool,
    },
}

impl ProgressWatch {
    /// A cursor that may stand for `allowed_ms` while something waits.
    pub const fn new(allowed_ms: u64) -> Self {
        Self { allowed_ms, standing: None, restarted_ms: None }
    }

    /// Looks at the cursor; `end` is the last row and result there are.
    pub fn look(&mut self, cursor: Progress, end: (Seq, Seq), now_ms: u64) -> Look {
        let waits = end.0 > cursor.rows || end.1 > cursor.results;
        let since_ms = match self.standing {
            Some((at, since_ms)) if waits && at == cursor => since_ms,
            _ => {
                self.standing = waits.then_some((cursor, now_ms));
                self.restarted_ms = None;
                return Look::GetsOn;
            }
        };
        let for_ms = now_ms.saturating_sub(since_ms);
        if for_ms < self.allowed_ms {
            return Look::GetsOn;
        }
        let restart = self.restarted_ms.is_none_or(|at| now_ms.saturating_sub(at) >= self.allowed_ms);
        if restart {
            self.restarted_ms = Some(now_ms);
        }
        Look::Stalled { for_ms, restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rows: u64, results: u64) -> Progress {
        Progress { rows: Seq(rows), results: Seq(results) }
    }

    fn stalled(for_ms: u64, restart: bool) -> Look {
        Look::Stalled { for_ms, restart }
    }

    #[test]
    fn a_cursor_that_stands_while_something_waits_is_noticed() {
        let mut watch = ProgressWatch::new(100);
        let end = (Seq(10), Seq(0));
        assert_eq!(watch.look(at(5, 0), end, 0), Look::GetsOn);
        assert_eq!(watch.look(at(5, 0), end, 99), Look::GetsOn);
        assert_eq!(watch.look(at(5, 0), end, 100), stalled(100, true));
        assert_eq!(watch.look(at(5, 0), (Seq(99), Seq(0)), 150), stalled(150, false));
        assert_eq!(watch.look(at(5, 0), end, 200), stalled(200, true));
        assert_eq!(watch.look(at(6, 0), end, 201), Look::GetsOn);
        assert_eq!(watch.look(at(6, 0), end, 300), Look::GetsOn);
        assert_eq!(watch.look(at(6, 0), end, 301), stalled(100, true));
    }

    #[test]
    fn a_cursor_with_nothing_behind_it_may_stand_for_ever() {
        let mut watch = ProgressWatch::new(100);
        assert_eq!(watch.look(at(10, 3), (Seq(10), Seq(3)), 0), Look::GetsOn);
        assert_eq!(watch.look(at(10, 3), (Seq(10), Seq(3)), 1_000), Look::GetsOn);
        // The wait begins when something comes.
        assert_eq!(watch.look(at(10, 3), (Seq(10), Seq(4)), 1_050), Look::GetsOn);
        assert_eq!(watch.look(at(10, 3), (Seq(10), Seq(4)), 1_149), Look::GetsOn);
        assert_eq!(watch.look(at(10, 3), (Seq(10), Seq(4)), 1_150), stalled(100, true));
    }
}
