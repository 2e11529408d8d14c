//! What API clients ask for and have done: rows and history here, the rest on the engine's thread between two steps.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
};

use super::{
    answer::{SOURCE, refusal, to_bytes},
    fold::Fold,
    intake::Intake,
    locked, now,
    recorded::{RecordedError, Wanted, recorded},
    running::SharedRoster,
};
use crate::{
    api::{Act, Answer, Refusal, Request},
    ingest::{
        InboxError,
        decode::{Context, Decoded, Json, JsonLines, Routes},
    },
    model::{Batch, Row},
    spc::{ChartOperator, ChartView},
    status::SourceRows,
    store::Writer,
};

/// Keys of state that are listed.
const STATES_MAX: usize = 10_000;

/// Takes what the API asks to whoever can answer it.
pub(super) struct Desk {
    pub engine: mpsc::Sender<Request>,
    pub intake: Intake,
    /// The way into the store, and to what is read from it. A question may outlast the appliance, so it must not be what keeps the store open.
    pub writer: Writer,
    pub roster: SharedRoster,
    /// What became of the rows that came this way.
    pub rows: Arc<Mutex<SourceRows>>,
}

impl Desk {
    /// Until `stop` says so.
    pub async fn run(self, mut asked: mpsc::Receiver<Request>, mut stop: watch::Receiver<bool>) {
        let desk = Arc::new(self);
        loop {
            let request = tokio::select! {
                request = asked.recv() => request,
                _ = stop.wait_for(|stop| *stop) => None,
            };
            let Some(Request { act, reply }) = request else { return };
            match act {
                Act::Append { .. } | Act::State { .. } | Act::History { .. } | Act::DeadLetters { .. } | Act::Resubmit(_) => {
                    let desk = Arc::clone(&desk);
                    // A client that has gone needs no answer.
                    tokio::spawn(async move { drop(reply.send(desk.answer(act).await)) });
                }
                act => {
                    if let Err(refused) = desk.engine.try_send(Request { act, reply }) {
                        let (mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request)) = refused;
                        let busy = Refusal::Unavailable("the engine is busy or stopping; try again".into());
                        let _ = request.reply.send(Err(busy));
                    }
                }
            }
        }
    }

    async fn answer(&self, act: Act) -> Answer {
        match act {
            Act::Append { body, stream } => self.append(&body, stream.as_deref()).await,
            Act::State { prefix } => {
                let store = self.writer.clone();
                blocking(move || state(&store, &prefix)).await
            }
            Act::History { stream, from, to, condition, limit } => {
                let known = self.roster.now().streams.into_iter().find(|known| *known.id == *stream);
                let stream = known.ok_or_else(|| Refusal::NotFound(format!("there is no stream `{stream}`")))?;
                let (store, wanted) = (self.writer.clone(), Wanted { stream, from, to, condition });
                blocking(move || history(&store, &wanted, limit)).await
            }
            Act::DeadLetters { after, limit } => {
                let store = self.writer.clone();
                blocking(move || dead_letters(&store, after, limit)).await
            }
            Act::Resubmit(number) => self.resubmit(number).await,
            other => Err(Refusal::Failed(format!("{other:?} is not answered here"))),
        }
    }

    fn decode(&self, body: &[u8], stream: Option<&str>) -> Result<Decoded, Refusal> {
        let routes = self.routes(stream)?;
        let context = Context::new(SOURCE.into(), SOURCE.into(), now());
        let mut decoded = Decoded::default();
        let first = body.iter().position(|byte| !byte.is_ascii_whitespace());
        let is_array = first.is_some_and(|at| body[at] == b'[');
        if is_array {
            Json::new(routes).message(body, &context, &mut decoded);
        } else {
            let mut lines = JsonLines::new(routes);
            lines.feed(body, &context, &mut decoded);
            lines.end(&context, &mut decoded);
        }
        if decoded.is_empty() {
            return Err(Refusal::Invalid("there is no row in the body: send one JSON object a line, or an array of them".into()));
        }
        Ok(decoded)
    }

    /// Takes a dead letter's bytes as rows of its stream; removes it once they are durable. If the appliance ends in between, the letter is
    /// still there although its rows were taken.
    async fn resubmit(&self, number: u64) -> Answer {
        let store = self.writer.clone();
        let read = spawn_blocking(move || store.reader()?.dead_letters(number.saturating_sub(1), 1)).await;
        let read = read.map_err(|error| Refusal::Failed(error.to_string()))?.map_err(|error| refusal(&error))?;
        let letter = read.into_iter().find(|(found, _)| *found == number).map(|(_, letter)| letter);
        let letter = letter.ok_or_else(|| Refusal::NotFound(format!("there is no dead letter {number}; see /dead-letters")))?;
        let decoded = self.decode(&letter.raw, letter.stream.as_deref())?;
        if let Some(reject) = decoded.rejects.first() {
            return Err(Refusal::Invalid(format!("it is refused again: {}", reject.reason)));
        }
        let answer = self.take(decoded).await?;
        let writer = self.writer.clone();
        blocking(move || writer.remove_dead_letter(number).map_err(|error| refusal(&error)).map(|()| answer)).await
    }

    async fn append(&self, body: &[u8], stream: Option<&str>) -> Answer {
        self.take(self.decode(body, stream)?).await
    }

    async fn take(&self, decoded: Decoded) -> Answer {
        let rejected: Vec<String> = decoded.rejects.iter().map(|reject| reject.reason.clone()).collect();
        let (synced, answer) = oneshot::channel();
        self.intake.take(decoded, synced).await;
        let accepted = match answer.await {
            Ok(Ok(accepted)) => {
                let mut rows = locked(&self.rows);
                rows.accepted += accepted.rows;
                rows.duplicate += accepted.duplicates;
                rows.rejected += rejected.len() as u64;
                rows.received += accepted.rows + accepted.duplicates + rejected.len() as u64;
                accepted
            }
            Ok(Err(InboxError::Refused(why))) => return Err(Refusal::Unavailable(why)),
            Ok(Err(InboxError::Closed)) | Err(_) => return Err(Refusal::Unavailable("the appliance is stopping".into())),
        };
        let answer = json!({
            "accepted": accepted.rows,
            "duplicate": accepted.duplicates,
            "rejected": rejected.len(),
            "reasons": rejected.iter().take(10).collect::<Vec<_>>(),
        });
        if accepted.rows + accepted.duplicates == 0 && !rejected.is_empty() {
            return Err(Refusal::Invalid(format!("no row was accepted; the first: {}", rejected[0])));
        }
        to_bytes(&answer)
    }

    fn routes(&self, stream: Option<&str>) -> Result<Routes, Refusal> {
        let streams = self.roster.now().streams;
        let only = match streams.as_slice() {
            [only] => Some(&*only.id),
            _ => None,
        };
        if let Some(wanted) = stream
            && !streams.iter().any(|known| *known.id == *wanted)
        {
            return Err(Refusal::NotFound(format!("there is no stream `{wanted}`")));
        }
        Routes::by_row(&streams, stream.or(only)).map_err(|error| Refusal::Failed(error.to_string()))
    }
}

