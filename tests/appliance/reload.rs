//! Another configuration while everything runs: a sink, a pipeline, a source come, change and go, and all others do not notice.
//!
//! Rows come over HTTP and a serial line all the time. What shows that a part was not restarted: the API answers every request, an event
//! stream stays open, the broker and the cache see one connection of the appliance, an open window and a chart keep counting.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    ends::{self, check_ledger, check_numbers_are_gapless, stored},
    plant,
    process::{Appliance, Site, ask, entry, list, until},
    servers::{Kind, Server},
};

/// 2026-01-31T12:00:00Z
const START_NS: u64 = 1_769_860_800_000_000_000;

const STREAMS: &str = r#"
[streams.posted]
signals = { n = "1" }
watermark = { delay = "1ms", idle = "1h", all_idle = "hold" }
[streams.floor]
signals = { n = "1" }
[[pipelines]]
id = "kept"
stream = "posted"
[[pipelines.windows]]
id = "all"
type = "tumbling"
size = "1000d"
aggregate = { rows = "count()" }
"#;

const ANOTHER_PIPELINE: &str = r#"
[[pipelines]]
id = "added"
stream = "posted"
[[pipelines.windows]]
id = "hundreds"
type = "tumbling"
size = "1ms"
aggregate = { rows = "count()" }
"#;

struct Plant {
    site: Site,
    broker: Server,
    cache: Server,
}

impl Plant {
    fn floor(&self) -> String {
        format!(
            "[sources.floor]\ntype = \"mqtt\"\nurl = \"{}\"\nclient_id = \"{}\"\n\
             subscriptions = [ {{ topic = \"plant/#\", qos = 1, codec = \"json\", stream = \"floor\" }} ]\n",
            self.broker.url(),
            self.site.id
        )
    }

    fn cached(&self) -> String {
        format!("[sinks.recent]\ntype = \"redis\"\nurl = \"{}\"\nttl = \"1h\"\n", self.cache.url())
    }

    fn lines(&self, name: &str) -> String {
        format!("[sinks.lines]\ntype = \"file\"\npath = \"{}\"\n", self.site.folder().join(name).display())
    }

    fn base(&self) -> String {
        [&plant::machine(&self.site), STREAMS, &self.floor(), &self.cached()].concat()
    }

    /// Writes a configuration, has it read, and waits for what the log says of it.
    fn reload(&self, appliance: &Appliance, more: &[&str], says: &str) {
        let before = appliance.process.log().matches(says).count();
        self.site.configure(&[&[self.base().as_str()], more].concat().concat());
        appliance.process.signal(Signal::HUP);
        until(says, || (appliance.process.log().matches(says).count() > before).then_some(()));
    }

    /// The connections that the cache has, but for the one that asks.
    fn connections(&self) -> BTreeSet<String> {
        let mut asking = ends::redis(&self.cache);
        let own: i64 = redis::cmd("CLIENT").arg("ID").query(&mut asking).expect("a number");
        let all: String = redis::cmd("CLIENT").arg("LIST").query(&mut asking).expect("a list");
        let ids = all.lines().filter_map(|line| line.split(' ').next()?.strip_prefix("id="));
        ids.filter(|id| *id != own.to_string()).map(str::to_owned).collect()
    }
}

fn has(status: &Value, key: &str, what: impl Fn(&Value) -> bool) -> bool {
    list(status, key).iter().any(what)
}

fn rows_in(path: &std::path::Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter(|row| row["stream"] == "posted").filter_map(|row| row["n"].as_f64()).map(|n| n as u64).collect()
}

fn rows_in_window(appliance: &Appliance) -> u64 {
    let windows = appliance.get("/windows?pipeline=kept");
    list(&windows["windows"], "kept").iter().filter_map(|window| window["rows"].as_u64()).sum()
}

