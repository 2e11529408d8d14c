//! What a window says about its rows: parsed from texts such as `mean(intensity)`, kept as running accumulators that merge.
//!
//! Missing values are skipped; `count()` counts rows, `count(a)` values. The mean of nothing is null; variance and standard deviation
//! divide by n − 1 and are null below two values (Welford 1962; merged after Chan, Golub, LeVeque 1983). Sums carry their rounding
//! error along (Neumaier 1974). `first` and `last` go by event time, then arrival. Quantiles come from a [`Sketch`] of stated error.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use crate::model::{Batch, Number, Stream};

/// A function of one's own: its state is some numbers.
///
/// ```
/// use qadf_edge::dataflow::aggregate::Custom;
///
/// /// The root of the mean square.
/// static RMS: Custom = Custom {
///     name: "rms",
///     start: || vec![0.0, 0.0],
///     add: |state, value| {
///         state[0] += 1.0;
///         state[1] += value * value;
///     },
///     merge: |state, other| {
///         state[0] += other[0];
///         state[1] += other[1];
///     },
///     value: |state| (state[0] > 0.0).then(|| (state[1] / state[0]).sqrt()),
/// };
/// ```
#[derive(Debug)]
pub struct Custom {
    /// What it is called; no two are called alike.
    pub name: &'static str,
    /// The state of no values.
    pub start: fn() -> Vec<f64>,
    /// Takes in a value, which is finite.
    pub add: fn(&mut [f64], f64),
    /// Takes in what another state has seen.
    pub merge: fn(&mut [f64], &[f64]),
    /// What the state says; none or not finite = null.
    pub value: fn(&[f64]) -> Option<f64>,
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    /// Rows, or values of a column.
    Count,
    /// Compensated sum; null of nothing.
    Sum,
    /// Mean.
    Mean,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Square root of the variance.
    Stddev,
    /// Sample variance.
    Variance,
    /// Value of the earliest row.
    First,
    /// Value of the latest row.
    Last,
    /// Largest minus smallest.
    Range,
    /// The value below which this share of the values lies.
    Quantile(f64),
    /// How many different values.
    Distinct,
    /// A function of one's own.
    Custom(&'static Custom),
}

/// What a function is computed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The rows themselves.
    Rows,
    /// A signal, by place.
    Signal(usize),
    /// A tag, by place.
    Tag(usize),
}

/// A function of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Of what.
    pub column: Column,
}

/// A text that is no aggregate over the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct AggregateError {
    /// Where in the text, from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

const NAMES: [&str; 12] =
    ["count", "sum", "mean", "min", "max", "stddev", "variance", "first", "last", "range", "quantile", "distinct"];

impl Aggregate {
    /// Reads `text` over rows of `stream`.
    ///
    /// # Errors
    /// An unknown function or column, or arguments that do not fit, with the place in the text.
    pub fn parse(text: &str, stream: &Stream) -> Result<Self, AggregateError> {
        let at = |part: &str| text.find(part).map_or(1, |byte| text[..byte].chars().count() + 1);
        let fault = |part: &str, message: String| AggregateError { column: at(part), message };
        let open = text.find('(').ok_or_else(|| fault(text, format!("`{text}` is no call: write name(signal)")))?;
        let name = text[..open].trim();
        let Some(inside) = text[open + 1..].trim_end().strip_suffix(')') else {
            return Err(fault("(", "the parenthesis is not closed: add `)`".into()));
        };
        let arguments: Vec<&str> = inside.split(',').map(str::trim).filter(|argument| !argument.is_empty()).collect();
        let Some(function) = function(name) else {
            let hint = nearest(name, NAMES.into_iter()).map_or(String::new(), |near| format!(", did you mean `{near}`?"));
            return Err(fault(name, format!("there is no aggregate `{name}`{hint}: use one of {}", NAMES.join(" "))));
        };
        let wanted = if matches!(function, Function::Quantile(_)) { 2 } else { 1 };
        let bare_count = matches!(function, Function::Count) && (arguments.is_empty() || arguments == ["*"]);
        if bare_count {
            return Ok(Self { function, column: Column::Rows });
        }
        if arguments.len() != wanted {
            let form = if wanted == 2 { "quantile(signal, 0.99)".to_owned() } else { format!("{name}(signal)") };
            return Err(fault(name, format!("`{name}` takes {wanted} argument(s): write {form}")));
        }
        let column = column(arguments[0], stream).map_err(|message| fault(arguments[0], message))?;
        let counts = matches!(function, Function::Count | Function::Distinct);
        if matches!(column, Column::Tag(_)) && !counts {
            return Err(fault(arguments[0], format!("`{}` is a text: only count and distinct take one", arguments[0])));
        }
        let function = if wanted == 2 { quantile(arguments[1]).map_err(|message| fault(arguments[1], message))? } else { function };
        Ok(Self { function, column })
    }
}