async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string())))
}

/// Recorded rows, at most `limit`; `complete` says whether those are all: rows may be left, or be on a damaged page.
fn history(store: &Writer, wanted: &Wanted, limit: usize) -> Answer {
    if wanted.from > wanted.to {
        return Err(Refusal::Invalid("`from` is later than `to`: exchange them".into()));
    }
    let mut reader = store.reader().map_err(|error| refusal(&error))?;
    let mut rows: Vec<Row> = Vec::new();
    let mut more = false;
    let each = |row| {
        more = rows.len() >= limit;
        if more {
            return ControlFlow::Break(());
        }
        rows.push(row);
        ControlFlow::Continue(())
    };
    recorded(&mut reader, wanted, each).map_err(|error| match error {
        RecordedError::Condition(_) => Refusal::Invalid(error.to_string()),
        RecordedError::Store(error) => refusal(&error),
    })?;
    let complete = !more && reader.damaged().0 == 0;
    to_bytes(&json!({"stream": &*wanted.stream.id, "rows": rows, "complete": complete}))
}

/// Dead letters after a number, without their bytes.
fn dead_letters(store: &Writer, after: u64, limit: usize) -> Answer {
    let reader = store.reader().map_err(|error| refusal(&error))?;
    let letters = reader.dead_letters(after, limit).map_err(|error| refusal(&error))?;
    to_bytes(&letters.iter().map(|(number, letter)| letter.head(*number)).collect::<Vec<_>>())
}

