//! Running aggregates of many panes, column by column.
//!
//! A pane (the rows of one key in one slice) is a place in the [`Lanes`]. Each lane is one kind of accumulator over one column, for all panes;
//! aggregates that need the same figures share a lane (`mean` and `sum`; `min`, `max` and `range`), and counts of rows need none.
//! Rows go in a column at a time: the places of the rows first, then one pass a lane.

use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Function,
    aggregate::{Accumulator, Column},
};
use crate::model::{Batch, Number};

/// One pane, as a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pane {
    /// Rows in it.
    pub rows: u64,
    /// By lane.
    pub accumulators: Vec<Accumulator>,
}

/// Which aggregates read which lanes.
#[derive(Debug, Clone)]
pub struct Plan {
    aggregates: Vec<Aggregate>,
    /// One aggregate that stands for each lane.
    lanes: Vec<Aggregate>,
    /// The lane of each aggregate; none = the number of rows.
    lane_of: Vec<Option<usize>>,
}

/// The panes of one window specification.
#[derive(Debug, Clone)]
pub struct Lanes {
    plan: Plan,
    /// `[lane][place]`
    cells: Vec<Vec<Accumulator>>,
    rows: Vec<u64>,
    free: Vec<u32>,
}

impl Plan {
    /// For these aggregates.
    pub fn new(aggregates: impl Iterator<Item = Aggregate>) -> Self {
        let mut plan = Self { aggregates: aggregates.collect(), lanes: Vec::new(), lane_of: Vec::new() };
        for aggregate in &plan.aggregates {
            if aggregate.column == Column::Rows {
                plan.lane_of.push(None);
                continue;
            }
            let fits = |lane: &Aggregate| {
                let alike = std::mem::discriminant(&lane.start()) == std::mem::discriminant(&aggregate.start());
                let is_custom = matches!(aggregate.function, Function::Custom(_));
                alike && lane.column == aggregate.column && (!is_custom || lane.function == aggregate.function)
            };
            let lane = plan.lanes.iter().position(fits).unwrap_or_else(|| {
                plan.lanes.push(*aggregate);
                plan.lanes.len() - 1
            });
            plan.lane_of.push(Some(lane));
        }
        plan
    }

    /// A pane without rows.
    pub fn start(&self) -> Pane {
        Pane { rows: 0, accumulators: self.lanes.iter().map(Aggregate::start).collect() }
    }

    /// Makes `pane` one without rows.
    pub fn reset(&self, pane: &mut Pane) {
        pane.rows = 0;
        for (lane, accumulator) in self.lanes.iter().zip(&mut pane.accumulators) {
            *accumulator = lane.start();
        }
    }

    /// Adds row `row` of `batch` to `pane`.
    pub fn add(&self, pane: &mut Pane, batch: &Batch, row: usize) {
        pane.rows += 1;
        for (lane, accumulator) in self.lanes.iter().zip(&mut pane.accumulators) {
            lane.add(accumulator, batch, row);
        }
    }

    /// What aggregate `aggregate` says of `pane`.
    pub fn value(&self, aggregate: usize, pane: &Pane) -> Number {
        match self.lane_of[aggregate] {
            Some(lane) => self.aggregates[aggregate].value(&pane.accumulators[lane]),
            None => Number::Integer(pane.rows as i64),
        }
    }

    /// Whether `pane` was made by a plan like this.
    pub fn fits(&self, pane: &Pane) -> bool {
        let alike = |(lane, accumulator): (&Aggregate, &Accumulator)| {
            std::mem::discriminant(&lane.start()) == std::mem::discriminant(accumulator)
        };
        self.lanes.len() == pane.accumulators.len() && self.lanes.iter().zip(&pane.accumulators).all(alike)
    }

    /// Whether an aggregate is a quantile.
    pub fn is_quantile(&self, aggregate: usize) -> bool {
        matches!(self.aggregates[aggregate].function, Function::Quantile(_))
    }
}