fn function(name: &str) -> Option<Function> {
    Some(match name {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "mean" | "avg" => Function::Mean,
        "min" => Function::Min,
        "max" => Function::Max,
        "stddev" => Function::Stddev,
        "variance" => Function::Variance,
        "first" => Function::First,
        "last" => Function::Last,
        "range" => Function::Range,
        "quantile" => Function::Quantile(0.5),
        "distinct" | "count_distinct" => Function::Distinct,
        _ => return None,
    })
}

fn quantile(text: &str) -> Result<Function, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(Function::Quantile(share)),
        _ => Err(format!("`{text}` is no share of the values: write a number from 0 to 1")),
    }
}

fn column(name: &str, stream: &Stream) -> Result<Column, String> {
    if let Some(signal) = stream.signal(name) {
        return Ok(Column::Signal(signal));
    }
    if let Some(tag) = stream.tag(name) {
        return Ok(Column::Tag(tag));
    }
    let known = stream.signals.iter().map(|signal| &*signal.name).chain(stream.tags.iter().map(|tag| &**tag));
    let hint = nearest(name, known).map_or(String::new(), |near| format!(": did you mean `{near}`?"));
    Err(format!("the stream `{}` has no signal or tag `{name}`{hint}", stream.id))
}

fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

/// At most this many different values are told apart in one window and key.
const DISTINCT_MAX: usize = 1_000_000;

/// A running aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Accumulator {
    /// A number of rows or values.
    Count(u64),
    /// Sum with its compensation, and how many: also the mean.
    Sum(f64, f64, u64),
    /// Count, mean, sum of squared deviations.
    Moments(u64, f64, f64),
    /// Smallest and largest; crossed = none.
    Extremes(f64, f64),
    /// Time, number and value of the earliest row.
    First(Option<(i64, u64, f64)>),
    /// Time, number and value of the latest row.
    Last(Option<(i64, u64, f64)>),
    /// Values by size.
    Sketch(Box<Sketch>),
    /// Different numbers, by their bits.
    Numbers(BTreeSet<u64>),
    /// Different texts.
    Texts(BTreeSet<Arc<str>>),
    /// The state of a function of one's own.
    Custom(Vec<f64>),
}

impl Aggregate {
    /// Of no rows.
    pub fn start(&self) -> Accumulator {
        match self.function {
            Function::Count => Accumulator::Count(0),
            Function::Sum | Function::Mean => Accumulator::Sum(0.0, 0.0, 0),
            Function::Variance | Function::Stddev => Accumulator::Moments(0, 0.0, 0.0),
            Function::Min | Function::Max | Function::Range => Accumulator::Extremes(f64::INFINITY, f64::NEG_INFINITY),
            Function::First => Accumulator::First(None),
            Function::Last => Accumulator::Last(None),
            Function::Quantile(_) => Accumulator::Sketch(Box::default()),
            Function::Distinct if matches!(self.column, Column::Tag(_)) => Accumulator::Texts(BTreeSet::new()),
            Function::Distinct => Accumulator::Numbers(BTreeSet::new()),
            Function::Custom(custom) => Accumulator::Custom((custom.start)()),
        }
    }

