//! Charts and grids through the program: published data sets by `replay`, pictures by `spc report`, files by `voxel export`.

use std::fmt::Write;
use std::{
    fs,
    path::Path,
    process::{Command, Output as Ran},
    sync::Arc,
};

use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Step},
    model::{Batch, Input, Positions, Seq, Stream, Timestamp},
    spc::{ChartConfig, ChartOperator, ChartSettings},
    store::{Checkpoint, RecordNo, StepCommit, StepOutput, Store, StoreConfig},
};
use serde_json::Value;

fn program(arguments: &[&str], folder: &Path) -> Ran {
    Command::new(env!("CARGO_BIN_EXE_qadf-edge")).args(arguments).current_dir(folder).output().unwrap()
}

#[track_caller]
fn good(arguments: &[&str], folder: &Path) -> Vec<u8> {
    let ran = program(arguments, folder);
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    ran.stdout
}

/// The data columns of a case of spc.json.
fn columns(id: &str) -> Vec<Vec<f64>> {
    let all: Value = serde_json::from_str(include_str!("cases/spc.json")).unwrap();
    let case = all["cases"].as_array().unwrap().iter().find(|case| case["id"] == id).unwrap().clone();
    let numbers = |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let data = case["data"].as_object().unwrap();
    if let Some(subgroups) = data.get("subgroups") {
        return vec![subgroups.as_array().unwrap().iter().flat_map(numbers).collect()];
    }
    let first = ["x", "defectives", "counts"].iter().find_map(|name| data.get(*name)).unwrap();
    let mut columns = vec![numbers(first)];
    let rows = columns[0].len();
    columns.push(match data.get("n") {
        Some(Value::Array(_)) => numbers(&data["n"]),
        Some(n) => vec![n.as_f64().unwrap(); rows],
        None => vec![1.0; rows],
    });
    columns
}

/// What the library says, as result lines.
fn library(toml: &str, columns: &[Vec<f64>]) -> Vec<String> {
    let settings: ChartSettings = toml::from_str(toml).unwrap();
    let config = ChartConfig::check(&settings).unwrap();
    let mut batch = Batch::new(Arc::new(Stream::new("s", &["x", "y"], &[])), "t".into(), "t/0".into(), Timestamp(0));
    let rows = columns[0].len();
    batch.time = (0..rows as i64).map(|second| second * 1_000_000_000).collect();
    batch.signals = vec![columns[0].clone(), columns.get(1).cloned().unwrap_or_else(|| vec![1.0; rows])];
    let mut chart = ChartOperator::new("p".into(), config, &batch.stream).unwrap();
    let mut out = Vec::new();
    chart.push(&batch, 0..rows, qadf_edge::spc::Emit::All, &mut out);
    chart.finish(true, qadf_edge::spc::Emit::All, Seq(rows as u64), &mut out);
    out.iter().map(|output| serde_json::to_string(output).unwrap()).collect()
}