impl Lanes {
    /// No panes yet.
    pub fn new(plan: Plan) -> Self {
        let cells = plan.lanes.iter().map(|_| Vec::new()).collect();
        Self { plan, cells, rows: Vec::new(), free: Vec::new() }
    }

    /// Which aggregates read which lanes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The place of a new pane without rows.
    pub fn allocate(&mut self) -> u32 {
        if let Some(place) = self.free.pop() {
            for (lane, cells) in self.plan.lanes.iter().zip(&mut self.cells) {
                cells[place as usize] = lane.start();
            }
            self.rows[place as usize] = 0;
            return place;
        }
        for (lane, cells) in self.plan.lanes.iter().zip(&mut self.cells) {
            cells.push(lane.start());
        }
        self.rows.push(0);
        (self.rows.len() - 1) as u32
    }

    /// Gives a place back.
    pub fn release(&mut self, place: u32) {
        self.free.push(place);
    }

    /// Makes a pane one without rows.
    pub fn forget(&mut self, place: u32) {
        self.rows[place as usize] = 0;
        for (lane, cells) in self.plan.lanes.iter().zip(&mut self.cells) {
            cells[place as usize] = lane.start();
        }
    }

    /// How many rows are in a pane.
    pub fn rows(&self, place: u32) -> u64 {
        self.rows[place as usize]
    }

    /// Adds row `rows[i]` of `batch` to the pane at `places[i]`.
    pub fn add(&mut self, batch: &Batch, rows: &[u32], places: &[u32]) {
        for place in places {
            self.rows[*place as usize] += 1;
        }
        for (lane, cells) in self.plan.lanes.iter().zip(&mut self.cells) {
            lane.add_rows(cells, batch, rows, places);
        }
    }

    /// Adds what the pane at `from` has seen to `pane`.
    pub fn add_to(&self, pane: &mut Pane, from: u32) {
        pane.rows += self.rows[from as usize];
        for ((lane, accumulator), cells) in self.plan.lanes.iter().zip(&mut pane.accumulators).zip(&self.cells) {
            lane.merge(accumulator, &cells[from as usize]);
        }
    }

    /// Makes `pane` the one at `from`.
    pub fn copy_to(&self, pane: &mut Pane, from: u32) {
        pane.rows = self.rows[from as usize];
        for (accumulator, cells) in pane.accumulators.iter_mut().zip(&self.cells) {
            accumulator.clone_from(&cells[from as usize]);
        }
    }

    /// A pane on its own.
    pub fn get(&self, place: u32) -> Pane {
        let accumulators = self.cells.iter().map(|cells| cells[place as usize].clone()).collect();
        Pane { rows: self.rows[place as usize], accumulators }
    }

    /// Copies of the panes at `places`: their rows, and by lane what they add up to.
    pub fn columns(&self, places: &[u32]) -> (Vec<u64>, Vec<Vec<Accumulator>>) {
        let rows = places.iter().map(|place| self.rows[*place as usize]).collect();
        let column = |cells: &Vec<Accumulator>| places.iter().map(|place| cells[*place as usize].clone()).collect();
        (rows, self.cells.iter().map(column).collect())
    }

    /// Puts `pane` at `place`.
    pub fn set(&mut self, place: u32, pane: Pane) {
        self.rows[place as usize] = pane.rows;
        for (accumulator, cells) in pane.accumulators.into_iter().zip(&mut self.cells) {
            cells[place as usize] = accumulator;
        }
    }

    /// Adds what the pane at `from` has seen to the one at `into`.
    pub fn merge(&mut self, into: u32, from: u32) {
        self.rows[into as usize] += self.rows[from as usize];
        for (lane, cells) in self.plan.lanes.iter().zip(&mut self.cells) {
            let Ok([into, from]) = cells.get_disjoint_mut([into as usize, from as usize]) else { continue };
            lane.merge(into, from);
        }
    }
}
