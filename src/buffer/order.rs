//! Finding a ring's rows by event time, paid for only while rows are out of order.
//!
//! Rows mostly arrive in order. Then arrival order *is* event-time order and nothing is kept but a count of *descents*: neighbours
//! whose time goes back. From the first descent on, the earliest and the latest time of each block of 64 slots are kept, of each 64 blocks,
//! and so on up; appending looks once more at the blocks that it wrote to. Rows between two times are then found by going down into
//! the blocks that can have any, in O(log n) steps beside those rows, and sorted; rows of equal time stay in order of arrival. When the last
//! descent has been overwritten, the blocks are dropped again.
//!
//! A block covers what its slots hold, also rows that have been evicted and not been overwritten yet: it may say too much, never too little.

use std::ops::Range;

use crate::model::time_bounds;

/// Slots in a block, and blocks in the next larger one.
const BLOCK: usize = 64;

/// What is known of the order of the rows in a ring.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    /// Rows in the ring whose time is earlier than that of the row before.
    descents: usize,
    /// Present exactly while `descents > 0`.
    blocks: Option<Blocks>,
}

/// The earliest and the latest time by block; `levels[0]` of the smallest blocks.
#[derive(Debug, Clone)]
struct Blocks {
    slots: usize,
    levels: Vec<Vec<(i64, i64)>>,
}

impl Order {
    /// Whether arrival order is event-time order.
    pub fn is_by_arrival(&self) -> bool {
        self.blocks.is_none()
    }

    /// The ring was emptied.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The oldest `leaving` rows of the ring, whose rows have `times`, are about to go.
    pub fn evict(&mut self, times: &[i64], leaving: usize) {
        if leaving == times.len() {
            self.clear();
        }
        if self.descents > 0 {
            self.descents -= descents(&times[..times.len().min(leaving + 1)]);
            if self.descents == 0 {
                self.blocks = None;
            }
        }
    }

    /// Rows with times `added` come in behind those with times `before`.
    pub fn append(&mut self, before: &[i64], added: &[i64]) {
        let seam = matches!((before.last(), added.first()), (Some(last), Some(next)) if next < last);
        self.descents += descents(added) + usize::from(seam);
    }

    /// They are in `cells`, the times by slot, from `slot` on.
    pub fn written(&mut self, cells: &[i64], slot: usize, count: usize) {
        if self.descents == 0 || count == 0 {
            return;
        }
        match &mut self.blocks {
            Some(blocks) => {
                let until_end = count.min(cells.len() - slot);
                blocks.update(cells, slot..slot + until_end);
                blocks.update(cells, 0..count - until_end);
            }
            None => self.blocks = Some(Blocks::new(cells)),
        }
    }

    /// The places of the rows with times from `from` to `to`, in event-time order, if that is not the order of arrival. `cells` are the times
    /// by slot; the oldest of `len` rows is in slot `first`.
    pub fn between(&self, (from, to): (i64, i64), cells: &[i64], first: usize, len: usize) -> Option<Vec<usize>> {
        let blocks = self.blocks.as_ref()?;
        let mut found: Vec<(i64, usize)> = Vec::new();
        for (slots, place) in segments(cells.len(), first, len) {
            blocks.near(from, to, slots.clone(), |near| {
                let times = cells[near.clone()].iter().zip(near);
                let within = times.filter(|(time, _)| (from..=to).contains(*time));
                found.extend(within.map(|(time, slot)| (*time, place + slot - slots.start)));
            });
        }
        found.sort_unstable();
        Some(found.into_iter().map(|(_, place)| place).collect())
    }

    /// The earliest and the latest time, if arrival order is not event-time order; otherwise as in [`Self::between`].
    pub fn bounds(&self, cells: &[i64], first: usize, len: usize) -> Option<(i64, i64)> {
        let blocks = self.blocks.as_ref()?;
        segments(cells.len(), first, len).map(|(slots, _)| blocks.bounds(cells, slots)).reduce(around)
    }
}

/// The slots of the `len` rows from slot `first` on in runs, each with the place of its first row.
fn segments(slots: usize, first: usize, len: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let until_end = len.min(slots - first);
    [(first..first + until_end, 0), (0..len - until_end, until_end)].into_iter().filter(|(slots, _)| !slots.is_empty())
}

fn around(left: (i64, i64), right: (i64, i64)) -> (i64, i64) {
    (left.0.min(right.0), left.1.max(right.1))
}

fn descents(times: &[i64]) -> usize {
    times.windows(2).filter(|pair| pair[1] < pair[0]).count()
}

impl Blocks {
    fn new(cells: &[i64]) -> Self {
        let mut levels = Vec::new();
        let mut blocks = cells.len().div_ceil(BLOCK);
        loop {
            levels.push(vec![(i64::MAX, i64::MIN); blocks]);
            if blocks <= 1 {
                break;
            }
            blocks = blocks.div_ceil(BLOCK);
        }
        let mut all = Self { slots: cells.len(), levels };
        all.update(cells, 0..cells.len());
        all
    }