#[test]
fn a_sink_a_pipeline_and_a_source_come_change_and_go_and_nobody_else_notices() {
    let plant = Plant { site: Site::new("reloaded"), broker: Server::own(Kind::Mqtt), cache: Server::own(Kind::Redis) };
    let site = &plant.site;
    site.configure(&plant.base());
    let appliance = site.start();
    appliance.until("the source and the sink are there", |status| {
        entry(status, "sources", "floor")["state"] == "up" && entry(status, "sinks", "recent")["up"] == true
    });
    let machine = site.machine(None, &["--rate", "600"]);
    let connections = plant.connections();
    let events = ureq::get(format!("{}/events", site.api())).call().expect("answered");
    let mut events = BufReader::new(events.into_body().into_reader()).lines();
    let (posted, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let last = thread::scope(|scope| {
        scope.spawn(|| {
            // Every single one is answered: nobody restarts the API.
            while !done.load(Ordering::Acquire) {
                let n = posted.load(Ordering::Acquire) + 1;
                let row = json!([{"time": START_NS + n * 100_000, "n": n, "device": "d", "boot": 1, "seq": n}]);
                let reply = ask("POST", &format!("{}/rows?stream=posted", site.api()), &row.to_string()).expect("answered");
                assert_eq!(reply.status, 202, "{reply:?}");
                posted.store(n, Ordering::Release);
            }
        });
        let stop = Finally(&done);
        let more_rows = || {
            let from = posted.load(Ordering::Acquire);
            until("rows come in", || (posted.load(Ordering::Acquire) > from + 50).then_some(()));
            check_ledger(&appliance.metrics());
        };
        more_rows();
        let good = "the new configuration is in effect";
        // A sink comes, and has what came before it; it changes; a pipeline comes and goes; a source comes and goes.
        plant.reload(&appliance, &[&plant.lines("lines.jsonl")], good);
        more_rows();
        plant.reload(&appliance, &[&plant.lines("others.jsonl")], good);
        more_rows();
        plant.reload(&appliance, &[&plant.lines("others.jsonl"), ANOTHER_PIPELINE], good);
        appliance.until("the new pipeline works", |status| {
            has(status, "pipelines", |one| one["id"] == "added" && one["processed"] != 0)
        });
        more_rows();
        plant.reload(&appliance, &[&plant.lines("others.jsonl")], good);
        appliance.until("the pipeline is gone", |status| !has(status, "pipelines", |one| one["id"] == "added"));
        let file = site.folder().join("rows.jsonl");
        let stamp = |n: u64| format!("{{\"time\":{},\"n\":{n}}}\n", START_NS + n);
        fs::write(&file, (1..=100).map(stamp).collect::<String>()).expect("the folder is ours");
        let source =
            format!("[sources.file]\ntype = \"file\"\npath = \"{}\"\ncodec = \"json_lines\"\nstream = \"floor\"\n", file.display());
        plant.reload(&appliance, &[&plant.lines("others.jsonl"), &source], good);
        appliance.until("the file is read", |status| {
            has(status, "sources", |one| one["id"] == "file" && one["rows"]["accepted"] == 100)
        });
        plant.reload(&appliance, &[&plant.lines("others.jsonl")], good);
        // A wrong one, and one that is right and refused, change nothing.
        plant.reload(&appliance, &[&plant.lines("others.jsonl"), "[sinks.wrong]\ntype = \"teleprinter\"\n"], "stays as it is");
        more_rows();
        assert!(entry(&appliance.status(), "sinks", "lines")["up"] == true);
        plant.reload(&appliance, &[], good);
        appliance.until("the sink is gone", |status| list(status, "sinks").len() == 1);
        more_rows();
        drop(stop);
        posted.load(Ordering::Acquire)
    });
    let last = last.max(posted.load(Ordering::Acquire));
    assert_eq!(plant.connections(), connections, "the sink that was left alone has the connection that it had");
    let log = plant.broker.log();
    assert_eq!(log.matches(&format!(" as {} ", site.id)).count(), 1, "the source likewise: {log}");
    assert_eq!(appliance.process.log().matches(" running ").count(), 1, "the appliance itself likewise");
    until("the window that was open all the time has every row", || (rows_in_window(&appliance) == last).then_some(()));
    // Results reach who has listened all the time: the next alert or window on the stream is read from the connection of the beginning.
    plant.reload(&appliance, &[ANOTHER_PIPELINE], "the new configuration is in effect");
    let row = json!([{"time": START_NS + (last + 100_000) * 100_000, "n": last + 1, "device": "d", "boot": 1, "seq": last + 1}]);
    assert_eq!(appliance.ask("POST", "/rows?stream=posted", &row.to_string()).status, 202);
    assert!(events.any(|line| line.expect("the connection is open").contains("hundreds")));

    let report = machine.switch_off();
    assert_eq!(report["serial"]["rows"]["overrun"], 0, "{report}");
    appliance.until("the line is off", |status| entry(status, "sources", "scan_head")["state"] == "down");
    appliance.until_delivered();
    check_ledger(&appliance.metrics());
    // The sink that came had every row up to its change, and the changed one the rest, each once and in order.
    let both = [rows_in(&site.folder().join("lines.jsonl")), rows_in(&site.folder().join("others.jsonl"))].concat();
    assert_eq!(both, (1..=both.len() as u64).collect::<Vec<_>>());
    assert!(both.len() > 150, "{}", both.len());
    let balances = site.store().balances().expect("the store is readable");
    assert!(balances.iter().all(|balance| &*balance.sink != "lines"), "its cursor is gone with it");
    appliance.stop();
    let rows = stored(&mut site.store());
    let from_machine = check_numbers_are_gapless(&rows, "scan_head");
    assert!(Some(from_machine) >= report["serial"]["rows"]["acknowledged"].as_u64(), "{from_machine} of {report}");
    assert_eq!(rows.values().filter(|row| row.stream == "posted").count() as u64, last + 1);
}

/// Ends the posting also when an assertion fails.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
