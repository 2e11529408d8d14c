//! `[voxels.*]`: grids.

use std::sync::Arc;

use super::reader::{At, Section, Value};
use crate::{
    dataflow::{AllIdle, WatermarkConfig},
    engine::{self, EngineConfig, GridSource, PipelineConfig, StreamConfig},
    expr::Type,
    model::Stream,
    quality::watch::WatchConfig,
    voxel::{Expected, GridConfig, GridError, GridSettings, Lanes, LayerBy, Region, Transform, Weights},
};

/// Rows of a summary stream that are kept: a build's layers.
const SUMMARY_ROWS: usize = 10_000;
/// What a grid's finished layers may take in the store unless configured.
const STORED_BYTES_MAX: u64 = 4 << 30;

/// Reads all grids; streams and pipelines are known already.
pub fn read(root: &Section<'_>, engine: &EngineConfig) -> Vec<GridSource> {
    root.sections("voxels").iter().filter_map(|(name, section)| grid(name, section, engine)).collect()
}

fn grid(name: &At<String>, section: &Section<'_>, engine: &EngineConfig) -> Option<GridSource> {
    let stream = super::words::known_stream(section, "stream", &engine.streams);
    let pipeline = pipeline(section, engine);
    let signals = signals(section, stream.as_ref(), pipeline.as_deref(), engine);
    let origin = section.get("origin").and_then(|value| value.numbers()).unwrap_or([0.0; 3]);
    let size = section.required("size").and_then(|value| value.numbers());
    let voxel = section.required("voxel").and_then(|value| edges(&value));
    let transform = transform(section);
    let weights =
        section.choice_or("weights", &[("nearest", Weights::Nearest), ("trilinear", Weights::Trilinear)], Weights::Nearest);
    let layer_by = layer_by(section);
    let bytes_max = section.get("memory").and_then(|value| value.bytes());
    let regions = regions(section);
    let expected = expected(section, &regions);
    let lanes = lanes(section);
    let finish = finish(section, stream.as_ref(), &engine.streams);
    let stored_bytes_max = section.get("disk").and_then(|value| value.bytes()).unwrap_or(STORED_BYTES_MAX);
    section.finish();
    let mut settings = GridSettings::new(&name.value, &[], origin, Some(size?), voxel?);
    settings.signals = signals;
    settings.transform = transform?;
    settings.weights = weights;
    settings.layer_by = layer_by;
    settings.expected = expected;
    settings.lanes = lanes;
    settings.bytes_max = bytes_max.unwrap_or(settings.bytes_max);
    match GridConfig::new(settings) {
        Ok(grid) => {
            let stream = Arc::clone(&stream?.id);
            Some(GridSource { grid, stream, pipeline, stored_bytes_max, regions, finish, summaries: None })
        }
        Err(error) => {
            section.faults.add(&place(section, &error), format!("[{}]: {error}", section.path));
            None
        }
    }
}

/// The streams that tell of finished layers, one a grid, from what stands in the file unchecked; `streams` know the signals' units.
pub fn summaries(root: &Section<'_>, streams: &[StreamConfig]) -> Vec<StreamConfig> {
    let stream = |name: &str, section: &Section<'_>| {
        let signals = section.strings("signals");
        let source = section.string("stream").unwrap_or_default();
        let lane = streams.iter().find(|lane| *lane.stream.id == *source);
        let unit = |signal: &str| {
            let column = lane.and_then(|lane| Some(&lane.stream.signals[lane.stream.signal(signal)?]));
            column.map_or("", |column| &column.unit)
        };
        let stream = engine::summaries(name, signals.iter().map(|signal| (signal.value.as_str(), unit(&signal.value))));
        let watermark =
            WatermarkConfig { delay_ns: 0, idle_ns: None, max_future_ns: None, all_idle: AllIdle::Hold, ..Default::default() };
        StreamConfig {
            stream: Arc::new(stream),
            watermark,
            buffer_rows: SUMMARY_ROWS,
            window_rows: SUMMARY_ROWS / 10,
            watch: WatchConfig::default(),
        }
    };
    root.sections("voxels").iter().map(|(name, section)| stream(&name.value, section)).collect()
}

/// Gives each grid its summary stream, if a pipeline reads it or joins with it.
pub fn link(engine: &mut EngineConfig, summaries: &[StreamConfig]) {
    for grid in &mut engine.grids {
        let id = format!("voxels.{}", grid.grid.settings().id);
        let is_read = |one: &PipelineConfig| *one.stream == *id || one.joins.iter().any(|(with, _)| **with == *id);
        if engine.pipelines.iter().any(is_read) {
            grid.summaries = summaries.iter().find(|lane| *lane.stream.id == *id).cloned();
        }
    }
}

fn regions(section: &Section<'_>) -> Vec<(Arc<str>, Region)> {
    let mut regions: Vec<(Arc<str>, Region)> = Vec::new();
    for item in section.get("regions").map_or_else(Vec::new, |value| value.items()) {
        let Some(table) = item.section() else { continue };
        let name = table.required_string("name");
        let [lower, upper] = ["lower", "upper"].map(|key| table.required(key).and_then(|value| value.numbers::<3>()));
        table.finish();
        let (Some(name), Some(lower), Some(upper)) = (name, lower, upper) else { continue };
        if (0..3).any(|axis| lower[axis].is_nan() || upper[axis].is_nan() || lower[axis] >= upper[axis]) {
            table
                .fault_at("upper", format!("the region `{name}` is empty: each number of `upper` has to be above that of `lower`"));
        } else if regions.iter().any(|(known, _)| **known == *name) {
            table.fault_at("name", format!("there are two regions `{name}`"));
        } else {
            regions.push((name.into(), Region { lower, upper }));
        }
    }
    regions
}