    /// What is in `slots` has changed.
    fn update(&mut self, cells: &[i64], slots: Range<usize>) {
        if slots.is_empty() {
            return;
        }
        let (mut first, mut last) = (slots.start / BLOCK, (slots.end - 1) / BLOCK);
        for (block, bounds) in self.levels[0].iter_mut().enumerate().take(last + 1).skip(first) {
            *bounds = time_bounds(cells[block * BLOCK..cells.len().min((block + 1) * BLOCK)].iter().copied());
        }
        for level in 1..self.levels.len() {
            (first, last) = (first / BLOCK, last / BLOCK);
            let (below, above) = self.levels.split_at_mut(level);
            let below = &below[level - 1];
            for (block, bounds) in above[0].iter_mut().enumerate().take(last + 1).skip(first) {
                let children = &below[block * BLOCK..below.len().min((block + 1) * BLOCK)];
                *bounds = children.iter().copied().reduce(around).unwrap_or((i64::MAX, i64::MIN));
            }
        }
    }

    /// The largest blocks first: those that begin at `slot` and end by `end`, with their bounds.
    fn at(&self, slot: usize, end: usize) -> impl Iterator<Item = (usize, (i64, i64))> + '_ {
        (0..self.levels.len() as u32).rev().filter_map(move |level| {
            let size = BLOCK.pow(level + 1);
            let until = self.slots.min(slot + size);
            (slot.is_multiple_of(size) && until <= end).then(|| (until, self.levels[level as usize][slot / size]))
        })
    }

    /// Visits runs of `slots` that can hold times from `from` to `to`.
    fn near(&self, from: i64, to: i64, slots: Range<usize>, mut visit: impl FnMut(Range<usize>)) {
        let mut slot = slots.start;
        while slot < slots.end {
            let without = self.at(slot, slots.end).find(|(_, (earliest, latest))| *latest < from || *earliest > to);
            slot = if let Some((until, _)) = without {
                until
            } else {
                let until = slots.end.min((slot / BLOCK + 1) * BLOCK);
                visit(slot..until);
                until
            };
        }
    }

    /// The earliest and the latest time in `slots`.
    fn bounds(&self, cells: &[i64], slots: Range<usize>) -> (i64, i64) {
        let mut bounds = (i64::MAX, i64::MIN);
        let mut slot = slots.start;
        while slot < slots.end {
            let (until, here) = self.at(slot, slots.end).next().unwrap_or_else(|| {
                let until = slots.end.min((slot / BLOCK + 1) * BLOCK);
                (until, time_bounds(cells[slot..until].iter().copied()))
            });
            (slot, bounds) = (until, around(bounds, here));
        }
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::mirror::Mirror;

    #[test]
    fn rows_between_two_times_are_those_that_a_look_at_every_row_finds() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        // One, two and three levels of blocks, the last of them not full.
        for capacity in [1_usize, 63, 64, 65, 1000, 5000] {
            let (mut order, mut time) = (Order::default(), Mirror::new(capacity, 0));
            let (mut first, mut next) = (0_usize, 0_usize);
            let mut was_out_of_order = 0;
            for step in 0..60 {
                let jitter = [0, 0, 7, 200][(step / 9) % 4];
                let added = 1 + random(capacity as u64 / if step < 4 { 1 } else { 5 } + 1) as usize % capacity;
                let times: Vec<i64> = (next..next + added).map(|row| (row as u64 * 3 + random(jitter * 3 + 1)) as i64).collect();
                let leaving = (next - first + added).saturating_sub(capacity);
                order.evict(time.window(first % capacity, next - first), leaving);
                first += leaving;
                order.append(time.window(first % capacity, next - first), &times);
                time.write(next % capacity, &times);
                order.written(time.cells(), next % capacity, added);
                next += added;
                let held = time.window(first % capacity, next - first);
                assert_eq!(order.is_by_arrival(), held.is_sorted());
                was_out_of_order += usize::from(!held.is_sorted());
                for _ in 0..10 {
                    let from = held[random(held.len() as u64) as usize] - random(9) as i64 + 4;
                    let to = from + random(capacity as u64 * 2) as i64 - 1;
                    let mut wanted: Vec<usize> = (0..held.len()).filter(|row| (from..=to).contains(&held[*row])).collect();
                    wanted.sort_by_key(|row| held[*row]);
                    let found = order.between((from, to), time.cells(), first % capacity, held.len());
                    assert!(found.is_none_or(|found| found == wanted));
                }
                let bounds = order.bounds(time.cells(), first % capacity, held.len());
                assert!(bounds.is_none_or(|bounds| bounds == time_bounds(held.iter().copied())));
            }
            assert!(was_out_of_order > 10 || capacity == 1, "{capacity}: {was_out_of_order}");
        }
    }
}
