//! The published cases of `cases/spc.json` from the outside: rows in, `qadf-edge replay`, result lines out.

use std::{fmt::Write as _, process::Command};

use serde_json::{Value, json};

/// The case `id` of spc.json.
fn case(id: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("cases/spc.json")).unwrap();
    let found = all["cases"].as_array().unwrap().iter().find(|case| case["id"] == id);
    found.unwrap_or_else(|| panic!("no case {id}")).clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Runs `rows` through a pipeline with these inner tables; the lines it printed.
fn lines(rows: &[Value], inner: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (config, input) = (folder.path().join("config.toml"), folder.path().join("rows.jsonl"));
    let head = "[streams.s]\nsignals = { v = \"\", w = \"\" }\ntags = [\"part\"]\n[[pipelines]]\nid = \"p\"\nstream = \"s\"\n";
    std::fs::write(&config, format!("{head}{inner}")).unwrap();
    let text: String = rows.iter().fold(String::new(), |mut text, row| {
        writeln!(text, "{row}").unwrap();
        text
    });
    std::fs::write(&input, text).unwrap();
    let run =
        Command::new(env!("CARGO_BIN_EXE_qadf-edge")).arg("replay").arg("-c").arg(&config).arg("--input").arg(&input).output();
    let run = run.unwrap();
    assert!(run.status.success() && run.stderr.is_empty(), "{inner}\n{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// The results that the lines hold.
fn replay(rows: &[Value], inner: &str) -> Vec<Value> {
    lines(rows, inner).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows of `v` (and `w`) one second apart, where a NaN is no value.
fn rows(x: &[f64], y: Option<&[f64]>) -> Vec<Value> {
    let row = |i: usize| {
        let mut row = json!({"time": i as i64 * 1_000_000_000, "part": "a"});
        let mut put = |key: &str, value: f64| {
            if value.is_finite() {
                row[key] = value.into();
            }
        };
        put("v", x[i]);
        y.iter().for_each(|y| put("w", y[i]));
        row
    };
    (0..x.len()).map(row).collect()
}

fn chart(toml: &str) -> String {
    format!("[[pipelines.charts]]\n{toml}\n")
}

fn of_kind<'a>(results: &'a [Value], kind: &str) -> Vec<&'a Value> {
    results.iter().filter(|result| result["kind"] == kind).collect()
}

#[track_caller]
fn close(got: &Value, want: &Value, what: &str) {
    let (got, want) = (got.as_f64().unwrap_or_else(|| panic!("{what} is {got}")), want.as_f64().unwrap());
    assert!((got - want).abs() <= 1e-9 + 1e-9 * want.abs(), "{what}: {got} is not {want}");
}

/// Indices from 1 of the baseline's points beyond their own limits.
fn baseline_signals(limits: &Value) -> Vec<u64> {
    limits["violations"].as_array().unwrap().iter().map(|pair| pair[0].as_u64().unwrap() + 1).collect()
}

/// Indices from 1 of points that violate `rule` (any, without one).
fn signals(results: &[Value], rule: Option<&str>) -> Vec<u64> {
    let violates = |point: &Value| {
        let rules = point["violations"].as_array().unwrap();
        rule.map_or(!rules.is_empty(), |rule| rules.iter().any(|fired| fired == rule))
    };
    of_kind(results, "spc").into_iter().filter(|point| violates(point)).map(|point| point["index"].as_u64().unwrap() + 1).collect()
}

fn whole(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect()
}

#[test]
fn constants_show_in_the_limits_of_every_subgroup_size() {
    let case = case("const-table");
    let sizes: Vec<u64> = case["expected"].as_object().unwrap().keys().map(|n| n.parse().unwrap()).collect();
    let mut inner = String::new();
    for n in &sizes {
        for kind in ["xbar_r", "xbar_s"] {
            let head = format!("type='{kind}'\nsignal='v'\nsubgroup={{size={n}}}");
            inner += &chart(&format!("id='{kind}-{n}'\n{head}\nlimits={{baseline=2}}"));
            inner += &chart(&format!("id='{kind}-{n}-known'\n{head}\nlimits={{center=0.0,sigma=1.0}}"));
        }
    }
    // Every subgroup of two or more has a range of exactly 1.
    let x: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
    let results = replay(&rows(&x, None), &inner);
    let of = |kind: &str, chart: &str| {
        let found = results.iter().find(|result| result["kind"] == kind && result["chart"] == chart);
        found.unwrap_or_else(|| panic!("{chart} says no {kind}")).clone()
    };
    for n in &sizes {
        let want = &case["expected"][n.to_string()];
        let (range, range_known) = (of("limits", &format!("xbar_r-{n}")), of("spc", &format!("xbar_r-{n}-known")));
        let (deviation, deviation_known) = (of("limits", &format!("xbar_s-{n}")), of("spc", &format!("xbar_s-{n}-known")));
        let number = |value: &Value| value.as_f64().unwrap();
        let s = number(&deviation["spread"]["center"]);
        let half = |limits: &Value| number(&limits["ucl"]) - number(&limits["center"]);
        for (name, got) in [
            ("A", number(&range_known["ucl"])),
            ("A2", half(&range)),
            ("D3", number(&range["spread"]["lcl"])),
            ("D4", number(&range["spread"]["ucl"])),
            ("d2", number(&range_known["spread"]["center"])),
            ("D1", number(&range_known["spread"]["lcl"])),
            ("D2", number(&range_known["spread"]["ucl"])),
            ("A3", half(&deviation) / s),
            ("B3", number(&deviation["spread"]["lcl"]) / s),
            ("B4", number(&deviation["spread"]["ucl"]) / s),
            ("c4", number(&deviation_known["spread"]["center"])),
            ("B5", number(&deviation_known["spread"]["lcl"])),
            ("B6", number(&deviation_known["spread"]["ucl"])),
        ] {
            close(&got.into(), &want[name], &format!("{name}({n})"));
        }
    }
}

#[test]
fn hard_bake_limits_and_points() {
    let case = case("mont-6.1-xbar-r");
    let x: Vec<f64> = case["data"]["subgroups"].as_array().unwrap().iter().flat_map(numbers).collect();
    let toml = "id='c'\ntype='xbar_r'\nsignal='v'\nsubgroup={size=5}\nlimits={baseline=25}\nspec={lsl=1.0,usl=2.0}";
    let results = replay(&rows(&x, None), &chart(toml));
    let (limits, want) = (of_kind(&results, "limits")[0], &case["expected"]);
    for (key, name) in [("center", "xbarbar"), ("sigma", "sigma"), ("lcl", "x_lcl"), ("ucl", "x_ucl")] {
        close(&limits[key], &want[name], name);
    }
    for (key, name) in [("center", "rbar"), ("lcl", "r_lcl"), ("ucl", "r_ucl")] {
        close(&limits["spread"][key], &want[name], name);
    }
    assert_eq!(baseline_signals(limits), whole(&want["phase1_points_beyond"]));
    close(&of_kind(&results, "capability")[0]["cp"], &want["cp_spec_1_2"], "Cp");
    let points = of_kind(&results, "spc");
    assert_eq!(points.len(), 25);
    for (i, point) in points.iter().enumerate() {
        close(&point["statistic"], &want["xbar"][i], "x̄");
        close(&point["spread"]["statistic"], &want["R"][i], "R");
        assert_eq!((&point["phase"], &point["ucl"]), (&json!(1), &Value::Null));
    }
}

#[test]
fn wafer_fractions_and_numbers() {
    let case = case("nist-p-wafers");
    let (defectives, n, want) = (numbers(&case["data"]["defectives"]), numbers(&case["data"]["n"]), &case["expected"]);
    let charts = chart("id='p'\ntype='p'\nsignal='v'\nsize='w'\nlimits={baseline=30}")
        + &chart("id='np'\ntype='np'\nsignal='v'\nsize=50\nlimits={baseline=30}");
    let results = replay(&rows(&defectives, Some(&n)), &charts);
    let limits = of_kind(&results, "limits");
    let of = |id: &str| *limits.iter().find(|limits| limits["chart"] == id).unwrap();
    close(&of("p")["center"], &want["pbar"], "p̄");
    close(&of("p")["lcl"], &want["lcl"], "lcl");
    close(&of("p")["ucl"], &want["ucl"], "ucl");
    assert_eq!(baseline_signals(of("p")), whole(&want["beyond"]));
    close(&of("np")["lcl"], &want["np_lcl"], "np lcl");
    close(&of("np")["ucl"], &want["np_ucl"], "np ucl");

    let kept: Vec<f64> = defectives.iter().enumerate().filter(|(i, _)| ![14, 22].contains(i)).map(|(_, x)| *x).collect();
    let results = replay(&rows(&kept, Some(&n[..28])), &chart("id='p'\ntype='p'\nsignal='v'\nsize='w'\nlimits={baseline=28}"));
    let (limits, want) = (of_kind(&results, "limits")[0], &want["revised_excluding_15_23"]);
    close(&limits["center"], &want["pbar"], "revised p̄");
    close(&limits["ucl"], &want["ucl"], "revised ucl");
}

#[test]
fn counts_and_counts_a_unit() {
    let wafers = case("nist-c-wafers");
    let results =
        replay(&rows(&numbers(&wafers["data"]["counts"]), None), &chart("id='c'\ntype='c'\nsignal='v'\nlimits={baseline=25}"));
    let (limits, want) = (of_kind(&results, "limits")[0], &wafers["expected"]);
    for (key, name) in [("center", "cbar"), ("lcl", "lcl"), ("ucl", "ucl")] {
        close(&limits[key], &want[name], name);
    }
    assert_eq!(baseline_signals(limits), whole(&want["beyond"]));

    let computers = case("mont-u-pc");
    let (counts, n) = (numbers(&computers["data"]["counts"]), numbers(&computers["data"]["n"]));
    let results = replay(&rows(&counts, Some(&n)), &chart("id='u'\ntype='u'\nsignal='v'\nsize='w'\nlimits={baseline=20}"));
    let (limits, want) = (of_kind(&results, "limits")[0], &computers["expected"]);
    for (key, name) in [("center", "ubar"), ("lcl", "lcl"), ("ucl", "ucl")] {
        close(&limits[key], &want[name], name);
    }
    assert_eq!(baseline_signals(limits), whole(&want["beyond"]));
}

#[test]
fn flow_individuals() {
    let case = case("nist-imr-flow");
    let toml = "id='i'\ntype='i_mr'\nsignal='v'\nrules=['nelson']\nlimits={baseline=10}";
    let results = replay(&rows(&numbers(&case["data"]["x"]), None), &chart(toml));
    let (limits, want) = (of_kind(&results, "limits")[0], &case["expected"]);
    for (key, name) in [("center", "xbar"), ("sigma", "sigma"), ("lcl", "x_lcl"), ("ucl", "x_ucl")] {
        close(&limits[key], &want[name], name);
    }
    close(&limits["spread"]["center"], &want["mrbar"], "mean moving range");
    close(&limits["spread"]["ucl"], &want["mr_ucl"], "moving range ucl");
    assert!(baseline_signals(limits).is_empty());
    for (i, point) in of_kind(&results, "spc")[1..].iter().enumerate() {
        close(&point["spread"]["statistic"], &want["mr"][i], "moving range");
    }
}

#[test]
fn cusum_sums_and_counters() {
    for (id, toml) in [
        ("nist-cusum", "id='c'\ntype='cusum'\nsignal='v'\nk=0.3175\nh=4.1959\nlimits={center=325.0,sigma=1.0}"),
        ("mont-cusum", "id='c'\ntype='cusum'\nsignal='v'\nk=0.5\nh=5.0\nlimits={fixed={center=10.0,sigma=1.0}}"),
    ] {
        let case = case(id);
        let results = replay(&rows(&numbers(&case["data"]["x"]), None), &chart(toml));
        let want = &case["expected"];
        assert_eq!(signals(&results, None), whole(&want["signals"]), "{id}");
        for (i, point) in of_kind(&results, "spc").iter().enumerate() {
            close(&point["upper"], &want["c_plus"][i], "upper sum");
            close(&point["lower"], &want["c_minus"][i], "lower sum");
            assert_eq!((&point["n_upper"], &point["n_lower"]), (&want["n_plus"][i], &want["n_minus"][i]), "{id} {i}");
        }
    }
}

#[test]
fn ewma_limits() {
    let case = case("nist-ewma");
    let toml = |variance: &str| {
        format!(
            "id='{variance}'\ntype='ewma'\nsignal='v'\nlambda=0.3\nwidth=3.0\nvariance='{variance}'\n\
             limits={{center=50.0,sigma=2.0539}}"
        )
    };
    let results = replay(&rows(&numbers(&case["data"]["x"]), None), &(chart(&toml("asymptotic")) + &chart(&toml("exact"))));
    for (variance, lcl, ucl) in [("asymptotic", "lcl", "ucl"), ("exact", "exact_lcl", "exact_ucl")] {
        let points: Vec<&Value> = of_kind(&results, "spc").into_iter().filter(|point| point["chart"] == variance).collect();
        assert_eq!(points.len(), 20);
        for (i, point) in points.iter().enumerate() {
            close(&point["statistic"], &case["expected"]["z"][i], "z");
            close(&point["lcl"], &case["expected"][lcl][i], lcl);
            close(&point["ucl"], &case["expected"][ucl][i], ucl);
            assert_eq!(point["violations"], json!([]));
        }
    }
}

/// Rows with the mean and the standard deviation of the summary.
#[test]
fn capability_of_a_summary() {
    let case = case("nist-capability");
    let (mean, sigma) = (case["data"]["mean"].as_f64().unwrap(), case["data"]["sigma"].as_f64().unwrap());
    let n = 40;
    let step = sigma * (f64::from(n - 1) / f64::from(n)).sqrt();
    let x: Vec<f64> = (0..n).map(|i| if i % 2 == 0 { mean + step } else { mean - step }).collect();
    let toml = "id='i'\ntype='i_mr'\nsignal='v'\nlimits={center=16.0,sigma=2.0}\nspec={lsl=8.0,usl=20.0,target=14.0}";
    let results = replay(&rows(&x, None), &chart(toml));
    let (got, want) = (*of_kind(&results, "capability").last().unwrap(), &case["expected"]);
    close(&got["mean"], &mean.into(), "mean");
    close(&got["sigma_overall"], &sigma.into(), "sigma");
    close(&got["pp"], &want["Cp"], "Pp");
    close(&got["ppk"], &want["Cpk"], "Ppk");
    close(&got["cpm"], &want["Cpm"], "Cpm");
}

#[test]
fn certified_means_and_deviations_of_windows() {
    let case = case("nist-strd");
    let repeated = |first: f64, low: f64, high: f64| -> Vec<f64> {
        std::iter::once(first).chain((0..500).flat_map(|_| [low, high])).collect()
    };
    let inner = "[[pipelines.windows]]\nid='all'\ntype='tumbling'\nsize='1h'\naggregate={ mean='mean(v)', sd='stddev(v)' }\n";
    for (name, values) in [
        ("michelso", numbers(&case["data"]["michelso"])),
        ("numacc1", numbers(&case["data"]["numacc1"])),
        ("numacc2", repeated(1.2, 1.1, 1.3)),
        ("numacc3", repeated(1_000_000.2, 1_000_000.1, 1_000_000.3)),
        ("numacc4", repeated(10_000_000.2, 10_000_000.1, 10_000_000.3)),
    ] {
        let results = replay(&rows(&values, None), inner);
        let (got, want) = (&of_kind(&results, "window")[0]["values"], &case["expected"][name]);
        let ratio = |key: &str| got[key].as_f64().unwrap() / want[key].as_f64().unwrap();
        assert!((ratio("mean") - 1.0).abs() < 1e-12 && (ratio("sd") - 1.0).abs() < 1e-7, "{name}: {got} {want}");
    }
}

#[test]
fn rules_are_exact() {
    let case = case("rules-semantics");
    let series = case["data"]["series"].as_array().unwrap();
    assert_eq!(series.len(), 13);
    for one in series {
        let mut inner = String::new();
        let wanted = one["expected"].as_object().unwrap();
        let rule = |key: &str| match key.split_once('_').map_or(key, |(rule, _)| rule) {
            "WE4" => "western_electric_4".to_owned(),
            nelson => nelson.replace('N', "nelson_"),
        };
        for key in wanted.keys() {
            let conventions = match key.as_str() {
                "N3_minitab_7pts" => "conventions={trend_points=7}",
                "N4_minitab_15pts" => "conventions={alternation_points=15}",
                "N5_full_window_only" => "conventions={windows='full'}",
                "N8_minitab_either_side" => "conventions={rule_8='either'}",
                _ => "",
            };
            let limits = "limits={center=0.0,sigma=1.0}";
            inner += &chart(&format!("id='{key}'\ntype='i_mr'\nsignal='v'\nrules=['{}']\n{limits}\n{conventions}", rule(key)));
        }
        let results = replay(&rows(&numbers(&one["z"]), None), &inner);
        for (key, points) in wanted {
            let of: Vec<Value> = results.iter().filter(|result| result["chart"] == *key.as_str()).cloned().collect();
            assert_eq!(signals(&of, Some(&rule(key))), whole(points), "{} {key}", one["name"]);
        }
    }
}

/// Standard normal values from a seed: `SplitMix64` and the sum of twelve uniforms would not do in the tails, so the polar method.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                return u * (-2.0 * s.ln() / s).sqrt();
            }
        }
    }
}

