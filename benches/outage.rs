//! An outage and the start after it: the demo machine's rows go through the whole appliance while its servers are away.
//!
//! `cargo bench --bench outage` fills a store with 100 million rows (bytes a row, memory on the way, how long a checkpoint holds the engine
//! up), then starts the release program on it, after an orderly end and after `kill -9` in full work, with the files in memory and, where
//! the system lets it, not. `OUTAGE_ROWS` says how many rows, `OUTAGE_STARTS` how often it is started; `OUTAGE_DIR` where
//! (default: the target directory).

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/appliance/process.rs"]
mod process;
#[path = "../tests/servers/mod.rs"]
mod servers;

use std::{
    collections::VecDeque,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use common::{DEMO_ROWS_PER_SECOND, DemoRows, demo_configuration, now, setting, spread};
use process::{Process, ask, qadf_edge};
use qadf_edge::{
    appliance::{Appliance, Brokers, Usage},
    config,
    status::SinkRows,
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::oneshot;

/// Parcels under way.
const UNDER_WAY_MAX: usize = 64;
/// The engine may be this many rows behind while the store is filled: in an outage it is not behind at all.
const BEHIND_MAX: u64 = 2_000_000;
const SINKS: &str = "
[sinks.archive]
type = \"mongodb\"
url = \"mongodb://127.0.0.1:9\"
[sinks.plant]
type = \"kafka\"
brokers = [\"127.0.0.1:9\"]
topic = \"plant\"
";

/// Where the appliance lives.
struct Place {
    folder: PathBuf,
    api: u16,
    text: String,
}

fn place() -> Place {
    let root = std::env::var_os("OUTAGE_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let folder = root.join(format!("outage-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a directory on the disk to measure");
    let (api, metrics) = (servers::free_port(), servers::free_port());
    let text = demo_configuration(&folder, api, metrics, SINKS);
    fs::write(folder.join("appliance.toml"), &text).expect("the folder is ours");
    Place { folder, api, text }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Bytes of files below `folder`.
fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

async fn fill(place: &Place, rows: u64) {
    let config = config::parse(&place.text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let streams = config.streams();
    let appliance = Appliance::start(config, &mut Brokers::new()).await.expect("it starts");
    let past_ns = (rows / DEMO_ROWS_PER_SECOND) as i64 * 1_000_000_000;
    let mut machine = DemoRows::new(&streams, now().saturating_add(-past_ns));
    let intake = appliance.intake();
    let (started, mut sent, mut shown) = (Instant::now(), 0, 0);
    let mut under_way = VecDeque::new();
    println!("{:>12} {:>14} {:>12} {:>12} {:>9}", "rows", "bytes on disk", "bytes a row", "resident MB", "grids MB");
    while sent < rows {
        let (decoded, count) = machine.next();
        let (synced, answer) = oneshot::channel();
        intake.take(decoded, synced).await;
        under_way.push_back(answer);
        sent += count;
        if under_way.len() >= UNDER_WAY_MAX
            && let Some(answer) = under_way.pop_front()
        {
            answer.await.expect("an answer").expect("the store has room");
        }
        while appliance.figures().rows_processed + BEHIND_MAX < sent {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if sent - shown >= rows / 10 {
            shown = sent;
            let bytes = on_disk(&place.folder.join("data"));
            // What is built is kept in memory up to the bound of each grid; what waits for the sinks is not.
            let grids: u64 = appliance.snapshot().borrow().grids.iter().map(|grid| grid.bytes).sum();
            let (resident, grids) = (Usage::now().rss_bytes as f64 / 1e6, grids as f64 / 1e6);
            println!("{sent:>12} {bytes:>14} {:>12.2} {resident:>12.1} {grids:>9.1}", bytes as f64 / sent as f64);
        }
    }
    for answer in under_way {
        answer.await.expect("an answer").expect("the store has room");
    }
    assert!(appliance.caught_up(Duration::from_mins(5)).await, "the engine is through");
    println!("{sent} rows in {:.0} s", started.elapsed().as_secs_f64());
    let summary = appliance.stop().await;
    for sink in &summary.snapshot.sinks {
        let SinkRows { accepted, delivered, buffered, expired } = sink.rows;
        println!("sink {}: accepted {accepted}, delivered {delivered}, buffered {buffered}, expired {expired}", sink.id);
    }
    let bytes = on_disk(&place.folder.join("data"));
    println!("on disk after the end: {bytes} bytes, {:.2} a row", bytes as f64 / sent as f64);
}

/// From the start of the process to its first answer, ms.
fn start(place: &Place) -> (Process, f64) {
    let mut command = qadf_edge(&["run", "-c"]);
    command.arg(place.folder.join("appliance.toml"));
    let started = Instant::now();
    let process = Process::start("appliance", command, &place.folder);
    while !is_healthy(place.api) {
        assert!(started.elapsed() < Duration::from_mins(2), "it does not start: {}", process.log());
        thread::sleep(Duration::from_millis(1));
    }
    (process, started.elapsed().as_secs_f64() * 1e3)
}

fn is_healthy(port: u16) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    answer().is_ok_and(|text| text.starts_with("HTTP/1.1 200") && text.contains("processor_running"))
}

/// The next start reads the disk. Needs root; `false` if the system does not let us.
fn forget_files() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn status(place: &Place) -> Value {
    ask("GET", &format!("http://127.0.0.1:{}/status", place.api), "").expect("it answers").json()
}

fn buffered(status: &Value) -> Vec<String> {
    let sinks = status["sinks"].as_array().expect("sinks");
    sinks.iter().map(|sink| format!("{} {}", sink["id"].as_str().unwrap_or_default(), sink["rows"]["buffered"])).collect()
}

/// Chamber rows by HTTP for a while, so that a kill finds the appliance at work.
fn work(place: &Place, rows: u64, first: &mut u64) {
    let url = format!("http://127.0.0.1:{}/rows?stream=chamber", place.api);
    for _ in 0..20 {
        let row = |at: u64| {
            let time = now().0 + at as i64;
            format!(r#"{{"time":{time},"oxygen_ppm":{},"pressure_mbar":12.5,"bed_temperature_c":80.25}}"#, 400 + (*first + at) % 50)
        };
        let lines: Vec<String> = (0..rows / 20).map(row).collect();
        *first += rows / 20;
        let reply = ask("POST", &url, &lines.join("\n")).expect("it answers");
        assert_eq!(reply.status, 202, "{}", reply.text);
    }
}

fn starts(place: &Place, times: u64) {
    let mut first = 0;
    for (what, kill) in [("an orderly end", false), ("kill -9 in full work", true)] {
        for cold in [false, true] {
            if cold && !forget_files() {
                println!("start with files not in memory: not measured (needs root)");
                continue;
            }
            let mut figures = Vec::new();
            for _ in 0..times {
                let (mut process, _) = start(place);
                work(place, 100_000, &mut first);
                process.end(if kill { Signal::KILL } else { Signal::TERM });
                if cold {
                    forget_files();
                }
                let (mut process, took_ms) = start(place);
                figures.push(took_ms);
                process.end(Signal::TERM);
            }
            let memory = if cold { "files on disk only" } else { "files in memory" };
            println!("start after {what}, {memory}: {} ms to the first answer", spread(&figures, 0));
        }
    }
    let (mut process, _) = start(place);
    println!("rows that wait: {}", buffered(&status(place)).join(", "));
    process.end(Signal::TERM);
}

fn main() {
    let place = place();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(fill(&place, setting("OUTAGE_ROWS", 100_000_000)));
    drop(runtime);
    starts(&place, setting("OUTAGE_STARTS", 5));
}