    /// Adds row `row` of `batch`.
    pub fn add(&self, accumulator: &mut Accumulator, batch: &Batch, row: usize) {
        match self.column {
            Column::Rows => accumulator.add_value(1.0, 0, 0),
            Column::Signal(signal) => {
                let value = batch.signals[signal][row];
                if value.is_nan() {
                } else if let (Function::Custom(custom), Accumulator::Custom(state)) = (self.function, &mut *accumulator) {
                    (custom.add)(state, value);
                } else {
                    accumulator.add_value(value, batch.time[row], batch.seq(row).0);
                }
            }
            Column::Tag(tag) => {
                if let Some(text) = batch.tags[tag].get(row) {
                    accumulator.add_text(text);
                }
            }
        }
    }

    /// Adds row `rows[i]` of `batch` to the accumulator at `places[i]`.
    pub(super) fn add_rows(&self, cells: &mut [Accumulator], batch: &Batch, rows: &[u32], places: &[u32]) {
        let (Column::Signal(signal), false) = (self.column, matches!(self.function, Function::Custom(_))) else {
            for (row, place) in rows.iter().zip(places) {
                self.add(&mut cells[*place as usize], batch, *row as usize);
            }
            return;
        };
        let values = &batch.signals[signal];
        if matches!(self.function, Function::Sum | Function::Mean) {
            for (row, place) in rows.iter().zip(places) {
                let value = values[*row as usize];
                if let (Accumulator::Sum(sum, compensation, count), false) = (&mut cells[*place as usize], value.is_nan()) {
                    add_to_sum(sum, compensation, value);
                    *count += 1;
                }
            }
            return;
        }
        let ordered = matches!(self.function, Function::First | Function::Last);
        for (row, place) in rows.iter().zip(places) {
            let row = *row as usize;
            let value = values[row];
            if !value.is_nan() {
                let (time, seq) = if ordered { (batch.time[row], batch.seq(row).0) } else { (0, 0) };
                cells[*place as usize].add_value(value, time, seq);
            }
        }
    }

    /// What the accumulator says.
    pub fn value(&self, accumulator: &Accumulator) -> Number {
        let real = |value: f64| if value.is_finite() { Number::Real(value) } else { Number::Null };
        match (self.function, accumulator) {
            (_, Accumulator::Count(count)) => Number::Integer(*count as i64),
            (_, Accumulator::Sum(_, _, 0) | Accumulator::Moments(0 | 1, ..)) => Number::Null,
            (Function::Mean, Accumulator::Sum(sum, compensation, count)) => real((sum + compensation) / *count as f64),
            (_, Accumulator::Sum(sum, compensation, _)) => real(sum + compensation),
            (Function::Stddev, Accumulator::Moments(count, _, m2)) => real((m2 / (count - 1) as f64).sqrt()),
            (_, Accumulator::Moments(count, _, m2)) => real(m2 / (count - 1) as f64),
            (Function::Min, Accumulator::Extremes(min, _)) => real(*min),
            (Function::Max, Accumulator::Extremes(_, max)) => real(*max),
            (_, Accumulator::Extremes(min, max)) => real(max - min),
            (_, Accumulator::First(value) | Accumulator::Last(value)) => value.map_or(Number::Null, |(_, _, value)| real(value)),
            (Function::Quantile(share), Accumulator::Sketch(sketch)) => sketch.quantile(share).into(),
            (Function::Custom(custom), Accumulator::Custom(state)) => (custom.value)(state).map_or(Number::Null, real),
            (_, Accumulator::Sketch(_) | Accumulator::Custom(_)) => Number::Null,
            (_, Accumulator::Numbers(values)) => Number::Integer(values.len() as i64),
            (_, Accumulator::Texts(values)) => Number::Integer(values.len() as i64),
        }
    }
}

impl Aggregate {
    /// Takes into `accumulator` what `other`, of the same aggregate, has seen.
    pub fn merge(&self, accumulator: &mut Accumulator, other: &Accumulator) {
        match (self.function, &mut *accumulator, other) {
            (Function::Custom(custom), Accumulator::Custom(state), Accumulator::Custom(other)) => (custom.merge)(state, other),
            _ => accumulator.merge(other),
        }
    }
}

