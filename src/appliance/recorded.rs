//! Recorded rows of a stream between two times, and only those for which a condition holds.

use std::{ops::ControlFlow, sync::Arc};

use crate::{
    expr::{Bools, Expr, Scratch, Type},
    model::{Batch, Row, Stream, Timestamp},
    store::{Reader, StoreError},
};

/// Rows that are read and tested at a time.
const ROWS: usize = 1024;

/// Which rows.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The stream, in the shape it has now.
    pub stream: Arc<Stream>,
    /// From here.
    pub from: Timestamp,
    /// To here, included.
    pub to: Timestamp,
    /// Only rows for which this holds.
    pub condition: Option<String>,
}

/// Why rows cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The condition is no expression over the stream.
    #[error("the condition: {0}")]
    Condition(#[from] crate::expr::ExprError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Gives every wanted row to `each`, by event time and then number, until that breaks off.
///
/// # Errors
/// See [`RecordedError`].
pub fn recorded(reader: &mut Reader, wanted: &Wanted, mut each: impl FnMut(Row) -> ControlFlow<()>) -> Result<(), RecordedError> {
    let condition = wanted.condition.as_ref().map(|text| Expr::compile(text, &wanted.stream, Type::Bool)).transpose()?;
    let (mut scratch, mut bools) = (Scratch::default(), Bools::default());
    let mut history = reader.history(&wanted.stream.id, wanted.from, wanted.to)?;
    loop {
        let rows = history.next(reader, ROWS)?;
        if rows.is_empty() {
            return Ok(());
        }
        if let Some(condition) = &condition {
            let batch = Batch::of_rows(&wanted.stream, &rows);
            condition.eval_bool(&batch, 0..rows.len(), &mut scratch, &mut bools);
        }
        for (at, row) in rows.into_iter().enumerate() {
            if (condition.is_none() || bools.holds(at)) && each(row).is_break() {
                return Ok(());
            }
        }
    }
}
