//! What the benches of the whole appliance share: the demo machine's rows as fast as they can be made, and figures of several runs.

// Each bench uses a part of this.
#![allow(dead_code)]

use std::{path::Path, sync::Arc};

use qadf_edge::{
    ingest::decode::{Bridge, Context, Decoded, Json, Routes},
    model::{Stream, Timestamp},
    simulate::{Event, Machine, STREAMS, Settings},
};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The demo's configuration.
pub const DEMO: &str = include_str!("../../config/demo.toml");
/// Samples a second of the demo machine and its chamber.
pub const DEMO_ROWS_PER_SECOND: u64 = 62_110;
/// From one delivery of the machine to the next, as the demo paces it, ns.
const PACE_NS: i64 = 5_000_000;
/// Where the chamber's rows come from.
const CHAMBER: &str = "plant/lpbf-1/chamber";

/// The demo's configuration without its sources, in `folder`, on these ports, and `more`.
pub fn demo_configuration(folder: &Path, api: u16, metrics: u16, more: &str) -> String {
    let data = folder.join("data");
    let text = DEMO.replace("data_dir = \"qadf-edge-demo\"", &format!("data_dir = \"{}\"", data.display()));
    let text =
        text.replace("127.0.0.1:8080", &format!("127.0.0.1:{api}")).replace("127.0.0.1:9090", &format!("127.0.0.1:{metrics}"));
    let (streams, rest) = text.split_once("[sources.scan_head]").expect("the demo has this source");
    let (_, pipelines) = rest.split_once("[[pipelines]]").expect("the demo has pipelines");
    format!("{streams}[[pipelines]]{pipelines}\n{more}")
}

/// The present, by the wall clock.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(i64::try_from(since.as_nanos()).expect("before 2262"))
}

/// The demo machine: its frames and chamber rows, decoded as the appliance's sources decode them.
pub struct DemoRows {
    machine: Machine,
    events: Vec<Event>,
    bridge: Bridge,
    json: Json,
    scan_head: Context,
    chamber: Context,
}

impl DemoRows {
    /// A machine that starts at `start`; `streams` are those of the demo's configuration.
    pub fn new(streams: &[Arc<Stream>], start: Timestamp) -> Self {
        let named = |name: &str| streams.iter().find(|stream| &*stream.id == name).cloned().expect("a stream of the demo");
        let on_line = STREAMS.iter().map(|info| named(info.name)).collect();
        let routes = Routes::one(&named("chamber")).expect("a stream of the demo");
        Self {
            machine: Machine::new(Settings::default().started(start)),
            events: Vec::new(),
            bridge: Bridge::new(on_line),
            json: Json::new(routes),
            scan_head: Context::new("scan_head".into(), "scan_head".into(), start),
            chamber: Context::new("chamber".into(), CHAMBER.into(), start),
        }
    }

    /// What the machine says within its next [`PACE_NS`], and how many rows that is.
    pub fn next(&mut self) -> (Decoded, u64) {
        self.machine.advance(self.machine.now().saturating_add(PACE_NS), &mut self.events);
        let mut decoded = Decoded::default();
        (self.scan_head.arrival, self.chamber.arrival) = (now(), now());
        for event in self.events.drain(..) {
            match event {
                Event::Frame(frame) => self.bridge.feed(&frame.bytes, &self.scan_head, &mut decoded),
                Event::Chamber(row) => self.json.message(row.to_string().as_bytes(), &self.chamber, &mut decoded),
            }
        }
        assert!(decoded.rejects.is_empty(), "the machine speaks plainly: {:?}", decoded.rejects);
        self.bridge.take_heard();
        let rows = decoded.batches.iter().map(|batch| batch.rows() as u64).sum();
        (decoded, rows)
    }
}

/// The median of some figures with their range, as text.
pub fn spread(figures: &[f64], decimals: usize) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) => {
            format!("{:.decimals$} ({first:.decimals$} to {last:.decimals$}, {} runs)", median(&sorted), sorted.len())
        }
        _ => "none".to_owned(),
    }
}

/// The median of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// A number from the environment, or what is usual.
pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}
