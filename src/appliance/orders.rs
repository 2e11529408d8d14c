//! Orders: what a person asks for goes through the inbox, and is answered once the engine has carried it out.
//!
//! So an order is durable before it has an effect, a restart does not forget it, and a replay of the journal repeats it at the same place.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    answer::{refusal, to_bytes},
    fold::Fold,
    locked, now,
    view::alert_status,
};
use crate::{
    api::{AlertFilter, Answer, Refusal},
    ingest::decode::{Context, Decoded, Json, Routes},
    model::{Batch, Input, ORDER_BYTES_MAX, Order, Timestamp},
    quality::alert::Filter,
    status::AlertStatus,
    store::{Append, StoreError},
};

/// Who waits for an answer; empty once they have it.
type Waiting = Arc<Mutex<Option<oneshot::Sender<Answer>>>>;

/// Orders on their way, oldest first.
pub(super) type Pending = VecDeque<(Timestamp, Order, Waiting)>;

fn answer_to(waiting: &Waiting, answer: Answer) {
    if let Some(reply) = locked(waiting).take() {
        // A client that has gone needs none.
        let _ = reply.send(answer);
    }
}

impl Fold {
    /// Puts `order` into the inbox.
    pub(super) fn order(&mut self, order: Order, reply: oneshot::Sender<Answer>) {
        let waiting: Waiting = Arc::new(Mutex::new(Some(reply)));
        if let Err(why) = self.makes_sense(&order) {
            return answer_to(&waiting, Err(why));
        }
        let time = now();
        let refused = Arc::clone(&waiting);
        let on_synced = move |outcome: Result<_, StoreError>| {
            if let Err(error) = outcome {
                answer_to(&refused, Err(refusal(&error)));
            }
        };
        self.writer.append_blocking(Append {
            input: Some(Input::Order { time, order: order.clone() }),
            dead_letters: Vec::new(),
            decoded_at: Instant::now(),
            on_synced: Box::new(on_synced),
        });
        self.pending.retain(|(.., waiting)| locked(waiting).is_some());
        self.pending.push_back((time, order, waiting));
    }

    /// What need not go into the inbox because it cannot be carried out.
    fn makes_sense(&self, order: &Order) -> Result<(), Refusal> {
        let charts = || self.engine.pipelines().iter().flat_map(|pipeline| &pipeline.charts);
        let who = |who: &str, key: &str| {
            if who.trim().is_empty() { Err(Refusal::Invalid(format!("say who: `{key}` is empty"))) } else { Ok(()) }
        };
        if serde_json::to_vec(order).map_or(usize::MAX, |json| json.len()) > ORDER_BYTES_MAX {
            return Err(Refusal::Invalid(format!("too long: at most {ORDER_BYTES_MAX} bytes in all")));
        }
        match order {
            Order::Acknowledge { alert, name, .. } => {
                who(name, "name")?;
                let known = self.engine.alerts().find(alert).is_some();
                known.then_some(()).ok_or_else(|| Refusal::NotFound(format!("there is no alert `{alert}`; see /alerts")))
            }
            Order::Rebaseline { chart, author, reason, .. } | Order::Exclude { chart, author, reason, .. } => {
                who(author, "author")?;
                if reason.trim().is_empty() {
                    return Err(Refusal::Invalid("say why: `reason` is empty".into()));
                }
                let known = charts().any(|known| **known.id() == **chart);
                known.then_some(()).ok_or_else(|| Refusal::NotFound(format!("there is no chart `{chart}`; see /status")))
            }
            Order::Report { .. } | Order::ClockSet { .. } => Ok(()),
        }
    }

    /// An order has gone through the engine: whoever waits for it hears what became of it.
    pub(super) fn ordered(&mut self, time: Timestamp, order: &Order) {
        let outcome = self.step.orders.pop().unwrap_or(Ok(()));
        let Some(at) = self.pending.iter().position(|(sent, pending, _)| *sent == time && pending == order) else { return };
        let Some((.., waiting)) = self.pending.remove(at) else { return };
        let answer = match (outcome, order) {
            (Err(why), _) => Err(Refusal::Invalid(why)),
            (Ok(()), Order::Acknowledge { alert, .. }) => to_bytes(&self.engine.alerts().find(alert).map(alert_status)),
            (Ok(()), Order::Rebaseline { chart, .. } | Order::Exclude { chart, .. }) => self.chart(chart),
            (Ok(()), Order::Report { .. } | Order::ClockSet { .. }) => to_bytes(&()),
        };
        answer_to(&waiting, answer);
    }

    pub(super) fn alerts(&self, wanted: AlertFilter, limit: usize) -> Vec<AlertStatus> {
        let AlertFilter { severity, source, acknowledged, from } = wanted;
        let filter = Filter { severity, source, acknowledged, from };
        self.engine.alerts().history(&filter).take(limit).map(alert_status).collect()
    }

    /// Which checkpoints of a pipeline hold for rows, or for the newest row of its stream.
    pub(super) fn validate(&self, id: &str, checkpoint: Option<&str>, rows: &[u8]) -> Answer {
        let pipeline = self.engine.pipelines().iter().find(|pipeline| *pipeline.id == *id);
        let pipeline = pipeline.ok_or_else(|| Refusal::NotFound(format!("there is no pipeline `{id}`; see /pipelines")))?;
        let lane = self.engine.stream(&pipeline.stream.id);
        let lane = lane.ok_or_else(|| Refusal::NotFound(format!("there is no stream `{}`", pipeline.stream.id)))?;
        let newest = || lane.ring.recent(1);
        let batch = if rows.iter().all(u8::is_ascii_whitespace) { newest() } else { decoded(rows, lane)? };
        if batch.is_empty() {
            return Err(Refusal::Invalid("there is no row yet: send one".into()));
        }
        to_bytes(&pipeline.validate(&batch, checkpoint))
    }
}

fn decoded(rows: &[u8], lane: &crate::engine::StreamLane) -> Result<Batch, Refusal> {
    let streams = [Arc::clone(&lane.stream)];
    let routes = Routes::by_row(&streams, Some(&*lane.stream.id)).map_err(|error| Refusal::Failed(error.to_string()))?;
    let context = Context::new("api".into(), "api".into(), now());
    let mut decoded = Decoded::in_order();
    Json::new(routes).message(rows, &context, &mut decoded);
    let (inputs, rejects) = decoded.into_inputs();
    if let Some(reject) = rejects.first() {
        return Err(Refusal::Invalid(reject.reason.clone()));
    }
    let batches = inputs.into_iter().filter_map(|input| if let Input::Batch(batch) = input { Some(batch) } else { None });
    batches.map(Arc::unwrap_or_clone).next().ok_or_else(|| Refusal::Invalid("send a row, or an array of rows, as JSON".into()))
}