/// Adds a value to a sum, and the rounding error to its compensation (Neumaier 1974).
#[inline]
fn add_to_sum(sum: &mut f64, compensation: &mut f64, value: f64) {
    let total = *sum + value;
    *compensation += if sum.abs() >= value.abs() { (*sum - total) + value } else { (value - total) + *sum };
    *sum = total;
}

impl Accumulator {
    #[inline]
    fn add_value(&mut self, value: f64, time: i64, seq: u64) {
        match self {
            Self::Count(count) => *count += 1,
            Self::Sum(sum, compensation, count) => {
                add_to_sum(sum, compensation, value);
                *count += 1;
            }
            Self::Moments(count, mean, m2) => {
                *count += 1;
                let delta = value - *mean;
                *mean += delta / *count as f64;
                *m2 += delta * (value - *mean);
            }
            Self::Extremes(min, max) => {
                *min = min.min(value);
                *max = max.max(value);
            }
            Self::First(first) => {
                if first.is_none_or(|(at, number, _)| (time, seq) < (at, number)) {
                    *first = Some((time, seq, value));
                }
            }
            Self::Last(last) => {
                if last.is_none_or(|(at, number, _)| (time, seq) >= (at, number)) {
                    *last = Some((time, seq, value));
                }
            }
            Self::Sketch(sketch) => sketch.add(value),
            Self::Numbers(values) => {
                if values.len() < DISTINCT_MAX {
                    values.insert((value + 0.0).to_bits());
                }
            }
            Self::Texts(_) | Self::Custom(_) => {}
        }
    }

    fn add_text(&mut self, text: &Arc<str>) {
        match self {
            Self::Count(count) => *count += 1,
            Self::Texts(texts) if texts.len() < DISTINCT_MAX && !texts.contains(text) => {
                texts.insert(Arc::clone(text));
            }
            _ => {}
        }
    }

    /// Takes in what `other`, of the same function, has seen.
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (Self::Sum(sum, compensation, count), Self::Sum(more, other_compensation, other_count)) => {
                add_to_sum(sum, compensation, *more);
                *compensation += other_compensation;
                *count += other_count;
            }
            (Self::Moments(count, mean, m2), Self::Moments(other_count, other_mean, other_m2)) if *other_count > 0 => {
                let total = *count + other_count;
                let delta = other_mean - *mean;
                let share = *other_count as f64 / total as f64;
                *m2 += other_m2 + delta * delta * *count as f64 * share;
                *mean += delta * share;
                *count = total;
            }
            (Self::Extremes(min, max), Self::Extremes(other_min, other_max)) => {
                *min = min.min(*other_min);
                *max = max.max(*other_max);
            }
            (
                accumulator @ (Self::First(_) | Self::Last(_)),
                Self::First(Some((time, seq, value))) | Self::Last(Some((time, seq, value))),
            ) => {
                accumulator.add_value(*value, *time, *seq);
            }
            (Self::Sketch(sketch), Self::Sketch(other)) => sketch.merge(other),
            (Self::Numbers(values), Self::Numbers(other)) => values.extend(other.iter().take(DISTINCT_MAX)),
            (Self::Texts(texts), Self::Texts(other)) => texts.extend(other.iter().take(DISTINCT_MAX).cloned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_their_column_and_the_nearest_word() {
        let stream = Stream::new("s", &["intensity"], &["part"]);
        let fault = |text: &str| Aggregate::parse(text, &stream).unwrap_err();
        assert_eq!(fault("meen(intensity)").column, 1);
        assert!(fault("meen(intensity)").message.contains("`mean`"));
        assert_eq!(fault("mean(intensty)").column, 6);
        assert!(fault("mean(intensty)").message.contains("`intensity`"));
        assert_eq!(fault("quantile(intensity, 2)").column, 21);
        assert_eq!(fault("mean(part)").column, 6);
        for text in ["", "mean", "mean(", "mean()", "count(a", "quantile(intensity)"] {
            assert!(Aggregate::parse(text, &stream).is_err(), "{text}");
        }
        assert_eq!(Aggregate::parse("count(*)", &stream).unwrap().column, Column::Rows);
    }
}
