//! `top`: the terminal UI, or one snapshot as JSON.

use std::{fs, path::PathBuf};

use super::Failure;
use crate::tui::{self, client::Client};

/// What `top` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the appliance's API is
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print one snapshot as JSON and end
    #[arg(long)]
    once: bool,
    /// A file with the bearer token that an appliance off loopback asks for
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// A file with the certificate that vouches for the appliance's own, as PEM, where no public authority does
    #[arg(long)]
    ca_file: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// No appliance answers (`--once`), or the terminal cannot be used.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let read = |path: &PathBuf| fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())));
    let token = arguments.token_file.as_ref().map(read).transpose()?.map(|text| text.trim().to_owned());
    let authority = arguments.ca_file.as_ref().map(read).transpose()?;
    let client = Client::new(&arguments.url, token, authority.as_deref().map(str::as_bytes)).map_err(Failure::Usage)?;
    if arguments.once {
        let snapshot = client.status().map_err(Failure::Failed)?;
        println!("{}", serde_json::to_string(&snapshot).map_err(Failure::failed)?);
        return Ok(());
    }
    tui::run(&arguments.url, &client, || false).map_err(|error| Failure::Failed(format!("cannot use this terminal: {error}")))
}
