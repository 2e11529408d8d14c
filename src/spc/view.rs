//! A chart as a person sees it: status, limits and the last points of one key.

use std::sync::Arc;

use serde::Serialize;

use super::{
    lines::{Frozen, line},
    operator::{ChartOperator, Entry},
    recent::RecentPoint,
    state::{KeyState, Phase, Totals},
};
use crate::model::{Capability, Key, Timestamp};

/// One point of a view.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewPoint {
    /// Counted from 0.
    pub index: u64,
    /// Event time.
    pub time: Timestamp,
    /// What is plotted; of a CUSUM the upper sum.
    pub statistic: Option<f64>,
    /// Centre line at this point.
    pub center: Option<f64>,
    /// Lower control limit at this point.
    pub lcl: Option<f64>,
    /// Upper control limit at this point.
    pub ucl: Option<f64>,
    /// The R, S or moving-range half; of a CUSUM the lower sum.
    pub spread: Option<f64>,
    /// Rules violated.
    pub violations: Vec<Arc<str>>,
    /// Rules violated by the spread.
    pub spread_violations: Vec<Arc<str>>,
    /// 1 or 2.
    pub phase: u8,
}

/// One key of a chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChartView {
    /// The chart's id.
    pub chart: Arc<str>,
    /// Its type, as configured.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The charted signals.
    pub signals: Vec<Arc<str>>,
    /// The key.
    pub key: Key,
    /// 1 while the baseline is collected, 2 after.
    pub phase: u8,
    /// In words, why nothing is judged at present; null when points are judged. Null does not say that the process is in control.
    pub status: Option<String>,
    /// Why the limits may mislead.
    pub warnings: Vec<String>,
    /// Counts up with every set of limits; 0 before the first.
    pub version: u32,
    /// Points so far, missing ones included.
    pub count: u64,
    /// Centre line.
    pub center: Option<f64>,
    /// Standard deviation of one row.
    pub sigma: Option<f64>,
    /// Lower control limit of a point of the usual size.
    pub lcl: Option<f64>,
    /// Upper control limit of a point of the usual size.
    pub ucl: Option<f64>,
    /// Two sigma of the statistic below and above the centre.
    pub warning_limits: Option<[f64; 2]>,
    /// Name of the other half: `R`, `S`, `MR`.
    pub spread_name: Option<&'static str>,
    /// Centre, lower and upper limit of the other half.
    pub spread: Option<[Option<f64>; 3]>,
    /// The last points, oldest first.
    pub points: Vec<ViewPoint>,
    /// Capability of all charted rows, with a specification.
    pub capability: Option<Capability>,
}

impl ChartOperator {
    /// Every key in order of appearance; only the newest [`super::RECENT_KEYS_MAX`] hold points.
    pub fn views(&self) -> impl Iterator<Item = ChartView> {
        self.entries.iter().map(|entry| self.view_of(entry))
    }

    /// The keys seen so far.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter().map(|entry| &entry.key)
    }

    /// One key.
    pub fn view(&self, key: &Key) -> Option<ChartView> {
        self.entries.iter().find(|entry| entry.key == *key).map(|entry| self.view_of(entry))
    }

    fn view_of(&self, entry: &Entry) -> ChartView {
        let (setup, state) = (&self.setup, &*entry.state);
        let lines = state.usual_lines(setup);
        let (center, sigma) = match &state.frozen {
            Some(Frozen::Scalar { center, sigma, .. }) => (Some(*center), Some(KeyState::row_sigma(setup, *center, *sigma))),
            _ => (None, None),
        };
        let status = match &state.phase {
            _ if state.unjudged => Some("the newest points have no limits: not judged".to_owned()),
            Phase::Collecting => {
                let have = state.baseline.as_ref().map_or(0, |baseline| baseline.len());
                Some(format!("baseline: {have} of {} points, not judged", setup.baseline_points()))
            }
            Phase::Failed(reason) => Some(reason.to_string()),
            Phase::Judging => None,
        };
        let spread_name = setup.config.half().name();
        let capability = state.capability(setup, false).map(|figures| Capability {
            chart: Arc::clone(&setup.config.id),
            key: entry.key.clone(),
            ..figures
        });
        ChartView {
            chart: Arc::clone(&setup.config.id),
            kind: setup.config.type_name(),
            signals: setup.config.signals.clone(),
            key: entry.key.clone(),
            phase: if matches!(state.phase, Phase::Judging) { 2 } else { 1 },
            status,
            warnings: state.baseline.iter().filter_map(|baseline| baseline.autocorrelation(&setup.config)).collect(),
            version: state.version,
            count: state.next_index,
            center,
            sigma,
            lcl: line(lines.zones.lcl),
            ucl: line(lines.zones.ucl),
            warning_limits: line(lines.zones.minus_2).zip(line(lines.zones.plus_2)).map(|(low, high)| [low, high]),
            spread_name,
            spread: spread_name.map(|_| [line(lines.spread.center), line(lines.spread.lcl), line(lines.spread.ucl)]),
            points: state.recent.iter().flat_map(|recent| recent.iter()).map(view_point).collect(),
            capability,
        }
    }

    /// Bytes that the state of one key holds: fixed part, then what its baseline and open subgroup add; without the view.
    pub fn state_bytes(&self, key: &Key) -> Option<usize> {
        let state = self.entries.iter().find(|entry| entry.key == *key).map(|entry| &*entry.state)?;
        let baseline = state.baseline.as_ref().map_or(0, |baseline| baseline.bytes());
        let open = state.open.as_ref().map_or(0, |open| size_of_val(&**open) + 8 * open.values.capacity());
        let totals = state.totals.as_ref().map_or(0, |_| size_of::<Totals>());
        Some(size_of_val(state) + baseline + open + totals)
    }
}

fn view_point(point: &RecentPoint) -> ViewPoint {
    ViewPoint {
        index: point.index,
        time: Timestamp(point.time),
        statistic: line(point.statistic),
        center: line(point.center),
        lcl: line(point.lcl),
        ucl: line(point.ucl),
        spread: line(point.spread),
        violations: point.rules.names(),
        spread_violations: point.spread_rules.names(),
        phase: point.phase,
    }
}
