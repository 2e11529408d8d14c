//! Quality through the engine: gates, thresholds, silence by the clock, alerts and what people do about them.

use std::sync::Arc;

use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Step},
    model::{Alert, Batch, Body, Input, Key, Order, Output, Seq, Severity, Timestamp},
    quality::{alert::Filter, figures::FigureLimit},
};

const SECOND: i64 = 1_000_000_000;

fn engine_with(text: &str, clock: Clock) -> Engine {
    let config = config::parse(text).unwrap_or_else(|faults| panic!("{faults:?}"));
    Engine::new(&config.engine, Emit::Changes, clock).unwrap()
}

fn engine(text: &str) -> Engine {
    engine_with(text, Clock::Arrivals)
}

fn faults(text: &str) -> Vec<String> {
    config::parse(text).err().unwrap_or_default().iter().map(|fault| fault.message.clone()).collect()
}

/// A stream `s` of `v` and `w` with a tag `part`; `watch` goes into its table, `inner` into its pipeline `p`.
fn setup(watch: &str, inner: &str) -> String {
    format!(
        "[streams.s]\nsignals = {{ v = \"\", w = \"\" }}\ntags = [\"part\"]\n{watch}\n\
         [[pipelines]]\nid = \"p\"\nstream = \"s\"\n{inner}\n"
    )
}

/// Rows of `v` that came in at `second`, one a second from then on in event time; `w` is twice `v`.
fn batch(engine: &Engine, first: u64, second: i64, x: &[f64]) -> Input {
    let stream = Arc::clone(&engine.stream("s").unwrap().stream);
    let mut batch = Batch::new(stream, "t".into(), "t/0".into(), Timestamp(second * SECOND));
    batch.first_seq = Seq(first);
    batch.time = (0..x.len() as i64).map(|row| (second + row) * SECOND).collect();
    batch.signals = vec![x.to_vec(), x.iter().map(|x| 2.0 * x).collect()];
    x.iter().for_each(|_| batch.tags[0].push(Some("a")));
    assert!(batch.is_consistent());
    Input::Batch(Arc::new(batch))
}

fn tick(second: i64) -> Input {
    Input::Tick(Timestamp(second * SECOND))
}

fn order(second: i64, order: Order) -> Input {
    Input::Order { time: Timestamp(second * SECOND), order }
}

fn step(engine: &mut Engine, input: &Input) -> Step {
    let mut step = Step::default();
    engine.step(input, &mut step);
    step
}

fn alerts(step: &Step) -> Vec<&Alert> {
    step.outputs.iter().filter_map(|output| if let Body::Alert(alert) = &output.body { Some(alert) } else { None }).collect()
}

/// Source and severity of each alert.
fn told(step: &Step) -> Vec<String> {
    alerts(step).iter().map(|alert| format!("{} {}", alert.source, alert.severity.name())).collect()
}

#[test]
fn silence_is_told_by_the_clock_and_never_in_event_time() {
    let text = setup("watch = { stale = \"30s\", severity = \"high\" }", "");
    let mut live = engine(&text);
    assert_eq!(live.next_deadline(), Some(Timestamp::MIN), "the first tick starts the clock");
    step(&mut live, &tick(0));
    let rows = batch(&live, 1, 10, &[1.0, 2.0]);
    assert!(alerts(&step(&mut live, &rows)).is_empty());
    assert_eq!(live.next_deadline(), Some(Timestamp(40 * SECOND)));
    assert!(alerts(&step(&mut live, &tick(39))).is_empty());
    let silent = step(&mut live, &tick(40));
    assert_eq!(told(&silent), ["s high"]);
    assert!(alerts(&silent)[0].message.contains("nothing has come for 30 s"), "{}", alerts(&silent)[0].message);
    assert_eq!((&*silent.outputs[0].pipeline, silent.outputs[0].at), ("appliance", Seq(2)));
    assert_eq!(live.stream("s").unwrap().watch.problems().len(), 1);

    let mut replayed = engine_with(&text, Clock::EventTime);
    assert_eq!(replayed.next_deadline(), None);
    let outputs = [rows, tick(1000)].iter().map(|input| step(&mut replayed, input).outputs.len()).sum::<usize>();
    assert_eq!(outputs, 0);
}

