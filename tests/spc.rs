//! Published data sets and tables through the chart operator: `cases/spc.json` and the chart cases of `cases/amqadf.json`.

use std::{collections::BTreeMap, sync::Arc};

use qadf_edge::{
    model::{Batch, Body, Capability, Key, Limits, Output, Seq, SpcPoint, Stream, Timestamp},
    spc::{
        Act, ChartConfig, ChartOperator, ChartSettings, Emit,
        capability::{indices, rating},
        config::{Conventions, RuleSides, Spec},
        constants::constants,
        moments::{Moments, lag_1},
        rules::{Plan, Rule, RuleMask, RuleState, Zones},
    },
};
use serde_json::Value;

/// The case `id` of spc.json.
fn case(id: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("cases/spc.json")).unwrap();
    let found = all["cases"].as_array().unwrap().iter().find(|case| case["id"] == id);
    found.unwrap_or_else(|| panic!("no case {id}")).clone()
}

/// The case `id` of amqadf.json.
fn parity(id: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("cases/amqadf.json")).unwrap();
    let found = all["cases"].as_array().unwrap().iter().find(|case| case["id"] == id);
    found.unwrap_or_else(|| panic!("no case {id}")).clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}

fn whole(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect()
}

fn config(toml: &str) -> ChartConfig {
    let settings: ChartSettings = toml::from_str(toml).unwrap();
    ChartConfig::check(&settings).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn stream(signals: &[&str]) -> Arc<Stream> {
    Arc::new(Stream::new("s", signals, &["part", "recipe"]))
}

/// Rows of these signal columns; all of part `a`, recipe `r`, one second apart.
fn batch(columns: &[Vec<f64>]) -> Batch {
    let names = ["x", "y", "z", "w"];
    let mut batch = Batch::new(stream(&names[..columns.len()]), "t".into(), "t/0".into(), Timestamp(0));
    let rows = columns[0].len();
    batch.time = (0..rows as i64).map(|i| i * 1_000_000_000).collect();
    batch.signals = columns.to_vec();
    for tag in 0..2 {
        for _ in 0..rows {
            batch.tags[tag].push(Some(["a", "r"][tag]));
        }
    }
    assert!(batch.is_consistent());
    batch
}

/// Everything a chart said.
#[derive(Default)]
struct Said {
    points: Vec<SpcPoint>,
    limits: Vec<Limits>,
    capability: Vec<Capability>,
    ids: Vec<String>,
}

impl Said {
    fn of(outputs: Vec<Output>) -> Self {
        let mut said = Self::default();
        for output in outputs {
            said.ids.push(output.id);
            match output.body {
                Body::Spc(point) => said.points.push(*point),
                Body::Limits(limits) => said.limits.push(*limits),
                Body::Capability(figures) => said.capability.push(*figures),
                other => panic!("a chart said {other:?}"),
            }
        }
        said
    }

    /// Indices, counted from 1, of points with a violation.
    fn signals(&self) -> Vec<u64> {
        self.points.iter().filter(|point| !point.violations.is_empty()).map(|point| point.index + 1).collect()
    }

    /// Indices, counted from 1, of baseline points beyond their own limits.
    fn baseline_signals(&self) -> Vec<u64> {
        self.limits.last().unwrap().violations.iter().map(|(index, _)| index + 1).collect()
    }
}

fn operator(toml: &str, batch: &Batch) -> ChartOperator {
    ChartOperator::new("p".into(), config(toml), &batch.stream).unwrap()
}

/// All that a chart says about `batch`, which must not depend on how it is cut.
fn chart(toml: &str, batch: &Batch) -> Said {
    let run = |step: usize| {
        let mut chart = operator(toml, batch);
        let mut out = Vec::new();
        for start in (0..batch.rows()).step_by(step) {
            chart.push(batch, start..(start + step).min(batch.rows()), Emit::All, &mut out);
        }
        chart.finish(true, Emit::All, Seq(batch.rows() as u64), &mut out);
        out
    };
    let whole = run(usize::MAX >> 1);
    for step in [1, 3, 7] {
        let cut = run(step);
        let text = |outputs: &[Output]| serde_json::to_string(outputs).unwrap();
        assert_eq!(text(&cut), text(&whole), "step {step}");
        assert!(cut.iter().zip(&whole).all(|(cut, whole)| cut.at == whole.at), "step {step}");
    }
    Said::of(whole)
}

#[track_caller]
fn close(got: Option<f64>, want: &Value, what: &str) {
    let want = want.as_f64().unwrap();
    let got = got.unwrap_or_else(|| panic!("{what} is null"));
    assert!((got - want).abs() <= 1e-9 + 1e-9 * want.abs(), "{what}: {got} is not {want}");
}

#[test]
fn constants_are_those_of_the_published_table() {
    let case = case("const-table");
    let mut seen = 0;
    for (n, row) in case["expected"].as_object().unwrap() {
        let c = constants(n.parse().unwrap()).unwrap();
        let got = BTreeMap::from([
            ("c4", c.c4),
            ("d2", c.d2),
            ("d3", c.d3),
            ("A", c.a()),
            ("A2", c.a2()),
            ("A3", c.a3()),
            ("B3", c.b3()),
            ("B4", c.b4()),
            ("B5", c.b5()),
            ("B6", c.b6()),
            ("D1", c.d_1()),
            ("D2", c.d_2()),
            ("D3", c.d_3()),
            ("D4", c.d_4()),
            ("E2", c.e2()),
        ]);
        for (name, value) in got {
            let want = row[name].as_f64().unwrap();
            assert!((value - want).abs() <= 1e-9 + 1e-9 * want.abs(), "{name}({n}): {value} is not {want}");
            if let Some(printed) = case["published"].get(format!("{n}.{name}")) {
                let tolerance = printed["abs_tol"].as_f64().unwrap();
                assert!((value - printed["value"].as_f64().unwrap()).abs() <= tolerance, "{name}({n}) as printed");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 26 * 15);
}

#[test]
fn hard_bake_xbar_r_limits_are_those_of_montgomery() {
    let case = case("mont-6.1-xbar-r");
    let rows: Vec<f64> = case["data"]["subgroups"].as_array().unwrap().iter().flat_map(numbers).collect();
    let toml = "id='c'\ntype='xbar_r'\nsignal='x'\nsubgroup={size=5}\nlimits={baseline=25}\nspec={lsl=1.0,usl=2.0}";
    let said = chart(toml, &batch(&[rows]));
    let (limits, want) = (&said.limits[0], &case["expected"]);
    let spread = limits.spread.as_ref().unwrap();
    close(limits.center, &want["xbarbar"], "x̄̄");
    close(limits.sigma, &want["sigma"], "sigma");
    close(limits.lcl, &want["x_lcl"], "lcl");
    close(limits.ucl, &want["x_ucl"], "ucl");
    close(spread.center, &want["rbar"], "R̄");
    close(spread.lcl, &want["r_lcl"], "R lcl");
    close(spread.ucl, &want["r_ucl"], "R ucl");
    assert!(limits.violations.is_empty() && spread.violations.is_empty());
    close(said.capability[0].cp, &want["cp_spec_1_2"], "Cp");
    assert_eq!(said.points.len(), 25);
    for (i, point) in said.points.iter().enumerate() {
        close(point.statistic, &want["xbar"][i], "x̄");
        close(point.spread.as_ref().unwrap().statistic, &want["R"][i], "R");
        assert_eq!((point.index, point.phase, point.ucl), (i as u64, 1, None));
    }
    assert_eq!(said.ids[0], "spc:p:c::0");
    assert_eq!(said.ids[25], "limits:p:c::1");
    // The capability of the baseline is that of all rows: it is said once.
    assert_eq!(said.ids[26..], ["capability:p:c::125"]);
}

#[test]
fn wafer_fractions_are_those_of_nist_also_after_removing_two() {
    let case = case("nist-p-wafers");
    let (rows, want) = (batch(&[numbers(&case["data"]["defectives"]), numbers(&case["data"]["n"])]), &case["expected"]);
    let said = chart("id='p'\ntype='p'\nsignal='x'\nsize='y'\nlimits={baseline=30}", &rows);
    close(said.limits[0].center, &want["pbar"], "p̄");
    close(said.limits[0].lcl, &want["lcl"], "lcl");
    close(said.limits[0].ucl, &want["ucl"], "ucl");
    assert_eq!(said.baseline_signals(), whole(&want["beyond"]));
    let np = chart("id='np'\ntype='np'\nsignal='x'\nsize=50\nlimits={baseline=30}", &rows);
    close(np.limits[0].center.map(|rate| 50.0 * rate), &want["np_center"], "np");
    close(np.limits[0].lcl, &want["np_lcl"], "np lcl");
    close(np.limits[0].ucl, &want["np_ucl"], "np ucl");

    let mut chart = operator("id='p'\ntype='p'\nsignal='x'\nsize='y'\nlimits={baseline=30}", &rows);
    let mut out = Vec::new();
    chart.push(&rows, 0..30, Emit::Changes, &mut out);
    out.clear();
    let act = Act { author: "ada".into(), reason: "new operator and a bad roll".into() };
    assert_eq!(chart.exclude(&Key::new(), &[14, 22], &act, Seq(30), &mut out), Ok(2));
    let revised = Said::of(out);
    let want = &want["revised_excluding_15_23"];
    close(revised.limits[0].center, &want["pbar"], "revised p̄");
    close(revised.limits[0].lcl, &want["lcl"], "revised lcl");
    close(revised.limits[0].ucl, &want["ucl"], "revised ucl");
    assert_eq!(revised.baseline_signals(), whole(&want["beyond_among_kept"]));
    assert_eq!((revised.limits[0].version, revised.limits[0].author.as_deref()), (2, Some("ada")));
}

#[test]
fn a_count_on_the_limit_is_not_beyond_it() {
    let case = case("nist-c-wafers");
    let said = chart("id='c'\ntype='c'\nsignal='x'\nlimits={baseline=25}", &batch(&[numbers(&case["data"]["counts"])]));
    close(said.limits[0].center, &case["expected"]["cbar"], "c̄");
    close(said.limits[0].lcl, &case["expected"]["lcl"], "lcl");
    close(said.limits[0].ucl, &case["expected"]["ucl"], "ucl");
    assert_eq!(said.baseline_signals(), whole(&case["expected"]["beyond"]));
}

#[test]
fn computer_defects_per_unit_are_those_of_montgomery() {
    let case = case("mont-u-pc");
    let rows = batch(&[numbers(&case["data"]["counts"]), numbers(&case["data"]["n"])]);
    let said = chart("id='u'\ntype='u'\nsignal='x'\nsize='y'\nlimits={baseline=20}", &rows);
    close(said.limits[0].center, &case["expected"]["ubar"], "ū");
    close(said.limits[0].lcl, &case["expected"]["lcl"], "lcl");
    close(said.limits[0].ucl, &case["expected"]["ucl"], "ucl");
    assert!(said.limits[0].violations.is_empty());
}

#[test]
fn flow_individuals_are_those_of_nist() {
    let case = case("nist-imr-flow");
    let (rows, want) = (batch(&[numbers(&case["data"]["x"])]), &case["expected"]);
    let said = chart("id='i'\ntype='i_mr'\nsignal='x'\nrules=['nelson']\nlimits={baseline=10}", &rows);
    let limits = &said.limits[0];
    let spread = limits.spread.as_ref().unwrap();
    close(limits.center, &want["xbar"], "x̄");
    close(limits.sigma, &want["sigma"], "sigma");
    close(limits.lcl, &want["x_lcl"], "lcl");
    close(limits.ucl, &want["x_ucl"], "ucl");
    close(spread.center, &want["mrbar"], "mean moving range");
    close(spread.ucl, &want["mr_ucl"], "moving range ucl");
    assert!(limits.violations.is_empty() && spread.violations.is_empty());
    assert_eq!(said.points[0].spread.as_ref().unwrap().statistic, None);
    for (i, point) in said.points[1..].iter().enumerate() {
        close(point.spread.as_ref().unwrap().statistic, &want["mr"][i], "moving range");
    }
    let toml = "id='i'\ntype='i_mr'\nsignal='x'\nestimator='median_moving_range'\nlimits={baseline=10}";
    close(chart(toml, &rows).limits[0].sigma, &want["median_mr_sigma"], "median moving range");
}

#[test]
fn cusum_sums_and_counters_are_the_published_ones() {
    for (id, toml) in [
        ("nist-cusum", "id='c'\ntype='cusum'\nsignal='x'\nk=0.3175\nh=4.1959\nlimits={center=325.0,sigma=1.0}"),
        ("mont-cusum", "id='c'\ntype='cusum'\nsignal='x'\nk=0.5\nh=5.0\nlimits={fixed={center=10.0,sigma=1.0}}"),
    ] {
        let case = case(id);
        let said = chart(toml, &batch(&[numbers(&case["data"]["x"])]));
        let want = &case["expected"];
        assert_eq!(said.signals(), whole(&want["signals"]), "{id}");
        for (i, point) in said.points.iter().enumerate() {
            close(point.upper, &want["c_plus"][i], "upper sum");
            close(point.lower, &want["c_minus"][i], "lower sum");
            assert_eq!(point.n_upper, want["n_plus"][i].as_u64(), "{id} {i}");
            assert_eq!(point.n_lower, want["n_minus"][i].as_u64(), "{id} {i}");
            assert_eq!((point.lcl, point.ucl, point.phase), (None, None, 2));
        }
        if let Some(change) = want.get("change_point_estimate") {
            let first = said.points.iter().find(|point| !point.violations.is_empty()).unwrap();
            // Seven points above zero up to index 28: the shift lies after the point before them.
            assert_eq!(first.index + 1 - first.n_upper.unwrap(), change.as_u64().unwrap());
            assert_eq!(first.evidence["cusum_upper"], (22..=28).collect::<Vec<u64>>());
            let mean = 10.0 + 0.5 + first.upper.unwrap() / first.n_upper.unwrap() as f64;
            close(Some(mean), &want["new_mean_estimate"], "new mean");
        }
    }
}

#[test]
fn ewma_limits_are_exact_or_asymptotic_as_asked() {
    let case = case("nist-ewma");
    let rows = batch(&[numbers(&case["data"]["x"])]);
    for (variance, lcl, ucl) in [("asymptotic", "lcl", "ucl"), ("exact", "exact_lcl", "exact_ucl")] {
        let toml = format!(
            "id='e'\ntype='ewma'\nsignal='x'\nlambda=0.3\nwidth=3.0\nvariance='{variance}'\nlimits={{center=50.0,sigma=2.0539}}"
        );
        let said = chart(&toml, &rows);
        assert!(said.signals().is_empty());
        for (i, point) in said.points.iter().enumerate() {
            close(point.statistic, &case["expected"]["z"][i], "z");
            close(point.lcl, &case["expected"][lcl][i], lcl);
            close(point.ucl, &case["expected"][ucl][i], ucl);
        }
    }
}

#[test]
fn capability_from_a_summary_is_that_of_nist() {
    let want = &case("nist-capability")["expected"];
    let spec = Spec { lsl: Some(8.0), usl: Some(20.0), target: Some(14.0) };
    let got = indices(16.0, 2.0, &spec);
    close(got.cp, &want["Cp"], "Cp");
    close(got.cpu, &want["Cpu"], "Cpu");
    close(got.cpl, &want["Cpl"], "Cpl");
    close(got.cpk, &want["Cpk"], "Cpk");
    close(got.k, &want["k"], "k");
    close(got.cpm, &want["Cpm"], "Cpm");
}

#[test]
fn moments_have_the_certified_digits_however_rows_are_cut() {
    let case = case("nist-strd");
    let repeated = |first: f64, low: f64, high: f64| -> Vec<f64> {
        std::iter::once(first).chain((0..500).flat_map(|_| [low, high])).collect()
    };
    let sets = [
        ("michelso", numbers(&case["data"]["michelso"])),
        ("numacc1", numbers(&case["data"]["numacc1"])),
        ("numacc2", repeated(1.2, 1.1, 1.3)),
        ("numacc3", repeated(1_000_000.2, 1_000_000.1, 1_000_000.3)),
        ("numacc4", repeated(10_000_000.2, 10_000_000.1, 10_000_000.3)),
    ];
    for (name, values) in &sets {
        let want = &case["expected"][name];
        let (mean, sd) = (want["mean"].as_f64().unwrap(), want["sd"].as_f64().unwrap());
        for step in [1, 2, 7, 100, 2000] {
            let mut all = Moments::default();
            values.chunks(step).for_each(|part| all.merge(&Moments::of(part)));
            assert!((all.mean / mean - 1.0).abs() < 1e-12, "{name} by {step}: mean {}", all.mean);
            assert!((all.deviation().unwrap() / sd - 1.0).abs() < 1e-7, "{name} by {step}: sd {:?}", all.deviation());
        }
    }
    close(lag_1(&sets[0].1), &case["expected"]["michelso"]["lag1"], "lag 1");
}

/// Which of `rules` fire on `z`, as `rule → points counted from 1`.
fn fired(z: &[f64], conventions: Conventions) -> BTreeMap<Rule, Vec<u64>> {
    let plan = Plan::new(RuleMask::NELSON.or(RuleMask::WESTERN_ELECTRIC), conventions);
    let zones = Zones::new(0.0, 1.0, 3.0, [f64::NEG_INFINITY, f64::INFINITY]);
    let mut state = RuleState::default();
    let mut all: BTreeMap<Rule, Vec<u64>> = BTreeMap::new();
    for (i, x) in z.iter().enumerate() {
        for rule in state.step(*x, &zones, &plan).iter() {
            all.entry(rule).or_default().push(i as u64 + 1);
        }
    }
    all
}

#[test]
fn rule_semantics_are_exact() {
    let base = Conventions::default();
    let variant = |key: &str| match key {
        "N1" => (Rule::Nelson1, base),
        "N2" => (Rule::Nelson2, base),
        "N3" => (Rule::Nelson3, base),
        "N4" => (Rule::Nelson4, base),
        "N5" => (Rule::Nelson5, base),
        "N6" => (Rule::Nelson6, base),
        "N7" => (Rule::Nelson7, base),
        "N8" => (Rule::Nelson8, base),
        "WE4" => (Rule::WesternElectric4, base),
        "N3_minitab_7pts" => (Rule::Nelson3, Conventions { trend_points: 7, ..base }),
        "N4_minitab_15pts" => (Rule::Nelson4, Conventions { alternation_points: 15, ..base }),
        "N5_full_window_only" => (Rule::Nelson5, Conventions { full_window: true, ..base }),
        "N8_minitab_either_side" => (Rule::Nelson8, Conventions { rule_8_sides: RuleSides::Either, ..base }),
        other => panic!("unknown rule {other}"),
    };
    let case = case("rules-semantics");
    let series = case["data"]["series"].as_array().unwrap();
    assert_eq!(series.len(), 13);
    for one in series {
        for (key, points) in one["expected"].as_object().unwrap() {
            let (rule, conventions) = variant(key);
            let got = fired(&numbers(&one["z"]), conventions).remove(&rule).unwrap_or_default();
            assert_eq!(got, whole(points), "{} {key}", one["name"]);
        }
    }
}

#[test]
fn rules_find_the_points_that_the_reference_names() {
    for id in ["RUL-01", "RUL-02", "RUL-03", "RUL-04", "RUL-06", "RUL-07", "RUL-09", "RUL-10", "RUL-12", "RUL-14", "RUL-15"] {
        let case = parity(id);
        let values = batch(&[numbers(&case["input"]["values"])]);
        let said = chart("id='i'\ntype='i_mr'\nsignal='x'\nrules=['nelson']\nlimits={center=0.0,sigma=1.0}", &values);
        let mut got: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (rule, points) in said.points.iter().flat_map(|point| &point.evidence) {
            got.entry(rule.replace("nelson_", "")).or_default().extend(points);
        }
        for points in got.values_mut() {
            points.sort_unstable();
            points.dedup();
        }
        let want: BTreeMap<String, Vec<u64>> =
            case["expected"].as_object().unwrap().iter().map(|(rule, points)| (rule.clone(), whole(points))).collect();
        assert_eq!(got, want, "{id}");
    }
}

#[test]
fn reference_limits_differ_only_by_its_rounded_constants() {
    for (id, kind, half) in [("SPC-01", "xbar_r", "r"), ("SPC-02", "xbar_s", "s")] {
        let case = parity(id);
        let said =
            chart(&format!("id='c'\ntype='{kind}'\nsignal='x'\nlimits={{baseline=5}}"), &batch(&[numbers(&case["input"]["data"])]));
        let limits = &said.limits[0];
        let spread = limits.spread.as_ref().unwrap();
        let want = &case["expected"];
        let near =
            |got: Option<f64>, want: &Value| assert!((got.unwrap() - want.as_f64().unwrap()).abs() < 2e-5, "{id}: {got:?} {want}");
        near(limits.center, &want["xbar"]["cl"]);
        near(limits.ucl, &want["xbar"]["ucl"]);
        near(limits.lcl, &want["xbar"]["lcl"]);
        near(spread.center, &want[half]["cl"]);
        near(spread.ucl, &want[half]["ucl"]);
        near(spread.lcl, &want[half]["lcl"]);
    }
}

#[test]
fn a_step_inside_the_baseline_shows_in_its_violations() {
    let case = parity("SPC-04");
    let said = chart("id='i'\ntype='i_mr'\nsignal='x'\nlimits={baseline=60}", &batch(&[numbers(&case["input"]["data"])]));
    // The reference divides by 1.128, rounded.
    assert!((said.limits[0].ucl.unwrap() - case["expected"]["ucl"].as_f64().unwrap()).abs() < 3e-4);
    assert!((said.limits[0].lcl.unwrap() - case["expected"]["lcl"].as_f64().unwrap()).abs() < 3e-4);
    assert_eq!(said.limits[0].violations.len() as u64, case["expected"]["ooc_count"].as_u64().unwrap());
}

#[test]
fn capability_of_rows_uses_both_sigmas() {
    let case = parity("CAP-01");
    let rows: Vec<f64> = (0..20).flat_map(|_| numbers(&case["input"]["tile"])).collect();
    let toml = "id='c'\ntype='xbar_s'\nsignal='x'\nsubgroup={size=5}\nlimits={baseline=20}\nspec={lsl=7.0,usl=13.0}";
    // Every subgroup is alike: limits come from the variation inside them.
    let said = chart(toml, &batch(&[rows]));
    let got = &said.capability[0];
    close(got.cp, &case["expected"]["cp"], "Cp");
    close(got.cpk, &case["expected"]["cpk"], "Cpk");
    close(got.pp, &case["expected"]["pp"], "Pp");
    close(got.ppk, &case["expected"]["ppk"], "Ppk");
    assert_eq!((got.n, got.ppm_observed), (100, Some(0.0)));
    assert!(got.intervals["cp"][0] < got.cp.unwrap() && got.intervals["cp"][1] > got.cp.unwrap());
}

#[test]
fn capability_and_rating_functions_agree_with_the_reference() {
    let want = &parity("CAP-02")["expected"];
    let got = indices(11.0, 0.667, &Spec { lsl: Some(8.0), usl: Some(12.0), target: None });
    close(got.cpu, &want["cpu"], "cpu");
    close(got.cpl, &want["cpl"], "cpl");
    close(got.cpk, &want["cpk"], "cpk");
    close(got.cp, &want["cp"], "cp");
    let case = parity("CAP-04");
    let words: Vec<String> = numbers(&case["input"]["cpk"]).into_iter().map(|cpk| format!("{:?}", rating(cpk))).collect();
    assert_eq!(serde_json::json!(words), case["expected"]);
}

#[test]
fn t2_limit_agrees_with_the_reference() {
    let got = qadf_edge::spc::multivariate::phase_2_limit(100, 2, 0.05);
    close(Some(got), &parity("T2-01")["expected"], "T² limit");
}

#[test]
fn adaptive_level_and_drift_agree_with_the_reference() {
    use qadf_edge::spc::adaptive::{Level, drift};
    let (case, start) = (parity("BAS-01"), Level { mean: 10.0, deviation: 2.0, count: 100 });
    let got = start.exponential(&numbers(&case["input"]["new"]), 0.1);
    close(Some(got.mean), &case["expected"]["mean"], "mean");
    close(Some(got.deviation), &case["expected"]["std"], "deviation");
    assert_eq!(got.count, 104);
    let got = drift(&start, 10.8, 30).unwrap();
    close(Some(got.z), &parity("BAS-03")["expected"]["z"], "z");
    assert!(got.drifted);
}

#[test]
fn every_case_is_run() {
    let all: Value = serde_json::from_str(include_str!("cases/spc.json")).unwrap();
    let tests = [include_str!("spc.rs"), include_str!("arl.rs")];
    for case in all["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        assert!(tests.iter().any(|text| text.contains(&format!("\"{id}\""))), "{id} is not run");
    }
}
