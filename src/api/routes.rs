//! The endpoints, one short function each.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header},
    middleware,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Act, Handle, Snapshot,
    ask::{Parameters, answer, invalid, number, time},
    guard, openapi,
    problem::{PROBLEM, Problem},
    quality,
};
use crate::{model::Timestamp, status};

/// The largest body of `POST /rows`.
const BODY_BYTES_MAX: usize = 8 << 20;
/// The most rows an answer holds unless asked for fewer.
const ROWS_MAX: usize = 100_000;

/// The router of the API.
pub fn api(handle: Handle) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(full_status))
        .route("/pipelines", get(pipelines))
        .route("/pipelines/{id}/start", post(start_pipeline))
        .route("/pipelines/{id}/stop", post(stop_pipeline))
        .route("/pipelines/{id}/stats", get(pipeline_stats))
        .route("/watermarks", get(watermarks))
        .route("/state", get(state))
        .route("/windows", get(windows))
        .route("/checkpoint", post(checkpoint))
        .route("/streams/{id}/recent", get(recent))
        .route("/streams/{id}/history", get(history))
        .route("/voxels/{grid}", get(voxels))
        .route("/voxels/{grid}/layers", get(layers))
        .route("/voxels/{grid}/layers/{layer}", get(layer))
        .route("/voxels/{grid}/region", get(region))
        .route("/charts/{id}", get(chart))
        .route("/charts/{id}/rebaseline", post(quality::rebaseline))
        .route("/charts/{id}/exclude", post(quality::exclude))
        .route("/pipelines/{id}/validate", post(quality::validate))
        .route("/alerts", get(quality::alerts))
        .route("/alerts/{id}/acknowledge", post(quality::acknowledge))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/{number}/resubmit", post(resubmit))
        .route("/events", get(events))
        .route("/rows", post(rows))
        .route("/metrics", get(metrics_page))
        .route("/openapi.json", get(openapi::document))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(handle.clone(), guard::check))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::map_response(as_problem))
        .with_state(handle)
}

/// The router of the metrics listener.
pub fn metrics(handle: Handle) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(handle)
}

/// Errors that the framework found, such as a body that is too large, in the shape of all others.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || kind.is_some_and(|kind| kind == PROBLEM) {
        return response;
    }
    // Its text is short; without it the status says enough.
    let text = axum::body::to_bytes(response.into_body(), 4_096).await.unwrap_or_default();
    Problem::new(status, String::from_utf8_lossy(&text)).into_response()
}

async fn unknown(uri: axum::http::Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {}; see /openapi.json", uri.path()))
}

async fn wrong_method(uri: axum::http::Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} takes another method; see /openapi.json", uri.path()))
}

fn snapshot(handle: &Handle) -> Arc<Snapshot> {
    Arc::clone(&handle.snapshot.borrow())
}

async fn health(State(handle): State<Handle>) -> Response {
    let snapshot = snapshot(&handle);
    let body = json!({
        "status": snapshot.state,
        "timestamp": snapshot.time,
        "processor_running": snapshot.pipelines.iter().any(|pipeline| pipeline.running) || snapshot.pipelines.is_empty(),
        "problems": snapshot.problems,
        "health": snapshot.health,
    });
    Json(body).into_response()
}

async fn full_status(State(handle): State<Handle>) -> Json<Value> {
    let snapshot = snapshot(&handle);
    Json(serde_json::to_value(&*snapshot).unwrap_or_default())
}

async fn pipelines(State(handle): State<Handle>) -> Json<Value> {
    Json(serde_json::to_value(&snapshot(&handle).pipelines).unwrap_or_default())
}

fn known_pipeline(handle: &Handle, id: &str) -> Result<status::PipelineStatus, Problem> {
    snapshot(handle)
        .pipelines
        .iter()
        .find(|pipeline| pipeline.id == id)
        .cloned()
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no pipeline `{id}`; see /pipelines")))
}

