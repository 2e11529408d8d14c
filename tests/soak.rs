//! A long time under load: memory and file handles stay flat, the ledger balances all the time, and what came in goes out.
//!
//! The machine on its serial line, questions all the time, a sink, and a reload every now and then: by turns a sink and a pipeline come and
//! go while everything runs, and the whole appliance starts anew. `QADF_SOAK_SECONDS` says how long (180 without it; the night's is an
//! hour). The first third is left out of the comparison: rings and the store's caches of pages fill, the last of them for a quarter of an hour.
//! The voxel grid is coarse, so that it is soon as large as it gets.

mod servers;

#[path = "appliance/ends.rs"]
mod ends;
#[path = "appliance/plant.rs"]
mod plant;
#[path = "appliance/process.rs"]
mod process;

use std::{
    fs,
    time::{Duration, Instant},
};

use ends::check_ledger;
use process::{Appliance, Site};
use rustix::process::Signal;

/// Memory that may be in use at the end beyond what was in use before, kilobytes: less than SQLite's cache of pages, which fills by and by.
const GROWTH_KB: u64 = 12 << 10;
/// Likewise file handles: connections of clients.
const GROWTH_HANDLES: u64 = 16;
/// From one reload to the next.
const RELOAD_EVERY: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Resident memory (kilobytes) and open file handles.
fn usage(appliance: &Appliance) -> (u64, u64) {
    let process = format!("/proc/{}", appliance.process.id());
    let status = fs::read_to_string(format!("{process}/status")).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says so");
    let resident = resident.trim_end_matches("kB").trim().parse().expect("a number");
    (resident, fs::read_dir(format!("{process}/fd")).expect("it runs").count() as u64)
}

/// The middle of a list.
fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of[of.len() / 2]
}

/// What the configuration has besides, after so many reloads.
fn change(reloads: u32, site: &Site) -> String {
    let more = format!(
        "[sinks.more]\ntype = \"file\"\npath = \"{}\"\n[[pipelines]]\nid = \"more\"\nstream = \"thermal\"\n\
         [[pipelines.windows]]\nid = \"more_1s\"\ntype = \"tumbling\"\nsize = \"1s\"\naggregate = {{ n = \"count()\" }}\n",
        site.folder().join("more.jsonl").display()
    );
    // Another interval is what only a start can change.
    let interval = format!("[checkpoints]\ninterval = \"{}ms\"\n", 1_000 + reloads / 4);
    if reloads % 2 == 1 { [interval, more].concat() } else { interval }
}

#[test]
fn memory_and_handles_stay_flat_and_the_ledger_balances() {
    let seconds = std::env::var("QADF_SOAK_SECONDS").map_or(180, |text| text.parse().expect("a number"));
    let site = Site::new("soak");
    let sink = format!("[sinks.lines]\ntype = \"file\"\npath = \"{}\"\n", site.folder().join("lines.jsonl").display());
    let budget = "[store]\nmax_bytes = \"64MB\"\n".to_owned();
    // A fine grid grows for as long as something is built.
    let machine = plant::machine(&site).replace("voxel = 1.0", "voxel = 10.0");
    let base = [machine, sink, budget].concat();
    site.configure(&base);
    let appliance = site.start();
    let machine = site.machine(None, &["--rate", "2000", "--faults", "crc=0.001,unplug=20s/500ms"]);
    let (begun, time) = (Instant::now(), Duration::from_secs(seconds));
    let (mut before, mut after, mut reloaded, mut reloads) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()), begun, 0);
    let mut tenths: Vec<Vec<u64>> = vec![Vec::new(); 10];
    while begun.elapsed() < time {
        // In the moment of a reload nobody answers.
        if let Some(page) = appliance.try_metrics() {
            check_ledger(&page);
        }
        drop(process::ask("GET", &format!("{}/streams/optical/recent?rows=100", site.api()), ""));
        let (resident_kb, handles) = usage(&appliance);
        let part =
            if begun.elapsed() > time * 2 / 3 { Some(&mut after) } else { (begun.elapsed() > time / 3).then_some(&mut before) };
        let tenth = (begun.elapsed().as_secs_f64() / time.as_secs_f64() * 10.0) as usize;
        tenths[tenth.min(9)].push(resident_kb);
        if let Some((memory, files)) = part {
            memory.push(resident_kb);
            files.push(handles);
        }
        if reloaded.elapsed() > RELOAD_EVERY && begun.elapsed() + RELOAD_EVERY < time {
            reloaded = Instant::now();
            reloads += 1;
            site.configure(&[base.as_str(), &change(reloads, &site)].concat());
            appliance.process.signal(Signal::HUP);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let report = machine.switch_off();
    let status = appliance.until_delivered();
    check_ledger(&appliance.metrics());
    let rows = status["store"]["rows"].as_u64().expect("a count");
    let [memory_before, memory_after, files_before, files_after] = [before.0, after.0, before.1, after.1].map(median);
    let tenths: Vec<u64> = tenths.into_iter().filter(|tenth| !tenth.is_empty()).map(median).collect();
    eprintln!("resident memory by tenths of the time, kB: {tenths:?}; {reloads} reloads");
    println!(
        "{{\"seconds\":{seconds},\"rows\":{rows},\"resident_kb\":[{memory_before},{memory_after}],\"handles\":[{files_before},{files_after}]}}"
    );
    assert_eq!(report["serial"]["rows"]["overrun"], 0, "{report}");
    assert!(memory_after <= memory_before + GROWTH_KB, "{memory_before} kB, later {memory_after} kB");
    assert!(files_after <= files_before + GROWTH_HANDLES, "{files_before} handles, later {files_after}");
    appliance.stop();
}
