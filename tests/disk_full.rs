//! A disk that is really full: the appliance on a small file system of its own, in which something else takes the last byte.
//!
//! The file system is a tmpfs in a mount namespace of the appliance's process, so that no rights are needed beyond those of a user; the test
//! reaches it through `/proc`. Where such a namespace cannot be made, one without a namespace is tried, which root may; where that is
//! forbidden too, the test says so in words that are shown whether or not it passes, and fails if `QADF_NEEDS_DISK_FULL` is set.
//!
//! The second test needs no rights at all: the kernel lets no file of the process grow any more (`RLIMIT_FSIZE`), which refuses a write in
//! the middle of a commit with another error. In the third, the log is what cannot be written.

mod servers;

#[path = "appliance/ends.rs"]
mod ends;
#[path = "appliance/process.rs"]
mod process;

use std::{fs, io::Write, path::PathBuf, process::Command};

use process::{Appliance, Site, entry, qadf_edge, until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

/// Of the file system: enough for the store and its log, filled in no time.
const FILE_SYSTEM: &str = "24m";

/// How a small file system can be had here.
#[derive(Clone, Copy, PartialEq)]
enum Mount {
    Namespace,
    Root,
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|done| done.status.success())
}

fn mount() -> Option<Mount> {
    if succeeds("unshare", &["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]) {
        return Some(Mount::Namespace);
    }
    let place = tempfile::tempdir().expect("there is a directory for these");
    let path = place.path().to_str().expect("UTF-8");
    let mounted = succeeds("mount", &["-t", "tmpfs", "-o", "size=1m", "none", path]) && succeeds("umount", &[path]);
    mounted.then_some(Mount::Root)
}

/// Says what was not tried where the harness does not swallow it.
fn not_run(what: &str) {
    // The harness keeps what a passing test prints to itself; this goes past it.
    let said = format!("\nNOT RUN: {what}\n");
    let past = fs::File::options().append(true).open("/dev/stderr").and_then(|mut stderr| stderr.write_all(said.as_bytes()));
    drop(past);
    assert!(std::env::var_os("QADF_NEEDS_DISK_FULL").is_none(), "{what}");
}

/// Takes a mount away again that no namespace takes along.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        succeeds("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// Rows that are posted go to a file beside the store; where it is.
fn configure(site: &Site) -> PathBuf {
    let lines = site.folder().join("lines.jsonl");
    site.configure(&format!(
        "[streams.posted]\nsignals = {{ n = \"1\" }}\n[sinks.lines]\ntype = \"file\"\npath = \"{}\"\n",
        lines.display()
    ));
    lines
}

/// Has a shell do `script`, of which `"$0" "$@"` is the command as it was.
fn through_shell(command: &mut Command, script: &str) {
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    *command = Command::new("sh");
    command.args(["-c", script]).arg(program).args(arguments).env_remove("QADF_LOG").env_remove("NOTIFY_SOCKET");
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
    let Some(how) = mount() else {
        return not_run("a disk that is full: this machine lets nobody mount a file system, neither in a namespace nor as root");
    };
    let site = Site::new("full");
    fs::create_dir_all(site.data_dir()).expect("the folder is ours");
    let lines = configure(&site);
    let _mounted = (how == Mount::Root).then(|| Mounted(site.data_dir()));
    let appliance = site.start_with(|command| {
        let program = qadf_edge(&[]).get_program().to_owned();
        let script = format!("mount -t tmpfs -o size={FILE_SYSTEM} none \"$0\" && exec \"$@\"");
        *command = Command::new(if how == Mount::Namespace { "unshare" } else { "sh" });
        if how == Mount::Namespace {
            command.args(["-rm", "sh"]);
        }
        command.args(["-c", &script]).arg(site.data_dir()).arg(program).args(["run", "-c"]).arg(site.config());
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
    let lines = fs::read_to_string(lines).expect("the sink has made it");
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let numbers: Vec<u64> = rows.filter_map(|row| row["n"].as_f64()).map(|number| number as u64).collect();
    assert_eq!(numbers, (1..=acknowledged).collect::<Vec<_>>());
    let sink = entry(&status, "sinks", "lines").clone();
    assert_eq!((sink["rows"]["delivered"].as_u64(), sink["rows"]["expired"].as_u64()), (Some(acknowledged), Some(0)), "{sink}");
    appliance.stop();
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let site = Site::new("unlogged");
    let lines = configure(&site);
    // The sink has something to say at each attempt, until its file can be made.
    fs::create_dir(&lines).expect("the folder is there");
    let mut appliance = site.start_with(|command| {
        through_shell(command, "exec \"$0\" \"$@\" 2>/dev/full");
        command.env("QADF_LOG", "debug");
    });
    assert_eq!(post(&appliance, 1), 202);
    appliance.until("the sink has failed", |status| entry(status, "sinks", "lines")["retries"].as_u64() > Some(0));
    fs::remove_dir(&lines).expect("nothing was written into it");
    appliance.until_delivered();
    assert!(appliance.process.runs());
    appliance.stop();
}

/// Lets no file of the process grow beyond `bytes`; none = as long as they like.
fn limit_files(appliance: &Appliance, bytes: Option<u64>) {
    let pid = Pid::from_raw(appliance.process.id().cast_signed());
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(pid, Resource::Fsize, limit).expect("a limit may be lowered and raised again");
}

#[test]
fn files_that_may_not_grow_are_said_cost_no_acknowledged_row_and_heal() {
    let site = Site::new("limited");
    configure(&site);
    let appliance = site.start_with(|command| {
        // An ignored signal stays ignored over exec: the write is refused, and nobody is killed.
        through_shell(command, "trap '' XFSZ; exec \"$0\" \"$@\"");
    });
    let mut acknowledged = 0;
    let mut send = |appliance: &Appliance| {
        let status = post(appliance, acknowledged + 1);
        acknowledged += u64::from(status == 202);
        status
    };
    for _ in 0..50 {
        assert_eq!(send(&appliance), 202);
    }
    // Not a byte more, whichever file is written next.
    limit_files(&appliance, Some(512));
    until("a row is refused", || (send(&appliance) >= 500).then_some(()));
    let status =
        appliance.until("the status says so", |status| status["state"] == "degraded" && problems(status).contains("store: "));
    eprintln!("{}", problems(&status));
    assert!(matches!(send(&appliance), 500..), "still refused");
    limit_files(&appliance, None);
    until("rows are taken again", || (send(&appliance) == 202).then_some(()));
    for _ in 0..50 {
        assert_eq!(send(&appliance), 202);
    }
    appliance.until("it has healed", |status| !problems(status).contains("store: "));
    appliance.until_delivered();
    ends::check_ledger(&appliance.metrics());
    let mut rows: Vec<u64> = ends::stored(&mut site.store()).values().filter_map(|row| row.first_value).map(|n| n as u64).collect();
    assert!(rows.is_sorted(), "{rows:?}");
    rows.dedup();
    assert!(rows.len() as u64 >= acknowledged && rows.iter().copied().eq(1..=rows.len() as u64), "{rows:?}");
    appliance.stop();
}

fn problems(status: &Value) -> String {
    process::list(status, "problems").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}
