//! Who may ask: anyone on loopback, and off loopback only who presents the token.

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Handle, problem::Problem};

/// Lets a request through if no token is configured, or if it carries it.
pub async fn check(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let Some(token) = &handle.token else { return next.run(request).await };
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    if presented.is_some_and(|presented| same(presented.as_bytes(), token.as_bytes())) {
        return next.run(request).await;
    }
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "send the configured token as `Authorization: Bearer …`");
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

/// Equality in a time that depends on the lengths only.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}