/// The parts of the last checkpoint, by name.
fn state(store: &Writer, prefix: &str) -> Answer {
    let reader = store.reader().map_err(|error| refusal(&error))?;
    let checkpoint = reader.checkpoint().map_err(|error| refusal(&error))?;
    let position = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.position.0);
    let parts = checkpoint.map_or_else(Vec::new, |checkpoint| checkpoint.parts);
    let states: Vec<Value> = parts
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .take(STATES_MAX)
        .map(|(name, bytes)| json!({"key": name, "bytes": bytes.as_ref().map_or(0, Vec::len)}))
        .collect();
    to_bytes(&json!({"checkpoint": position, "states": states}))
}

impl Fold {
    /// Answers what only the engine knows.
    pub(super) fn answer(&mut self, act: Act) -> Answer {
        match act {
            Act::StartPipeline(id) => self.set_running(&id, true),
            Act::StopPipeline(id) => self.set_running(&id, false),
            Act::Checkpoint => match self.commit_and_wait() {
                Ok(position) => to_bytes(&json!({"checkpoint": position.0})),
                Err(error) => Err(refusal(&error)),
            },
            Act::Windows { pipeline, limit } => self.windows(pipeline.as_deref(), limit),
            Act::Recent { stream, rows, duration_ns } => self.recent(&stream, rows, duration_ns),
            Act::Chart(id) => self.chart(&id),
            Act::Alerts { filter, limit } => to_bytes(&self.alerts(filter, limit)),
            Act::Validate { pipeline, checkpoint, rows } => self.validate(&pipeline, checkpoint.as_deref(), &rows),
            other => Err(Refusal::Failed(format!("{other:?} is not answered here"))),
        }
    }

    fn set_running(&mut self, id: &str, running: bool) -> Answer {
        if !self.engine.set_running(id, running) {
            return Err(Refusal::NotFound(format!("there is no pipeline `{id}`")));
        }
        to_bytes(&json!({"pipeline": id, "running": running}))
    }

    fn windows(&self, pipeline: Option<&str>, limit: usize) -> Answer {
        let mut left = limit;
        let mut all = BTreeMap::new();
        for one in self.engine.pipelines().iter().filter(|one| pipeline.is_none_or(|wanted| *one.id == *wanted)) {
            let mut windows = Vec::new();
            for operator in &one.windows {
                let open = operator.open_windows(left);
                left -= open.len().min(left);
                windows.extend(open);
            }
            all.insert(one.id.to_string(), windows);
        }
        if all.is_empty() && pipeline.is_some() {
            return Err(Refusal::NotFound(format!("there is no pipeline `{}`", pipeline.unwrap_or_default())));
        }
        to_bytes(&json!({"windows": all}))
    }

    fn recent(&self, stream: &str, rows: Option<usize>, duration_ns: Option<i64>) -> Answer {
        let lane = self.engine.stream(stream).ok_or_else(|| Refusal::NotFound(format!("there is no stream `{stream}`")))?;
        let mut batch = match duration_ns {
            Some(duration_ns) => lane.ring.time_window(duration_ns, lane.newest).to_batch(),
            None => lane.ring.recent(rows.unwrap_or(lane.window_rows)),
        };
        if let (Some(rows), Some(_)) = (rows, duration_ns) {
            let from = batch.rows().saturating_sub(rows);
            batch = batch.take(&(from..batch.rows()).collect::<Vec<_>>());
        }
        to_bytes(&json!({"stream": stream, "rows": rows_of(&batch)}))
    }

    pub(super) fn chart(&self, id: &str) -> Answer {
        let charts = self.engine.pipelines().iter().flat_map(|pipeline| &pipeline.charts);
        let views: Vec<ChartView> = charts.filter(|chart| **chart.id() == *id).flat_map(ChartOperator::views).collect();
        if views.is_empty() && !self.engine.pipelines().iter().any(|one| one.charts.iter().any(|chart| **chart.id() == *id)) {
            return Err(Refusal::NotFound(format!("there is no chart `{id}`")));
        }
        to_bytes(&views)
    }
}
fn rows_of(batch: &Batch) -> Vec<Row> {
    (0..batch.rows()).map(|row| batch.row(row)).collect()
}
