//! How charts conduct themselves: frozen limits, gaps, keys, restarts, limits by recipe, and bad input.

use std::sync::Arc;

use qadf_edge::{
    model::{Batch, Body, Flags, Key, Output, Seq, Severity, SpcPoint, Stream, TagColumn, Timestamp},
    spc::{Act, ChartConfig, ChartOperator, ChartSettings, Emit, Snapshot},
};

fn config(toml: &str) -> ChartConfig {
    let settings: ChartSettings = toml::from_str(toml).unwrap();
    ChartConfig::check(&settings).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn faults(toml: &str) -> Vec<String> {
    let settings: ChartSettings = toml::from_str(toml).unwrap();
    ChartConfig::check(&settings).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// Rows of signal `x` one second apart, numbered from 1; part and recipe are null.
fn rows(values: &[f64]) -> Batch {
    let stream = Arc::new(Stream::new("s", &["x", "y"], &["part", "recipe"]));
    let mut batch = Batch::new(stream, "t".into(), "t/0".into(), Timestamp(0));
    batch.first_seq = Seq(1);
    batch.time = (0..values.len() as i64).map(|i| i * 1_000_000_000).collect();
    batch.signals = vec![values.to_vec(), values.iter().map(|x| 2.0 * x).collect()];
    for _ in values {
        batch.tags.iter_mut().for_each(|tag| tag.push(None));
    }
    batch
}

fn tagged(mut batch: Batch, tag: usize, texts: &[Option<&str>]) -> Batch {
    batch.tags[tag] = TagColumn::default();
    for text in texts {
        batch.tags[tag].push(*text);
    }
    assert!(batch.is_consistent());
    batch
}

/// Reproducible noise between -1 and 1.
fn noise(count: usize) -> Vec<f64> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..count).map(|_| next() + next() - 1.0).collect()
}

fn operator(toml: &str, batch: &Batch) -> ChartOperator {
    ChartOperator::new("p".into(), config(toml), &batch.stream).unwrap()
}

fn run(toml: &str, batch: &Batch, emit: Emit) -> (ChartOperator, Vec<Output>) {
    let mut chart = operator(toml, batch);
    let mut out = Vec::new();
    chart.push(batch, 0..batch.rows(), emit, &mut out);
    (chart, out)
}

fn points(outputs: &[Output]) -> Vec<&SpcPoint> {
    let points = outputs.iter().filter_map(|output| if let Body::Spc(point) = &output.body { Some(&**point) } else { None });
    points.collect()
}

const KNOWN: &str = "id='c'\ntype='i_mr'\nsignal='x'\nlimits={center=0.0,sigma=1.0}\n";

#[test]
fn a_shift_inside_one_batch_is_judged_by_the_limits_from_before_it() {
    let mut values = noise(125);
    values[25..].iter_mut().for_each(|x| *x += 100.0);
    let (_, out) = run("id='c'\ntype='i_mr'\nsignal='x'\nlimits={baseline=25}", &rows(&values), Emit::All);
    let found = points(&out);
    assert!(found[25..].iter().all(|point| point.violations.iter().any(|rule| **rule == *"nelson_1")));
    let limits: Vec<_> = found[25..].iter().map(|point| point.ucl).collect();
    assert!(limits.iter().all(|ucl| ucl.is_some() && *ucl == limits[0]));
}

#[test]
fn a_result_names_the_row_that_completed_its_point() {
    let values: Vec<f64> = (0..12).map(f64::from).collect();
    let mut batch = rows(&values);
    batch.layer = Some(vec![1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]);
    let at = |toml: &str, batch: &Batch| -> Vec<u64> {
        let (mut chart, mut out) = run(toml, batch, Emit::All);
        chart.finish(true, Emit::All, Seq(99), &mut out);
        out.iter().map(|output| output.at.0).collect()
    };
    let by_size = "id='c'\ntype='xbar_r'\nsignal='x'\nsubgroup={size=5}\nlimits={center=0.0,sigma=9.0}";
    assert_eq!(at(by_size, &batch), [5, 10]);
    // A layer is over when a row of the next one comes.
    let by_layer = "id='c'\ntype='xbar_r'\nsignal='x'\nsubgroup={by='layer'}\nlimits={center=0.0,sigma=9.0}";
    assert_eq!(at(by_layer, &batch), [6, 9, 99]);
    // Rows that were taken out of a batch keep their numbers.
    let some = batch.take(&[1, 3, 4, 7, 8, 9, 10, 11]);
    assert_eq!(at(by_size, &some), [9]);
    assert_eq!(at(KNOWN, &some), [2, 4, 5, 8, 9, 10, 11, 12]);
}

