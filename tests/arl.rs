//! Average run lengths by seeded simulation, through the chart operator: what a false alarm costs, and how soon a shift is seen.
//!
//! Each case must lie within four standard errors of its published value. Every build simulates 2000 runs a case;
//! `QADF_NIGHTLY=1 cargo test --release --test arl` simulates 100,000.

use std::sync::Arc;

use qadf_edge::{
    model::{Batch, Body, Stream, Timestamp},
    spc::{ChartConfig, ChartOperator, ChartSettings, Emit, Snapshot},
};
use serde_json::Value;

/// Standard normal values from a seed: `SplitMix64` and the polar method.
struct Normal {
    state: u64,
    spare: Option<f64>,
}

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = x * x + y * y;
            if s > 0.0 && s < 1.0 {
                let scale = (-2.0 * s.ln() / s).sqrt();
                self.spare = Some(y * scale);
                return x * scale;
            }
        }
    }
}

/// A chart, and the violation that ends a run on it.
struct Case {
    toml: String,
    /// Only this rule counts; `None` = any.
    rule: Option<&'static str>,
}

impl Case {
    fn new(toml: String) -> Self {
        Self { toml, rule: None }
    }

    fn upper_only(self) -> Self {
        Self { rule: Some("cusum_upper"), ..self }
    }
}

/// Runs a case, each from the same fresh state.
struct Runs {
    chart: ChartOperator,
    fresh: Snapshot,
    batch: Batch,
    normal: Normal,
    rule: Option<&'static str>,
}

impl Runs {
    fn new(case: &Case, expected: f64) -> Self {
        let settings: ChartSettings = toml::from_str(&format!("id='c'\n{}", case.toml)).unwrap();
        let config = ChartConfig::check(&settings).unwrap();
        let mut batch = Batch::new(Arc::new(Stream::new("s", &["x", "y"], &[])), "t".into(), "t/0".into(), Timestamp(0));
        // Rows after the violation are wasted.
        let rows = (expected / 4.0).clamp(4.0, 64.0) as i64;
        batch.time = (0..rows).collect();
        batch.signals = vec![vec![0.0; rows as usize]; 2];
        let chart = ChartOperator::new("p".into(), config, &batch.stream).unwrap();
        Self { fresh: chart.snapshot(), chart, batch, normal: Normal { state: 20_261_007, spare: None }, rule: case.rule }
    }

    /// The number of points up to and with the first violation.
    fn length(&mut self, shift: f64) -> u64 {
        self.chart.restore(self.fresh.clone()).unwrap();
        let signals = self.chart.config().signals().len();
        let rows = self.batch.rows();
        let mut out = Vec::new();
        loop {
            for column in &mut self.batch.signals[..signals] {
                for value in column {
                    *value = self.normal.next() + shift;
                }
            }
            self.chart.push(&self.batch, 0..rows, Emit::Changes, &mut out);
            for output in out.drain(..) {
                let Body::Spc(point) = &output.body else { panic!("{output:?}") };
                if self.rule.is_none_or(|rule| point.violations.iter().any(|fired| **fired == *rule)) {
                    return point.index + 1;
                }
            }
        }
    }
}

/// Simulates runs under a shift of the mean (in sigma) and holds their average against `published`.
fn check(case: &Case, shift: f64, published: f64) {
    let runs = if std::env::var_os("QADF_NIGHTLY").is_some_and(|value| value == "1") { 100_000 } else { 2000 };
    let mut simulation = Runs::new(case, published);
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..runs {
        let length = simulation.length(shift) as f64;
        sum += length;
        squares += length * length;
    }
    let n = f64::from(runs);
    let mean = sum / n;
    let error = ((squares / n - mean * mean) / n).sqrt();
    println!("{:?} shift {shift}: {mean:.3} ± {error:.3}, published {published:.3}, {runs} runs", case.toml);
    assert!((mean - published).abs() <= 4.0 * error, "{} shift {shift}: {mean:.3} ± {error:.3} is not {published}", case.toml);
}

/// The run lengths by shift of one row of a table in spc.json.
fn table(id: &str, path: &[&str]) -> Vec<(f64, f64)> {
    let all: Value = serde_json::from_str(include_str!("cases/spc.json")).unwrap();
    let case = all["cases"].as_array().unwrap().iter().find(|case| case["id"] == id).unwrap().clone();
    let row = path.iter().fold(&case["expected"], |value, key| &value[key]);
    let row = row.as_object().unwrap_or_else(|| panic!("{id} {path:?} is there"));
    assert!(row.len() >= 9, "{id} {path:?} has its shifts");
    row.iter().map(|(shift, length)| (shift.parse().unwrap(), length.as_f64().unwrap())).collect()
}