#[test]
fn replay_says_of_published_data_what_the_library_says() {
    for (id, toml) in [
        ("mont-6.1-xbar-r", "id='c'\ntype='xbar_r'\nsignal='x'\nsubgroup={size=5}\nlimits={baseline=25}\nspec={lsl=1.0,usl=2.0}"),
        ("nist-p-wafers", "id='c'\ntype='p'\nsignal='x'\nsize='y'\nlimits={baseline=30}"),
        ("nist-c-wafers", "id='c'\ntype='c'\nsignal='x'\nlimits={baseline=25}"),
        ("mont-u-pc", "id='c'\ntype='u'\nsignal='x'\nsize='y'\nlimits={baseline=20}"),
        ("nist-imr-flow", "id='c'\ntype='i_mr'\nsignal='x'\nrules=['nelson']\nlimits={baseline=10}"),
        ("nist-cusum", "id='c'\ntype='cusum'\nsignal='x'\nk=0.3175\nh=4.1959\nlimits={center=325.0,sigma=1.0}"),
        ("mont-cusum", "id='c'\ntype='cusum'\nsignal='x'\nk=0.5\nh=5.0\nlimits={fixed={center=10.0,sigma=1.0}}"),
        (
            "nist-ewma",
            "id='c'\ntype='ewma'\nsignal='x'\nlambda=0.3\nwidth=3.0\nvariance='asymptotic'\nlimits={center=50.0,sigma=2.0539}",
        ),
    ] {
        let columns = columns(id);
        let folder = tempfile::tempdir().unwrap();
        let chart = toml.replace("'x'", "'value'").replace("'y'", "'size'");
        let text = format!(
            "[streams.s]\nsignals={{value='',size=''}}\n[[pipelines]]\nid='p'\nstream='s'\n[[pipelines.charts]]\n{chart}\n"
        );
        fs::write(folder.path().join("a.toml"), text).unwrap();
        let mut rows = String::new();
        for row in 0..columns[0].len() {
            let time = Timestamp(row as i64 * 1_000_000_000);
            let y = columns.get(1).map_or(1.0, |column| column[row]);
            let value = columns[0][row];
            writeln!(rows, "{{\"time\":\"{time}\",\"value\":{value},\"size\":{y}}}").unwrap();
        }
        fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
        let printed = good(&["replay", "-c", "a.toml", "--input", "rows.jsonl"], folder.path());
        let printed = String::from_utf8(printed).unwrap();
        let want = library(toml, &columns);
        let of_chart = printed.lines().filter(|line| line.contains(r#""chart":"c""#));
        assert!(of_chart.eq(want.iter().map(String::as_str)), "{id}: {printed}");
        assert!(want.len() >= 10, "{id}");

        fs::write(folder.path().join("results.jsonl"), &printed).unwrap();
        let svg = good(&["spc", "report", "--chart", "c", "--input", "results.jsonl", "--format", "svg"], folder.path());
        assert!(svg.starts_with(b"<svg "), "{id}");
    }
}

const CONFIG: &str = "
[appliance]
data_dir = 'data'
[streams.s]
signals = { heat = 'V' }
tags = ['part']
[[pipelines]]
id = 'p'
stream = 's'
[[pipelines.charts]]
id = 'heat'
type = 'xbar_s'
signal = 'heat'
subgroup = { size = 4 }
rules = ['nelson']
group_by = ['part']
spec = { usl = 20.0 }
[voxels.build]
stream = 's'
signals = ['heat']
origin = [0.0, 0.0, 0.0]
size = [10.0, 10.0, 2.0]
voxel = 1.0
";

/// A store with a checkpoint, as a service that has seen 800 rows leaves it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.toml"), CONFIG).unwrap();
    let (store, _) = Store::open(&folder.path().join("data"), StoreConfig::default()).unwrap();
    let config = config::parse(CONFIG).unwrap();
    let mut batch = Batch::new(config.streams()[0].clone(), "t".into(), "t/0".into(), Timestamp(0));
    let start = 1_767_225_600_000_000_000;
    batch.time = (0..800).map(|row| start + row * 1_000_000).collect();
    batch.signals[0] = (0..800).map(|row| f64::from((row * 7919) % 101) / 50.0 + if row > 700 { 9.0 } else { 3.0 }).collect();
    for row in 0..800 {
        batch.tags[0].push(Some(["a", "b"][row % 2]));
    }
    let along = |step: i64| (0..800).map(|row| (row / step % 10) as f64 + 0.5).collect();
    batch.positions = Some(Positions { x: along(1), y: along(10), z: along(400).iter().map(|z: &f64| z.min(1.5)).collect() });
    batch.first_seq = Seq(1);
    store.writer().append(Input::Batch(Arc::new(batch.clone()))).unwrap();
    let mut engine = Engine::new(&config.engine, Emit::Changes, Clock::Arrivals).unwrap();
    let mut step = Step::default();
    engine.step(&Input::Batch(Arc::new(batch)), &mut step);
    let outputs = step.outputs.iter().map(|output| StepOutput {
        id: output.id.clone(),
        kind: output.body.kind(),
        pipeline: output.pipeline.clone(),
        stream: None,
        time: Timestamp(start),
        json: serde_json::to_vec(output).unwrap(),
    });
    let parts = engine.snapshot().unwrap();
    let checkpoint = Checkpoint { position: RecordNo(1), complete: true, parts };
    let commit = StepCommit {
        through: RecordNo(1),
        outputs: outputs.collect(),
        dead_letters: Vec::new(),
        checkpoint: Some(checkpoint),
        on_committed: Box::new(|_| ()),
    };
    store.writer().commit_step_and_wait(commit).unwrap();
    store.close();
    folder
}

#[test]
fn a_chart_of_the_store_is_reported_with_all_its_newest_points() {
    let folder = folder();
    let report = |more: &[&str]| good(&[&["spc", "report", "-c", "a.toml", "--chart", "heat"], more].concat(), folder.path());
    let json: Value = serde_json::from_slice(&report(&["--format", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    let one = &json[1];
    assert_eq!((&one["key"]["part"], &one["type"], &one["limits"][0]["version"]), (&"b".into(), &"xbar_s".into(), &1.into()));
    let points = one["points"].as_array().unwrap();
    assert_eq!(points.len(), 100);
    assert!(points.iter().enumerate().all(|(at, point)| point["index"] == at));
    // From the outbox, with its evidence.
    let violating = points.iter().rev().find(|point| !point["violations"].as_array().unwrap().is_empty()).unwrap();
    assert!(!violating["evidence"].as_object().unwrap().is_empty());
    // From the checkpoint: it violates nothing.
    assert!(points[30]["violations"].as_array().unwrap().is_empty() && points[30]["ucl"].is_number());
    assert!(one["capability"]["cpk"].is_number() && one["capability"]["cp"].is_null());

    let svg = String::from_utf8(report(&["--format", "svg", "--key", "part=b"])).unwrap();
    assert!(svg.contains("part=b") && !svg.contains("part=a") && svg.contains("nelson_1: a point beyond"));
    report(&["--format", "png", "-o", "chart.png"]);
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(folder.path().join("chart.png")).unwrap()));
    let mut picture = decoder.read_info().unwrap();
    let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
    picture.next_frame(&mut pixels).unwrap();
    let colors: std::collections::BTreeSet<&[u8]> = pixels.chunks(3).collect();
    for wanted in [[214, 0, 30], [190, 60, 20], [0, 125, 65], [25, 75, 135]] {
        assert!(colors.contains(&wanted[..]), "a picture with violations, limits, centre and points has {wanted:?}");
    }
    assert!(String::from_utf8(report(&["--points", "40"])).unwrap().contains("part=a"));
}

#[test]
fn what_is_not_there_is_said() {
    let folder = folder();
    for (arguments, code, said) in [
        (&["spc", "report", "-c", "a.toml", "--chart", "heet"][..], 2, "there are: heat"),
        (
            &["spc", "report", "-c", "a.toml", "--chart", "heat", "--key", "part=z"],
            1,
            "nothing is known of chart `heat` with part=z",
        ),
        (&["spc", "report", "-c", "a.toml", "--chart", "heat", "--points", "0"], 2, "0 is not in 1..=100000"),
        (&["voxel", "export", "-c", "a.toml", "--grid", "bild", "--format", "npz"], 2, "there are: build"),
        (&["voxel", "export", "-c", "a.toml", "--grid", "build", "--format", "png", "--layer", "9"], 1, "layer 9"),
        (&["voxel", "export", "-c", "a.toml", "--grid", "build", "--format", "png", "--signal", "cold"], 2, "it has: heat"),
    ] {
        let ran = program(arguments, folder.path());
        let text = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let ran = program(&["spc", "report", "-c", "a.toml", "--chart", "heat"], folder.path());
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("there is no store here"));
}

#[test]
fn a_grid_of_the_store_is_exported_in_every_format() {
    let folder = folder();
    for (format, magic) in [("npz", &b"PK\x03\x04"[..]), ("vti", b"<?xml"), ("parquet", b"PAR1"), ("png", b"\x89PNG")] {
        let name = format!("build.{format}");
        good(&["voxel", "export", "-c", "a.toml", "--grid", "build", "--format", format, "-o", &name], folder.path());
        let written = fs::read(folder.path().join(&name)).unwrap();
        assert!(written.starts_with(magic), "{format}");
        let piped = good(&["voxel", "export", "-c", "a.toml", "--grid", "build", "--format", format], folder.path());
        assert_eq!(piped, written, "{format}");
    }
    let file = fs::File::open(folder.path().join("build.npz")).unwrap();
    let counts: ndarray::Array3<u32> = ndarray_npy::NpzReader::new(file).unwrap().by_name("heat_count").unwrap();
    assert_eq!((counts.shape(), counts.iter().sum::<u32>()), (&[10, 10, 2][..], 800));
    assert!(!folder.path().join("build.npz.part").exists());
}