#[test]
fn results_do_not_depend_on_where_batches_were_cut() {
    let mut values = noise(200);
    (values[50], values[120]) = (f64::NAN, 9.0);
    let parts: Vec<Option<&str>> = (0..200).map(|row| Some(["a", "b", "c"][row * row % 3])).collect();
    let batch = tagged(rows(&values), 0, &parts);
    for toml in [
        "id='c'\ntype='i_mr'\nsignal='x'\nrules=['nelson']\nlimits={baseline=20}\ngroup_by=['part']",
        "id='c'\ntype='xbar_s'\nsignal='x'\nrules=['western_electric']\nsubgroup={size=4}\nlimits={baseline=5}\ngroup_by=['part']",
        "id='c'\ntype='xbar_r'\nsignal='x'\nsubgroup={every='7s'}\nlimits={baseline=5}",
        "id='c'\ntype='ewma'\nsignal='x'\nlimits={baseline=30}",
    ] {
        for emit in [Emit::All, Emit::Changes] {
            let cut = |step: usize| {
                let mut chart = operator(toml, &batch);
                let mut out = Vec::new();
                for start in (0..200).step_by(step) {
                    chart.push(&batch, start..start + step, emit, &mut out);
                }
                let at: Vec<Seq> = out.iter().map(|output| output.at).collect();
                assert!(at.is_sorted());
                (serde_json::to_string(&out).unwrap(), at, chart.drain_onsets().collect::<Vec<_>>())
            };
            let whole = cut(200);
            for step in [1, 3, 64] {
                assert_eq!(cut(step), whole, "{toml} by {step}");
            }
        }
    }
}

#[test]
fn points_judged_in_blocks_are_those_judged_one_by_one() {
    // Steps, drifts, zigzags and quiet stretches, so that every rule has something to find, and what is missing or infinite between.
    let mut values = noise(600);
    values[60..90].iter_mut().for_each(|x| *x += 1.5);
    values[150..170].iter_mut().enumerate().for_each(|(i, x)| *x = 0.1 * i as f64 - 1.0);
    values[200..240].iter_mut().enumerate().for_each(|(i, x)| *x = if i % 2 == 0 { 1.3 } else { -1.2 });
    values[300..340].iter_mut().for_each(|x| *x *= 0.1);
    values[400..420].iter_mut().for_each(|x| *x *= 4.0);
    (values[95], values[96], values[350]) = (f64::NAN, f64::NAN, f64::NAN);
    (values[500], values[501]) = (f64::INFINITY, f64::INFINITY);
    let batch = rows(&values);
    for inner in [
        "rules=['nelson']",
        "rules=['nelson','western_electric']\nconventions={spread_rules=['nelson']}",
        "rules=['nelson']\nconventions={spread_rules=[],rule_8='either',windows='full',trend_points=7,alternation_points=15}",
        "rules=['nelson_1','western_electric_4']\nspec={usl=2.0}",
        "rules=[]",
    ] {
        let cut = |step: usize| {
            let mut chart = operator(&format!("{KNOWN}{inner}"), &batch);
            let mut out = Vec::new();
            for start in (0..values.len()).step_by(step) {
                chart.push(&batch, start..start + step, Emit::Changes, &mut out);
            }
            let view = format!("{:?}", chart.view(&Key::new()));
            (out, chart.drain_onsets().collect::<Vec<_>>(), *chart.counters(), view)
        };
        let one_by_one = cut(1);
        for step in [600, 7, 48, 49, 64, 100] {
            assert_eq!(cut(step), one_by_one, "{inner} by {step}");
        }
    }
}

#[test]
fn a_restart_after_any_row_changes_nothing() {
    let mut values = noise(90);
    (values[40], values[70]) = (f64::NAN, 9.0);
    let batch = rows(&values);
    for toml in [
        "id='c'\ntype='i_mr'\nsignal='x'\nrules=['nelson','western_electric']\nlimits={baseline=20}",
        "id='c'\ntype='xbar_r'\nsignal='x'\nrules=['nelson']\nsubgroup={size=3}\nlimits={baseline=8}\nspec={lsl=-2.0,usl=2.0}",
        "id='c'\ntype='ewma'\nsignal='x'\nlimits={baseline=20}",
        "id='c'\ntype='cusum'\nsignal='x'\nhead_start=2.5\nlimits={baseline=20}",
        "id='c'\ntype='moving_average'\nsignal='x'\nlimits={baseline=20}",
        "id='c'\ntype='ewma_residual'\nsignal='x'\nlimits={baseline=20}",
    ] {
        let (_, whole) = run(toml, &batch, Emit::All);
        let mut out = Vec::new();
        let mut chart = operator(toml, &batch);
        for row in 0..batch.rows() {
            chart.push(&batch, row..row + 1, Emit::All, &mut out);
            let bytes = postcard::to_stdvec(&chart.snapshot()).unwrap();
            assert_eq!(bytes, postcard::to_stdvec(&chart.snapshot()).unwrap());
            chart = operator(toml, &batch);
            chart.restore(postcard::from_bytes::<Snapshot>(&bytes).unwrap()).unwrap();
        }
        assert_eq!(serde_json::to_string(&out).unwrap(), serde_json::to_string(&whole).unwrap(), "{toml}");
    }
}

