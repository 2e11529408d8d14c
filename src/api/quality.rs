//! Alerts, checkpoints on demand, and acts on a chart's baseline.

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Act, AlertFilter, Handle,
    ask::{Parameters, answer, invalid, number, time},
    problem::Problem,
};
use crate::model::{Key, Order, Severity};

/// Alerts in an answer unless asked for fewer or more.
const ALERTS_DEFAULT: usize = 200;

/// `GET /alerts?severity=&source=&acknowledged=&from=&limit=`
pub async fn alerts(State(handle): State<Handle>, parameters: Parameters) -> Response {
    let wanted = filter(&parameters).and_then(|filter| Ok((filter, number(&parameters, "limit")?)));
    match wanted {
        Ok((filter, limit)) => {
            answer(&handle, Act::Alerts { filter, limit: limit.unwrap_or(ALERTS_DEFAULT) }, StatusCode::OK).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn filter(parameters: &Parameters) -> Result<AlertFilter, Problem> {
    let word = |key: &str, text: &str| serde_json::from_value(text.into()).map_err(|_| invalid(format!("`{key}={text}`")));
    let severity: Option<Severity> = parameters.get("severity").map(|text| word("severity", text)).transpose()?;
    let acknowledged = match parameters.get("acknowledged").map(String::as_str) {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => return Err(invalid(format!("`acknowledged={other}`: write true or false"))),
    };
    let source = parameters.get("source").map(|source| source.as_str().into());
    Ok(AlertFilter { severity, source, acknowledged, from: time(parameters, "from")? })
}

/// Reads a body; `example` says how it should look.
fn body<T: DeserializeOwned>(bytes: &Bytes, example: &str) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| invalid(format!("send {example} ({error})")))
}

async fn order(handle: &Handle, order: Result<Order, Problem>) -> Response {
    match order {
        Ok(order) => answer(handle, Act::Order(order), StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

/// `POST /alerts/{id}/acknowledge`
pub async fn acknowledge(State(handle): State<Handle>, Path(alert): Path<String>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Who {
        name: String,
        #[serde(default)]
        note: String,
    }
    let read = body::<Who>(&bytes, r#"{"name": "who", "note": "what"}"#);
    order(&handle, read.map(|who| Order::Acknowledge { alert, name: who.name.into(), note: who.note.into() })).await
}

/// `POST /charts/{id}/rebaseline`
pub async fn rebaseline(State(handle): State<Handle>, Path(chart): Path<String>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        key: Option<Key>,
        author: String,
        reason: String,
    }
    let read = body::<Wish>(&bytes, r#"{"author": "who", "reason": "what has changed", "key": {"part": "A"}}, or no key for all"#);
    order(
        &handle,
        read.map(|wish| Order::Rebaseline {
            chart: chart.into(),
            key: wish.key,
            author: wish.author.into(),
            reason: wish.reason.into(),
        }),
    )
    .await
}

/// `POST /charts/{id}/exclude`
pub async fn exclude(State(handle): State<Handle>, Path(chart): Path<String>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        #[serde(default)]
        key: Key,
        indices: Vec<u64>,
        author: String,
        reason: String,
    }
    let read = body::<Wish>(&bytes, r#"{"indices": [3, 9], "author": "who", "reason": "the cause", "key": {"part": "A"}}"#);
    order(
        &handle,
        read.map(|wish| Order::Exclude {
            chart: chart.into(),
            key: wish.key,
            indices: wish.indices,
            author: wish.author.into(),
            reason: wish.reason.into(),
        }),
    )
    .await
}

/// `POST /pipelines/{id}/validate?checkpoint=`
pub async fn validate(
    State(handle): State<Handle>,
    Path(pipeline): Path<String>,
    parameters: Parameters,
    bytes: Bytes,
) -> Response {
    let checkpoint = parameters.get("checkpoint").cloned();
    answer(&handle, Act::Validate { pipeline, checkpoint, rows: bytes.to_vec() }, StatusCode::OK).await
}