fn expected(section: &Section<'_>, regions: &[(Arc<str>, Region)]) -> Expected {
    let parts = Expected::Parts(regions.iter().map(|(_, region)| *region).collect());
    let choices = [("plate", Expected::Plate), ("regions", parts), ("layer_below", Expected::LayerBelow)];
    section.choice_or("expected", &choices, Expected::Plate)
}

/// `statistics`: those kept besides the basic ones; unless there, the latest row's.
fn lanes(section: &Section<'_>) -> Lanes {
    if section.get("statistics").is_none() {
        return Lanes::default();
    }
    let mut lanes = Lanes::NONE;
    for name in section.strings("statistics") {
        match name.value.as_str() {
            "last" => lanes.last = true,
            "sum" => lanes.sum = true,
            "first" => lanes.first = true,
            other => section.faults.add(&name.span, format!("`{other}` cannot be switched on: choose of `last`, `sum`, `first`")),
        }
    }
    lanes
}

/// `finish = "expr"` over the grid's own stream, or `{ stream, when }`.
fn finish(section: &Section<'_>, own: Option<&Arc<Stream>>, streams: &[StreamConfig]) -> Option<(Arc<str>, String)> {
    let value = section.get("finish")?;
    if value.is_string() {
        let own = own?;
        return Some((Arc::clone(&own.id), super::pipelines::expression(&value, own, Type::Bool)?));
    }
    let table = value.section()?;
    let stream = super::words::known_stream(&table, "stream", streams);
    let when = table
        .required("when")
        .zip(stream.as_ref())
        .and_then(|(when, stream)| super::pipelines::expression(&when, stream, Type::Bool));
    table.finish();
    Some((Arc::clone(&stream?.id), when?))
}

fn place(section: &Section<'_>, error: &GridError) -> super::reader::Span {
    match error {
        GridError::NotPositive { what, .. } | GridError::OutOfReach { what, .. } => section.span_of(what),
        GridError::TooManyVoxels { .. } | GridError::TooLarge { .. } => section.span_of("voxel"),
        GridError::NoSignal => section.span_of("signals"),
        _ => section.span.clone(),
    }
}

fn pipeline(section: &Section<'_>, engine: &EngineConfig) -> Option<Arc<str>> {
    let id = section.string("pipeline")?;
    if let Some(pipeline) = engine.pipelines.iter().find(|pipeline| *pipeline.id == *id) {
        let stream = section.string("stream").unwrap_or_default();
        if *pipeline.stream != *stream {
            section.fault_at("pipeline", format!("the pipeline `{id}` reads the stream `{}`, not `{stream}`", pipeline.stream));
        }
        return Some(Arc::clone(&pipeline.id));
    }
    section.fault_at("pipeline", format!("there is no pipeline `{id}`"));
    None
}

fn signals(section: &Section<'_>, stream: Option<&Arc<Stream>>, pipeline: Option<&str>, engine: &EngineConfig) -> Vec<Arc<str>> {
    let derived = |name: &str| {
        let fits = |id: &str| pipeline.is_none_or(|pipeline| pipeline == id);
        engine.pipelines.iter().any(|one| fits(&one.id) && one.derive.iter().any(|(derived, _)| **derived == *name))
    };
    section.required("signals");
    section
        .strings("signals")
        .into_iter()
        .filter_map(|name| {
            let stream = stream?;
            if stream.signal(&name.value).is_none() && !derived(&name.value) {
                let hint = super::reader::nearest(&name.value, stream.signals.iter().map(|signal| &*signal.name))
                    .map_or(String::new(), |near| format!(": did you mean `{near}`?"));
                section.faults.add(&name.span, format!("the stream `{}` has no signal `{}`{hint}", stream.id, name.value));
                return None;
            }
            Some(name.value.as_str().into())
        })
        .collect()
}

fn edges(value: &Value<'_>) -> Option<[f64; 3]> {
    if value.is_array() { value.numbers() } else { value.number().map(|edge| [edge; 3]) }
}

fn layer_by(section: &Section<'_>) -> LayerBy {
    let Some(value) = section.get("layers") else { return LayerBy::Z };
    if value.is_string() {
        return value.choice(&[("z", LayerBy::Z), ("number", LayerBy::Number { first: 0 })]).unwrap_or_default();
    }
    value.section().map_or(LayerBy::Z, |table| LayerBy::Number {
        first: table.integer_or("first", 0, i64::from(i32::MIN) + 1..1 << 31) as i32,
    })
}

fn transform(section: &Section<'_>) -> Option<Transform> {
    let Some(table) = section.section("transform") else { return Some(Transform::IDENTITY) };
    let translate = table.get("translate").and_then(|value| value.numbers()).unwrap_or([0.0; 3]);
    let rotate = table.get("rotate").and_then(|value| value.numbers()).unwrap_or([0.0; 3]);
    let scale = table.number_or("scale", 1.0);
    match Transform::from_euler(translate, rotate, scale) {
        Ok(transform) => Some(transform),
        Err(error) => {
            table.fault(format!("[{}]: {error}", table.path));
            None
        }
    }
}
