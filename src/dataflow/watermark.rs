//! Progress of event time: one watermark per source partition, and their combination.
//!
//! A watermark `w` is exclusive: no row with a time before `w` is expected. In mode bounded it is the newest time of the partition minus the
//! delay; in mode punctuated only what the source states moves it. The combined watermark is the minimum over the partitions that
//! are not idle, and never falls but when the clock of arrivals turns out to have been ahead. A partition is idle once nothing has come from it for `idle`, by arrival; it comes back with
//! its next row, and counts again once it has caught up with the combined watermark, as in Flink: until then its rows are late, and it holds
//! nobody up. When all are idle, [`AllIdle`] says what happens.
//!
//! A row further ahead of its arrival than `max_future` has a bad clock: it is reported, and moves nothing. While the clock that stamps
//! arrivals is not set, it is that one which is wrong, and a row of today is taken at its word.
//!
//! [`Watermarks::observe`] gives the combined watermark after every single row of a batch, so that what operators do does not depend on
//! where batches were cut.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Flow;
use crate::model::{Batch, Timestamp};

/// What moves a partition's watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatermarkMode {
    /// Its rows: newest time minus delay; statements count too.
    #[default]
    Bounded,
    /// Only what the source states.
    Punctuated,
}

/// What happens when every partition is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllIdle {
    /// The watermark goes to the latest time seen, and open windows fire.
    #[default]
    Close,
    /// It goes to the maximum over partitions.
    Flush,
    /// It stays.
    Hold,
}

/// How a stream's watermark moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatermarkConfig {
    /// What moves it.
    pub mode: WatermarkMode,
    /// How much out of order rows may be.
    pub delay_ns: i64,
    /// How long a silent partition holds the others up; `None` = for ever.
    pub idle_ns: Option<i64>,
    /// How far ahead of its arrival a row may be; `None` = any.
    pub max_future_ns: Option<i64>,
    /// When all are silent.
    pub all_idle: AllIdle,
}

impl Default for WatermarkConfig {
    fn default() -> Self {
        Self {
            mode: WatermarkMode::Bounded,
            delay_ns: 5_000_000_000,
            idle_ns: Some(30_000_000_000),
            max_future_ns: Some(300_000_000_000),
            all_idle: AllIdle::Close,
        }
    }
}

/// One source partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Nothing earlier is expected from it.
    pub watermark: Timestamp,
    /// Silent for too long: left out of the minimum.
    pub idle: bool,
    /// Has been idle, and has not caught up since: left out of the minimum.
    pub behind: bool,
    newest: i64,
    last_arrival: Timestamp,
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarksState {
    partitions: BTreeMap<Arc<str>, Partition>,
    combined: Timestamp,
    newest: Timestamp,
    closed: bool,
}

/// What a tick did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticked {
    /// Nothing.
    Nothing,
    /// The combined watermark moved.
    Moved,
    /// All partitions fell silent: open windows fire.
    Closed,
}

/// At most this many partitions are told apart; further ones share the last place.
const PARTITIONS_MAX: usize = 10_000;

/// The watermarks of one stream.
#[derive(Debug, Clone)]
pub struct Watermarks {
    config: WatermarkConfig,
    arrivals: bool,
    state: WatermarksState,
}

impl Watermarks {
    /// Nothing known yet. Without `arrivals` (a replay), idleness and `max_future` do not act.
    pub fn new(config: WatermarkConfig, arrivals: bool) -> Self {
        let state =
            WatermarksState { partitions: BTreeMap::new(), combined: Timestamp::MIN, newest: Timestamp::MIN, closed: false };
        Self { config, arrivals, state }
    }

    /// Nothing earlier is expected from any partition that is not idle.
    pub fn combined(&self) -> Timestamp {
        self.state.combined
    }

    /// The newest time seen, rows too far in the future left out.
    pub fn newest(&self) -> Timestamp {
        self.state.newest
    }

    /// The partitions by name.
    pub fn partitions(&self) -> &BTreeMap<Arc<str>, Partition> {
        &self.state.partitions
    }