fn check_table(case: &Case, id: &str, path: &[&str]) {
    for (shift, published) in table(id, path) {
        check(case, shift, published);
    }
}

const KNOWN: &str = "signal='x'\nlimits={center=0.0,sigma=1.0}";
/// Rule 1 on the values alone, without the moving ranges.
const SHEWHART: &str = "type='i_mr'\nconventions={spread_rules=[]}";

/// Champ and Woodall number the rules as Western Electric does.
fn western_electric(combination: &str) {
    let rules: Vec<String> = combination[1..].chars().map(|rule| format!("'western_electric_{rule}'")).collect();
    let case = Case::new(format!("{SHEWHART}\nrules=[{}]\n{KNOWN}", rules.join(",")));
    check_table(&case, "arl-champ-woodall", &[combination]);
}

#[test]
fn three_sigma_alone() {
    western_electric("C1");
}

#[test]
fn three_sigma_with_one_more_rule() {
    ["C12", "C13", "C14"].into_iter().for_each(western_electric);
}

#[test]
fn three_sigma_with_two_more_rules() {
    ["C123", "C124", "C134"].into_iter().for_each(western_electric);
}

#[test]
fn all_western_electric_rules() {
    western_electric("C1234");
}

#[test]
fn all_eight_nelson_rules() {
    check(&Case::new(format!("{SHEWHART}\nrules=['nelson']\n{KNOWN}")), 0.0, 73.5);
}

#[test]
fn individuals_with_both_charts() {
    check(&Case::new(format!("type='i_mr'\n{KNOWN}")), 0.0, 105.0);
}

fn cusum(h: u8, head_start: f64) -> Case {
    Case::new(format!("type='cusum'\nk=0.5\nh={h}.0\nhead_start={head_start:?}\n{KNOWN}"))
}

#[test]
fn cusum_of_both_sides() {
    check_table(&cusum(4, 0.0), "arl-cusum", &["h4", "two_sided"]);
    check_table(&cusum(5, 0.0), "arl-cusum", &["h5", "two_sided"]);
}

#[test]
fn cusum_of_one_side() {
    check_table(&cusum(4, 0.0).upper_only(), "arl-cusum", &["h4", "one_sided_upper"]);
    check_table(&cusum(5, 0.0).upper_only(), "arl-cusum", &["h5", "one_sided_upper"]);
}

#[test]
fn cusum_with_fast_initial_response() {
    check_table(&cusum(4, 2.0), "arl-cusum", &["h4", "two_sided_FIR_h/2"]);
    check_table(&cusum(5, 2.5), "arl-cusum", &["h5", "two_sided_FIR_h/2"]);
}

fn ewma(lambda: &str, width: &str, variance: &str) -> Case {
    Case::new(format!("type='ewma'\nlambda={lambda}\nwidth={width}\nvariance='{variance}'\n{KNOWN}"))
}

#[test]
fn ewma_with_asymptotic_limits() {
    for (lambda, width) in [("0.4", "3.054"), ("0.25", "2.998"), ("0.2", "2.962"), ("0.1", "2.814"), ("0.05", "2.615")] {
        check_table(&ewma(lambda, width, "asymptotic"), "arl-ewma", &[&format!("lambda{lambda}_L{width}")]);
    }
}

/// The figures are those in the notes of the case: `vacl` of the R package spc.
#[test]
fn ewma_with_exact_limits() {
    check(&ewma("0.1", "2.814", "exact"), 0.0, 486.4);
    check(&ewma("0.1", "2.814", "exact"), 1.0, 8.16);
}

const KNOWN_PAIR: &str = "signals=['x','y']\nlimits={center=[0.0,0.0],covariance=[[1.0,0.0],[0.0,1.0]]}";

#[test]
fn mewma_of_two() {
    check(&Case::new(format!("type='mewma'\nlambda=0.1\nucl=8.64\nvariance='asymptotic'\n{KNOWN_PAIR}")), 0.0, 200.5);
}

#[test]
fn mewma_limit_gives_the_run_length_asked_for() {
    check(&Case::new(format!("type='mewma'\nlambda=0.1\nalpha=0.005\nvariance='asymptotic'\n{KNOWN_PAIR}")), 0.0, 200.0);
}

#[test]
fn t2_of_two() {
    check(&Case::new(format!("type='t2'\nalpha=0.005\n{KNOWN_PAIR}")), 0.0, 200.0);
}
