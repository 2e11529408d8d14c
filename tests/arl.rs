//! Average run lengths by seeded simulation, through the chart operator: what a false alarm costs, and how soon a shift is seen.
//!
//! Each case must lie within four standard errors of its published value. Every build simulates a few thousand runs a case;
//! `QADF_NIGHTLY=1 cargo test --release --test arl` simulates 100,000.

use std::sync::Arc;

use qadf_edge::{
    model::{Batch, Body, Stream, Timestamp},
    spc::{ChartConfig, ChartOperator, ChartSettings, Emit},
};

/// Standard normal values from a seed: SplitMix64 and the polar method.
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

/// Rows fed at once; a run that ends inside wastes the rest.
const ROWS: usize = 64;

/// The number of points up to and with the first violation.
fn run_length(config: &ChartConfig, batch: &mut Batch, normal: &mut Normal, shift: f64) -> u64 {
    let mut chart = ChartOperator::new("p".into(), config.clone(), &batch.stream).unwrap();
    let mut out = Vec::new();
    loop {
        for column in &mut batch.signals[..config.signals().len()] {
            column.iter_mut().for_each(|value| *value = normal.next() + shift);
        }
        chart.push(batch, 0..ROWS, Emit::Changes, &mut out);
        if let Some(output) = out.first() {
            let Body::Spc(point) = &output.body else { panic!("{output:?}") };
            return point.index + 1;
        }
    }
}

/// Simulates runs of `toml` under a shift of the mean (in sigma) and holds their average against `published`.
fn check(toml: &str, shift: f64, published: f64) {
    let settings: ChartSettings = toml::from_str(&format!("id='c'\n{toml}")).unwrap();
    let config = ChartConfig::check(&settings).unwrap();
    let runs = if std::env::var_os("QADF_NIGHTLY").is_some_and(|value| value == "1") { 100_000 } else { 2000 };
    let mut batch = Batch::new(Arc::new(Stream::new("s", &["x", "y"], &[])), "t".into(), "t/0".into(), Timestamp(0));
    batch.time = (0..ROWS as i64).collect();
    batch.signals = vec![vec![0.0; ROWS]; 2];
    let mut normal = Normal { state: 20_261_121, spare: None };
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..runs {
        let length = run_length(&config, &mut batch, &mut normal, shift) as f64;
        sum += length;
        squares += length * length;
    }
    let n = f64::from(runs);
    let mean = sum / n;
    let error = ((squares / n - mean * mean) / n).sqrt();
    println!("{toml:?} shift {shift}: {mean:.2} ± {error:.2}, published {published}, {runs} runs");
    assert!((mean - published).abs() <= 4.0 * error, "{toml}: {mean:.2} ± {error:.2} is not {published}");
}

const KNOWN: &str = "signal='x'\nlimits={center=0.0,sigma=1.0}";
/// Rule 1 on the values alone, without the moving ranges.
const SHEWHART: &str = "type='i_mr'\nconventions={spread_rules=[]}";

#[test]
fn shewhart_three_sigma() {
    check(&format!("{SHEWHART}\n{KNOWN}"), 0.0, 370.4);
}

#[test]
fn shewhart_sees_one_sigma() {
    check(&format!("{SHEWHART}\n{KNOWN}"), 1.0, 43.89);
}

#[test]
fn western_electric_rules() {
    check(&format!("{SHEWHART}\nrules=['western_electric']\n{KNOWN}"), 0.0, 91.75);
}

#[test]
fn western_electric_rules_see_one_sigma() {
    check(&format!("{SHEWHART}\nrules=['western_electric']\n{KNOWN}"), 1.0, 9.22);
}

#[test]
fn western_electric_rules_1_2_and_3() {
    check(&format!("{SHEWHART}\nrules=['western_electric_1','western_electric_2','western_electric_3']\n{KNOWN}"), 0.0, 132.89);
}

#[test]
fn all_eight_nelson_rules() {
    check(&format!("{SHEWHART}\nrules=['nelson']\n{KNOWN}"), 0.0, 73.5);
}

#[test]
fn individuals_with_both_charts() {
    check(&format!("type='i_mr'\n{KNOWN}"), 0.0, 105.0);
}

#[test]
fn cusum() {
    check(&format!("type='cusum'\nk=0.5\nh=5.0\n{KNOWN}"), 0.0, 465.4);
}

#[test]
fn cusum_sees_one_sigma() {
    check(&format!("type='cusum'\nk=0.5\nh=5.0\n{KNOWN}"), 1.0, 10.38);
}

#[test]
fn cusum_with_fast_initial_response() {
    check(&format!("type='cusum'\nk=0.5\nh=5.0\nhead_start=2.5\n{KNOWN}"), 0.0, 430.4);
}

#[test]
fn ewma_with_asymptotic_limits() {
    check(&format!("type='ewma'\nlambda=0.1\nwidth=2.814\nvariance='asymptotic'\n{KNOWN}"), 0.0, 499.6);
}

#[test]
fn ewma_with_exact_limits() {
    check(&format!("type='ewma'\nlambda=0.1\nwidth=2.814\n{KNOWN}"), 0.0, 486.4);
}

#[test]
fn ewma_sees_one_sigma() {
    check(&format!("type='ewma'\nlambda=0.1\nwidth=2.814\nvariance='asymptotic'\n{KNOWN}"), 1.0, 10.33);
}

#[test]
fn mewma_of_two() {
    let known = "limits={center=[0.0,0.0],covariance=[[1.0,0.0],[0.0,1.0]]}";
    check(&format!("type='mewma'\nsignals=['x','y']\nlambda=0.1\nucl=8.66\n{known}"), 0.0, 200.5);
}

#[test]
fn mewma_limit_gives_the_run_length_asked_for() {
    let known = "limits={center=[0.0,0.0],covariance=[[1.0,0.0],[0.0,1.0]]}";
    check(&format!("type='mewma'\nsignals=['x','y']\nlambda=0.1\nalpha=0.005\n{known}"), 0.0, 200.0);
}

#[test]
fn t2_of_two() {
    let known = "limits={center=[0.0,0.0],covariance=[[1.0,0.0],[0.0,1.0]]}";
    check(&format!("type='t2'\nsignals=['x','y']\nalpha=0.005\n{known}"), 0.0, 200.0);
}