async fn start_pipeline(State(handle): State<Handle>, Path(id): Path<String>) -> Response {
    match known_pipeline(&handle, &id) {
        Ok(_) => answer(&handle, Act::StartPipeline(id), StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

async fn stop_pipeline(State(handle): State<Handle>, Path(id): Path<String>) -> Response {
    match known_pipeline(&handle, &id) {
        Ok(_) => answer(&handle, Act::StopPipeline(id), StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

async fn pipeline_stats(State(handle): State<Handle>, Path(id): Path<String>) -> Response {
    match known_pipeline(&handle, &id) {
        Ok(pipeline) => Json(pipeline).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn watermarks(State(handle): State<Handle>) -> Json<Value> {
    let snapshot = snapshot(&handle);
    let mut lags_seconds: Vec<f64> = Vec::new();
    let streams: serde_json::Map<String, Value> = snapshot
        .streams
        .iter()
        .map(|stream| {
            let partitions: serde_json::Map<String, Value> = stream
                .partitions
                .iter()
                .map(|partition| {
                    let lag_seconds = partition.lag_seconds(snapshot.time);
                    lags_seconds.extend(lag_seconds.filter(|_| !partition.idle));
                    let one = json!({"watermark": partition.watermark, "idle": partition.idle, "lag_seconds": lag_seconds});
                    (partition.partition.clone(), one)
                })
                .collect();
            (stream.id.clone(), json!({"watermark": stream.watermark, "partitions": partitions}))
        })
        .collect();
    let global = snapshot.streams.iter().filter_map(|stream| stream.watermark).min();
    let stats = json!({
        "partition_count": snapshot.streams.iter().map(|stream| stream.partitions.len()).sum::<usize>(),
        "min_lag_seconds": lags_seconds.iter().copied().reduce(f64::min),
        "max_lag_seconds": lags_seconds.iter().copied().reduce(f64::max),
        "avg_lag_seconds": (!lags_seconds.is_empty()).then(|| lags_seconds.iter().sum::<f64>() / lags_seconds.len() as f64),
    });
    Json(json!({"watermarks": streams, "global_watermark": global, "stats": stats}))
}

async fn state(State(handle): State<Handle>, parameters: Parameters) -> Response {
    let prefix = parameters.get("prefix").cloned().unwrap_or_default();
    answer(&handle, Act::State { prefix }, StatusCode::OK).await
}

async fn windows(State(handle): State<Handle>, parameters: Parameters) -> Response {
    let pipeline = parameters.get("pipeline").or_else(|| parameters.get("pipeline_id")).cloned();
    match number(&parameters, "limit") {
        Ok(limit) => answer(&handle, Act::Windows { pipeline, limit: limit.unwrap_or(100) }, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

async fn checkpoint(State(handle): State<Handle>) -> Response {
    answer(&handle, Act::Checkpoint, StatusCode::OK).await
}

async fn recent(State(handle): State<Handle>, Path(stream): Path<String>, parameters: Parameters) -> Response {
    let act = (|| {
        let rows = number(&parameters, "rows")?;
        let duration_ns = parameters.get("duration").map(|text| duration_ns(text)).transpose()?;
        Ok::<_, Problem>(Act::Recent { stream, rows, duration_ns })
    })();
    match act {
        Ok(act) => answer(&handle, act, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

fn duration_ns(text: &str) -> Result<i64, Problem> {
    let number_end = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let unit_ns = match &text[number_end..] {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3_600e9,
        "d" => 86_400e9,
        _ => return Err(invalid(format!("`duration={text}` is no duration; write 250ms, 5s or 12h"))),
    };
    let number: f64 = text[..number_end].parse().map_err(|_| invalid(format!("`duration={text}` is no duration")))?;
    Ok((number * unit_ns) as i64)
}

async fn history(State(handle): State<Handle>, Path(stream): Path<String>, parameters: Parameters) -> Response {
    let act = (|| {
        Ok::<_, Problem>(Act::History {
            stream,
            from: time(&parameters, "from")?.unwrap_or(Timestamp::MIN),
            to: time(&parameters, "to")?.unwrap_or(Timestamp::MAX),
            condition: parameters.get("where").cloned(),
            limit: number(&parameters, "limit")?.unwrap_or(ROWS_MAX).min(ROWS_MAX),
        })
    })();
    match act {
        Ok(act) => answer(&handle, act, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

async fn voxels(State(handle): State<Handle>, Path(grid): Path<String>, parameters: Parameters) -> Response {
    let act = (|| {
        Ok::<_, Problem>(Act::Voxels {
            grid,
            layer: number(&parameters, "layer")?,
            since: number(&parameters, "since")?,
            level: number(&parameters, "level")?.unwrap_or(0),
            limit: number(&parameters, "limit")?,
        })
    })();
    match act {
        Ok(act) => answer(&handle, act, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

async fn layers(State(handle): State<Handle>, Path(grid): Path<String>) -> Response {
    answer(&handle, Act::Layers { grid, layer: None }, StatusCode::OK).await
}

async fn layer(State(handle): State<Handle>, Path((grid, layer)): Path<(String, String)>) -> Response {
    match layer.parse() {
        Ok(layer) => answer(&handle, Act::Layers { grid, layer: Some(layer) }, StatusCode::OK).await,
        Err(_) => invalid(format!("`{layer}` is no number")).into_response(),
    }
}

async fn region(State(handle): State<Handle>, Path(grid): Path<String>, parameters: Parameters) -> Response {
    match corner(&parameters, "lower").and_then(|lower| Ok((lower, corner(&parameters, "upper")?))) {
        Ok((lower, upper)) => answer(&handle, Act::Region { grid, lower, upper }, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

fn corner(parameters: &Parameters, name: &str) -> Result<[f64; 3], Problem> {
    let text = parameters.get(name).map_or("", String::as_str);
    let numbers: Option<Vec<f64>> =
        text.split(',').map(|part| part.trim().parse().ok().filter(|number: &f64| number.is_finite())).collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| invalid(format!("`{name}={text}` is no corner; write {name}=x,y,z in mm")))
}

async fn chart(State(handle): State<Handle>, Path(id): Path<String>) -> Response {
    answer(&handle, Act::Chart(id), StatusCode::OK).await
}

async fn dead_letters(State(handle): State<Handle>, parameters: Parameters) -> Response {
    let act = (|| {
        let limit = number(&parameters, "limit")?.unwrap_or(1000).min(ROWS_MAX);
        Ok::<_, Problem>(Act::DeadLetters { after: number(&parameters, "after")?.unwrap_or(0), limit })
    })();
    match act {
        Ok(act) => answer(&handle, act, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

async fn resubmit(State(handle): State<Handle>, Path(number): Path<String>) -> Response {
    match number.parse() {
        Ok(number) => answer(&handle, Act::Resubmit(number), StatusCode::OK).await,
        Err(_) => invalid(format!("`{number}` is no number")).into_response(),
    }
}

async fn rows(State(handle): State<Handle>, parameters: Parameters, body: Bytes) -> Response {
    let stream = parameters.get("stream").cloned();
    answer(&handle, Act::Append { body: body.to_vec(), stream }, StatusCode::ACCEPTED).await
}

async fn metrics_page(State(handle): State<Handle>) -> Response {
    let page = status::metrics::render(&snapshot(&handle));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn events(State(handle): State<Handle>, parameters: Parameters) -> Response {
    let kind = parameters.get("kind").cloned();
    let receiver = handle.events.subscribe();
    let stream = futures_util::stream::unfold((receiver, kind), |(mut receiver, kind)| async move {
        loop {
            match receiver.recv().await {
                Ok(event) if kind.as_ref().is_none_or(|kind| *kind == event.kind) => {
                    let sent = SseEvent::default().id(event.id.replace('\n', " ")).event(&event.kind).data(&event.json);
                    return Some((Ok::<_, Infallible>(sent), (receiver, kind)));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let sent = SseEvent::default().event("missed").data(json!({"missed": missed}).to_string());
                    return Some((Ok(sent), (receiver, kind)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}
