//! Alerts to people: by HTTP, over MQTT, by mail.
//!
//! A channel reads the outbox like a sink, with a cursor of its own, so that an alert waits for a mail server that is down as long as
//! it must, and goes once it is back. It takes results of the kind `alert` at or above a severity, and passes over all else. What goes out is
//! the alert's object with `appliance` in front.
//!
//! An alert goes at least once: a crash between sending and confirming sends it again. An attempt that fails in the middle of several goes on
//! behind the last one that was sent.

pub mod email;
pub mod mqtt;
pub mod webhook;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Connect, Delivered, Identity, Item, Parcel, Progress, Refused, ResultRecord, Sink, SinkError, row_json::write_result};
use crate::model::Severity;

/// How long one alert may take to go out.
const SEND_MAX: Duration = Duration::from_secs(10);

/// Where alerts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Far {
    /// An HTTP POST of the alert's JSON.
    Webhook(webhook::Settings),
    /// A message with the alert's JSON.
    Mqtt(mqtt::Settings),
    /// A mail.
    Email(email::Settings),
}

impl Far {
    /// The word in `type`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Mqtt(_) => "mqtt",
            Self::Email(_) => "email",
        }
    }
}

/// A channel.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Whose alerts these are.
    pub identity: Identity,
    /// Where they go.
    pub far: Far,
    /// Less severe ones are passed over.
    pub min_severity: Severity,
    /// The last result that was sent, whether or not its parcel was confirmed.
    sent: Arc<AtomicU64>,
}

impl Channel {
    /// A channel that has sent nothing.
    pub fn new(identity: Identity, far: Far, min_severity: Severity) -> Self {
        Self { identity, far, min_severity, sent: Arc::default() }
    }

    /// The alert in `result`, if this channel takes it.
    fn wanted(&self, result: &ResultRecord) -> Option<Alert> {
        if &*result.kind != "alert" || result.seq.0 <= self.sent.load(Ordering::Acquire) {
            return None;
        }
        let known: Known = serde_json::from_slice(&result.json).ok()?;
        (known.severity >= self.min_severity).then(|| {
            let mut json = Vec::with_capacity(result.json.len() + 64);
            write_result(&mut json, &self.identity.appliance, result);
            Alert { id: self.identity.result_id(&result.id), known, json }
        })
    }
}

/// What a channel knows of an alert besides its bytes.
#[derive(Debug, Clone, serde::Deserialize)]
struct Known {
    severity: Severity,
    source: String,
    time: String,
    message: String,
}

/// An alert on its way.
#[derive(Debug, Clone)]
struct Alert {
    /// The same for every attempt, and unlike those of other appliances.
    id: String,
    known: Known,
    json: Vec<u8>,
}

/// Why an alert did not go out.
enum Failed {
    /// Try again.
    Retry(String),
    /// The far end will never take it.
    Refused(String),
}

impl Connect for Channel {
    type Sink = Self;

    async fn connect(&self) -> Result<(Self, Option<Progress>), SinkError> {
        // Alerts are rare: a connection lasts for one parcel.
        Ok((self.clone(), None))
    }
}

impl Sink for Channel {
    async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let alerts: Vec<(usize, Alert)> =
            parcel.results.iter().enumerate().filter_map(|(at, result)| Some((at, self.wanted(result)?))).collect();
        let mut delivered = Delivered { rows: parcel.row_count() as u64, results: parcel.results.len() as u64, repeated: 0 };
        let mut refused = Vec::new();
        for (at, alert) in &alerts {
            match tokio::time::timeout(SEND_MAX, self.send(alert)).await {
                Ok(Ok(())) => {}
                Ok(Err(Failed::Refused(reason))) => refused.push(Refused { what: Item::Result { index: *at }, reason }),
                Ok(Err(Failed::Retry(why))) => return Err(SinkError::Retry(why)),
                Err(_) => return Err(SinkError::Retry(format!("no answer within {} s", SEND_MAX.as_secs()))),
            }
            self.sent.fetch_max(parcel.results[*at].seq.0, Ordering::AcqRel);
        }
        if refused.is_empty() {
            return Ok(delivered);
        }
        delivered.results -= refused.len() as u64;
        Err(SinkError::Reject { which: refused, rest: delivered })
    }
}

impl Channel {
    async fn send(&self, alert: &Alert) -> Result<(), Failed> {
        match &self.far {
            Far::Webhook(settings) => webhook::send(settings, alert).await,
            Far::Mqtt(settings) => mqtt::send(settings, alert).await,
            Far::Email(settings) => email::send(settings, &self.identity.appliance, alert).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Seq;

    fn result(seq: u64, kind: &str, severity: &str) -> ResultRecord {
        let json = format!(r#"{{"id":"i","severity":"{severity}","source":"s","time":"2026-01-01T00:00:00Z","message":"m"}}"#);
        ResultRecord {
            seq: Seq(seq),
            id: "i".into(),
            kind: kind.into(),
            pipeline: "p".into(),
            stream: None,
            historical: false,
            json: json.into_bytes().into(),
        }
    }

    #[test]
    fn only_alerts_that_are_severe_enough_and_were_not_sent_go_out() {
        let far = Far::Webhook(webhook::Settings { url: "http://localhost/".into() });
        let identity = Identity { appliance: "a".into(), store: 7 };
        let channel = Channel::new(identity, far, Severity::High);
        assert!(channel.wanted(&result(1, "spc", "high")).is_none());
        assert!(channel.wanted(&result(2, "alert", "medium")).is_none());
        let alert = channel.wanted(&result(3, "alert", "critical")).expect("an alert");
        assert!(alert.json.starts_with(br#"{"appliance":"a","id":"i""#));
        channel.sent.store(3, Ordering::Release);
        assert!(channel.wanted(&result(3, "alert", "critical")).is_none());
        assert!(channel.wanted(&result(4, "alert", "high")).is_some());
    }
}
