//! One file a subcommand, and what they share: arguments, logs, exit codes.
//!
//! Logs go to stderr, data to stdout. A command returns a [`Failure`], whose kind is the exit code: 1 failed, 2 wrong usage,
//! 78 bad configuration.

pub mod bench;
pub mod check;
mod checkpointed;
pub mod dead_letters;
pub mod demo;
pub mod history;
pub mod journal;
pub mod replay;
pub mod run;
pub mod simulate;
pub mod simulate_faults;
pub mod spc_act;
pub mod spc_report;
pub mod top;
mod totals;
pub mod voxel_export;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    appliance::file_system,
    config::{self, Config, LoadError},
};

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
    /// The service, in the foreground: systemd Type=notify, SIGHUP reloads, SIGTERM drains
    Run(run::Arguments),
    /// A simulated laser powder-bed machine feeding the whole appliance on embedded defaults, with the terminal UI
    Demo(demo::Arguments),
    /// The simulated machine alone, on a pseudo-terminal and over MQTT
    Simulate(simulate::Arguments),
    /// Hours of crashes, outages and bad disks in seconds, all from one seed: nothing may be lost, doubled or out of order
    SimulateFaults(simulate_faults::Arguments),
    /// End-to-end load on this machine: rows a second, latency, processor, memory, loss
    Bench(bench::Arguments),
    /// Validate a configuration without opening a port: exit 0, or 78 with every fault and its place
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Run recorded rows through the configured pipelines, deterministically; results as JSON Lines on stdout
    Replay(replay::Arguments),
    /// The terminal UI, attached to a running appliance
    Top(top::Arguments),
    /// Recorded rows of a stream between two times
    History(history::Arguments),
    /// What was refused, with source, reason and raw bytes
    #[command(subcommand)]
    DeadLetters(dead_letters::Arguments),
    /// The durable store: what is in it, whether it is sound, and its repair; also while the service is down
    #[command(subcommand)]
    Journal(journal::Arguments),
    /// Control charts
    #[command(subcommand)]
    Spc(Spc),
    /// Voxel grids
    #[command(subcommand)]
    Voxel(Voxel),
}

#[derive(Debug, Subcommand)]
enum Spc {
    /// A control chart with its limits and violations, and the capability figures
    Report(spc_report::Arguments),
    /// Collect a new baseline; the limits in force end here
    Rebaseline(spc_act::Rebaseline),
    /// Take points with an assignable cause out of a baseline, and set limits anew
    Exclude(spc_act::Exclude),
}

#[derive(Debug, Subcommand)]
enum Voxel {
    /// A grid for NumPy, ParaView or tables, or a picture of one layer
    Export(voxel_export::Arguments),
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
    logs(arguments.log_format, &arguments.command);
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
        Command::Run(arguments) => run::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Simulate(arguments) => simulate::run(arguments),
        Command::SimulateFaults(arguments) => simulate_faults::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Check { file } => check::run(&file),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::DeadLetters(arguments) => dead_letters::run(&arguments),
        Command::Journal(arguments) => journal::run(&arguments),
        Command::Spc(Spc::Report(arguments)) => spc_report::run(&arguments),
        Command::Spc(Spc::Rebaseline(arguments)) => spc_act::rebaseline(&arguments),
        Command::Spc(Spc::Exclude(arguments)) => spc_act::exclude(&arguments),
        Command::Voxel(Voxel::Export(arguments)) => voxel_export::run(&arguments),
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

/// The runtime of everything that waits: two threads are enough, the engine and the store have their own.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))
}

/// Resolves after `limit`, or when the process is interrupted or terminated.
async fn until_told(limit: Option<Duration>) {
    use tokio::signal::unix::{SignalKind, signal};
    let told = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        () = told(SignalKind::interrupt()) => {}
        () = told(SignalKind::terminate()) => {}
    }
}

/// A duration as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    let ns = config::units::duration_ns(text)?;
    u64::try_from(ns).map(Duration::from_nanos).map_err(|_| format!("`{text}` is negative"))
}

/// `wanted`, or the same address with a free port if that one is taken.
fn free_port(wanted: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

/// A directory that goes when this does.
#[derive(Debug)]
struct Fresh {
    path: PathBuf,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // What cannot be removed is left for the operating system's own cleaning.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A fresh directory on a real disk: below the temporary directory, or here if that one lives in memory.
fn fresh(name: &str) -> std::io::Result<Fresh> {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), std::env::current_dir()?];
    let in_memory = |place: &Path| ["tmpfs", "ramfs"].contains(&&*file_system(place));
    let place = places.iter().find(|place| place.is_dir() && !in_memory(place)).unwrap_or(&places[0]);
    let path = place.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(Fresh { path })
}

/// Log lines to stderr; the level from `QADF_LOG`, else what suits the command: a screen is not written over.
fn logs(format: LogFormat, command: &Command) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("QADF_LOG").unwrap_or_else(|_| {
        EnvFilter::new(match command {
            Command::Demo(demo) if !demo.is_headless() => "off",
            Command::Top(_) => "off",
            Command::Demo(_) | Command::Bench(_) | Command::SimulateFaults(_) => "error,rumqttd=off",
            _ => "info,rumqttd=off,rumqttc=warn",
        })
    });
    // A log that cannot be written (its disk is full, its reader has gone) is not told to stderr in turn: that would end the thread that logs.
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => base.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => base.json().init(),
    }
}