#[test]
fn a_signal_that_stands_still_or_stays_away_is_told_by_the_clock() {
    let watch = "watch = { stale = \"60s\", stuck = \"10s\", flatline = \"20s\", within = { v = 0.5 }, signals = [\"v\"] }";
    let mut engine = engine(&setup(watch, ""));
    let rows = batch(&engine, 1, 0, &[5.0, 5.0]);
    step(&mut engine, &rows);
    assert!(alerts(&step(&mut engine, &tick(9))).is_empty());
    let stuck = step(&mut engine, &tick(10));
    assert_eq!(
        (alerts(&stuck)[0].evidence["condition"].as_str(), alerts(&stuck)[0].evidence["signal"].as_str()),
        (Some("stuck"), Some("v"))
    );
    let rows = batch(&engine, 3, 12, &[5.2]);
    step(&mut engine, &rows);
    assert_eq!(alerts(&step(&mut engine, &tick(20)))[0].evidence["condition"], "flatline");
    for second in [30, 50, 70] {
        let rows = batch(&engine, 4 + second as u64, second, &[f64::NAN]);
        step(&mut engine, &rows);
    }
    assert_eq!(alerts(&step(&mut engine, &tick(72)))[0].evidence["condition"], "missing");
}

#[test]
fn a_rejected_row_goes_no_further_and_a_flagged_one_goes_on() {
    let inner = "
[[pipelines.checkpoints]]
name = 'possible'
check = 'v >= 0.0'
on_fail = 'reject'
[[pipelines.checkpoints]]
name = 'usual'
check = 'v < 10.0'
on_fail = 'flag'
[[pipelines.windows]]
id = 'w'
type = 'tumbling'
size = '1h'
aggregate = { n = 'count()', low = 'min(v)' }
[[pipelines.charts]]
id = 'c'
type = 'i_mr'
signal = 'v'
limits = { center = 1.0, sigma = 100.0 }
[[pipelines.thresholds]]
name = 't'
signal = 'v'
lower = 0.0
";
    let mut engine = engine(&setup("", inner));
    let rows = batch(&engine, 1, 0, &[1.0, -5.0, 20.0, 2.0]);
    let judged = step(&mut engine, &rows);
    assert_eq!((judged.rejected.len(), &*judged.rejected[0].checkpoint), (1, "possible"));
    assert_eq!(serde_json::to_value(&judged.rejected[0].row).unwrap()["v"], -5.0);
    assert!(alerts(&judged).is_empty(), "the threshold never saw the refused row");
    let pipeline = &engine.pipelines()[0];
    assert_eq!((pipeline.counters.rejected, pipeline.counters.flagged), (1, 1));
    let counts: Vec<(u64, u64)> = pipeline.checkpoints.iter().map(|one| (one.state.passed, one.state.failed)).collect();
    assert_eq!(counts, [(3, 1), (2, 1)]);
    assert_eq!(pipeline.charts[0].counters().rows, 3);
    let mut end = Step::default();
    engine.end(true, &mut end);
    let windows: Vec<String> = end
        .outputs
        .iter()
        .filter(|output| matches!(output.body, Body::Window(_)))
        .map(|output| serde_json::to_value(output).unwrap()["values"].to_string())
        .collect();
    assert_eq!(windows, [r#"{"low":1.0,"n":3}"#]);
}

const TWO_THRESHOLDS: &str = "
[[pipelines.thresholds]]
name = 'temperature'
signal = 'v'
upper = 10.0
severity = 'medium'
[[pipelines.thresholds]]
name = 'laser_power'
signal = 'w'
upper = 30.0
severity = 'medium'
[[pipelines.thresholds]]
name = 'temperature_high'
signal = 'v'
upper = 12.0
severity = 'critical'
";

#[test]
fn one_metric_does_not_hide_another_and_a_missing_value_is_told_apart() {
    let mut engine = engine(&setup("watch = { stale = \"never\" }", TWO_THRESHOLDS));
    let rows = batch(&engine, 1, 0, &[11.0, 1.0, 11.0, 1.0, 20.0, 1.0, 20.0]);
    // The cooldown is five minutes: further crossings are held back, each metric for itself.
    assert_eq!(told(&step(&mut engine, &rows)), ["temperature medium", "laser_power medium", "temperature_high critical"]);
    let rows = batch(&engine, 8, 10, &[f64::NAN, f64::NAN]);
    let missing = step(&mut engine, &rows);
    assert_eq!(alerts(&missing).len(), 3);
    assert!(alerts(&missing).iter().all(|alert| alert.message.contains("has no value")));
    let rows = batch(&engine, 10, 400, &[1.0, 11.0]);
    let later = step(&mut engine, &rows);
    assert!(alerts(&later)[0].message.contains("3 more held back"), "{}", alerts(&later)[0].message);
}

#[test]
fn an_alert_gets_louder_until_somebody_acknowledges_it_by_name() {
    let text = format!(
        "{}\n[alerts]\nescalate_after = \"1m\"\n",
        setup("watch = { stale = \"never\" }\nwatermark = { idle = \"1h\" }", TWO_THRESHOLDS)
    );
    let mut engine = engine(&text);
    let rows = batch(&engine, 1, 100, &[11.0]);
    let first = step(&mut engine, &rows).outputs[0].id.clone();
    assert_eq!(engine.next_deadline(), Some(Timestamp(160 * SECOND)));
    let louder = step(&mut engine, &tick(160));
    assert_eq!(told(&louder), ["temperature high"]);
    assert_eq!(louder.outputs[0].id, format!("{first}:high"));

    let note = |alert: &str| Order::Acknowledge { alert: alert.into(), name: "Ada".into(), note: "lamp test".into() };
    assert!(step(&mut engine, &order(170, note("none"))).orders[0].is_err());
    assert_eq!(step(&mut engine, &order(170, note(&first))).orders, [Ok(())]);
    assert!(alerts(&step(&mut engine, &tick(1000))).is_empty());
    let known = engine.alerts().find(&first).unwrap();
    let who = known.acknowledged.as_ref().unwrap();
    assert_eq!((&*who.name, &*who.note, who.time), ("Ada", "lamp test", Timestamp(170 * SECOND)));
    assert_eq!(engine.alerts().history(&Filter { acknowledged: Some(false), ..Filter::default() }).count(), 0);
}

#[test]
fn troubles_of_the_appliance_are_alerts_like_any_other() {
    let mut engine = engine(&setup("", ""));
    let report = |severity| Order::Report { source: "sink plant".into(), severity, message: "sink plant: refused".into() };
    assert_eq!(told(&step(&mut engine, &order(0, report(Severity::Medium)))), ["sink plant medium"]);
    assert!(told(&step(&mut engine, &order(1, report(Severity::Medium)))).is_empty());
    assert_eq!(told(&step(&mut engine, &order(2, report(Severity::Critical)))), ["sink plant critical"]);
}

#[test]
fn limits_on_figures_of_the_appliance_hold_unless_others_are_given() {
    let limits = |text: &str| -> Vec<String> {
        let config = config::parse(&setup("", text)).unwrap();
        let words = |limit: &FigureLimit| {
            let [above, below] = [limit.above, limit.below].map(|value| value.map_or(String::new(), |value| value.to_string()));
            format!("{} {above} {below} {}s {}", limit.figure.name(), limit.lasting_ns / SECOND, limit.severity.name())
        };
        config.alerts.figures.iter().map(words).collect()
    };
    let defaults = limits("");
    assert_eq!(defaults[..2], ["latency_ms 1000  10s critical", "error_share 0.05  10s critical"]);
    assert_eq!(
        defaults[2..],
        ["cpu_share 0.8  10s medium", "memory_bytes 1000000000  10s medium", "waiting_rows 1000000  10s medium"]
    );
    assert_eq!(limits("[alerts]\ncooldown='1m'"), defaults);
    assert!(limits("[alerts]\nfigures=[]").is_empty());
    let given = "[[alerts.figures]]\nfigure='rows_per_second'\nbelow=10.0\nlasting='1m'\nseverity='high'";
    assert_eq!(limits(given), ["rows_per_second  10 60s high"]);
}

const CHART: &str = "
[[pipelines.charts]]
id = 'c'
type = 'i_mr'
signal = 'v'
limits = { baseline = 5 }
group_by = ['part']
";

/// Version, center, author and reason of each limits result.
#[expect(clippy::type_complexity, reason = "a row of a table")]
fn limits(outputs: &[Output]) -> Vec<(u32, Option<f64>, Option<&str>, Option<&str>)> {
    let of = |output: &'_ Output| matches!(output.body, Body::Limits(_));
    outputs
        .iter()
        .filter(|output| of(output))
        .map(|output| {
            let Body::Limits(limits) = &output.body else { unreachable!() };
            (limits.version, limits.center, limits.author.as_deref(), limits.reason.as_deref())
        })
        .collect()
}

#[test]
fn limits_change_by_an_act_with_author_and_reason_and_by_nothing_else() {
    let mut engine = engine(&setup("watch = { stale = \"never\" }", CHART));
    let rows = batch(&engine, 1, 0, &[1.0, 2.0, 9.0, 2.0, 1.0, 2.0]);
    assert_eq!(limits(&step(&mut engine, &rows).outputs), [(1, Some(3.0), None, None)]);
    let key = Key::from([("part".into(), Some("a".into()))]);
    let (chart, author, reason): (Arc<str>, Arc<str>, Arc<str>) = ("c".into(), "Ada".into(), "dust on the lens".into());
    let exclude = Order::Exclude {
        chart: Arc::clone(&chart),
        key: key.clone(),
        indices: vec![2],
        author: Arc::clone(&author),
        reason: Arc::clone(&reason),
    };
    let excluded = step(&mut engine, &order(10, exclude));
    assert_eq!(limits(&excluded.outputs), [(2, Some(1.5), Some("Ada"), Some("dust on the lens"))]);

    let anew = Order::Rebaseline { chart, key: None, author, reason: "new lens".into() };
    assert_eq!(step(&mut engine, &order(11, anew)).orders, [Ok(())]);
    let rows = batch(&engine, 7, 20, &[7.0, 8.0, 7.0, 8.0, 7.5]);
    assert_eq!(limits(&step(&mut engine, &rows).outputs), [(3, Some(7.5), Some("Ada"), Some("new lens"))]);

    let refused =
        |chart: &str, key: Option<Key>| Order::Rebaseline { chart: chart.into(), key, author: "Ada".into(), reason: "try".into() };
    let other = Key::from([("part".into(), Some("z".into()))]);
    for wrong in [refused("nix", None), refused("c", Some(other))] {
        assert!(step(&mut engine, &order(30, wrong)).orders[0].is_err());
    }
}

#[test]
fn checkpoints_can_be_asked_about_rows_and_nothing_follows() {
    let inner = "
derive = { sum = 'v + w' }
[[pipelines.checkpoints]]
name = 'low'
check = 'sum < 10.0'
on_fail = 'reject'
[[pipelines.checkpoints]]
name = 'there'
check = 'v > 0.0'
";
    let engine = engine(&setup("", inner));
    let Input::Batch(rows) = batch(&engine, 1, 0, &[1.0, 5.0, f64::NAN]) else { unreachable!() };
    let pipeline = &engine.pipelines()[0];
    let answers = |checkpoint: Option<&str>| serde_json::to_string(&pipeline.validate(&rows, checkpoint)).unwrap();
    assert_eq!(answers(None), r#"[{"low":true,"there":true},{"low":false,"there":true},{"low":false,"there":false}]"#);
    assert_eq!(answers(Some("low")), r#"[{"low":true},{"low":false},{"low":false}]"#);
    assert_eq!(answers(Some("nix")), r#"[{"nix":false},{"nix":false},{"nix":false}]"#);
    assert!(pipeline.checkpoints.iter().all(|one| one.state.passed + one.state.failed == 0));
}

/// Rows, ticks and orders of some minutes.
fn story(engine: &Engine) -> Vec<Input> {
    let mut inputs = vec![tick(0)];
    let mut first = 1;
    for minute in 0..6_i64 {
        let x: Vec<f64> = (0..8).map(|row| if minute == 3 { 5.0 } else { f64::from((row * 7 + minute as i32 * 3) % 13) }).collect();
        inputs.push(batch(engine, first, minute * 60, &x));
        first += 8;
        inputs.push(tick(minute * 60 + 45));
        if minute == 2 {
            let key = Key::from([("part".into(), Some("a".into()))]);
            let (author, reason): (Arc<str>, Arc<str>) = ("Ada".into(), "new lens".into());
            inputs.push(order(minute * 60 + 50, Order::Rebaseline { chart: "c".into(), key: Some(key), author, reason }));
        }
    }
    inputs.extend([tick(500), tick(1000)]);
    inputs
}

#[test]
fn a_restart_after_any_input_changes_nothing() {
    let watch = "watch = { stale = \"30s\", stuck = \"5s\", flatline = \"5s\", within = { v = 1.0 } }";
    let inner = format!(
        "{TWO_THRESHOLDS}{CHART}
[[pipelines.thresholds]]
name = 'jump'
type = 'rate'
signal = 'v'
per_second = 5.0
group_by = ['part']
[[pipelines.thresholds]]
name = 'odd'
type = 'anomaly'
signal = 'v'
deviations = 1.5
window = 10
[[pipelines.checkpoints]]
name = 'low'
check = 'v < 11.0'
on_fail = 'flag'
"
    );
    let text = format!("{}\n[alerts]\nescalate_after = \"2m\"\ncooldown = \"1m\"\n", setup(watch, &inner));
    let told = |restart_after: Option<usize>| -> Vec<String> {
        let mut engine = engine(&text);
        let mut outputs = Vec::new();
        for (at, input) in story(&engine).iter().enumerate() {
            outputs.extend(step(&mut engine, input).outputs);
            if restart_after == Some(at) {
                let parts = engine.snapshot().unwrap();
                engine = self::engine(&text);
                assert!(engine.restore(parts).unwrap().is_empty());
            }
        }
        let all = Filter::default();
        let history = engine.alerts().history(&all).map(|record| format!("{record:?}"));
        outputs.iter().map(|output| serde_json::to_string(output).unwrap()).chain(history).collect()
    };
    let undisturbed = told(None);
    let has = |word: &str| assert!(undisturbed.iter().any(|line| line.contains(word)), "{word} is never told");
    ["stale", "stuck", "flatline", "not acknowledged since", "changes too fast", "odd", "\"kind\":\"limits\"", "new lens"]
        .into_iter()
        .for_each(has);
    for at in 0..story(&engine(&text)).len() {
        assert_eq!(told(Some(at)), undisturbed, "restart after input {at}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |watch: &str, inner: &str, want: &str| {
        let found = faults(&setup(watch, inner));
        assert!(found.iter().any(|fault| fault.contains(want)), "{watch}{inner}: {found:?}");
    };
    refused("watch = { stale = \"0s\" }", "", "above zero");
    refused("watch = { flatline = \"1m\" }", "", "within");
    refused("watch = { stuck = \"1m\", signals = [\"vv\"] }", "", "no signal `vv`");
    refused("watch = { flatline = \"1m\", within = { v = -1.0 } }", "", "no range");
    refused("watch = { stail = \"1m\" }", "", "did you mean `stale`?");
    let threshold = |rest: &str| format!("[[pipelines.thresholds]]\nname='t'\n{rest}\n");
    refused("", &threshold("signal='v'"), "`lower` or an `upper`");
    refused("", &threshold("signal='v'\nlower=2.0\nupper=1.0"), "not below");
    refused("", &threshold("signal='z'\nlower=2.0"), "no signal `z`");
    refused("", &threshold("signal='v'\ntype='rate'\nper_second=0.0"), "above 0");
    refused("", &threshold("signal='v'\ntype='relative'\npercent=5.0\nwindow=2"), "window");
    let channel = |rest: &str| format!("[[alerts.channels]]\n{rest}\n");
    refused("", &channel("type='webhook'\nurl='ftp://x'"), "no web address");
    refused("", &channel("type='mqtt'\nurl='mqtts://x'\ntopic='t'"), "plain MQTT");
    refused("", &channel("type='mqtt'\nurl='mqtt://x'\ntopic='t/#'"), "no topic");
    refused("", &channel("type='email'\nserver='mail'\nfrom='a@b'\nto=['c@d']"), "host:port");
    refused("", &channel("type='email'\nserver='mail:25'\nfrom='a@b'\nto=[]"), "at least one");
    let figure = |rest: &str| format!("[[alerts.figures]]\n{rest}\n");
    refused("", &figure("figure='latency'\nabove=1.0"), "did you mean `latency_ms`?");
    refused("", &figure("figure='latency_ms'"), "`above`, `below`, or both");
    refused("", &figure("figure='latency_ms'\nabove=1.0\nbelow=1.0"), "must be less than `above`");
}

#[test]
fn a_clock_that_is_set_makes_nothing_silent_and_nothing_escalate() {
    let inner = "[[pipelines.thresholds]]\nname = \"high\"\nsignal = \"v\"\nupper = 5.0\n";
    let text = format!(
        "[alerts]\nescalate_after = \"60s\"\n{}",
        setup("watch = { stale = \"30s\" }\nwatermark = { idle = \"30s\" }", inner)
    );
    let mut engine = engine(&text);
    let day = 86_400;
    step(&mut engine, &tick(day));
    let high = batch(&engine, 1, day, &[9.0]);
    assert_eq!(told(&step(&mut engine, &high)).len(), 1, "the threshold's");
    let clock_set = |to: i64, by: i64| order(to, Order::ClockSet { step_ns: by * SECOND });
    // Ten seconds later somebody sets the clock a day on, and then two days back.
    assert_eq!(told(&step(&mut engine, &clock_set(2 * day + 10, day))), [""; 0]);
    assert_eq!(told(&step(&mut engine, &tick(2 * day + 11))), [""; 0]);
    assert_eq!(told(&step(&mut engine, &clock_set(12, -2 * day))), [""; 0]);
    assert_eq!(engine.next_deadline(), Some(Timestamp(30 * SECOND)));
    assert_eq!(told(&step(&mut engine, &tick(29))), [""; 0]);
    // Thirty seconds of silence, whatever the clock has said meanwhile; a minute after the alert it escalates.
    assert_eq!(told(&step(&mut engine, &tick(30))), ["s medium"]);
    assert_eq!(told(&step(&mut engine, &tick(59))), [""; 0]);
    assert_eq!(told(&step(&mut engine, &tick(60))).len(), 1);
}

#[test]
fn a_clock_that_was_ahead_for_a_while_makes_only_rows_of_windows_that_fired_late() {
    let windows = "[[pipelines.windows]]\nid = \"w\"\ntype = \"tumbling\"\nsize = \"10s\"\naggregate = { n = \"count()\" }\n\
                   [[pipelines.windows]]\nid = \"gap\"\ntype = \"session\"\ngap = \"2s\"\naggregate = { n = \"count()\" }\n";
    for (day, threads) in [(86_400, 1), (86_400, 3), (40 * 86_400, 1), (10, 1)] {
        let inner = format!("parallelism = {threads}\n{windows}");
        let mut engine = engine(&setup("watermark = { delay = \"0s\", max_future = \"5s\" }", &inner));
        // A multiple of ten.
        let now = 1_790_000_000;
        let inputs = [
            batch(&engine, 1, now + 1, &[1.0]),
            order(now + day + 2, Order::ClockSet { step_ns: day * SECOND }),
            batch(&engine, 2, now + day + 3, &[1.0]),
            order(now + 4, Order::ClockSet { step_ns: -day * SECOND }),
            batch(&engine, 3, now + 5, &[1.0]),
            batch(&engine, 4, now + 12, &[1.0, 1.0]),
            batch(&engine, 6, now + 21, &[1.0]),
            batch(&engine, 7, now + 35, &[1.0]),
        ];
        let outputs: Vec<Output> = inputs.iter().flat_map(|input| step(&mut engine, input).outputs).collect();
        let (mut fired, mut late) = (Vec::new(), Vec::new());
        for output in &outputs {
            match &output.body {
                Body::Window(window) if &*window.window == "w" => fired.push((window.start.0 / SECOND - now, window.revision)),
                Body::Window(window) => fired.push((1_000 + window.start.0 / SECOND - now, window.revision)),
                Body::Late(row) => late.push((row.window.to_string(), row.row.time.0 / SECOND - now)),
                _ => {}
            }
        }
        assert_eq!(fired, [(0, 0), (1_001, 0), (1_005, 0), (10, 0), (1_012, 0), (20, 0), (1_021, 0)], "{day} s, {threads} threads");
        assert_eq!(late, [("w".to_owned(), 5)], "{day} s, {threads} threads");
    }
}
