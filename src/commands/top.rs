//! `top`: the terminal UI, or one snapshot as JSON.

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
    token_file: Option<std::path::PathBuf>,
}

/// Runs it.
///
/// # Errors
/// No appliance answers (`--once`), or the terminal cannot be used.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let token = arguments
        .token_file
        .as_ref()
        .map(|path| std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display()))))
        .transpose()?
        .map(|text| text.trim().to_owned());
    if arguments.once {
        let snapshot = Client::new(&arguments.url, token).status().map_err(Failure::Failed)?;
        println!("{}", serde_json::to_string(&snapshot).map_err(Failure::failed)?);
        return Ok(());
    }
    tui::run(&arguments.url, token, || false).map_err(|error| Failure::Failed(format!("cannot use this terminal: {error}")))
}
