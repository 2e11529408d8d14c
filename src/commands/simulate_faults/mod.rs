//! `simulate-faults`: hours of work in seconds, with every fault there is, all from one seed.
//!
//! ```text
//!  machine ─line─▶ BridgeHost ─┐             ┌─▶ engine ─▶ results ─┐
//!  broker ─────▶ JSON decoder ─┴─▶ store ────┤                      ├─▶ four couriers ─▶ far ends ─▶ model
//!                                  (disk)    └──────── rows ────────┘
//! ```
//!
//! | real | simulated |
//! |---|---|
//! | the frames and the machine's memory, `BridgeHost`, the decoders | the line: delays, spoilt bytes, lost and doubled frames, cut cables |
//! | the engine, its checkpoints, what it does after a restart | the broker: deliveries again, twice and late; connections that break |
//! | the store, SQLite and its recovery, on a file in memory | what a crash leaves on the disk ([`disk`]); errors of a call, before and after it took effect |
//! | the couriers: cursors, back-off, circuit breaker, time limits, reading ahead | their clock and threads; the servers at the far ends ([`ends`]) |
//!
//! One thing is not virtual: the store's writer is a thread of its own, which is waited for at every command. Errors of SQLite's own calls are not injected: a call of the store
//! fails as a whole, with or without having taken effect. The same seed gives the same history, down to the order of all rows at all
//! far ends ([`Outcome::digest`]).
//!
//! What is checked: every row at every far end follows the one before it, all the time; every balance of the store at every simulated
//! second; at the end, when all faults are over, everything that was produced is everywhere, and every window has counted its rows.

mod backlog;
mod clock;
mod disk;
mod ends;
mod life;
mod machine;
mod publisher;
mod trial;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use serde::Serialize;

use super::Failure;
use trial::Trial;

/// What `simulate-faults` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Everything that happens follows from it; a new one each time without it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Simulated time, hours
    #[arg(long, value_name = "H", default_value_t = 1.0)]
    hours: f64,
    /// Nothing fails: the speed of the simulation alone
    #[arg(long)]
    calm: bool,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Everything that happens follows from it.
    pub seed: u64,
    /// Simulated time during which rows are produced, hours.
    pub hours: f64,
    /// Whether anything fails.
    pub is_faulty: bool,
}

/// Faults that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct FaultCounts {
    pub crashes: u64,
    pub servers_away: u64,
    pub servers_frozen: u64,
    pub answers_lost: u64,
    pub lines_cut: u64,
    pub connections_broken: u64,
    pub clock_steps: u64,
    pub disk_errors: u64,
    pub loops_restarted: u64,
    pub damaged_frames: u64,
    pub duplicates: u64,
}

/// What came of it: nothing was lost, doubled or out of order.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// As it was asked for.
    pub seed: u64,
    /// Simulated, with the time to heal at the end.
    pub simulated_seconds: f64,
    /// Of this machine.
    pub seconds: f64,
    /// Simulated time over real time.
    pub times_real: f64,
    /// Rows that the store holds.
    pub rows: u64,
    /// Results that the store holds.
    pub results: u64,
    /// Rows and results that all far ends took together, repetitions left out.
    pub delivered: u64,
    /// Moves of the log into the file.
    pub log_moves: u64,
    /// What happened.
    pub faults: FaultCounts,
    /// Windows of the undisturbed stream, each of which counted every row.
    pub windows: u64,
    /// Always 0: anything else is an error.
    pub lost: u64,
    /// Likewise, but for what a far end that must not be asked twice may lose.
    pub doubled: u64,
    /// Likewise.
    pub out_of_order: u64,
    /// The order of everything at all far ends as one number: the same for the same seed.
    pub digest: String,
}

/// Runs the simulation.
///
/// # Errors
/// What was lost, doubled, out of order or out of balance, when, and how to see it again.
pub fn simulate(settings: Settings) -> Result<Outcome, String> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let memory = std::path::Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let name = format!("qadf-faults-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let started = Instant::now();
    let mut trial = Trial::new(settings, place.join(name));
    let outcome = trial.run();
    let Settings { seed, hours, .. } = settings;
    let mut outcome = outcome.map_err(|what| {
        let seconds = trial.now_ns() as f64 / 1e9;
        format!(
            "after {seconds:.3} simulated seconds: {what}\nsee it again: qadf-edge simulate-faults --seed {seed} --hours {hours}"
        )
    })?;
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome.times_real = outcome.simulated_seconds / outcome.seconds.max(1e-9);
    Ok(outcome)
}

/// Runs it; prints what came of it as JSON.
///
/// # Errors
/// As for [`simulate`]; hours that are none.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { seed, hours, calm } = *arguments;
    if !(0.0..=10_000.0).contains(&hours) {
        return Err(Failure::Usage("--hours takes a number from 0 to 10000".to_owned()));
    }
    let seed = seed.unwrap_or_else(|| crate::appliance::now().0.unsigned_abs() / 1_000 % 1_000_000_000);
    let outcome = simulate(Settings { seed, hours, is_faulty: !calm }).map_err(Failure::Failed)?;
    println!("{}", serde_json::to_string(&outcome).map_err(Failure::failed)?);
    Ok(())
}