/// Each part is one run under a shift of two sigma, where runs are short enough to print every point; `tests/arl.rs` holds the whole tables.
#[test]
fn run_lengths_under_a_shift_of_two_sigma() {
    const RUNS: usize = 300;
    const ROWS: usize = 40;
    let known = "signal='v'\nlimits={center=0.0,sigma=1.0}\ngroup_by=['part']";
    let (rules, cusum, ewma) = (case("arl-champ-woodall"), case("arl-cusum"), case("arl-ewma"));
    let mut wanted: Vec<(String, f64)> = Vec::new();
    let mut inner = String::new();
    let mut add = |id: String, toml: String, row: &Value| {
        let at_two = row.as_object().unwrap().iter().find(|(shift, _)| shift.parse() == Ok(2.0)).unwrap();
        inner += &chart(&format!("id='{id}'\n{toml}\n{known}"));
        wanted.push((id, at_two.1.as_f64().unwrap()));
    };
    for (combination, row) in rules["expected"].as_object().unwrap() {
        let names: Vec<String> = combination[1..].chars().map(|rule| format!("'western_electric_{rule}'")).collect();
        let toml = format!("type='i_mr'\nconventions={{spread_rules=[]}}\nrules=[{}]", names.join(","));
        add(combination.clone(), toml, row);
    }
    for (h, head_start) in [("4", "2.0"), ("5", "2.5")] {
        let toml = |start: &str| format!("type='cusum'\nk=0.5\nh={h}.0\nhead_start={start}");
        let table = &cusum["expected"][format!("h{h}")];
        add(format!("cusum-{h}"), toml("0.0"), &table["two_sided"]);
        add(format!("cusum-{h}-fir"), toml(head_start), &table["two_sided_FIR_h/2"]);
    }
    for (name, row) in ewma["expected"].as_object().unwrap() {
        let (lambda, width) = name.strip_prefix("lambda").unwrap().split_once("_L").unwrap();
        add(format!("ewma-{lambda}"), format!("type='ewma'\nlambda={lambda}\nwidth={width}\nvariance='asymptotic'"), row);
    }
    let mut normal = Normal(20_261_007);
    let row = |i: usize| json!({"time": i as i64 * 1000, "part": format!("{}", i % RUNS), "v": normal.next() + 2.0});
    let rows: Vec<Value> = (0..RUNS * ROWS).map(row).collect();
    let text = lines(&rows, &inner);
    let violating = text.lines().filter(|line| line.contains("\"kind\":\"spc\"") && !line.contains("\"evidence\":{}"));
    let results: Vec<Value> = violating.map(|line| serde_json::from_str(line).unwrap()).collect();
    for (id, published) in wanted {
        let mut lengths = vec![ROWS as f64; RUNS];
        for point in results.iter().filter(|result| result["chart"] == *id.as_str()) {
            let part: usize = point["key"]["part"].as_str().unwrap().parse().unwrap();
            lengths[part] = lengths[part].min(point["index"].as_u64().unwrap() as f64 + 1.0);
        }
        let mean = lengths.iter().sum::<f64>() / RUNS as f64;
        let variance = lengths.iter().map(|length| (length - mean).powi(2)).sum::<f64>() / (RUNS - 1) as f64;
        let error = (variance / RUNS as f64).sqrt();
        assert!((mean - published).abs() <= 4.0 * error, "{id}: {mean:.3} ± {error:.3} is not {published}");
    }
}

#[test]
fn every_case_is_replayed() {
    let all: Value = serde_json::from_str(include_str!("cases/spc.json")).unwrap();
    let cases = all["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        assert!(include_str!("spc_replay.rs").contains(&format!("\"{id}\"")), "{id} is not replayed");
    }
}