    /// Takes note of a batch: gives the combined watermark along its rows, and the places of the rows that are too far in the future.
    pub fn observe(&mut self, batch: &Batch) -> (Flow, Vec<usize>) {
        let (limit, is_future) = self.future(batch.arrival);
        let others = self.minimum(Some(&batch.partition));
        let delay_ns = if self.config.mode == WatermarkMode::Bounded { Some(self.config.delay_ns) } else { None };
        let before = self.state.combined.0;
        let partition = self.partition(&batch.partition, batch.arrival);
        let (mut newest, mut watermark, mut behind) = (partition.newest, partition.watermark.0, partition.behind);
        let (mut combined, mut moves, mut future) = (before, Vec::new(), Vec::new());
        // Once a row has counted, those up to here change nothing, which are most.
        let mut known = None;
        for (row, time) in batch.time.iter().copied().enumerate() {
            if known.is_some_and(|known| time <= known) {
                continue;
            }
            if is_future(time) {
                future.push(row);
            } else {
                newest = newest.max(time);
                known = Some(newest.min(limit));
                if let Some(delay_ns) = delay_ns {
                    watermark = watermark.max(newest.saturating_sub(delay_ns));
                }
                behind &= watermark < combined;
                let reached = watermark.min(others);
                if !behind && reached > combined {
                    combined = reached;
                    moves.push((row, combined));
                }
            }
        }
        partition.newest = newest;
        partition.behind = behind;
        partition.watermark = Timestamp(watermark);
        self.state.combined = Timestamp(combined);
        self.state.newest = self.state.newest.max(Timestamp(newest));
        (Flow { before, moves, rows: batch.rows(), first_seq: batch.first_seq.0 }, future)
    }

    /// The source states that nothing earlier than `time` follows on `partition`.
    pub fn punctuate(&mut self, partition: &Arc<str>, time: Timestamp, arrival: Timestamp) {
        let is_future = self.future(arrival).1(time.0);
        let combined = self.state.combined;
        let partition = self.partition(partition, arrival);
        if !is_future {
            partition.watermark = partition.watermark.max(time);
        }
        partition.behind &= partition.watermark < combined;
        let minimum = Timestamp(self.minimum(None));
        if minimum < Timestamp::MAX || time == Timestamp::MAX {
            self.state.combined = self.state.combined.max(minimum);
        }
    }

    /// The clock of arrivals went by `step_ns`: nobody is silent for longer or shorter because of that.
    pub fn clock_was_set(&mut self, step_ns: i64) {
        for partition in self.state.partitions.values_mut() {
            partition.last_arrival = partition.last_arrival.by_set_clock(step_ns);
        }
    }

    /// The clock of arrivals was set back, to `now`: what stands further ahead of it than `max_future` came from rows that this clock had
    /// stamped, and is taken back. Whether that was so.
    pub fn clock_was_set_back(&mut self, now: Timestamp) -> bool {
        let Some(max_future_ns) = self.config.max_future_ns.filter(|_| self.arrivals) else { return false };
        let limit = now.saturating_add(max_future_ns);
        if self.state.newest <= limit && self.state.combined <= limit {
            return false;
        }
        let expected = now.saturating_add(-self.config.delay_ns);
        for partition in self.state.partitions.values_mut().filter(|one| one.newest > limit.0 || one.watermark > limit) {
            partition.newest = partition.newest.min(now.0);
            partition.watermark = partition.watermark.min(expected);
        }
        self.state.newest = self.state.newest.min(now);
        self.state.combined = self.state.combined.min(expected);
        true
    }

    /// Time passed: partitions that have been silent for too long are left out.
    pub fn tick(&mut self, now: Timestamp) -> Ticked {
        let Some(idle_ns) = self.config.idle_ns.filter(|_| self.arrivals) else { return Ticked::Nothing };
        let before = self.state.combined;
        for partition in self.state.partitions.values_mut() {
            // Beyond now only if the clock was set back: the silence is counted from here on.
            partition.last_arrival = partition.last_arrival.min(now);
            partition.idle |= now.since(partition.last_arrival) >= idle_ns;
            partition.behind |= partition.idle;
        }
        let minimum = self.minimum(None);
        if minimum < i64::MAX {
            self.state.combined = before.max(Timestamp(minimum));
        } else if !self.state.closed && !self.state.partitions.is_empty() {
            self.state.closed = true;
            self.all_idle();
            if self.config.all_idle == AllIdle::Close {
                return Ticked::Closed;
            }
        }
        if self.state.combined > before { Ticked::Moved } else { Ticked::Nothing }
    }

    /// Up to where a time that came in at `arrival` is surely taken for one, and whether one is too far ahead.
    fn future(&self, arrival: Timestamp) -> (i64, impl Fn(i64) -> bool + use<>) {
        let limit = match self.config.max_future_ns {
            Some(max_future_ns) if self.arrivals => arrival.saturating_add(max_future_ns).0,
            _ => i64::MAX,
        };
        let is_set = arrival >= Timestamp::CLOCK_SET_FROM;
        (limit, move |time| time > limit && (is_set || time < Timestamp::CLOCK_SET_FROM.0))
    }

