//! What the engine produces; serialises to the result objects of the contract.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use super::{Key, Named, Row, Seq, Timestamp, Values};

/// A result: what the outbox holds and sinks receive.
///
/// `id` is derived from the inputs alone, so that the same rows give the same ids in every replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Output {
    /// The same after every replay.
    pub id: String,
    /// The pipeline it comes from.
    pub pipeline: Arc<str>,
    /// What kind it is, and what it says.
    #[serde(flatten)]
    pub body: Body,
    /// The number of the row at which it came about; orders the results of one step, so that cutting the same rows into other
    /// batches gives the same order.
    #[serde(skip)]
    pub at: Seq,
}

impl Output {
    /// A result that came about at the row numbered `at`.
    pub fn new(id: String, pipeline: &Arc<str>, at: Seq, body: Body) -> Self {
        Self { id, pipeline: Arc::clone(pipeline), body, at }
    }
}

/// The kinds of results.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Body {
    Window(WindowResult),
    Late(Box<LateRow>),
    Join(Box<JoinResult>),
    Spc(Box<SpcPoint>),
    Limits(Box<Limits>),
    Capability(Box<Capability>),
    Checkpoint(Box<CheckpointResult>),
    Pattern(PatternMatch),
    Alert(Alert),
    VoxelUpdate(VoxelUpdate),
    Voxel(VoxelState),
}

impl Body {
    /// The word in `kind`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Window(_) => "window",
            Self::Late(_) => "late",
            Self::Join(_) => "join",
            Self::Spc(_) => "spc",
            Self::Limits(_) => "limits",
            Self::Capability(_) => "capability",
            Self::Checkpoint(_) => "checkpoint",
            Self::Pattern(_) => "pattern",
            Self::Alert(_) => "alert",
            Self::VoxelUpdate(_) => "voxel_update",
            Self::Voxel(_) => "voxel",
        }
    }
}

/// A number in a result: counts stay integers, and what has no value is null.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A count.
    Integer(i64),
    /// A measure; not finite = null.
    Real(f64),
    /// No value.
    Null,
}

impl From<Option<f64>> for Number {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::Null, Self::Real)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Integer(count) => out.serialize_i64(*count),
            Self::Real(value) if value.is_finite() => out.serialize_f64(*value),
            Self::Real(_) | Self::Null => out.serialize_none(),
        }
    }
}

/// A window fired.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowResult {
    /// The window's configured id.
    pub window: Arc<str>,
    /// First instant inside.
    pub start: Timestamp,
    /// First instant after.
    pub end: Timestamp,
    /// The group; empty without `group_by`.
    pub key: Key,
    /// The aggregates by their configured names.
    pub values: Values,
    /// 0 for the first firing; each later one counts up.
    pub revision: u32,
    /// The ids of the sessions that this one swallowed after they had fired.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// The error bound of each `quantile` value: relative, as a fraction.
    #[serde(skip_serializing_if = "is_empty")]
    pub errors: Named<f64>,
}

fn is_empty(errors: &Named<f64>) -> bool {
    errors.is_empty()
}

/// A row that came after every window it belongs to had been freed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LateRow {
    /// The window specification (or join) it is late for.
    pub window: Arc<str>,
    /// The row.
    pub row: Row,
}

/// Two rows that belong together; `right` is null for an unmatched row of a left join.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JoinResult {
    /// The join's configured id.
    pub join: Arc<str>,
    /// The row of the pipeline's stream.
    pub left: Row,
    /// The row of the other stream.
    pub right: Option<Row>,
}

/// The R, S or moving-range half of a chart at one point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The range, standard deviation or moving range; null where none can be formed.
    pub statistic: Option<f64>,
    /// Center line.
    pub center: Option<f64>,
    /// Lower control limit.
    pub lcl: Option<f64>,
    /// Upper control limit.
    pub ucl: Option<f64>,
    /// Rules whose pattern ends here.
    pub violations: Vec<Arc<str>>,
}

