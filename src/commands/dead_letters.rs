//! `dead-letters`: what was refused, with source, reason and raw bytes; and another try for it.
//!
//! `list` and `show` read the store beside a running service, or without one. `resubmit` asks the running service, which takes the raw
//! bytes as rows of the letter's stream, and removes the letter once they are durable.

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::{Failure, load};
use crate::store::{DeadLetter, Reader};

/// Letters read at a time.
const PAGE: usize = 1000;

/// What `dead-letters` does.
#[derive(Debug, clap::Subcommand)]
pub enum Arguments {
    /// One JSON object a letter, without its raw bytes, oldest first
    List {
        /// Which store
        #[command(flatten)]
        place: Place,
        /// Only of this source
        #[arg(long)]
        source: Option<String>,
        /// Only for this reason
        #[arg(long)]
        reason: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// One letter, whole
    Show {
        /// Which store
        #[command(flatten)]
        place: Place,
        /// Its number, as `list` prints it
        number: u64,
        /// The bytes as they came, and nothing else
        #[arg(long)]
        raw: bool,
    },
    /// Have the running service take a letter's bytes again, as rows of its stream
    Resubmit {
        /// Their numbers, as `list` prints them
        #[arg(required = true)]
        numbers: Vec<u64>,
        /// The appliance's API
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
        /// A file with the API's token
        #[arg(long)]
        token_file: Option<PathBuf>,
    },
}

/// Which store.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The configuration that the service runs with
    #[arg(short, long, default_value = "/etc/qadf-edge/appliance.toml")]
    config: PathBuf,
}

impl Place {
    fn reader(&self) -> Result<Reader, Failure> {
        Reader::open(&load(&self.config)?.appliance.data_dir).map_err(Failure::failed)
    }
}

/// Runs it.
///
/// # Errors
/// No store, no such letter, no service that answers, bytes that are refused again.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { place, source, reason, limit } => {
            let wanted = |letter: &DeadLetter| {
                source.as_ref().is_none_or(|source| **source == *letter.source)
                    && reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            };
            list(&place.reader()?, wanted, *limit)
        }
        Arguments::Show { place, number, raw } => show(&place.reader()?, *number, *raw),
        Arguments::Resubmit { numbers, url, token_file } => {
            let token = token_file.as_ref().map(std::fs::read_to_string).transpose();
            let token = token.map_err(|error| Failure::Failed(format!("cannot read the token: {error}")))?;
            numbers.iter().try_for_each(|number| resubmit(*number, url, token.as_deref().map(str::trim)))
        }
    }
}

fn list(reader: &Reader, wanted: impl Fn(&DeadLetter) -> bool, limit: usize) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let (mut after, mut listed) = (0, 0);
    loop {
        let letters = reader.dead_letters(after, PAGE).map_err(Failure::failed)?;
        let Some((last, _)) = letters.last() else { return Ok(()) };
        after = *last;
        for (number, letter) in letters.iter().filter(|(_, letter)| wanted(letter)) {
            if listed == limit {
                return Ok(());
            }
            listed += 1;
            match writeln!(out, "{}", letter.head(*number)) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(Failure::failed)?,
            }
        }
    }
}

fn show(reader: &Reader, number: u64, raw: bool) -> Result<(), Failure> {
    let letters = reader.dead_letters(number.saturating_sub(1), 1).map_err(Failure::failed)?;
    let letter = letters.iter().find(|(found, _)| *found == number).map(|(_, letter)| letter);
    let letter = letter.ok_or_else(|| Failure::Failed(format!("there is no dead letter {number}; `list` names them")))?;
    let mut out = std::io::stdout().lock();
    if raw {
        return out.write_all(&letter.raw).and_then(|()| out.flush()).map_err(Failure::failed);
    }
    let mut whole = letter.head(number);
    match std::str::from_utf8(&letter.raw) {
        Ok(text) => whole["raw"] = json!(text),
        Err(_) => whole["raw_hex"] = json!(hex(&letter.raw)),
    }
    writeln!(out, "{whole:#}").map_err(Failure::failed)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn resubmit(number: u64, url: &str, token: Option<&str>) -> Result<(), Failure> {
    let address = format!("{}/dead-letters/{number}/resubmit", url.trim_end_matches('/'));
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(std::time::Duration::from_mins(1)));
    let agent: ureq::Agent = config.build().into();
    let mut request = agent.post(&address);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let refused = |error: ureq::Error| {
        Failure::Failed(format!("{url} does not answer ({error}): start the service, or name its API with --url"))
    };
    let mut reply = request.send_empty().map_err(refused)?;
    let body: Value = reply.body_mut().read_json().unwrap_or_default();
    if reply.status().is_success() {
        println!("{body}");
        return Ok(());
    }
    let detail = body["detail"].as_str().map_or_else(|| reply.status().to_string(), str::to_owned);
    Err(Failure::Failed(format!("dead letter {number}: {detail}")))
}
