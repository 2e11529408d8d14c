//! Rows of the journal for API clients: between two event times, where a condition holds.

use std::sync::Arc;

use serde_json::json;

use super::acts::{refusal, to_bytes};
use crate::{
    api::{Answer, Refusal},
    expr::{Bools, Expr, Scratch, Type},
    model::{Batch, NO_LAYER, Positions, Row, Stream, Timestamp},
    store::Store,
};

/// Rows that are read and looked at together.
const PAGE_ROWS: usize = 10_000;

/// Which rows.
#[derive(Debug)]
pub(super) struct Question {
    pub stream: Arc<Stream>,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Only rows for which this holds.
    pub condition: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// The rows by event time; `complete` says whether the limit cut any off.
pub(super) fn answer(store: &Store, question: &Question) -> Answer {
    let Question { stream, from, to, limit, .. } = question;
    if from > to {
        return Err(Refusal::Invalid("`from` is later than `to`: exchange them".into()));
    }
    let compile = |text: &String| {
        Expr::compile(text, stream, Type::Bool)
            .map_err(|error| Refusal::Invalid(format!("`where`, column {}: {}", error.column, error.message)))
    };
    let condition = question.condition.as_ref().map(compile).transpose()?;
    let mut reader = store.reader().map_err(|error| refusal(&error))?;
    let mut history = reader.history(&stream.id, *from, *to).map_err(|error| refusal(&error))?;
    let mut rows = Vec::new();
    // One more than is given tells whether there are more.
    while rows.len() <= *limit {
        let wanted = if condition.is_some() { PAGE_ROWS } else { PAGE_ROWS.min(limit + 1 - rows.len()) };
        let page = history.next(&mut reader, wanted).map_err(|error| refusal(&error))?;
        if page.is_empty() {
            break;
        }
        rows.extend(chosen(page, condition.as_ref(), stream));
    }
    let complete = rows.len() <= *limit;
    rows.truncate(*limit);
    to_bytes(&json!({"stream": stream.id, "rows": rows, "complete": complete}))
}

fn chosen(rows: Vec<Row>, condition: Option<&Expr>, stream: &Arc<Stream>) -> Vec<Row> {
    let Some(condition) = condition else { return rows };
    let batch = batch(&rows, stream);
    let (mut scratch, mut holds) = (Scratch::default(), Bools::default());
    condition.eval_bool(&batch, 0..batch.rows(), &mut scratch, &mut holds);
    rows.into_iter().enumerate().filter(|(at, _)| holds.holds(*at)).map(|(_, row)| row).collect()
}

/// The rows in columns, in today's shape of their stream.
fn batch(rows: &[Row], stream: &Arc<Stream>) -> Batch {
    let mut batch = Batch::new(Arc::clone(stream), "".into(), "".into(), Timestamp(0));
    let mut positions = Positions::default();
    for row in rows {
        batch.time.push(row.time.0);
        for (column, signal) in batch.signals.iter_mut().zip(&stream.signals) {
            let value = row.stream.signal(&signal.name).and_then(|at| row.values[at]);
            column.push(value.unwrap_or(f64::NAN));
        }
        for (column, tag) in batch.tags.iter_mut().zip(&stream.tags) {
            column.push(row.stream.tag(tag).and_then(|at| row.tags[at].as_deref()));
        }
        let [x, y, z] = row.position.unwrap_or([f64::NAN; 3]);
        positions.x.push(x);
        positions.y.push(y);
        positions.z.push(z);
    }
    batch.positions = Some(positions);
    batch.layer = Some(rows.iter().map(|row| row.layer.unwrap_or(NO_LAYER)).collect());
    batch
}
