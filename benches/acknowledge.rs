//! From sending rows to their acknowledgement, at a given rate, as users see it: the release program with a window, a chart and a voxel grid.
//!
//! `cargo bench --bench acknowledge` sends 100,000 rows a second, first by `POST /rows` over eight connections, then as QoS 1 messages over a
//! real Mosquitto. What a broker says to a publisher tells nothing of the appliance: a proxy between the two sees the PUBACK that the
//! appliance gives for each message. The clock starts when a request or message was due, whether it could be sent then or not.
//! `ACKNOWLEDGE_RATE`, `ACKNOWLEDGE_ROWS` (in a request or message), `ACKNOWLEDGE_SECONDS` and `ACKNOWLEDGE_RUNS` change what is sent.

#[path = "common/mod.rs"]
mod common;
#[path = "acknowledge/http.rs"]
mod http;
#[path = "acknowledge/mqtt.rs"]
mod mqtt;
#[path = "../tests/appliance/process.rs"]
mod process;
#[path = "acknowledge/schedule.rs"]
mod schedule;
#[path = "../tests/servers/mod.rs"]
mod servers;

use common::spread;
use process::{Site, entry};
use schedule::{Latencies, Load};
use servers::{Kind, Server};

const CONFIGURATION: &str = r#"
[streams.melt]
signals = { intensity = "V", laser_power = "W" }
tags = ["part"]
watermark = { delay = "1s", idle = "1h" }
[[pipelines]]
id = "melt"
stream = "melt"
[[pipelines.windows]]
id = "melt_1s"
type = "tumbling"
size = "1s"
group_by = ["part"]
aggregate = { n = "count()", mean = "mean(intensity)", min = "min(intensity)", max = "max(intensity)" }
[[pipelines.charts]]
id = "intensity"
type = "xbar_r"
signal = "intensity"
subgroup = { size = 5 }
limits = { baseline = 100 }
rules = ["nelson_1"]
[voxels.build]
stream = "melt"
signals = ["intensity"]
origin = [0.0, 0.0, 0.0]
size = [250.0, 250.0, 60.0]
voxel = 0.5
"#;

fn run(what: &str, load: &Load, mut once: impl FnMut() -> Latencies) {
    // The first is to warm up.
    once();
    let (mut half, mut most, mut worst) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..load.runs {
        let mut latencies = once();
        let (p50, p99, max) = (latencies.quantile(0.5), latencies.quantile(0.99), latencies.quantile(1.0));
        println!(
            "{what}, run {number}: {:.0} rows/s, p50 {p50:.2}, p99 {p99:.2}, max {max:.2} ms",
            latencies.rows_per_second(load)
        );
        half.push(p50);
        most.push(p99);
        worst.push(max);
    }
    println!("{what}: p50 {} ms, p99 {} ms, max {} ms", spread(&half, 2), spread(&most, 2), spread(&worst, 1));
}

fn main() {
    let load = Load::from_environment();
    let server = Server::own(Kind::Mqtt);
    let proxy = mqtt::Proxy::start(server.port());
    let site = Site::new("acknowledge");
    let source = format!(
        "[sources.floor]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\nclient_id = \"{}\"\n\
         subscriptions = [ {{ topic = \"plant/melt\", qos = 1, codec = \"json\", stream = \"melt\" }} ]\n",
        proxy.port(),
        site.id
    );
    site.configure(&format!("{CONFIGURATION}{source}"));
    let appliance = site.start();
    appliance.until("the broker knows us", |status| entry(status, "sources", "floor")["state"] == "up");
    println!("{} rows/s, {} rows in a request or message, runs of {:?}", load.rate, load.rows, load.duration);
    run("POST /rows", &load, || http::post(&site.api(), &load));
    run("MQTT QoS 1", &load, || mqtt::publish(server.port(), &proxy, &load));
    let status = appliance.status();
    for source in ["floor", "api"] {
        if let Some(found) = status["sources"].as_array().and_then(|all| all.iter().find(|one| one["id"] == source)) {
            println!("source {source}: {}", found["rows"]);
        }
    }
    let process = &status["process"];
    println!(
        "from decoding to the commit of the engine's step: p50 {}, p99 {} ms",
        process["latency_ms_p50"], process["latency_ms_p99"]
    );
    appliance.stop();
}
