//! What each kind of chart computes, against figures worked out by hand: what the published cases leave out.

use std::sync::Arc;

use qadf_edge::{
    model::{Batch, Body, Key, Limits, Output, Seq, SpcPoint, Stream, Timestamp},
    spc::{ChartConfig, ChartOperator, ChartSettings, Emit},
};

/// Rows of signals `x` and `y`, a second apart; `parts` are the texts of the tag, null where there are none.
fn rows(x: &[f64], y: &[f64], parts: &[&str]) -> Batch {
    let stream = Arc::new(Stream::new("s", &["x", "y"], &["part"]));
    let mut batch = Batch::new(stream, "t".into(), "t/0".into(), Timestamp(0));
    batch.first_seq = Seq(1);
    batch.time = (0..x.len() as i64).map(|i| i * 1_000_000_000).collect();
    batch.signals = vec![x.to_vec(), if y.is_empty() { x.to_vec() } else { y.to_vec() }];
    for row in 0..x.len() {
        batch.tags[0].push(parts.get(row).copied());
    }
    assert!(batch.is_consistent());
    batch
}

fn operator(toml: &str, batch: &Batch) -> ChartOperator {
    let settings: ChartSettings = toml::from_str(&format!("id='c'\n{toml}")).unwrap();
    let config = ChartConfig::check(&settings).unwrap_or_else(|faults| panic!("{faults:?}"));
    ChartOperator::new("p".into(), config, &batch.stream).unwrap()
}

fn run(toml: &str, batch: &Batch) -> Vec<Output> {
    let (mut chart, mut out) = (operator(toml, batch), Vec::new());
    chart.push(batch, 0..batch.rows(), Emit::All, &mut out);
    chart.finish(true, Emit::All, Seq(batch.rows() as u64), &mut out);
    out
}

fn points(out: &[Output]) -> Vec<&SpcPoint> {
    out.iter().filter_map(|output| if let Body::Spc(point) = &output.body { Some(&**point) } else { None }).collect()
}

fn limits(out: &[Output]) -> &Limits {
    let found = out.iter().rev().find_map(|output| if let Body::Limits(limits) = &output.body { Some(&**limits) } else { None });
    found.expect("there are limits")
}

#[track_caller]
fn close(got: Option<f64>, want: f64) {
    let got = got.expect("a number");
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got} is not {want}");
}

/// Counts in the thousands that scatter more than chance, and what was inspected.
const COUNTS: [f64; 12] = [3750.0, 4225.0, 2980.0, 5110.0, 3890.0, 4480.0, 4720.0, 3310.0, 5520.0, 4160.0, 3600.0, 4900.0];
const SIZES: [f64; 12] = [46e3, 48e3, 45e3, 50e3, 46.5e3, 47e3, 51e3, 44e3, 52e3, 46e3, 45.5e3, 49e3];

#[test]
fn laney_limits_are_as_wide_as_the_scores_scatter() {
    // Each fraction as a score of its own binomial (Poisson) scatter; σ_z = mean moving range of the scores / 1.128.
    let twice = |values: &[f64]| [values, values].concat();
    let batch = rows(&twice(&COUNTS), &twice(&SIZES), &[]);
    let out = run("type='laney_p'\nsignal='x'\nsize='y'\nlimits={baseline=12}", &batch);
    close(limits(&out).center, 0.088_850_877_192_982_46);
    assert!(limits(&out).violations.is_empty());
    let of = points(&out);
    let (first, ninth) = (of[12], of[20]);
    close(first.lcl, 0.041_464_390_863_476_5);
    close(first.ucl, 0.136_237_363_522_488_39);
    close(ninth.lcl, 0.044_281_994_035_689_83);
    close(ninth.ucl, 0.133_419_760_350_275_09);
    close(first.statistic, COUNTS[0] / SIZES[0]);
    // By the scatter of chance alone most of them would be out.
    let plain = run("type='p'\nsignal='x'\nsize='y'\nlimits={baseline=12}", &batch);
    assert_eq!(limits(&plain).violations.len(), 9);

    let out = run("type='laney_u'\nsignal='x'\nsize='y'\nlimits={baseline=12}", &batch);
    let first = points(&out)[12];
    close(first.lcl, 0.041_464_390_863_476_52);
    close(first.ucl, 0.136_237_363_522_488_39);
}

#[test]
fn limits_of_fractions_follow_the_size_inspected() {
    let batch = rows(&[4.0, 5.0, 1.0, 40.0], &[100.0, 400.0, 25.0, 900.0], &[]);
    let out = run("type='p'\nsignal='x'\nsize='y'\nlimits={center=0.04}", &batch);
    for (point, n) in points(&out).into_iter().zip([100.0_f64, 400.0, 25.0, 900.0]) {
        let half = 3.0 * (0.04 * 0.96 / n).sqrt();
        close(point.ucl, 0.04 + half);
        close(point.lcl, (0.04 - half).max(0.0));
    }
    let out = run("type='u'\nsignal='x'\nsize='y'\nlimits={center=0.04}", &batch);
    close(points(&out)[1].ucl, 0.04 + 3.0 * (0.04_f64 / 400.0).sqrt());
}

#[test]
fn pooled_sigma_weighs_subgroups_by_their_freedom() {
    let batch = rows(&[1.0, 2.0, 4.0, 3.0, 5.0, 4.0, 2.0, 2.0, 5.0], &[], &[]);
    let out = run("type='xbar_s'\nsignal='x'\nsubgroup={size=3}\nestimator='pooled'\nlimits={baseline=3}", &batch);
    // Six degrees of freedom: c4(7) = 0.95937.
    close(limits(&out).sigma, 1.514_502_380_760_858_4);
}

