//! What a sink is given at a time, and how far it has come.
//!
//! Rows and results are numbered separately: rows by the inbox, results by the outbox. A [`Progress`] is a place in both. A parcel
//! holds everything after one progress up to and including another ([`Parcel::through`]), less what is not routed to the sink.

use std::{fmt::Write, sync::Arc};

use super::counters::Count;
use crate::model::{Batch, Seq};

/// How far a sink has come: the last row and the last result it confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// The last confirmed row of the inbox; 0 = none.
    pub rows: Seq,
    /// The last confirmed result of the outbox; 0 = none.
    pub results: Seq,
}

impl Progress {
    /// The farther of both, for rows and results each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { rows: self.rows.max(other.rows), results: self.results.max(other.results) }
    }
}

/// Whose rows these are: what makes their ids unique in a plant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The configured name of the appliance.
    pub appliance: Arc<str>,
    /// Drawn when the store was created, so that the rows of a store that starts again from 1 are other rows.
    pub store: u64,
}

impl Identity {
    /// The id of row `seq`: `{appliance}-{store, 16 hex digits}-{seq}`.
    pub fn row_id(&self, seq: Seq) -> String {
        self.row_ids().of(seq).to_owned()
    }

    /// The ids of many rows, in one buffer.
    pub fn row_ids(&self) -> RowIds {
        let text = format!("{}-{:016x}-", self.appliance, self.store);
        RowIds { prefix: text.len(), text }
    }

    /// The id of a result among those of all appliances: `{appliance}-{id}`.
    pub fn result_id(&self, id: &str) -> String {
        format!("{}-{id}", self.appliance)
    }
}

/// Writes row ids, which differ in their last part only.
#[derive(Debug)]
pub struct RowIds {
    text: String,
    prefix: usize,
}

impl RowIds {
    /// As [`Identity::row_id`] gives it.
    pub fn of(&mut self, seq: Seq) -> &str {
        self.text.truncate(self.prefix);
        // Writing to memory cannot fail.
        let _ = write!(self.text, "{}", seq.0);
        &self.text
    }
}

/// Consecutive rows of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLot {
    /// The rows; row `i` is number `first_seq + i` of the inbox.
    pub batch: Arc<Batch>,
    /// Whether they are delivered so long after they arrived that they are backlog, not live.
    pub historical: bool,
}

/// One result, as the outbox holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRecord {
    /// The number in the outbox.
    pub seq: Seq,
    /// The id that the same inputs always give.
    pub id: Arc<str>,
    /// The word in `kind`.
    pub kind: Arc<str>,
    /// The pipeline it comes from.
    pub pipeline: Arc<str>,
    /// The stream it is about, if it is about one.
    pub stream: Option<Arc<str>>,
    /// As for rows.
    pub historical: bool,
    /// The result as a JSON object, as the outbox holds it.
    pub json: Arc<[u8]>,
}

/// Rows and results to deliver together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parcel {
    /// In inbox order.
    pub rows: Vec<RowLot>,
    /// In outbox order.
    pub results: Vec<ResultRecord>,
    /// Where the sink is once it confirmed this.
    pub through: Progress,
}

impl Parcel {
    /// How many rows.
    pub fn row_count(&self) -> usize {
        self.rows.iter().map(|lot| lot.batch.rows()).sum()
    }

    /// How many rows and results.
    pub fn count(&self) -> Count {
        Count { rows: self.row_count() as u64, results: self.results.len() as u64 }
    }

    /// Whether there is nothing to deliver; the progress may move all the same.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.results.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_many_rows_are_those_of_each() {
        let identity = Identity { appliance: "lpbf-07".into(), store: 0xabc };
        let mut ids = identity.row_ids();
        for seq in [1, 99, 7, u64::MAX] {
            assert_eq!(ids.of(Seq(seq)), identity.row_id(Seq(seq)));
        }
    }
}
