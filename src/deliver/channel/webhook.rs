//! An alert as an HTTP POST.
//!
//! Any 2xx answer takes it. 408, 425, 429 and 5xx are tried again; any other answer refuses it for good. `Idempotency-Key` is the alert's
//! id, for receivers that want an alert only once.

use std::time::Duration;

use super::{Alert, Failed, SEND_MAX};

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address, `http://…`.
    pub url: String,
}

/// Sends one alert.
pub(super) async fn send(settings: &Settings, alert: &Alert) -> Result<(), Failed> {
    let (url, id, json) = (settings.url.clone(), alert.id.clone(), alert.json.clone());
    let posted = tokio::task::spawn_blocking(move || post(&url, &id, &json)).await;
    posted.unwrap_or_else(|error| Err(Failed::Retry(format!("the request ended before its time: {error}"))))
}

fn post(url: &str, id: &str, json: &[u8]) -> Result<(), Failed> {
    // Less than what the caller waits, so that no thread is left behind.
    let within = SEND_MAX.saturating_sub(Duration::from_secs(1));
    let config = ureq::config::Config::builder().timeout_global(Some(within)).http_status_as_error(false).build();
    let request = ureq::Agent::new_with_config(config).post(url);
    let request = request.header("Content-Type", "application/json").header("Idempotency-Key", header(id));
    let answer = request.send(json).map_err(|error| Failed::Retry(format!("{url}: {error}")))?;
    match answer.status().as_u16() {
        200..=299 => Ok(()),
        status @ (408 | 425 | 429 | 500..) => Err(Failed::Retry(format!("{url} answers {status}"))),
        status => Err(Failed::Refused(format!("{url} answers {status}"))),
    }
}

/// `text` as a header may carry it.
fn header(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect()
}
