//! How fast a backlog drains after an outage, beside what the same client reaches in a bare loop against the same server.
//!
//! `cargo bench --bench drain [mongodb|kafka|kafka_at_least_once|dead]…` starts real servers. A round: the server is away, the demo machine's
//! rows go through the whole appliance, the server comes back, and the backlog drains; then the very documents or records that arrived are read
//! back and sent once more from memory in a bare loop. Every other round the machine goes on at its own pace meanwhile; the time from handing
//! rows over to their acknowledgement is compared with that before the server came back. `dead`: Kafka drains with and without another sink
//! whose server is away. The tests' broker is one that starts quickly; `QADF_TEST_JAVA_OPTIONS=-Xmx1g` lets it compile as it does in a plant.
//! `DRAIN_SECONDS` says how much the machine says in a round's outage (default 30), `DRAIN_ROUNDS` how many rounds.

#[path = "common/mod.rs"]
mod common;
#[path = "drain/kafka.rs"]
mod kafka;
#[path = "drain/mongo.rs"]
mod mongo;
#[path = "../tests/servers/mod.rs"]
mod servers;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{DEMO_ROWS_PER_SECOND, DemoRows, demo_configuration, median, now, setting, spread};
use qadf_edge::{
    appliance::{Appliance, Brokers, Intake},
    config,
    ingest::{Accepted, InboxError},
};
use servers::{Kind, Server};
use tokio::sync::{oneshot, watch};

/// Parcels under way while the backlog is made.
const UNDER_WAY_MAX: usize = 64;
/// Longer than a drain takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(5);
/// From one delivery of the machine to the next.
const PACE: Duration = Duration::from_millis(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

type Answer = oneshot::Receiver<Result<Accepted, InboxError>>;

/// A far end, and how to reach it without the appliance.
trait FarEnd {
    /// The section `[sinks.far]` for a server at `url`.
    fn section(&self, url: &str) -> String;
    /// Reads back up to `rows` of what arrived and sends it again in a bare loop; rows a second.
    fn bare(&self, url: &str, rows: usize) -> f64;
}

/// Latencies of acknowledgements, ms.
#[derive(Default)]
struct Latencies(Vec<f64>);

impl Latencies {
    fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let at = ((self.0.len() as f64 * share).ceil() as usize).clamp(1, self.0.len().max(1)) - 1;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    fn text(&mut self) -> String {
        format!("p50 {:.1}, p99 {:.1}, max {:.1} ms", self.quantile(0.5), self.quantile(0.99), self.quantile(1.0))
    }
}

/// What a round came to.
struct Round {
    rows_per_second: f64,
    before: Latencies,
    meanwhile: Latencies,
}

/// The appliance with the demo's pipelines and these sinks, in `folder`.
async fn appliance(folder: &Path, sinks: &str) -> (Appliance, DemoRows) {
    let text = demo_configuration(folder, servers::free_port(), servers::free_port(), sinks);
    let text = text.replace("max_bytes = \"2GB\"", "max_bytes = \"8GB\"");
    let config = config::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let streams = config.streams();
    let appliance = Appliance::start(config, &mut Brokers::new()).await.expect("it starts");
    let past_ns = (setting("DRAIN_SECONDS", 30) as i64 + 10) * 1_000_000_000;
    (appliance, DemoRows::new(&streams, now().saturating_add(-past_ns)))
}

async fn hand_on(intake: &Intake, machine: &mut DemoRows) -> (Answer, u64) {
    let (decoded, rows) = machine.next();
    let (synced, answer) = oneshot::channel();
    intake.take(decoded, synced).await;
    (answer, rows)
}

/// As much as the machine says in `seconds`, at once.
async fn buffer(intake: &Intake, machine: &mut DemoRows, seconds: u64) {
    let mut under_way: VecDeque<Answer> = VecDeque::new();
    let mut sent = 0;
    while sent < seconds * DEMO_ROWS_PER_SECOND {
        let (answer, rows) = hand_on(intake, machine).await;
        sent += rows;
        under_way.push_back(answer);
        if under_way.len() >= UNDER_WAY_MAX
            && let Some(answer) = under_way.pop_front()
        {
            answer.await.expect("an answer").expect("the store has room");
        }
    }
    for answer in under_way {
        answer.await.expect("an answer").expect("the store has room");
    }
}

/// The machine at its own pace until `stop`; how long each acknowledgement took.
async fn live(intake: &Intake, machine: &mut DemoRows, mut stop: watch::Receiver<bool>) -> Latencies {
    let (mut latencies, mut beat) = (Latencies::default(), tokio::time::interval(PACE));
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    loop {
        tokio::select! {
            _ = beat.tick() => {
                let handed_over = Instant::now();
                let (answer, rows) = hand_on(intake, machine).await;
                let told = told.clone();
                tokio::spawn(async move {
                    answer.await.expect("an answer").expect("the store has room");
                    let _ = told.send((handed_over.elapsed().as_secs_f64() * 1e3, rows));
                });
            }
            Some((ms, rows)) = heard.recv() => if rows > 0 { latencies.0.push(ms) },
            _ = stop.wait_for(|stop| *stop) => return latencies,
        }
    }
}

fn sink(appliance: &Appliance) -> (u64, u64) {
    let snapshot = appliance.snapshot();
    let snapshot = snapshot.borrow();
    let far = snapshot.sinks.iter().find(|sink| sink.id == "far").expect("it is configured");
    (far.rows.delivered, far.rows.buffered)
}

/// Rows a second from the first that are delivered until hardly any wait.
async fn drained(appliance: &Appliance) -> f64 {
    let (before, waiting) = sink(appliance);
    let deadline = Instant::now() + PATIENCE;
    let (mut first, mut last) = (None, (Instant::now(), before));
    loop {
        assert!(Instant::now() < deadline, "the backlog does not drain: {} rows wait", sink(appliance).1);
        tokio::time::sleep(LOOK_EVERY).await;
        let (delivered, buffered) = sink(appliance);
        if delivered != last.1 {
            last = (Instant::now(), delivered);
            first.get_or_insert(last);
        }
        if buffered < waiting / 20 {
            break;
        }
    }
    let first = first.expect("something was delivered");
    (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64()
}

async fn round(server: &mut Server, sinks: &str, is_live: bool) -> Round {
    let folder = folder();
    server.kill();
    let (appliance, mut machine) = appliance(&folder, sinks).await;
    let intake = appliance.intake();
    buffer(&intake, &mut machine, setting("DRAIN_SECONDS", 30)).await;
    appliance.caught_up(PATIENCE).await;
    let mut round = Round { rows_per_second: 0.0, before: Latencies::default(), meanwhile: Latencies::default() };
    let (stop, stopped) = watch::channel(false);
    if is_live {
        let waited = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _ = stop.send(true);
        };
        round.before = tokio::join!(live(&intake, &mut machine, stopped.clone()), waited).0;
        let _ = stop.send(false);
    }
    tokio::task::block_in_place(|| server.start());
    let drain = async {
        let rows_per_second = drained(&appliance).await;
        let _ = stop.send(true);
        rows_per_second
    };
    if is_live {
        (round.meanwhile, round.rows_per_second) = tokio::join!(live(&intake, &mut machine, stopped), drain);
    } else {
        round.rows_per_second = drain.await;
    }
    appliance.stop().await;
    let _ = std::fs::remove_dir_all(&folder);
    round
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("drain-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo made this directory");
    folder
}

/// Rounds in turns with the bare loop.
fn measure(what: &str, kind: Kind, far: &impl FarEnd, runtime: &tokio::runtime::Runtime) {
    let mut server = Server::own(kind);
    let (mut bare, mut ratios, mut alone, mut beside) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new(), Vec::new());
    let sinks = far.section(server.url());
    for number in 0..setting("DRAIN_ROUNDS", 3) {
        for is_live in [false, true] {
            let mut round = runtime.block_on(round(&mut server, &sinks, is_live));
            let rows = (setting("DRAIN_SECONDS", 30) * DEMO_ROWS_PER_SECOND) as usize;
            let bare_now = far.bare(server.url(), rows);
            let ratio = round.rows_per_second / bare_now;
            let with = if is_live { "with live rows" } else { "alone" };
            print!("{what}, round {number}, {with}: {:.0} rows/s, bare {bare_now:.0}, {ratio:.2} of it", round.rows_per_second);
            if is_live {
                print!("; live rows: before {}; meanwhile {}", round.before.text(), round.meanwhile.text());
            }
            println!();
            bare.push(bare_now);
            ratios[usize::from(is_live)].push(ratio);
            if is_live { &mut beside } else { &mut alone }.push(round.rows_per_second);
        }
    }
    let demo = DEMO_ROWS_PER_SECOND as f64;
    println!("{what}: bare loop {} rows/s", spread(&bare, 0));
    println!(
        "{what}: backlog alone {} rows/s, {:.2} times the demo; of bare {}",
        spread(&alone, 0),
        median(&alone) / demo,
        spread(&ratios[0], 2)
    );
    println!(
        "{what}: beside live rows {} rows/s, {:.2} times the demo; of bare {}",
        spread(&beside, 0),
        median(&beside) / demo,
        spread(&ratios[1], 2)
    );
}

