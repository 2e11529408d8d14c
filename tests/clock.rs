//! A machine that boots in 1970 and is told the time later: the real program, with a wall clock that a test sets.
//!
//! The program is started with a small library in front of the system's (`LD_PRELOAD`) that adds the number in a file to the wall clock;
//! the monotonic clock, the kernel's waits and the boot's id stay what they are. It is built with the C compiler that the build of
//! this project needs anyway.

mod servers;

#[path = "appliance/ends.rs"]
mod ends;
#[path = "appliance/process.rs"]
mod process;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use ends::check_ledger;
use process::{Appliance, Site, list, until};
use serde_json::{Value, json};

const SHIFTED: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long *shift_ns(void) {
    static volatile long long none, *shift;
    if (!shift) {
        const char *path = getenv("SHIFTED_CLOCK");
        int file = path ? open(path, O_RDONLY) : -1;
        void *page = file < 0 ? MAP_FAILED : mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        shift = page == MAP_FAILED ? &none : page;
    }
    return shift;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    if (failed || clock != CLOCK_REALTIME) return failed;
    long long ns = time->tv_sec * 1000000000LL + time->tv_nsec + *shift_ns();
    time->tv_sec = ns / 1000000000LL;
    time->tv_nsec = ns % 1000000000LL;
    return 0;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"#;

const STREAM: &str = "[streams.bare]\nsignals = { number = \"\" }\ntags = [\"part\"]\ntime = { field = \"time\", missing = \"arrival\" }\n\
                      watermark = { delay = \"0s\", idle = \"1s\" }\n\
                      [[pipelines]]\nid = \"bare\"\nstream = \"bare\"\n\
                      [[pipelines.windows]]\nid = \"hour\"\ntype = \"tumbling\"\nsize = \"1h\"\naggregate = { n = \"count()\" }\n";
/// The two clocks are read one after the other.
const APART_NS: i64 = 1_000_000;

/// The wall clock of the program under test.
struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    fn new(folder: &Path) -> Self {
        let (source, library, file) = (folder.join("shifted.c"), folder.join("shifted.so"), folder.join("clock"));
        fs::write(&source, SHIFTED).expect("the folder is ours");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
        assert!(built.expect("a C compiler is there: SQLite was built with it").success());
        Self { library, file }
    }

    /// It is so much before the truth from now on.
    fn shift(&self, ns: i64) {
        // In place: the program has the file mapped.
        let file = fs::File::options().create(true).truncate(false).write(true).open(&self.file).expect("the folder is ours");
        std::os::unix::fs::FileExt::write_all_at(&file, &ns.to_ne_bytes(), 0).expect("eight bytes");
    }

    fn start(&self, site: &Site) -> Appliance {
        site.start_with(|command| {
            command.env("LD_PRELOAD", &self.library).env("SHIFTED_CLOCK", &self.file);
        })
    }
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("this machine's clock is set").as_nanos() as i64
}

/// Posts row `number`; when that was, from and to.
fn post(appliance: &Appliance, number: i64, accepted: u64) -> (i64, i64) {
    let before = now_ns();
    let row = json!([{"number": number, "part": "a", "device": "d", "boot": 1, "seq": number}]);
    let reply = appliance.ask("POST", "/rows?stream=bare", &row.to_string());
    assert_eq!((reply.status, reply.json()["accepted"].as_u64()), (202, Some(accepted)), "{reply:?}");
    (before, now_ns())
}

fn delivered(lines: &Path) -> Vec<Value> {
    let text = fs::read_to_string(lines).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(|line: &Value| line["number"].is_number()).collect()
}

fn ns_of(row: &Value) -> i64 {
    row["time"].as_str().expect("a time").parse::<qadf_edge::model::Timestamp>().expect("RFC 3339").0
}

#[test]
fn rows_taken_in_1970_reach_the_far_end_once_with_their_true_time_over_a_kill() {
    let site = Site::new("clock");
    let lines = site.folder().join("lines.jsonl");
    site.configure(&format!("{STREAM}[sinks.lines]\ntype = \"file\"\npath = \"{}\"\n", lines.display()));
    let clock = WallClock::new(site.folder());
    // Half a minute after the start of 1970.
    clock.shift(30_000_000_000 - now_ns());
    let appliance = clock.start(&site);
    let mut taken: Vec<(i64, i64)> = (0..3).map(|number| post(&appliance, number, 1)).collect();
    let status = appliance.until("rows wait", |status| status["store"]["rows_waiting_for_clock"] == 3);
    assert!(list(&status, "problems").iter().any(|problem| problem.as_str().is_some_and(|text| text.starts_with("clock: "))));
    assert!(status["store"]["rows"] == 0 && delivered(&lines).is_empty(), "{status}");
    check_ledger(&appliance.metrics());

    // What was acknowledged is there after a power cut of the program, and known.
    appliance.kill();
    let appliance = clock.start(&site);
    post(&appliance, 2, 0);
    taken.push(post(&appliance, 3, 1));
    appliance.until("all four wait", |status| status["store"]["rows_waiting_for_clock"] == 4);

    // The time server answers.
    clock.shift(0);
    until("the rows are at the far end", || (delivered(&lines).len() >= 4).then_some(()));
    taken.push(post(&appliance, 4, 1));
    appliance.until("nothing is wrong with the clock", |status| {
        status["store"]["rows"] == 5 && list(status, "problems").iter().all(|problem| !problem.to_string().contains("clock"))
    });
    appliance.until_delivered();
    check_ledger(&appliance.metrics());
    appliance.stop();
    let rows = delivered(&lines);
    assert_eq!(rows.iter().map(|row| row["number"].as_f64()).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0, 4.0].map(Some));
    for (row, (from, to)) in rows.iter().zip(taken) {
        let time = ns_of(row);
        assert!((from - APART_NS..=to + APART_NS).contains(&time), "{row}: not within {from}..={to}");
        assert_eq!(row["arrival_time"], true, "{row}");
        assert_eq!(row["rebased"], if row["number"] == 4.0 { Value::Null } else { json!(true) }, "{row}");
    }
}
