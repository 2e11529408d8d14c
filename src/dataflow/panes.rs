//! The rows of windows that share slices: one pane a key and slice, merged when a window fires.
//!
//! Each row goes into one pane, whatever the number of windows around it. A window of a key is the merge of its run of panes. Panes are
//! merged once into *nodes* of four, sixteen, sixty-four … slices, aligned by slice number, which the windows that follow share: a firing
//! merges a number of nodes that grows with the logarithm of the slices in a window. A row that still comes into a pane below a node
//! unmakes the node. Which panes and nodes are merged, and in which order, follows from the slice numbers and from which panes have rows
//! alone; hence a value does not depend on what fired before, on a restart, or on how rows were cut into batches.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    aggregate::Accumulator,
    lanes::{Lanes, Pane, Plan},
};

/// Slices below a node, as a power of two, is this times its level.
const FAN_BITS: u32 = 2;
/// Nodes of higher levels are not made.
const LEVELS_MAX: u32 = 12;
/// Panes that are merged one by one rather than through nodes.
const DIRECT_MAX: usize = 8;
/// A key without panes is released at this freeing: keys that come and go with each window are not made anew each time.
const IDLE_MAX: u8 = 2;
const NONE: u32 = u32::MAX;

/// What windows of one key have said although they are open, or said more than once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spoken {
    /// The revision of the next firing.
    pub revision: u32,
    /// Rows at the last firing.
    pub rows: u64,
    /// What came since, if firings discard.
    pub since: Option<Pane>,
}

/// The panes of one key, by rising slice number.
#[derive(Debug, Default)]
struct Line {
    panes: VecDeque<(i64, u32)>,
    /// `nodes[level - 1]`: number and place of those that are made, by rising number.
    nodes: Vec<VecDeque<(i64, u32)>>,
    spoken: BTreeMap<i64, Spoken>,
    /// How often it had no pane when panes were freed.
    idle: u8,
}

/// What most rows need to know of their key.
#[derive(Debug, Clone, Copy)]
struct Newest {
    /// The slice and place of the pane that took the last row, unless [`NONE`].
    slice: i64,
    place: u32,
    /// Slices before this one may be below a node.
    noded: i64,
}

/// The panes of all keys; keys are numbers.
#[derive(Debug)]
pub struct Panes {
    lanes: Lanes,
    /// By key, beside `lines`.
    newest: Vec<Newest>,
    lines: Vec<Line>,
    /// Panes of each slice.
    slices: BTreeMap<i64, u32>,
    /// What a firing is put together in.
    sum: Pane,
}

fn find(list: &VecDeque<(i64, u32)>, number: i64) -> Result<usize, usize> {
    let Some((first, _)) = list.front() else { return Err(0) };
    // Slices mostly have a pane each, so that its place follows from its number.
    let guess = usize::try_from(number.wrapping_sub(*first)).unwrap_or(usize::MAX);
    if list.get(guess).is_some_and(|(at, _)| *at == number) {
        return Ok(guess);
    }
    list.binary_search_by_key(&number, |(at, _)| *at)
}

/// The places of the entries with numbers in `from..until`.
fn within(list: &VecDeque<(i64, u32)>, from: i64, until: i64) -> (usize, usize) {
    let place = |number| find(list, number).unwrap_or_else(|place| place);
    (place(from), place(until))
}

impl Panes {
    /// No panes, for these aggregates.
    pub fn new(plan: Plan) -> Self {
        let sum = plan.start();
        Self { lanes: Lanes::new(plan), newest: Vec::new(), lines: Vec::new(), slices: BTreeMap::new(), sum }
    }

    /// Which aggregates read which lanes.
    pub fn plan(&self) -> &Plan {
        self.lanes.plan()
    }

    /// The place of the pane of `key` in `slice`; a new one if there is none. A node above it is unmade.
    #[inline]
    pub fn place(&mut self, key: u32, slice: i64) -> u32 {
        if let Some(newest) = self.newest.get(key as usize)
            && newest.slice == slice
            && newest.place != NONE
            && newest.noded <= slice
        {
            return newest.place;
        }
        self.place_slow(key, slice)
    }

    /// The same for many: keys come, places go.
    pub fn places(&mut self, slice: i64, keys: &mut [u32]) {
        for key in keys {
            *key = self.place(*key, slice);
        }
    }

