//! Asks the appliance over HTTP.

use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::api::Snapshot;

/// How long an answer may take before the screen says that there is none.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A connection to one appliance.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

impl Client {
    /// A client of the API at `url`, such as `http://127.0.0.1:8080`.
    ///
    /// With `authority`, a certificate as PEM, an appliance that shows one that this vouches for is believed; otherwise those that the
    /// public authorities vouch for.
    ///
    /// # Errors
    /// `authority` holds no certificate.
    pub fn new(url: &str, token: Option<String>, authority: Option<&[u8]>) -> Result<Self, String> {
        let mut config = ureq::config::Config::builder().timeout_global(Some(ANSWER_MAX));
        if let Some(pem) = authority {
            let certificate = Certificate::from_pem(pem).map_err(|error| format!("no certificate: {error}"))?;
            let roots = RootCerts::new_with_certs(&[certificate]);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let agent = ureq::Agent::new_with_config(config.build());
        Ok(Self { agent, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// The newest snapshot, or why there is none, in words.
    ///
    /// # Errors
    /// No appliance answers there, or it is of another version.
    pub fn status(&self) -> Result<Snapshot, String> {
        let mut request = self.agent.get(format!("{}/status", self.url));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = request.call().map_err(|error| format!("no answer from {}: {error}", self.url))?;
        answer.body_mut().read_json().map_err(|error| format!("{} is not an appliance of this version: {error}", self.url))
    }

    /// Takes note of an alert; what to tell the person.
    pub fn acknowledge(&self, id: &str, name: &str) -> String {
        let path: String = id.bytes().map(escaped).collect();
        let mut request = self.agent.post(format!("{}/alerts/{path}/acknowledge", self.url));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match request.send_json(serde_json::json!({"name": name, "note": ""})) {
            Ok(_) => format!("acknowledged as {name}"),
            Err(error) => format!("not acknowledged: {error}"),
        }
    }
}

fn escaped(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}
