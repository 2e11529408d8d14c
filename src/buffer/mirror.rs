//! A fixed column in which every window of rows is one contiguous slice.
//!
//! Each value is written twice, at `slot` and at `slot + capacity`, so the `len ≤ capacity` rows that start at any slot lie side by
//! side without wrapping. That doubles the memory and the write, and makes reading a window a slice: no copy, no second segment.
//!
//! ```text
//! capacity 4, rows 2..6     slot:  0  1  2  3 │ 0  1  2  3
//!                           row:   4  5  2  3 │ 4  5  2  3
//!                                        └─────────┘ rows 2..6
//! ```

/// A column of `capacity` slots, each kept twice.
#[derive(Debug, Clone)]
pub(super) struct Mirror<T> {
    cells: Vec<T>,
    capacity: usize,
}

impl<T: Copy> Mirror<T> {
    /// Every slot holds `empty`. Allocates once; `capacity` is bounded by the caller.
    pub fn new(capacity: usize, empty: T) -> Self {
        Self { cells: vec![empty; capacity * 2], capacity }
    }

    /// Writes `values` (at most `capacity` of them) from `slot` on, wrapping at the end.
    pub fn write(&mut self, slot: usize, values: &[T]) {
        let until_end = values.len().min(self.capacity - slot);
        let (head, tail) = values.split_at(until_end);
        self.copy(slot, head);
        self.copy(0, tail);
    }

    /// Writes `value` into `count` slots (at most `capacity`) from `slot` on, wrapping at the end.
    pub fn fill(&mut self, slot: usize, count: usize, value: T) {
        let until_end = count.min(self.capacity - slot);
        for (at, len) in [(slot, until_end), (0, count - until_end)] {
            self.cells[at..at + len].fill(value);
            self.cells[at + self.capacity..at + self.capacity + len].fill(value);
        }
    }

    /// The `len ≤ capacity` values from `slot` on.
    pub fn window(&self, slot: usize, len: usize) -> &[T] {
        &self.cells[slot..slot + len]
    }

    /// All values, by slot.
    pub fn cells(&self) -> &[T] {
        &self.cells[..self.capacity]
    }

    fn copy(&mut self, at: usize, values: &[T]) {
        self.cells[at..at + values.len()].copy_from_slice(values);
        self.cells[at + self.capacity..at + self.capacity + values.len()].copy_from_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_is_contiguous() {
        let mut column = Mirror::new(4, 0);
        column.write(0, &[0, 1, 2, 3]);
        column.write(0, &[4, 5]);
        assert_eq!(column.window(2, 4), [2, 3, 4, 5]);
        column.write(2, &[6, 7, 8]);
        assert_eq!(column.window(1, 4), [5, 6, 7, 8]);
        column.fill(3, 2, 9);
        assert_eq!(column.window(1, 4), [5, 6, 9, 9]);
    }
}