    fn all_idle(&mut self) {
        let to = match self.config.all_idle {
            AllIdle::Close => self.state.newest,
            AllIdle::Flush => self.state.partitions.values().map(|partition| partition.watermark).max().unwrap_or(Timestamp::MIN),
            AllIdle::Hold => return,
        };
        self.state.combined = self.state.combined.max(to);
    }

    /// By the arrivals' clock: when a tick would change something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let idle_ns = self.config.idle_ns.filter(|_| self.arrivals)?;
        let active = self.state.partitions.values().filter(|partition| !partition.idle);
        active.map(|partition| partition.last_arrival.saturating_add(idle_ns)).min()
    }

    /// The minimum over partitions that count, but `except`; the largest time if there is none.
    fn minimum(&self, except: Option<&Arc<str>>) -> i64 {
        let active =
            self.state.partitions.iter().filter(|(name, partition)| !partition.idle && !partition.behind && Some(*name) != except);
        active.map(|(_, partition)| partition.watermark.0).min().unwrap_or(i64::MAX)
    }

    fn partition(&mut self, name: &Arc<str>, arrival: Timestamp) -> &mut Partition {
        self.state.closed = false;
        let full = self.state.partitions.len() >= PARTITIONS_MAX && !self.state.partitions.contains_key(name);
        let name = if full { Arc::from("(others)") } else { Arc::clone(name) };
        let partition = self.state.partitions.entry(name).or_insert(Partition {
            watermark: Timestamp::MIN,
            idle: false,
            behind: false,
            newest: i64::MIN,
            last_arrival: arrival,
        });
        partition.idle = false;
        // Not the latest: after a clock that was ahead has been set back, that would make the partition seem alive until then.
        partition.last_arrival = arrival;
        partition
    }

    /// What a checkpoint keeps.
    pub fn snapshot(&self) -> WatermarksState {
        self.state.clone()
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, state: WatermarksState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stream;

    const SECOND: i64 = 1_000_000_000;

    fn batch(partition: &str, arrival: i64, times: &[i64]) -> Batch {
        let stream = Arc::new(Stream::new("s", &[], &[]));
        let mut batch = Batch::new(stream, "x".into(), partition.into(), Timestamp(arrival * SECOND));
        batch.time = times.iter().map(|time| time * SECOND).collect();
        batch
    }

    fn seen(watermarks: &mut Watermarks, partition: &str, arrival: i64, times: &[i64]) -> Vec<i64> {
        let (flow, _) = watermarks.observe(&batch(partition, arrival, times));
        flow.after().map(|after| if after == i64::MIN { i64::MIN } else { after / SECOND }).collect()
    }

    #[test]
    fn newest_time_minus_delay_and_never_back() {
        let mut watermarks = Watermarks::new(WatermarkConfig::default(), true);
        assert_eq!(seen(&mut watermarks, "a", 0, &[10, 8, 12, 3]), [5, 5, 7, 7]);
    }

    #[test]
    fn the_slowest_partition_holds_until_it_is_idle_and_comes_back_without_moving_time_back() {
        let mut watermarks = Watermarks::new(WatermarkConfig::default(), true);
        seen(&mut watermarks, "a", 0, &[10]);
        assert_eq!(seen(&mut watermarks, "b", 0, &[100]), [5]);
        assert_eq!(seen(&mut watermarks, "b", 29, &[130]), [5]);
        assert_eq!(watermarks.next_deadline(), Some(Timestamp(30 * SECOND)));
        assert_eq!(watermarks.tick(Timestamp(30 * SECOND)), Ticked::Moved);
        assert_eq!(watermarks.combined(), Timestamp(125 * SECOND));
        assert_eq!(seen(&mut watermarks, "a", 31, &[20]), [125]);
        assert_eq!(seen(&mut watermarks, "b", 32, &[140]), [135], "it holds nobody up");
        assert_eq!(seen(&mut watermarks, "a", 33, &[139, 141]), [135, 135]);
        assert_eq!(seen(&mut watermarks, "b", 34, &[200]), [136], "it has caught up");
    }

    #[test]
    fn a_row_far_in_the_future_moves_nothing() {
        let mut watermarks = Watermarks::new(WatermarkConfig::default(), true);
        let (_, future) = watermarks.observe(&batch("a", 0, &[10, 301, 11]));
        assert_eq!(future, [1]);
        assert_eq!(watermarks.newest(), Timestamp(11 * SECOND));
        let mut replay = Watermarks::new(WatermarkConfig::default(), false);
        assert_eq!(seen(&mut replay, "a", 0, &[10, 1000]), [5, 995]);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_nobody_alive_for_a_day() {
        let (day, mut watermarks) = (86_400, Watermarks::new(WatermarkConfig::default(), true));
        seen(&mut watermarks, "a", day, &[10]);
        seen(&mut watermarks, "b", day, &[10]);
        seen(&mut watermarks, "b", 1, &[11]);
        assert_eq!(watermarks.tick(Timestamp(2 * SECOND)), Ticked::Nothing);
        assert_eq!(watermarks.next_deadline(), Some(Timestamp(31 * SECOND)));
        assert_eq!(watermarks.tick(Timestamp(31 * SECOND)), Ticked::Nothing);
        assert_eq!(watermarks.tick(Timestamp(32 * SECOND)), Ticked::Closed, "counted from when the step was seen");
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_set_back_leaves_no_watermark_ahead() {
        let day = 86_400;
        let mut watermarks = Watermarks::new(WatermarkConfig::default(), true);
        seen(&mut watermarks, "a", 100, &[100]);
        assert!(!watermarks.clock_was_set_back(Timestamp(90 * SECOND)), "a watermark may be a little ahead");
        assert_eq!(seen(&mut watermarks, "a", day + 101, &[day + 101]), [day + 96]);
        watermarks.clock_was_set(-day * SECOND);
        assert!(watermarks.clock_was_set_back(Timestamp(102 * SECOND)));
        assert_eq!((watermarks.combined(), watermarks.newest()), (Timestamp(97 * SECOND), Timestamp(102 * SECOND)));
        assert_eq!(seen(&mut watermarks, "a", 110, &[110]), [105]);
        let mut replay = Watermarks::new(WatermarkConfig::default(), false);
        seen(&mut replay, "a", 0, &[day]);
        assert!(!replay.clock_was_set_back(Timestamp(0)), "a replay has no clock");
    }

    #[test]
    fn a_row_of_today_counts_although_the_clock_says_1970() {
        let (today, mut watermarks) = (1_780_272_000, Watermarks::new(WatermarkConfig::default(), true));
        assert_eq!(seen(&mut watermarks, "a", 7, &[today, today + 10]), [today - 5, today + 5]);
        // A day ahead of a clock that is set is too far.
        let mut watermarks = Watermarks::new(WatermarkConfig::default(), true);
        assert_eq!(watermarks.observe(&batch("a", today, &[today + 86_400])).1, [0]);
    }

    #[test]
    fn a_clock_that_is_set_makes_nobody_silent() {
        let (day, mut watermarks) = (86_400 * SECOND, Watermarks::new(WatermarkConfig::default(), true));
        seen(&mut watermarks, "a", 100, &[10]);
        for step_ns in [day, -2 * day, day] {
            let before = watermarks.next_deadline().unwrap();
            watermarks.clock_was_set(step_ns);
            assert_eq!(watermarks.next_deadline(), Some(before.saturating_add(step_ns)));
        }
        assert_eq!(watermarks.tick(Timestamp(129 * SECOND)), Ticked::Nothing);
        assert_eq!(watermarks.tick(Timestamp(130 * SECOND)), Ticked::Closed);
    }

    #[test]
    fn when_all_are_silent() {
        for (all_idle, expected, ticked) in
            [(AllIdle::Close, 10, Ticked::Closed), (AllIdle::Flush, 5, Ticked::Moved), (AllIdle::Hold, 2, Ticked::Nothing)]
        {
            let mut watermarks = Watermarks::new(WatermarkConfig { all_idle, ..WatermarkConfig::default() }, true);
            seen(&mut watermarks, "b", 0, &[7]);
            seen(&mut watermarks, "a", 0, &[10]);
            assert_eq!(watermarks.tick(Timestamp(29 * SECOND)), Ticked::Nothing);
            assert_eq!(watermarks.tick(Timestamp(30 * SECOND)), ticked);
            assert_eq!(watermarks.combined(), Timestamp(expected * SECOND), "{all_idle:?}");
            assert_eq!(watermarks.tick(Timestamp(90 * SECOND)), Ticked::Nothing);
            assert_eq!(watermarks.next_deadline(), None);
        }
    }

    #[test]
    fn in_mode_punctuated_rows_move_nothing() {
        let config = WatermarkConfig { mode: WatermarkMode::Punctuated, ..WatermarkConfig::default() };
        let mut watermarks = Watermarks::new(config, false);
        assert_eq!(seen(&mut watermarks, "a", 0, &[10]), [i64::MIN]);
        watermarks.punctuate(&"a".into(), Timestamp(4 * SECOND), Timestamp(0));
        assert_eq!(watermarks.combined(), Timestamp(4 * SECOND));
    }
}
