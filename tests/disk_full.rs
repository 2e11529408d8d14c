//! A disk that is really full: the appliance on a small file system of its own, in which something else takes the last byte.
//!
//! The file system is a tmpfs in a mount namespace of the appliance's process, so that no rights are needed beyond those of a user; the test
//! reaches it through `/proc`. Where such a namespace cannot be made, the test says so and does nothing.

mod servers;

#[path = "appliance/ends.rs"]
mod ends;
#[path = "appliance/process.rs"]
mod process;

use std::{fs, io::Write, path::PathBuf, process::Command};

use process::{Appliance, Site, entry, qadf_edge, until};
use serde_json::Value;

/// Of the file system: enough for the store and its log, filled in no time.
const FILE_SYSTEM: &str = "24m";

fn can_mount() -> bool {
    Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output().is_ok_and(|done| done.status.success())
}

/// A row; 202 once it is on disk.
fn post(appliance: &Appliance, number: u64) -> u16 {
    let row = format!("[{{\"time\":{number},\"n\":{number},\"device\":\"d\",\"boot\":1,\"seq\":{number}}}]");
    appliance.ask("POST", "/rows?stream=posted", &row).status
}

/// Takes what is left of the file system.
fn fill(path: &PathBuf) {
    let mut file = fs::File::options().create(true).append(true).open(path).expect("a name always fits");
    for size in [65_536, 512, 1] {
        while file.write_all(&vec![0x55; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_is_said_costs_no_acknowledged_row_and_heals() {
    if !can_mount() {
        eprintln!("this machine lets nobody mount a file system: nothing was tried");
        return;
    }
    let site = Site::new("full");
    fs::create_dir_all(site.data_dir()).expect("the folder is ours");
    site.configure(&format!(
        "[streams.posted]\nsignals = {{ n = \"1\" }}\n[sinks.lines]\ntype = \"file\"\npath = \"{}\"\n",
        site.folder().join("lines.jsonl").display()
    ));
    let appliance = site.start_with(|command| {
        let program = qadf_edge(&[]).get_program().to_owned();
        let script = format!("mount -t tmpfs -o size={FILE_SYSTEM} none \"$0\" && exec \"$@\"");
        *command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &script]).arg(site.data_dir()).arg(program).args(["run", "-c"]).arg(site.config());
        command.env_remove("QADF_LOG").env_remove("NOTIFY_SOCKET");
    });
    let inside = PathBuf::from(format!("/proc/{}/root{}", appliance.process.id(), site.data_dir().display()));
    let mut acknowledged = 0;
    let mut send = |appliance: &Appliance| {
        let status = post(appliance, acknowledged + 1);
        acknowledged += u64::from(status == 202);
        status
    };
    for _ in 0..200 {
        assert_eq!(send(&appliance), 202);
    }

    let filler = inside.join("filler");
    until("a row is refused", || {
        fill(&filler);
        (send(&appliance) >= 500).then_some(())
    });
    let status = appliance.until("the status says that the disk is full", |status| {
        status["state"] == "degraded" && problems(status).contains("store: ")
    });
    eprintln!("{}", problems(&status));
    assert!(matches!(send(&appliance), 500..), "still refused");

    fs::remove_file(&filler).expect("it is there");
    until("rows are taken again", || (send(&appliance) == 202).then_some(()));
    for _ in 0..200 {
        assert_eq!(send(&appliance), 202);
    }
    let status = appliance.until_delivered();
    ends::check_ledger(&appliance.metrics());
    assert_eq!(status["store"]["rows_removed_for_room"], 0);
    appliance.until("it has healed", |status| !problems(status).contains("store: "));

    // Every acknowledged row, once, in order; the file is on a disk that has room.
    let lines = fs::read_to_string(site.folder().join("lines.jsonl")).expect("the sink has made it");
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let numbers: Vec<u64> = rows.filter_map(|row| row["n"].as_f64()).map(|number| number as u64).collect();
    assert_eq!(numbers, (1..=acknowledged).collect::<Vec<_>>());
    let sink = entry(&status, "sinks", "lines").clone();
    assert_eq!((sink["rows"]["delivered"].as_u64(), sink["rows"]["expired"].as_u64()), (Some(acknowledged), Some(0)), "{sink}");
    appliance.stop();
}

fn problems(status: &Value) -> String {
    process::list(status, "problems").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}
