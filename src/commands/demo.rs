//! `demo`: the simulated machine feeding the whole appliance on embedded defaults, with the terminal UI or a summary as JSON.
//!
//! The machine's frames come over a real pseudo-terminal, its chamber's rows over the embedded broker. Everything lies in a fresh directory on a
//! real disk, which is removed at the end.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    Failure, duration, fresh, runtime,
    totals::{Given, Totals},
    until_told,
};
use crate::{
    api::Snapshot,
    appliance::{Appliance, Brokers, Usage, now},
    config::{self, Config},
    ingest::{SourceKind, start_broker},
    simulate::{Faults, Outlets, Report, SAMPLES_HZ, Settings, Simulator},
    status::SourceRows,
    tui::{self, client::Client},
};

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// No terminal UI; print a summary as JSON at the end
    #[arg(long)]
    headless: bool,
    /// End after this long; 10s if headless, else when you press q
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// Samples a second of all five sensors together
    #[arg(long, value_name = "HZ", default_value_t = f64::from(SAMPLES_HZ))]
    rate: f64,
    /// What goes wrong, such as `crc=0.01,unplug=30s/2s`
    #[arg(long, default_value = "")]
    faults: Faults,
    /// Everything that looks random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Arguments {
    /// Whether there is no screen.
    pub const fn is_headless(&self) -> bool {
        self.headless
    }
}

/// How long a headless demo runs.
const HEADLESS_FOR: Duration = Duration::from_secs(10);
/// How long what the machine has sent may take to arrive.
const ARRIVE_MAX: Duration = Duration::from_secs(5);

/// Runs it.
///
/// # Errors
/// No fresh directory on a disk; an address that cannot be had; a terminal that cannot be used.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = fresh("qadf-edge-demo").map_err(Failure::failed)?;
    let ended = runtime()?.block_on(show(arguments, &folder.path));
    let (totals, message) = ended?;
    if arguments.headless {
        println!("{}", totals.to_json());
    } else {
        println!("{message}");
        println!("{}", totals.to_text());
    }
    Ok(())
}

/// The configuration of the demo, in `folder`, on free ports.
fn configuration(folder: &std::path::Path) -> Result<Config, Failure> {
    let text = include_str!("../../config/demo.toml");
    let mut config = config::parse(text).map_err(|faults| {
        Failure::Configuration(faults.iter().map(|fault| format!("config/demo.toml:{fault}")).collect::<Vec<_>>().join("\n"))
    })?;
    config.appliance.data_dir = folder.join("data");
    config.http.api = super::free_port(config.http.api);
    config.http.metrics = super::free_port(config.http.metrics);
    for entry in &mut config.sources {
        if let SourceKind::Serial(serial) = &mut entry.source.kind {
            serial.device = link(folder).display().to_string();
        }
        if let Some(broker) = &mut entry.broker {
            broker.listen = super::free_port(broker.listen);
        }
    }
    Ok(config)
}

fn link(folder: &std::path::Path) -> PathBuf {
    folder.join("scan-head")
}

async fn show(arguments: &Arguments, folder: &std::path::Path) -> Result<(Totals, String), Failure> {
    let config = configuration(folder)?;
    let data_dir = config.appliance.data_dir.clone();
    let cpu_seconds_before = Usage::now().cpu_seconds;
    // The machine is there before the appliance looks for it.
    let mut brokers = Brokers::new();
    let mut mqtt = None;
    for broker in config.sources.iter().filter_map(|entry| entry.broker) {
        let url = start_broker(broker).await.map_err(Failure::failed)?;
        mqtt = format!("mqtt://{}:{}", url.host, url.port).parse().ok();
        brokers.insert(broker.listen, url);
    }
    let settings = Settings { seed: arguments.seed, faults: arguments.faults, ..Settings::default() };
    let settings = settings.with_rate_hz(arguments.rate).started(now());
    let outlets = Outlets { serial: Some(link(folder)), mqtt };
    let simulator = Simulator::open(settings, &outlets).map_err(Failure::failed)?;
    let appliance = Appliance::start(config, &mut brokers).await.map_err(Failure::failed)?;
    subscribed(&appliance).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let machine = tokio::spawn(simulator.run(async move {
        // An error means that the demo has gone, which ends the machine too.
        let _ = stopped.await;
    }));
    let url = format!("http://{}", appliance.api_address());
    if arguments.headless {
        tokio::select! {
            () = until_told(Some(arguments.duration.unwrap_or(HEADLESS_FOR))) => {}
            why = appliance.failed() => return Err(Failure::Failed(why)),
        }
    } else {
        screen(&url, arguments.duration).await?;
    }
    let _ = stop.send(());
    let report = machine.await.map_err(Failure::failed)?.map_err(Failure::failed)?;
    let missing = arrive(&appliance, &report).await;
    appliance.caught_up(ARRIVE_MAX).await;
    let summary = appliance.stop().await;
    let rows = summary.snapshot.sources.iter().fold(SourceRows::default(), |sum, source| SourceRows {
        received: sum.received + source.rows.received,
        accepted: sum.accepted + source.rows.accepted,
        rejected: sum.rejected + source.rows.rejected,
        duplicate: sum.duplicate + source.rows.duplicate,
        shed: sum.shed + source.rows.shed,
    });
    let totals = Totals::new(&summary, Given { rows, missing, cpu_seconds_before }, &data_dir);
    Ok((totals, format!("The appliance's API was at {url}.")))
}

/// The terminal UI until `q`, or for `limit`.
async fn screen(url: &str, limit: Option<Duration>) -> Result<(), Failure> {
    let over = Arc::new(AtomicBool::new(false));
    let (url, seen, until) = (url.to_owned(), Arc::clone(&over), limit.map(|limit| Instant::now() + limit));
    let client = Client::new(&url, None, None).map_err(Failure::Failed)?;
    let shown = spawn_blocking(move || {
        tui::run(&url, &client, || seen.load(Ordering::Relaxed) || until.is_some_and(|until| Instant::now() >= until))
    });
    let ended = shown.await.map_err(Failure::failed)?;
    over.store(true, Ordering::Relaxed);
    ended.map_err(|error| Failure::Failed(format!("cannot use this terminal ({error}); try --headless")))
}

/// Waits until every source is up: a broker keeps nothing for a client that it has never seen.
async fn subscribed(appliance: &Appliance) {
    let deadline = Instant::now() + ARRIVE_MAX;
    let is_up = |snapshot: &Snapshot| snapshot.sources.iter().all(|source| source.state == "up");
    while !is_up(&appliance.snapshot().borrow()) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until everything that the appliance or its broker acknowledged to the machine is accounted for; how many rows are not. What the
/// machine had not got acknowledged when it was switched off it would send again.
async fn arrive(appliance: &Appliance, report: &Report) -> u64 {
    let serial = report.serial.as_ref().map_or(0, |serial| serial.rows.acknowledged);
    let promised = serial + report.mqtt.as_ref().map_or(0, |mqtt| mqtt.acknowledged);
    let forgotten = report.serial.as_ref().map_or(0, |serial| serial.rows.overrun);
    let deadline = Instant::now() + ARRIVE_MAX;
    loop {
        let snapshot = appliance.snapshot().borrow().clone();
        let arrived: u64 = snapshot.sources.iter().map(|source| source.rows.accepted + source.rows.shed).sum();
        if arrived >= promised || Instant::now() > deadline {
            return promised.saturating_sub(arrived) + forgotten;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