    fn place_slow(&mut self, key: u32, slice: i64) -> u32 {
        if self.lines.len() <= key as usize {
            self.lines.resize_with(key as usize + 1, Line::default);
            self.newest.resize(key as usize + 1, Newest { slice: 0, place: NONE, noded: i64::MIN });
        }
        let line = &mut self.lines[key as usize];
        let newest = &mut self.newest[key as usize];
        line.idle = 0;
        if slice < newest.noded {
            unmake(line, slice, &mut self.lanes);
        }
        let place = match find(&line.panes, slice) {
            Ok(at) => line.panes[at].1,
            Err(at) => {
                let place = self.lanes.allocate();
                line.panes.insert(at, (slice, place));
                *self.slices.entry(slice).or_insert(0) += 1;
                place
            }
        };
        (newest.slice, newest.place) = (slice, place);
        place
    }

    /// Adds row `rows[i]` of `batch` to the pane at `places[i]`.
    pub fn add(&mut self, batch: &crate::model::Batch, rows: &[u32], places: &[u32]) {
        self.lanes.add(batch, rows, places);
    }

    /// The first slice from `from` on that has a pane.
    pub fn next_slice(&self, from: i64) -> Option<i64> {
        self.slices.range(from..).next().map(|(slice, _)| *slice)
    }

    /// The last slice that has a pane.
    pub fn last_slice(&self) -> Option<i64> {
        self.slices.last_key_value().map(|(slice, _)| *slice)
    }

    /// Whether `key` has rows in the slices `from..until`.
    pub fn any(&self, key: u32, (from, until): (i64, i64)) -> bool {
        let Some(line) = self.lines.get(key as usize) else { return false };
        let (first, end) = within(&line.panes, from, until);
        first < end
    }

    /// Rows of `key` in the slices `from..until`.
    pub fn rows(&self, key: u32, (from, until): (i64, i64)) -> u64 {
        let Some(line) = self.lines.get(key as usize) else { return 0 };
        let (first, end) = within(&line.panes, from, until);
        line.panes.range(first..end).map(|(_, place)| self.lanes.rows(*place)).sum()
    }

    /// All rows of `key` in the slices `from..until` together; none if there are none.
    pub fn window(&mut self, key: u32, (from, until): (i64, i64)) -> Option<&Pane> {
        let line = self.lines.get_mut(key as usize)?;
        let (first, end) = within(&line.panes, from, until);
        let mut panes = line.panes.range(first..end);
        let (_, place) = panes.next()?;
        self.lanes.copy_to(&mut self.sum, *place);
        if end - first <= DIRECT_MAX {
            panes.for_each(|(_, place)| self.lanes.add_to(&mut self.sum, *place));
            return Some(&self.sum);
        }
        self.lanes.plan().reset(&mut self.sum);
        let until = until.min(line.panes[end - 1].0.saturating_add(1));
        let (mut from, mut next) = (from, first);
        while next < end {
            let slice = line.panes[next].0;
            let level = level_of(slice, from, until);
            let (place, after) = node(line, &mut self.lanes, level, slice >> (FAN_BITS * level), next);
            self.lanes.add_to(&mut self.sum, place);
            from = ((slice >> (FAN_BITS * level)).saturating_add(1)) << (FAN_BITS * level);
            next = after;
        }
        let newest = &mut self.newest[key as usize];
        newest.noded = newest.noded.max(until);
        Some(&self.sum)
    }

    /// What windows of `key` have said out of turn.
    pub fn spoken(&self, key: u32) -> Option<&BTreeMap<i64, Spoken>> {
        self.lines.get(key as usize).map(|line| &line.spoken).filter(|spoken| !spoken.is_empty())
    }

    /// The same, to be changed.
    pub fn spoken_mut(&mut self, key: u32) -> Option<&mut BTreeMap<i64, Spoken>> {
        self.lines.get_mut(key as usize).map(|line| &mut line.spoken)
    }

