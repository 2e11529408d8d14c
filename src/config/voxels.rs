//! `[voxels.*]`: grids.

use std::sync::Arc;

use super::reader::{At, Section, Value};
use crate::{
    engine::{EngineConfig, GridSource},
    model::Stream,
    voxel::{GridConfig, GridError, GridSettings, LayerBy, Transform, Weights},
};

/// What a grid's finished layers may take in the store unless configured.
const STORED_BYTES_MAX: u64 = 4 << 30;

/// Reads all grids; streams and pipelines are known already.
pub fn read(root: &Section<'_>, engine: &EngineConfig) -> Vec<GridSource> {
    root.sections("voxels").iter().filter_map(|(name, section)| grid(name, section, engine)).collect()
}

fn grid(name: &At<String>, section: &Section<'_>, engine: &EngineConfig) -> Option<GridSource> {
    let stream = super::known_stream(section, "stream", &engine.streams);
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
    let stored_bytes_max = section.get("disk").and_then(|value| value.bytes()).unwrap_or(STORED_BYTES_MAX);
    section.finish();
    let mut settings = GridSettings::new(&name.value, &[], origin, Some(size?), voxel?);
    settings.signals = signals;
    settings.transform = transform?;
    settings.weights = weights;
    settings.layer_by = layer_by;
    settings.bytes_max = bytes_max.unwrap_or(settings.bytes_max);
    match GridConfig::new(settings) {
        Ok(grid) => Some(GridSource { grid, stream: Arc::clone(&stream?.id), pipeline, stored_bytes_max }),
        Err(error) => {
            section.faults.add(&place(section, &error), format!("[{}]: {error}", section.path));
            None
        }
    }
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