/// What a sink that is away costs the others.
fn dead(runtime: &tokio::runtime::Runtime) {
    let mut server = Server::own(Kind::Kafka);
    let far = kafka::Kafka { delivery: "exactly_once" };
    let one = far.section(server.url());
    let two = format!("{one}\n[sinks.dead]\ntype = \"mongodb\"\nurl = \"mongodb://127.0.0.1:9\"\n");
    let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..setting("DRAIN_ROUNDS", 3) {
        let without = runtime.block_on(round(&mut server, &one, false)).rows_per_second;
        let with = runtime.block_on(round(&mut server, &two, false)).rows_per_second;
        println!("without a dead sink {without:.0} rows/s, with one {with:.0}");
        rates[0].push(without);
        rates[1].push(with);
        ratios.push(with / without);
    }
    println!("Kafka without a dead sink beside it {} rows/s, with one {}", spread(&rates[0], 0), spread(&rates[1], 0));
    println!("with a dead sink, of the rate without: {}", spread(&ratios, 2));
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|word| word == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    if is_chosen("mongodb") {
        measure("mongodb", Kind::Mongodb, &mongo::Mongo { runtime: &runtime }, &runtime);
    }
    if is_chosen("kafka") {
        measure("kafka, exactly once", Kind::Kafka, &kafka::Kafka { delivery: "exactly_once" }, &runtime);
    }
    if is_chosen("kafka_at_least_once") {
        measure("kafka, at least once", Kind::Kafka, &kafka::Kafka { delivery: "at_least_once" }, &runtime);
    }
    if is_chosen("dead") {
        dead(&runtime);
    }
}
