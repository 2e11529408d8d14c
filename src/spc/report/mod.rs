//! A control chart on paper: what was said about a chart, gathered, and drawn as a picture, as text, or given as JSON.
//!
//! It is made of result objects (`spc`, `limits`, `capability`, as the outbox and `replay` hold them) and of the views of a running or
//! checkpointed chart, which also know the points that violate nothing. Nothing is computed here that the chart did not compute.
//!
//! - `draw`: panels, lines and marks in a [`crate::picture::Scene`].
//! - `text`: the same for a terminal.

mod draw;
mod text;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{ChartView, ViewPoint, key::key_text};
use crate::model::{Capability, Key, Limits, SpcPoint, Spread};

/// Keys of a chart that a report holds; further ones are counted.
pub const KEYS_MAX: usize = 1000;
/// Versions of limits that a key's report holds: the newest.
const VERSIONS_MAX: usize = 100;

/// One chart and key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChartReport {
    /// The chart's id.
    pub chart: Arc<str>,
    /// Its pipeline.
    pub pipeline: Arc<str>,
    /// The group.
    pub key: Key,
    /// As configured, if that is known.
    #[serde(rename = "type")]
    pub kind: Option<&'static str>,
    /// What is charted, if that is known.
    pub signals: Vec<Arc<str>>,
    /// Why nothing is judged at present, in words.
    pub status: Option<String>,
    /// Why the limits may mislead.
    pub warnings: Vec<String>,
    /// Every version of the limits that is known, oldest first.
    pub limits: Vec<Limits>,
    /// The newest capability figures.
    pub capability: Option<Capability>,
    /// By index; a gap is a missing point, or before [`Self::complete_from`] one that violates nothing.
    pub points: Vec<SpcPoint>,
    /// From this index on all points are here; before it only those that violate a rule may be. `None` = unknown.
    pub complete_from: Option<u64>,
}

impl ChartReport {
    fn new(chart: &Arc<str>, pipeline: &Arc<str>, key: &Key) -> Self {
        Self {
            chart: Arc::clone(chart),
            pipeline: Arc::clone(pipeline),
            key: key.clone(),
            kind: None,
            signals: Vec::new(),
            status: None,
            warnings: Vec::new(),
            limits: Vec::new(),
            capability: None,
            points: Vec::new(),
            complete_from: None,
        }
    }

    /// The key as `tag=value,…`; empty without one.
    pub fn key_text(&self) -> String {
        key_text(&self.key)
    }
}

/// Gathers what was said about one chart.
#[derive(Debug)]
pub struct Collector {
    chart: Arc<str>,
    pipeline: Option<Arc<str>>,
    points_max: usize,
    found: BTreeMap<(Arc<str>, Key), Gathered>,
    /// Results of keys beyond [`KEYS_MAX`].
    left_out: u64,
}

#[derive(Debug)]
struct Gathered {
    report: ChartReport,
    points: BTreeMap<u64, SpcPoint>,
}

/// What every result says of itself.
#[derive(Deserialize)]
struct Head {
    kind: String,
    pipeline: Arc<str>,
    chart: Option<Arc<str>>,
}

impl Collector {
    /// For `chart` (of `pipeline`, if several have one of that name), keeping the newest `points_max` points of each key.
    pub fn new(chart: &str, pipeline: Option<&str>, points_max: usize) -> Self {
        Self {
            chart: chart.into(),
            pipeline: pipeline.map(Into::into),
            points_max: points_max.max(1),
            found: BTreeMap::new(),
            left_out: 0,
        }
    }

