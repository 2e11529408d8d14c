//! Panes → results of the contract.

use std::{fmt::Write, sync::Arc};

use super::{
    WindowConfig,
    keys::{KeyTable, KeyTexts},
    lanes::{Pane, Plan},
    sketch::RELATIVE_ERROR,
};
use crate::model::{Batch, Body, Key, LateRow, Named, Output, Seq, Timestamp, Values, WindowResult};

/// What turns panes into results.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pipeline: Arc<str>,
    config: WindowConfig,
    plan: Plan,
    errors: Named<f64>,
    /// The names of the values, rising, and the aggregate of each.
    names: Arc<[Arc<str>]>,
    aggregate_of: Vec<usize>,
    /// Whether results have an id.
    ids: bool,
    /// `window:{pipeline}:{window}:`
    prefix: String,
    /// By key number: the key as it stands in ids, and in results.
    shown: Vec<Option<(String, Key)>>,
}

impl Maker {
    pub fn new(pipeline: Arc<str>, config: WindowConfig, plan: Plan) -> Self {
        let quantiles = config.aggregates.iter().enumerate().filter(|(at, _)| plan.is_quantile(*at));
        let errors = quantiles.map(|(_, (name, _))| (Arc::clone(name), RELATIVE_ERROR)).collect();
        let prefix = format!("window:{pipeline}:{}:", config.id);
        let mut aggregate_of: Vec<usize> = (0..config.aggregates.len()).collect();
        aggregate_of.sort_by(|left, right| config.aggregates[*left].0.cmp(&config.aggregates[*right].0));
        let names = aggregate_of.iter().map(|at| Arc::clone(&config.aggregates[*at].0)).collect();
        Self { pipeline, config, plan, errors, names, aggregate_of, ids: true, prefix, shown: Vec::new() }
    }

    /// From here on, results have no id.
    pub fn without_ids(&mut self) {
        self.ids = false;
    }

    pub fn config(&self) -> &WindowConfig {
        &self.config
    }

    /// The id of a firing, also if results do not have it: another one may replace it.
    pub fn id(&self, key: &KeyTexts, start: i64, end: i64, revision: u32) -> String {
        self.id_of(&key_text(&self.config.group_by, key), start, end, revision)
    }

    fn id_of(&self, key: &str, start: i64, end: i64, revision: u32) -> String {
        let mut id = String::with_capacity(self.prefix.len() + key.len() + 48);
        id.push_str(&self.prefix);
        id.push_str(key);
        // Writing to a string does not fail.
        let _ = write!(id, ":{start}:{end}:{revision}");
        id
    }

    /// Fires the window of a numbered key.
    #[expect(clippy::too_many_arguments, reason = "each is one fact of a result")]
    pub fn fire_numbered(
        &mut self,
        keys: &KeyTable,
        key: u32,
        bounds: (i64, i64),
        revision: u32,
        pane: &Pane,
        at: Seq,
        out: &mut Vec<Output>,
    ) {
        let place = key as usize;
        if self.shown.len() <= place {
            self.shown.resize(place + 1, None);
        }
        if self.shown[place].is_none() {
            let names = &self.config.group_by;
            self.shown[place] = Some((key_text(names, keys.texts(key)), keys.shown(key, names)));
        }
        let Some((text, shown)) = &self.shown[place] else { return };
        let id = if self.ids { self.id_of(text, bounds.0, bounds.1, revision) } else { String::new() };
        out.push(self.output(id, shown.clone(), bounds, revision, pane, Vec::new(), at));
    }

    /// The number of a key is given to another one.
    pub fn forget(&mut self, key: u32) {
        if let Some(shown) = self.shown.get_mut(key as usize) {
            *shown = None;
        }
    }

    /// Fires the window of a key.
    #[expect(clippy::too_many_arguments, reason = "each is one fact of a result")]
    pub fn fire(
        &self,
        key: &KeyTexts,
        bounds: (i64, i64),
        revision: u32,
        pane: &Pane,
        replaces: Vec<String>,
        at: Seq,
        out: &mut Vec<Output>,
    ) {
        let shown = self.config.group_by.iter().cloned().zip(key.iter().cloned()).collect();
        let id = if self.ids { self.id(key, bounds.0, bounds.1, revision) } else { String::new() };
        out.push(self.output(id, shown, bounds, revision, pane, replaces, at));
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of a result")]
    fn output(
        &self,
        id: String,
        key: Key,
        (start, end): (i64, i64),
        revision: u32,
        pane: &Pane,
        replaces: Vec<String>,
        at: Seq,
    ) -> Output {
        let body = WindowResult {
            window: Arc::clone(&self.config.id),
            start: Timestamp(start),
            end: Timestamp(end),
            key,
            values: Values::new(&self.names, self.aggregate_of.iter().map(|at| self.plan.value(*at, pane))),
            revision,
            replaces,
            errors: self.errors.clone(),
        };
        Output::new(id, &self.pipeline, at, Body::Window(body))
    }

    /// Reports a row that is late for every window it belongs to.
    pub fn late(&self, batch: &Batch, row: usize, out: &mut Vec<Output>) {
        let seq = batch.seq(row);
        let id = format!("late:{}:{}:{}", self.pipeline, self.config.id, seq.0);
        let body = LateRow { window: Arc::clone(&self.config.id), row: batch.row(row) };
        out.push(Output::new(id, &self.pipeline, seq, Body::Late(Box::new(body))));
    }

    /// Whether the window that ends at `end` is gone.
    pub fn is_freed(&self, end: i64, watermark: i64) -> bool {
        end.saturating_add(self.config.allowed_lateness_ns) <= watermark
    }
}

/// A key as it stands in ids.
fn key_text(names: &[Arc<str>], key: &KeyTexts) -> String {
    let parts = names.iter().zip(key.iter()).map(|(name, value)| match value {
        Some(value) => format!("{}={}", escape(name), escape(value)),
        None => escape(name),
    });
    parts.collect::<Vec<_>>().join(",")
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A").replace('=', "%3D").replace(',', "%2C")
}
