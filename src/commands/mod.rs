//! One file a subcommand, and what they share: arguments, logs, exit codes.
//!
//! Logs go to stderr, data to stdout. A command returns a [`Failure`], whose kind is the exit code: 1 failed, 2 wrong usage,
//! 78 bad configuration.

pub mod check;
pub mod replay;
pub mod top;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{self, Config, LoadError};

/// What all commands take.
#[derive(Debug, Parser)]
#[command(name = "qadf-edge", version, about, long_about = None)]
struct Arguments {
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validate a configuration without opening a port: exit 0, or 78 with every fault and its place
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Run recorded rows through the configured pipelines, deterministically; results as JSON Lines on stdout
    Replay(replay::Arguments),
    /// The terminal UI, attached to a running appliance
    Top(top::Arguments),
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// It tried and could not.
    Failed(String),
    /// The arguments make no sense together.
    Usage(String),
    /// The configuration is wrong; one line a fault.
    Configuration(String),
}

impl Failure {
    /// A failure with the text of any error.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Configuration(_) => 78,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(what) | Self::Usage(what) | Self::Configuration(what) => out.write_str(what.trim_end()),
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    logs(arguments.log_format);
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { file } => check::run(&file),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
    }
}

/// Reads and checks a configuration; its warnings go to stderr.
///
/// # Errors
/// Every fault with its place; a file that cannot be read.
fn load(path: &Path) -> Result<Config, Failure> {
    let config = config::load(path).map_err(|error| match &error {
        LoadError::Read { .. } | LoadError::Wrong { .. } => Failure::Configuration(error.to_string()),
    })?;
    for warning in &config.warnings {
        eprintln!("{}:{warning} (warning)", path.display());
    }
    Ok(config)
}

/// Log lines to stderr; the level from `QADF_LOG`, else `info`.
fn logs(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("QADF_LOG").unwrap_or_else(|_| EnvFilter::new("info,rumqttd=warn,rumqttc=warn"));
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => base.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => base.json().init(),
    }
}