#[test]
fn limits_of_a_moving_average_narrow_until_it_is_full() {
    let batch = rows(&[1.0, 2.0, 3.0, 7.0, -1.0], &[], &[]);
    let out = run("type='moving_average'\nsignal='x'\nspan=3\nlimits={center=2.0,sigma=1.0}", &batch);
    let of = points(&out);
    let want = [(1.0, 1.0_f64), (1.5, 2.0), (2.0, 3.0), (4.0, 3.0), (3.0, 3.0)];
    for (point, (mean, count)) in of.iter().zip(want) {
        close(point.statistic, mean);
        close(point.ucl, 2.0 + 3.0 / count.sqrt());
        close(point.lcl, 2.0 - 3.0 / count.sqrt());
    }
    assert_eq!(of.iter().map(|point| point.violations.len()).collect::<Vec<_>>(), [0, 0, 0, 1, 0]);
}

#[test]
fn a_part_is_a_subgroup_of_its_own_size() {
    let batch = rows(&[1.0, 3.0, 2.0, 2.0, 5.0, 9.0, 9.0], &[], &["A", "A", "A", "B", "B", "C", "C"]);
    let out = run("type='xbar_r'\nsignal='x'\nsubgroup={by='part'}\nlimits={center=4.0,sigma=2.0}", &batch);
    let of: Vec<_> =
        points(&out).into_iter().map(|point| (point.statistic, point.spread.as_ref().unwrap().statistic, point.ucl)).collect();
    let ucl = |n: f64| Some(4.0 + 3.0 * (2.0 / n.sqrt()));
    assert_eq!(of, [(Some(2.0), Some(2.0), ucl(3.0)), (Some(3.5), Some(3.0), ucl(2.0)), (Some(9.0), Some(0.0), ucl(2.0))]);
}

#[test]
fn short_runs_without_sigmas_chart_plain_deviations() {
    let table = "nominal={by='part',table={A={target=10.0},B={target=200.0}}}";
    let batch = rows(&[10.5, 9.75, 200.25, 203.5], &[], &["A", "A", "B", "B"]);
    let out = run(&format!("type='short_run'\nsignal='x'\nlimits={{center=0.0,sigma=1.0}}\n{table}"), &batch);
    let of: Vec<_> = points(&out).into_iter().map(|point| (point.statistic, point.violations.len())).collect();
    assert_eq!(of, [(Some(0.5), 0), (Some(-0.25), 0), (Some(0.25), 0), (Some(3.5), 1)]);
}

#[test]
fn each_signal_has_its_share_of_t2() {
    let known = "limits={center=[0.0,0.0],covariance=[[1.0,0.0],[0.0,4.0]]}";
    let out = run(&format!("type='t2'\nsignals=['x','y']\n{known}"), &rows(&[5.0, 0.0], &[2.0, 1.0], &[]));
    let of = points(&out);
    close(of[0].statistic, 26.0);
    let share = |name: &str| of[0].contributions.get(name).copied();
    close(share("x"), 25.0);
    close(share("y"), 1.0);
    assert_eq!(of.iter().map(|point| point.violations.len()).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn a_set_means_the_rules_that_the_points_allow() {
    // 14 points alternating beyond one and two sigma: zones say much, the rules without zones only that it alternates.
    let zigzag: Vec<f64> = (0..14).map(|i| if i % 2 == 0 { 16.0 } else { 4.0 }).collect();
    let batch = rows(&zigzag, &[], &[]);
    let fired = |toml: &str| -> Vec<String> {
        let out = run(toml, &batch);
        let mut names: Vec<String> =
            points(&out).iter().flat_map(|point| point.violations.iter().map(ToString::to_string)).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(fired("type='i_mr'\nsignal='x'\nrules=['nelson']\nlimits={center=10.0,sigma=4.0}"), ["nelson_4", "nelson_8"]);
    assert_eq!(fired("type='c'\nsignal='x'\nrules=['nelson']\nlimits={center=10.0}"), ["nelson_4"]);
    // By name each rule is there on any chart whose points are independent.
    assert_eq!(fired("type='c'\nsignal='x'\nrules=['nelson_8']\nlimits={center=10.0}"), ["nelson_8"]);
}

#[test]
fn rules_on_the_moving_range_are_chosen_apart() {
    let zigzag: Vec<f64> = (0..14).map(|i| if i % 2 == 0 { 4.9 } else { 0.0 }).collect();
    let spread = |conventions: &str| {
        let out =
            run(&format!("type='i_mr'\nsignal='x'\nlimits={{center=2.5,sigma=1.0}}\n{conventions}"), &rows(&zigzag, &[], &[]));
        let names = points(&out).into_iter().filter_map(|point| point.spread.as_ref()?.violations.last().cloned());
        names.map(|name| name.to_string()).max()
    };
    // The upper limit of the moving range is 3.686 sigma: 4.9 is beyond.
    assert_eq!(spread("").as_deref(), Some("nelson_1"));
    assert_eq!(spread("conventions={spread_rules=[]}"), None);
    assert_eq!(spread("conventions={spread_rules=['western_electric_4']}").as_deref(), Some("western_electric_4"));
}

#[test]
fn a_baseline_that_is_not_full_says_how_far_it_is() {
    let batch = rows(&[1.0, 2.0, 1.5], &[], &[]);
    let toml = "type='i_mr'\nsignal='x'\nlimits={baseline=20}";
    let out = run(toml, &batch);
    assert_eq!(points(&out)[2].status.as_deref(), Some("baseline: 3 of 20 points, not judged"));
    let mut chart = operator(toml, &batch);
    chart.push(&batch, 0..3, Emit::Changes, &mut Vec::new());
    let view = chart.view(&Key::new()).unwrap();
    assert!(view.phase == 1 && view.status.is_some_and(|status| status.contains("3 of 20")));
}