    /// Takes a result as JSON; whether it is about the chart.
    ///
    /// # Errors
    /// The text is no result.
    pub fn result(&mut self, json: &[u8]) -> Result<bool, serde_json::Error> {
        let head: Head = serde_json::from_slice(json)?;
        let wanted = self.pipeline.as_ref().is_none_or(|pipeline| *pipeline == head.pipeline);
        if !wanted || head.chart.as_ref() != Some(&self.chart) {
            return Ok(false);
        }
        match head.kind.as_str() {
            "spc" => self.point(&head.pipeline, serde_json::from_slice(json)?),
            "limits" => self.limits(&head.pipeline, serde_json::from_slice(json)?),
            "capability" => {
                let capability: Capability = serde_json::from_slice(json)?;
                if let Some(gathered) = self.of(&head.pipeline, &capability.key.clone()) {
                    gathered.report.capability = Some(capability);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes the view of one key.
    pub fn view(&mut self, pipeline: &Arc<str>, view: &ChartView) {
        if *view.chart != *self.chart || self.pipeline.as_ref().is_some_and(|wanted| wanted != pipeline) {
            return;
        }
        let key = view.key.clone();
        let points_max = self.points_max;
        let Some(gathered) = self.of(pipeline, &key) else { return };
        let first = view.points.first().map(|point| point.index);
        let report = &mut gathered.report;
        (report.kind, report.status, report.warnings) = (Some(view.kind), view.status.clone(), view.warnings.clone());
        report.signals.clone_from(&view.signals);
        if view.capability.is_some() {
            report.capability.clone_from(&view.capability);
        }
        for point in &view.points {
            gathered.points.entry(point.index).or_insert_with(|| spc_point(view, point));
        }
        report.complete_from = first;
        trim(&mut gathered.points, points_max);
    }

    fn of(&mut self, pipeline: &Arc<str>, key: &Key) -> Option<&mut Gathered> {
        let place = (Arc::clone(pipeline), key.clone());
        if self.found.len() >= KEYS_MAX && !self.found.contains_key(&place) {
            self.left_out += 1;
            return None;
        }
        let report = || ChartReport::new(&self.chart, pipeline, key);
        Some(self.found.entry(place).or_insert_with(|| Gathered { report: report(), points: BTreeMap::new() }))
    }

    fn point(&mut self, pipeline: &Arc<str>, point: SpcPoint) {
        let points_max = self.points_max;
        if let Some(gathered) = self.of(pipeline, &point.key.clone()) {
            gathered.points.insert(point.index, point);
            trim(&mut gathered.points, points_max);
        }
    }

    fn limits(&mut self, pipeline: &Arc<str>, limits: Limits) {
        if let Some(gathered) = self.of(pipeline, &limits.key.clone()) {
            let report = &mut gathered.report;
            report.status.clone_from(&limits.status);
            report.warnings.clone_from(&limits.warnings);
            report.limits.retain(|known| known.version != limits.version);
            report.limits.push(limits);
            report.limits.sort_by_key(|limits| limits.version);
            let over = report.limits.len().saturating_sub(VERSIONS_MAX);
            report.limits.drain(..over);
        }
    }

    /// The reports by pipeline and key, and how many results of further keys were left out.
    pub fn finish(self) -> (Vec<ChartReport>, u64) {
        let reports = self.found.into_values().map(|Gathered { mut report, points }| {
            report.points = points.into_values().collect();
            report
        });
        (reports.collect(), self.left_out)
    }
}

fn trim(points: &mut BTreeMap<u64, SpcPoint>, points_max: usize) {
    while points.len() > points_max {
        points.pop_first();
    }
}

/// A point of a view in the shape of a result. Of a CUSUM the view holds both sums instead of a statistic and its spread.
fn spc_point(view: &ChartView, point: &ViewPoint) -> SpcPoint {
    let cusum = view.kind == "cusum" && point.phase == 2;
    let judged = point.phase == 2 && point.ucl.is_some();
    let spread = view.spread.filter(|_| !cusum && point.spread.is_some()).map(|lines| {
        let [center, lcl, ucl] = if judged { lines } else { [None; 3] };
        Spread { statistic: point.spread, center, lcl, ucl, violations: point.spread_violations.clone() }
    });
    SpcPoint {
        chart: Arc::clone(&view.chart),
        key: view.key.clone(),
        index: point.index,
        time: point.time,
        statistic: point.statistic.filter(|_| !cusum),
        center: point.center.filter(|_| !cusum),
        lcl: point.lcl.filter(|_| !cusum),
        ucl: point.ucl.filter(|_| !cusum),
        spread,
        upper: point.statistic.filter(|_| cusum),
        lower: point.spread.filter(|_| cusum),
        h: point.ucl.filter(|_| cusum),
        n_upper: None,
        n_lower: None,
        contributions: BTreeMap::new(),
        violations: point.violations.clone(),
        evidence: BTreeMap::new(),
        phase: point.phase,
        status: None,
    }
}

pub use draw::scene;
pub use text::terminal;

#[cfg(test)]
mod tests {
    use super::*;

    fn point(index: u64, statistic: f64, violations: &str) -> String {
        format!(
            r#"{{"id":"x","pipeline":"p","kind":"spc","chart":"c","key":{{}},"index":{index},"time":"2026-01-01T00:00:00Z","statistic":{statistic},"center":0.0,"lcl":-3.0,"ucl":3.0,"violations":[{violations}],"evidence":{{}},"phase":2}}"#
        )
    }

    #[test]
    fn the_newest_points_of_the_wanted_chart_are_kept_in_order() {
        let mut collector = Collector::new("c", None, 2);
        for index in [3, 1, 2] {
            assert!(collector.result(point(index, 1.0, "").as_bytes()).unwrap());
        }
        assert!(!collector.result(point(4, 1.0, "").replace("\"c\"", "\"d\"").as_bytes()).unwrap());
        assert!(!collector.result(br#"{"kind":"late","pipeline":"p"}"#).unwrap());
        assert!(collector.result(b"no json").is_err());
        let (reports, left_out) = collector.finish();
        assert_eq!((reports.len(), left_out), (1, 0));
        assert_eq!(reports[0].points.iter().map(|point| point.index).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_report_shows_lines_marks_and_rule_names() {
        let mut collector = Collector::new("c", None, 100);
        for (index, value) in [0.1, -0.4, 3.5, 0.2].into_iter().enumerate() {
            let violations = if value > 3.0 { "\"nelson_1\"" } else { "" };
            collector.result(point(index as u64, value, violations).as_bytes()).unwrap();
        }
        let (reports, _) = collector.finish();
        let svg = scene(&reports).svg();
        for wanted in [">UCL 3<", ">CL 0<", ">LCL -3<", ">N1<", "nelson_1: a point beyond the control limits"] {
            assert!(svg.contains(wanted), "{wanted} is not in {svg}");
        }
        let mut png = Vec::new();
        scene(&reports).draw().write(&mut png).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 1000);
        let text = terminal(&reports, 60);
        assert!(text.contains("nelson_1") && text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn a_chart_without_points_says_so() {
        let mut collector = Collector::new("c", None, 100);
        let limits = r#"{"id":"x","pipeline":"p","kind":"limits","chart":"c","key":{"part":null},"version":1,"center":null,"sigma":null,"lcl":null,"ucl":null,"violations":[],"status":"no variation"}"#;
        collector.result(limits.as_bytes()).unwrap();
        let (reports, _) = collector.finish();
        let svg = scene(&reports).svg();
        assert!(svg.contains("no points") && svg.contains("no variation"), "{svg}");
    }
}