#[test]
fn a_flagged_or_missing_row_breaks_a_run_and_forms_no_moving_range() {
    let rule = format!("{KNOWN}rules=['nelson_2']");
    let shifted = [0.5; 17];
    let last = |batch: &Batch| points(&run(&rule, batch, Emit::All).1).last().map(|point| point.violations.len());
    assert_eq!(last(&rows(&shifted)), Some(1));
    let mut gap = shifted;
    gap[8] = f64::NAN;
    assert_eq!(last(&rows(&gap)), Some(0));
    let mut flagged = rows(&shifted);
    flagged.set_flag(8, Flags::FLAGGED);
    assert_eq!(last(&flagged), Some(0));
    let (_, out) = run(KNOWN, &flagged, Emit::All);
    let found = points(&out);
    assert_eq!(found.len(), 16);
    assert_eq!((found[8].index, found[8].spread.as_ref().unwrap().statistic), (9, None));
}

#[test]
fn a_long_run_is_announced_once_and_again_after_it_ended() {
    let mut values = vec![0.5; 40];
    values[20] = -0.5;
    let (mut chart, out) = run(&format!("{KNOWN}rules=['nelson_2']"), &rows(&values), Emit::Changes);
    assert_eq!(points(&out).len(), 12 + 11);
    let onsets: Vec<(u64, Seq, Severity)> = chart.drain_onsets().map(|onset| (onset.index, onset.at, onset.severity)).collect();
    assert_eq!(onsets.iter().map(|(index, at, _)| (*index, *at)).collect::<Vec<_>>(), [(8, Seq(9)), (29, Seq(30))]);
}

#[test]
fn each_part_has_a_chart_of_its_own() {
    let values = [0.0, 5.0, 0.1, 5.1, 0.2, 5.2, 0.1, 5.1];
    let parts: Vec<Option<&str>> = (0..8).map(|row| if row % 2 == 0 { Some("a") } else { None }).collect();
    let batch = tagged(rows(&values), 0, &parts);
    let (chart, out) = run("id='c'\ntype='i_mr'\nsignal='x'\nlimits={baseline=4}\ngroup_by=['part']", &batch, Emit::All);
    let centers: Vec<_> = chart.views().map(|view| (view.key.values().next().cloned().flatten(), view.center)).collect();
    assert_eq!(centers, [(Some("a".into()), Some(0.1)), (None, Some(5.1))]);
    assert_eq!(out.iter().filter(|output| output.body.kind() == "limits").count(), 2);
}

#[test]
fn an_unknown_recipe_is_flagged_and_not_judged_by_the_limits_of_another() {
    let toml = "id='c'\ntype='i_mr'\nsignal='x'\nrules=['nelson']\nlimits={by='recipe',table={A={center=0.0,sigma=1.0},B={center=100.0,sigma=1.0}}}";
    let recipes = [Some("A"), Some("B"), Some("C"), Some("C"), None, Some("B"), Some("A")];
    let batch = tagged(rows(&[0.0, 100.0, 50.0, 50.0, 50.0, 104.0, 0.0]), 1, &recipes);
    let (mut chart, out) = run(toml, &batch, Emit::All);
    let found = points(&out);
    assert_eq!(
        found.iter().map(|point| point.center).collect::<Vec<_>>(),
        [Some(0.0), Some(100.0), None, None, None, Some(100.0), Some(0.0)]
    );
    assert!(found[2].status.as_ref().unwrap().contains("`recipe` C has no limits here"));
    assert!(found[4].status.is_some() && found[4].violations.is_empty());
    assert_eq!(found[5].violations.len(), 1);
    // No moving range reaches from one recipe into another.
    assert_eq!(found[1].spread.as_ref().unwrap().statistic, None);
    let onsets: Vec<bool> = chart.drain_onsets().map(|onset| onset.status.is_some()).collect();
    assert_eq!(onsets, [true, false]);
}

