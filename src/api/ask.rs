//! From a request's parameters to an act of the appliance, and from its answer to a response.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::Query,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::sync::oneshot;

use super::{Act, Handle, Request, problem::Problem};
use crate::model::Timestamp;

/// How long the appliance may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

pub(super) type Parameters = Query<HashMap<String, String>>;

pub(super) fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

pub(super) async fn ask(handle: &Handle, act: Act) -> Result<Vec<u8>, Problem> {
    let (reply, answer) = oneshot::channel();
    let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the appliance is stopping or overloaded; try again");
    handle.requests.try_send(Request { act, reply }).map_err(|_| busy())?;
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(answer)) => answer.map_err(Problem::from),
        Ok(Err(_)) => Err(busy()),
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no answer in time; try a smaller range")),
    }
}

pub(super) async fn answer(handle: &Handle, act: Act, status: StatusCode) -> Response {
    match ask(handle, act).await {
        Ok(bytes) => json_bytes(status, bytes),
        Err(problem) => problem.into_response(),
    }
}

pub(super) fn number<T: std::str::FromStr>(parameters: &Parameters, name: &str) -> Result<Option<T>, Problem> {
    parameters
        .get(name)
        .map_or(Ok(None), |text| text.parse().map(Some).map_err(|_| invalid(format!("`{name}={text}` is no number"))))
}

pub(super) fn time(parameters: &Parameters, name: &str) -> Result<Option<Timestamp>, Problem> {
    parameters.get(name).map_or(Ok(None), |text| match text.parse::<i64>() {
        Ok(ns) => Ok(Some(Timestamp(ns))),
        Err(_) => text.parse().map(Some).map_err(|error: crate::model::ParseTimeError| invalid(error.to_string())),
    })
}

pub(super) fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}