    /// Frees the panes of slices before `slice` and what was said of windows up to `window`; gives the keys that have had none for a while.
    pub fn free_before(&mut self, slice: i64, window: i64) -> Vec<u32> {
        let mut gone = Vec::new();
        if self.slices.first_key_value().is_none_or(|(first, _)| *first >= slice) {
            return gone;
        }
        self.slices = self.slices.split_off(&slice);
        for ((key, line), newest) in (0..).zip(&mut self.lines).zip(&mut self.newest) {
            while let Some((_, place)) = line.panes.front().copied().filter(|(number, _)| *number < slice) {
                line.panes.pop_front();
                self.lanes.release(place);
            }
            for (level, nodes) in (1..).zip(&mut line.nodes) {
                while let Some((_, place)) = nodes.front().copied().filter(|(number, _)| *number < slice >> (FAN_BITS * level)) {
                    nodes.pop_front();
                    self.lanes.release(place);
                }
            }
            if newest.slice < slice {
                newest.place = NONE;
            }
            while line.spoken.first_key_value().is_some_and(|(at, _)| *at <= window) {
                line.spoken.pop_first();
            }
            if line.panes.is_empty() {
                line.nodes.iter_mut().flat_map(|nodes| nodes.drain(..)).for_each(|(_, place)| self.lanes.release(place));
                if line.spoken.is_empty() && line.idle < IDLE_MAX {
                    line.idle += 1;
                    if line.idle == IDLE_MAX {
                        gone.push(key);
                    }
                }
            }
        }
        gone
    }

    /// The slices in which `key` has rows, and where the panes are.
    pub fn places_of(&self, key: u32) -> impl Iterator<Item = (i64, u32)> {
        self.lines.get(key as usize).map(|line| line.panes.iter().copied()).into_iter().flatten()
    }

    /// Copies of the panes at `places`: their rows, and by lane what they add up to.
    pub fn columns(&self, places: &[u32]) -> (Vec<u64>, Vec<Vec<Accumulator>>) {
        self.lanes.columns(places)
    }

    /// The slices in which `key` has rows.
    pub fn slices_of(&self, key: u32) -> impl Iterator<Item = i64> {
        self.places_of(key).map(|(slice, _)| slice)
    }

    /// Puts a pane of `key` into `slice`.
    pub fn put(&mut self, key: u32, slice: i64, pane: Pane) {
        let place = self.place(key, slice);
        self.lanes.set(place, pane);
    }
}

/// The highest level whose node around `slice` lies in `from..until`.
fn level_of(slice: i64, from: i64, until: i64) -> u32 {
    let mut level = 0;
    while level < LEVELS_MAX {
        let bits = FAN_BITS * (level + 1);
        let start = (slice >> bits) << bits;
        if start < from || start.saturating_add(1 << bits) > until {
            break;
        }
        level += 1;
    }
    level
}

/// The place of node `number` of `level`, of which the pane at `first` of the line is the first one, and the first pane behind it. A node
/// that is not made yet is made from what is below it; where one pane is all there is, the node is that pane.
fn node(line: &mut Line, lanes: &mut Lanes, level: u32, number: i64, first: usize) -> (u32, usize) {
    let bits = FAN_BITS * level;
    let until = number.saturating_add(1).saturating_mul(1 << bits);
    let is_last = line.panes.get(first + 1).is_none_or(|(slice, _)| *slice >= until);
    if is_last {
        return (line.panes[first].1, first + 1);
    }
    while line.nodes.len() < level as usize {
        line.nodes.push(VecDeque::new());
    }
    let after = find(&line.panes, until).unwrap_or_else(|place| place);
    let at = match find(&line.nodes[level as usize - 1], number) {
        Ok(at) => return (line.nodes[level as usize - 1][at].1, after),
        Err(at) => at,
    };
    let made = lanes.allocate();
    let mut next = first;
    while next < after {
        let child = line.panes[next].0 >> (bits - FAN_BITS);
        let (below, behind) = node(line, lanes, level - 1, child, next);
        lanes.merge(made, below);
        next = behind;
    }
    line.nodes[level as usize - 1].insert(at, (number, made));
    (made, after)
}

/// Unmakes the nodes above `slice`.
fn unmake(line: &mut Line, slice: i64, lanes: &mut Lanes) {
    for (level, nodes) in (1..).zip(&mut line.nodes) {
        if let Ok(at) = find(nodes, slice >> (FAN_BITS * level))
            && let Some((_, place)) = nodes.remove(at)
        {
            lanes.release(place);
        }
    }
}
