//! What the appliances of these tests run: the simulated machine's streams, a few pipelines, the sinks of the contract.

// Each test file uses a part of this.
#![allow(dead_code)]

use crate::{process::Site, servers::Server};

/// The machine's streams, its serial line, and a pipeline for most of what the contract lists.
pub fn machine(site: &Site) -> String {
    MACHINE.replace("LINE", &site.line().display().to_string())
}

/// The chamber's rows from a broker.
pub fn chamber(site: &Site, broker: &str) -> String {
    format!(
        "[sources.floor]\ntype = \"mqtt\"\nurl = \"{broker}\"\nclient_id = \"{}\"\n\
         subscriptions = [ {{ topic = \"plant/{}/+\", qos = 1, codec = \"json\", stream = \"chamber\" }} ]\n",
        site.id, site.id
    )
}

/// Redis, MongoDB and Kafka.
pub fn sinks(site: &Site, redis: &Server, mongodb: &Server, kafka: &Server) -> String {
    let brokers: Vec<String> = kafka.url().split(',').map(|broker| format!("\"{broker}\"")).collect();
    format!(
        "[sinks.recent]\ntype = \"redis\"\nurl = \"{}\"\nttl = \"1h\"\nrecent_rows = 500\n\
         [sinks.archive]\ntype = \"mongodb\"\nurl = \"{}\"\ndatabase = \"{}\"\nbatch_rows = 1000\n\
         [sinks.plant]\ntype = \"kafka\"\nbrokers = [{}]\ntopic = \"{}\"\ndelivery = \"exactly_once\"\n",
        redis.url(),
        mongodb.url(),
        site.id,
        brokers.join(","),
        site.id
    )
}

const MACHINE: &str = r#"
[streams.acoustic]
signals = { amplitude = "V" }
tags = ["part"]
watermark = { delay = "200ms", idle = "2s" }
[streams.optical]
signals = { intensity = "V", laser_power = "W" }
tags = ["part"]
watermark = { delay = "200ms", idle = "2s" }
[streams.thermal]
signals = { temperature = "Cel" }
tags = ["part"]
watermark = { delay = "200ms", idle = "2s" }
[streams.plume]
signals = { area = "mm2" }
tags = ["part"]
watermark = { delay = "200ms", idle = "2s" }
[streams.strain]
signals = { strain = "um/m" }
tags = ["part"]
watermark = { delay = "200ms", idle = "2s" }
[streams.chamber]
signals = { oxygen_ppm = "[ppm]", pressure_mbar = "mbar", bed_temperature_c = "Cel" }
watermark = { delay = "200ms", idle = "2s" }

[sources.scan_head]
type = "serial"
device = "LINE"
baud = 921600
codec = "bridge"
streams = ["acoustic", "optical", "thermal", "plume", "strain"]

[[pipelines]]
id = "sound"
stream = "acoustic"
[[pipelines.charts]]
id = "amplitude"
type = "xbar_r"
signal = "amplitude"
subgroup = { size = 25 }
limits = { center = 0.0, sigma = 0.4 }
rules = ["nelson_1"]
conventions = { spread_rules = [] }

[[pipelines]]
id = "melt"
stream = "optical"
[[pipelines.windows]]
id = "melt_1s"
type = "tumbling"
size = "1s"
aggregate = { n = "count()", mean = "mean(intensity)", min = "min(intensity)", max = "max(intensity)" }
[[pipelines.windows]]
id = "melt_by_part"
type = "sliding"
size = "1s"
slide = "500ms"
group_by = ["part"]
aggregate = { n = "count()", p99 = "quantile(intensity, 0.99)" }
[[pipelines.charts]]
id = "power"
type = "i_mr"
signal = "laser_power"
limits = { baseline = 200 }
rules = ["nelson_1"]
[[pipelines.checkpoints]]
name = "spatter"
check = "intensity < 4.0"
on_fail = "alert"
severity = "high"

[[pipelines]]
id = "atmosphere"
stream = "chamber"
[[pipelines.windows]]
id = "chamber_1h"
type = "tumbling"
size = "1h"
aggregate = { n = "count()", mean = "mean(oxygen_ppm)" }

[voxels.melt]
stream = "optical"
signals = ["intensity"]
origin = [0.0, 0.0, 0.0]
size = [250.0, 250.0, 62.0]
voxel = 1.0
"#;