/// One point of a control chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpcPoint {
    /// The chart's configured id.
    pub chart: Arc<str>,
    /// The group.
    pub key: Key,
    /// Counted from 0 per chart and key, through Phase I and restarts, missing points included.
    pub index: u64,
    /// Event time of the last row in the point.
    pub time: Timestamp,
    /// What is plotted.
    pub statistic: Option<f64>,
    /// Center line; null in Phase I.
    pub center: Option<f64>,
    /// Lower control limit.
    pub lcl: Option<f64>,
    /// Upper control limit.
    pub ucl: Option<f64>,
    /// The other half of a pair of charts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// CUSUM: the upper sum, in data units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// CUSUM: the lower sum, in data units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// CUSUM: the decision interval, in data units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub h: Option<f64>,
    /// CUSUM: points since the upper sum was last zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_upper: Option<u64>,
    /// CUSUM: points since the lower sum was last zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_lower: Option<u64>,
    /// Multivariate: the contribution of each signal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contributions: BTreeMap<Arc<str>, f64>,
    /// Rules whose pattern ends at this point.
    pub violations: Vec<Arc<str>>,
    /// The points that make up each violated pattern.
    pub evidence: BTreeMap<Arc<str>, Vec<u64>>,
    /// 1 while the baseline is collected, 2 after.
    pub phase: u8,
    /// What makes the point doubtful, such as a recipe without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// A rule that a baseline point violates, as `[index, rule]`.
pub type IndexedViolation = (u64, Arc<str>);

/// The limits that a full baseline gave, frozen from here on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The chart's configured id.
    pub chart: Arc<str>,
    /// The group.
    pub key: Key,
    /// 1 for the first baseline; each re-baselining counts up.
    pub version: u32,
    /// Center line.
    pub center: Option<f64>,
    /// Standard deviation of one row.
    pub sigma: Option<f64>,
    /// Lower control limit.
    pub lcl: Option<f64>,
    /// Upper control limit.
    pub ucl: Option<f64>,
    /// The limits of the other half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// What the baseline's own points violate.
    pub violations: Vec<IndexedViolation>,
    /// Why no limits could be set, in words; null when they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Why limits that were set may mislead, such as autocorrelation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Who asked for this version, if a person did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<Arc<str>>,
    /// And why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// How well the process fits its specification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[allow(missing_docs)]
pub struct Capability {
    pub chart: Arc<str>,
    pub key: Key,
    pub n: u64,
    pub mean: Option<f64>,
    pub sigma_within: Option<f64>,
    pub sigma_overall: Option<f64>,
    pub cp: Option<f64>,
    pub cpk: Option<f64>,
    pub pp: Option<f64>,
    pub ppk: Option<f64>,
    pub cpm: Option<f64>,
    /// 95 % confidence intervals of `cp`, `cpk`, `pp`, `ppk`, where defined.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<Arc<str>, [f64; 2]>,
    /// Parts per million outside the specification, as seen.
    pub ppm_observed: Option<f64>,
    /// The same, expected of a normal distribution with the overall standard deviation.
    pub ppm_expected: Option<f64>,
}

/// A quality checkpoint looked at a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckpointResult {
    /// The checkpoint's name.
    pub name: Arc<str>,
    /// The row's event time.
    pub time: Timestamp,
    /// Whether the check holds; a check that cannot be evaluated fails.
    pub passed: bool,
    /// The row.
    pub row: Row,
}

/// A pattern of events was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatternMatch {
    /// The pattern's configured id.
    pub pattern: Arc<str>,
    /// The group.
    pub key: Key,
    /// Time of the first row (for an absence: of the row it follows).
    pub start: Timestamp,
    /// Time of the last row (for an absence: when the time was over).
    pub end: Timestamp,
    /// The rows that make it up.
    pub rows: Vec<Row>,
}

/// How much an alert matters, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// The word, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Somebody should look.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// How much it matters.
    pub severity: Severity,
    /// What raised it: a chart, checkpoint, stale signal, sink, clock…
    pub source: Arc<str>,
    /// Event time.
    pub time: Timestamp,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The figures behind it.
    pub evidence: serde_json::Value,
}

/// Voxels changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VoxelUpdate {
    /// The grid's configured id.
    pub grid: Arc<str>,
    /// Counts up with every update.
    pub version: u64,
    /// How many voxels changed.
    pub touched: u64,
}

/// One voxel and signal.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct VoxelState {
    pub grid: Arc<str>,
    pub index: [i64; 3],
    pub signal: Arc<str>,
    pub count: u64,
    pub mean: f64,
    pub variance: Option<f64>,
    pub min: f64,
    pub max: f64,
    pub last: Option<f64>,
}
