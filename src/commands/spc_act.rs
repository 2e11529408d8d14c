//! `spc rebaseline`, `spc exclude`: acts on a chart's baseline, by a person and for a reason, at a running appliance.
//!
//! The act goes through the inbox, so that it is durable before it has an effect; the limits that come of it carry author, reason and the
//! next version.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Failure;

/// Which chart, who and why.
#[derive(Debug, clap::Args)]
pub struct Who {
    /// The chart's id
    #[arg(long)]
    chart: String,
    /// The key: `part=A3`, or `part` alone for rows without one; once for each tag
    #[arg(long = "key", value_name = "TAG=VALUE")]
    keys: Vec<String>,
    /// Who decides
    #[arg(long)]
    author: String,
    /// Why
    #[arg(long)]
    reason: String,
    /// The appliance's API
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A file with the API's token
    #[arg(long)]
    token_file: Option<PathBuf>,
}

/// What `spc rebaseline` takes. Without `--key`, every key of the chart starts anew.
#[derive(Debug, clap::Args)]
pub struct Rebaseline {
    #[command(flatten)]
    who: Who,
}

/// What `spc exclude` takes.
#[derive(Debug, clap::Args)]
pub struct Exclude {
    #[command(flatten)]
    who: Who,
    /// The points' indices, as results name them
    #[arg(required = true, value_name = "INDEX")]
    indices: Vec<u64>,
}

impl Who {
    fn key(&self) -> Map<String, Value> {
        let tags = self.keys.iter().map(|text| match text.split_once('=') {
            Some((tag, value)) => (tag.to_owned(), value.into()),
            None => (text.clone(), Value::Null),
        });
        tags.collect()
    }

    fn post(&self, act: &str, mut body: Value) -> Result<(), Failure> {
        body["author"] = self.author.as_str().into();
        body["reason"] = self.reason.as_str().into();
        let chart: String = self.chart.bytes().map(escaped).collect();
        let address = format!("{}/charts/{chart}/{act}", self.url.trim_end_matches('/'));
        let within = std::time::Duration::from_mins(1);
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(within)).build();
        let mut request = ureq::Agent::new_with_config(config).post(&address);
        if let Some(path) = &self.token_file {
            let token = std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        let mut reply = request.send_json(&body).map_err(|error| {
            Failure::Failed(format!("{} does not answer ({error}): start the service, or name its API with --url", self.url))
        })?;
        let answer: Value = reply.body_mut().read_json().unwrap_or_default();
        if !reply.status().is_success() {
            let detail = answer["detail"].as_str().map_or_else(|| reply.status().to_string(), str::to_owned);
            return Err(Failure::Failed(detail));
        }
        // The chart's points are not of interest here.
        for mut key in answer.as_array().cloned().unwrap_or_default() {
            if let Some(chart) = key.as_object_mut() {
                chart.remove("points");
            }
            println!("{key}");
        }
        Ok(())
    }
}

fn escaped(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// Has a new baseline collected.
///
/// # Errors
/// No appliance answers, or it refuses: no such chart or key, limits that are configured.
pub fn rebaseline(arguments: &Rebaseline) -> Result<(), Failure> {
    let who = &arguments.who;
    let body = if who.keys.is_empty() { json!({}) } else { json!({"key": who.key()}) };
    who.post("rebaseline", body)
}

/// Has points taken out of a baseline.
///
/// # Errors
/// No appliance answers, or it refuses: no such chart, key or point, no baseline yet.
pub fn exclude(arguments: &Exclude) -> Result<(), Failure> {
    arguments.who.post("exclude", json!({"key": arguments.who.key(), "indices": arguments.indices}))
}