#[test]
fn short_runs_of_many_parts_share_a_chart_of_deviations() {
    let toml = "id='c'\ntype='short_run'\nsignal='x'\nlimits={center=0.0,sigma=1.0}\nnominal={by='part',table={A={target=10.0,sigma=0.1},B={target=200.0,sigma=5.0}}}";
    let batch = tagged(rows(&[10.1, 210.0, 9.5, 190.0]), 0, &[Some("A"), Some("B"), Some("A"), Some("C")]);
    let (_, out) = run(toml, &batch, Emit::All);
    let found = points(&out);
    let statistics: Vec<_> = found.iter().map(|point| point.statistic.map(|x| (x * 1e6).round() / 1e6)).collect();
    assert_eq!(statistics[..3], [Some(1.0), Some(2.0), Some(-5.0)]);
    assert_eq!(found.iter().map(|point| !point.violations.is_empty()).collect::<Vec<_>>(), [false, false, true, false]);
    assert!(found[3].status.is_some());
}

#[test]
fn a_new_baseline_is_an_act_with_author_and_reason() {
    let mut values = noise(60);
    values[30..].iter_mut().for_each(|x| *x += 50.0);
    let batch = rows(&values);
    let mut chart = operator("id='c'\ntype='i_mr'\nsignal='x'\nlimits={baseline=20}", &batch);
    let mut out = Vec::new();
    chart.push(&batch, 0..35, Emit::Changes, &mut out);
    let act = Act { author: "ada".into(), reason: "new nozzle".into() };
    assert!(chart.rebaseline(&Key::from([("part".into(), None)]), &act).is_err());
    chart.rebaseline(&Key::new(), &act).unwrap();
    assert_eq!(chart.view(&Key::new()).unwrap().phase, 1);
    chart.push(&batch, 35..60, Emit::Changes, &mut out);
    let limits: Vec<_> = out.iter().filter_map(|output| if let Body::Limits(l) = &output.body { Some(l) } else { None }).collect();
    assert_eq!(limits.iter().map(|l| l.version).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((limits[0].author.as_deref(), limits[1].author.as_deref()), (None, Some("ada")));
    assert_eq!(limits[1].reason.as_deref(), Some("new nozzle"));
    assert!(limits[1].center.unwrap() > 49.0);
    assert_eq!(points(&out).iter().filter(|point| point.index >= 35).count(), 0);
    assert_eq!((out.last().unwrap().at, out.last().unwrap().id.as_str()), (Seq(55), "limits:p:c::2"));
    let fixed = operator(KNOWN, &batch);
    assert!({ fixed }.rebaseline(&Key::new(), &act).is_err());
}

/// Every third point carries most of the one before.
fn slow(count: usize) -> Vec<f64> {
    let mut level = 0.0;
    noise(count)
        .into_iter()
        .map(|shock| {
            level = 0.9 * level + shock;
            level
        })
        .collect()
}

#[test]
fn autocorrelated_individuals_are_warned_of_and_residuals_are_the_remedy() {
    let batch = rows(&slow(600));
    let warned = |toml: &str| {
        let (chart, out) = run(toml, &batch, Emit::Changes);
        let warnings =
            out.iter().find_map(|output| if let Body::Limits(l) = &output.body { Some(l.warnings.clone()) } else { None });
        let counters = *chart.counters();
        (warnings.unwrap(), counters.violations as f64 / counters.points as f64)
    };
    let (warnings, false_alarms) = warned("id='c'\ntype='i_mr'\nsignal='x'\nlimits={baseline=100}");
    assert!(warnings[0].contains("correlated") && warnings[0].contains("ewma_residual"), "{warnings:?}");
    assert!(false_alarms > 0.1, "{false_alarms}");
    let (warnings, false_alarms) = warned("id='c'\ntype='ewma_residual'\nsignal='x'\nlimits={baseline=100}");
    assert!(warnings.is_empty());
    assert!(false_alarms < 0.02, "{false_alarms}");
}

/// What a chart says once its baseline gave no limits.
fn failed(toml: &str, batch: &Batch) -> String {
    let (mut chart, out) = run(toml, batch, Emit::All);
    let limits = out.iter().find_map(|output| if let Body::Limits(l) = &output.body { Some(l) } else { None }).unwrap();
    assert_eq!((limits.center, limits.lcl, limits.ucl, limits.sigma), (None, None, None, None));
    let status = limits.status.clone().unwrap();
    let judged: Vec<_> = points(&out).into_iter().filter(|point| point.index >= 20).collect();
    assert!(!judged.is_empty() && judged.iter().all(|point| point.status.as_ref() == Some(&status) && point.ucl.is_none()));
    // Not a false all-clear: somebody is told, once.
    let onsets: Vec<_> = chart.drain_onsets().collect();
    assert_eq!(onsets.len(), 1);
    assert_eq!(onsets[0].status.as_ref(), Some(&status));
    let view = chart.views().next().unwrap();
    assert!(view.status.is_some() && view.phase == 1);
    assert!(!serde_json::to_string(&out).unwrap().contains("NaN"));
    status
}

#[test]
fn a_baseline_that_gives_no_limits_says_so_on_every_point() {
    let stuck = rows(&[5.0; 40]);
    assert!(failed("id='c'\ntype='i_mr'\nsignal='x'\nlimits={baseline=20}", &stuck).contains("no variation"));
    assert!(
        failed("id='c'\ntype='xbar_r'\nsignal='x'\nsubgroup={size=2}\nlimits={baseline=10}", &rows(&[5.0; 60]))
            .contains("no variation")
    );
    assert!(failed("id='c'\ntype='c'\nsignal='x'\nlimits={baseline=20}", &rows(&[0.0; 40])).contains("counts nothing"));
    // `y` is twice `x`.
    let twice = rows(&noise(40));
    assert!(failed("id='c'\ntype='t2'\nsignals=['x','y']\nlimits={baseline=20}", &twice).contains("`y`"));
}

#[test]
fn settings_that_cannot_work_are_refused_with_their_key() {
    for (toml, key) in [
        (format!("{KNOWN}spec={{lsl=2.0,usl=1.0}}"), "spec.usl"),
        (format!("{KNOWN}spec={{lsl=1.0,usl=1.0}}"), "spec.usl"),
        (format!("{KNOWN}spec={{}}"), "spec"),
        ("id='c'\ntype='i_mr'\nsignal='x'\nlimits={baseline=2}".to_owned(), "limits.baseline"),
        ("id='c'\ntype='t2'\nsignals=['x','y']\nlimits={baseline=3}".to_owned(), "limits.baseline"),
        ("id='c'\ntype='i_mr'\nsignal='x'\nlimits={center=0.0,sigma=0.0}".to_owned(), "limits"),
        ("id='c'\ntype='i_mr'\nsignal='x'\nlimits={center=nan,sigma=1.0}".to_owned(), "limits"),
        (format!("{KNOWN}rules=['nelson_9']"), "rules"),
        (format!("{KNOWN}lambda=0.2"), "lambda"),
        ("id='c'\ntype='ewma'\nsignal='x'\nlambda=0.0".to_owned(), "lambda"),
        ("id='c'\ntype='ewma'\nsignal='x'\nrules=['nelson_2']".to_owned(), "rules"),
        (format!("{KNOWN}conventions={{trend_points=8}}"), "conventions.trend_points"),
        (
            "id='c'\ntype='t2'\nsignals=['x','y']\nlimits={center=[0.0,0.0],covariance=[[1.0,2.0],[2.0,4.0]]}".to_owned(),
            "limits.covariance",
        ),
    ] {
        let found = faults(&toml);
        assert!(found.iter().any(|fault| fault.contains(&format!("`{key}`"))), "{toml}: {found:?}");
    }
}

/// With the points of a baseline of 25, which stay so that one can be taken out later.
#[test]
fn state_of_a_chart_and_key_is_below_one_kilobyte() {
    let batch = rows(&noise(200));
    for toml in [
        "id='c'\ntype='i_mr'\nsignal='x'\nrules=['nelson','western_electric']\nlimits={baseline=25}\nspec={usl=9.0}",
        "id='c'\ntype='xbar_r'\nsignal='x'\nrules=['nelson','western_electric']\nlimits={baseline=25}",
        "id='c'\ntype='xbar_r'\nsignal='x'\nrules=['nelson']\nlimits={center=0.0,sigma=1.0}\nspec={usl=9.0}",
        "id='c'\ntype='cusum'\nsignal='x'\nlimits={baseline=25}",
        "id='c'\ntype='t2'\nsignals=['x','y']\nlimits={center=[0.0,0.0],covariance=[[1.0,0.0],[0.0,1.0]]}",
    ] {
        let (chart, _) = run(toml, &batch, Emit::Changes);
        let bytes = chart.state_bytes(&Key::new()).unwrap();
        assert!(bytes < 1024, "{toml}: {bytes} bytes");
    }
}
