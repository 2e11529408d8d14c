//! The product's processes, started and ended as a service manager or a shell would, and looked at over HTTP.
//!
//! Nothing here waits for a span of time: [`until`] asks again and again, up to [`PATIENCE`], which only something broken reaches.

// Each test file uses a part of this.
#![allow(dead_code)]

use std::{
    cell::RefCell,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use qadf_edge::store::Reader;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::servers::free_port;

/// Longer than anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_mins(4);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(POLL_EVERY);
    }
}

/// The program with these arguments.
pub fn qadf_edge(arguments: &[&str]) -> Command {
    // A packaged program, where one is named, instead of the one just built.
    let program = std::env::var("QADF_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_qadf-edge").to_owned());
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env_remove("QADF_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    qadf_edge(arguments).output().expect("the program was built for the tests")
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A running process of the product; killed when this goes, with the end of its log on a failed test's page.
pub struct Process {
    name: &'static str,
    child: Child,
    folder: PathBuf,
}

impl Process {
    /// Starts `command`, its output in files of `folder`.
    pub fn start(name: &'static str, mut command: Command, folder: &Path) -> Self {
        let file = |ending: &str| {
            let path = folder.join(format!("{name}.{ending}"));
            File::options().create(true).append(true).open(path).expect("the folder is ours")
        };
        command.stdout(file("out")).stderr(file("log"));
        let child = command.spawn().expect("the program was built for the tests");
        Self { name, child, folder: folder.to_owned() }
    }

    /// What it has written to stdout.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.out", self.name))).expect("it was made at the start")
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.log", self.name))).expect("it was made at the start")
    }

    /// The number that the operating system has given it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("process ids are positive");
        kill_process(pid, signal).expect("a child that was not waited for keeps its id");
    }

    /// Sends a signal that ends it, and waits until it has gone.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// Waits until it has gone by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let name = self.name;
        until(&format!("the end of {name}"), || self.child.try_wait().expect("it is our child"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody to tell if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the end of the log of {}:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// A name that no other test or run uses.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    format!("{name}-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Where an appliance lives: its folder, its name, its ports. It stays when the appliance's process ends.
pub struct Site {
    folder: TempDir,
    /// The appliance's id.
    pub id: String,
    api: u16,
    metrics: u16,
}

impl Site {
    /// A place for an appliance that was never there.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("site-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("cargo made this directory for the tests");
        Self { folder, id: unique(name), api: free_port(), metrics: free_port() }
    }

    /// The appliance's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its store is.
    pub fn data_dir(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// The link to the machine's serial line.
    pub fn line(&self) -> PathBuf {
        self.folder().join("scan-head")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("appliance.toml")
    }

    /// Writes the configuration: what every appliance needs, and `more`.
    pub fn configure(&self, more: &str) {
        let Self { id, api, metrics, .. } = self;
        let text = format!(
            "[appliance]\nid = \"{id}\"\ndata_dir = \"{}\"\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n{more}",
            self.data_dir().display()
        );
        fs::write(self.config(), text).expect("the folder is ours");
    }

    /// Starts the appliance and waits until it answers.
    pub fn start(&self) -> Appliance {
        self.start_with(|_| ())
    }

    /// Likewise, with a change to how it is started.
    pub fn start_with(&self, change: impl FnOnce(&mut Command)) -> Appliance {
        let mut command = qadf_edge(&["run", "-c"]);
        command.arg(self.config());
        change(&mut command);
        let process = Process::start("appliance", command, self.folder());
        let mut appliance = Appliance { process, api: self.api(), metrics: format!("http://127.0.0.1:{}", self.metrics) };
        until("the appliance answers", || {
            assert!(appliance.process.runs(), "the appliance ended: {}", appliance.process.log());
            // Its first snapshot comes a moment after the port.
            appliance.try_get("/status").filter(|status| status["appliance"] == *self.id)
        });
        appliance
    }

    /// The API's address.
    pub fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    /// The simulated machine on this site's serial line and, if there is one, on a broker.
    pub fn machine(&self, broker: Option<&str>, arguments: &[&str]) -> Machine {
        let mut command = qadf_edge(&["simulate", "--serial"]);
        command.arg(self.line());
        if let Some(broker) = broker {
            command.arg("--mqtt").arg(format!("{broker}/{}", self.chamber_topic()));
        }
        command.args(arguments);
        let process = Process::start("machine", command, self.folder());
        until("the machine's line is there", || self.line().exists().then_some(()));
        Machine { process }
    }

    /// Where the machine publishes its chamber's rows.
    pub fn chamber_topic(&self) -> String {
        format!("plant/{}/chamber", self.id)
    }

    /// The store, as another process sees it.
    pub fn store(&self) -> Reader {
        Reader::open(&self.data_dir()).expect("the store is there")
    }
}

/// The simulated machine.
pub struct Machine {
    process: Process,
}

impl Machine {
    /// Switches it off; gives what it has done.
    pub fn switch_off(mut self) -> Value {
        let status = self.process.end(Signal::TERM);
        assert!(status.success(), "{status}");
        serde_json::from_str(self.process.output().trim()).expect("one JSON object")
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The content type.
    pub kind: String,
    /// The body.
    pub text: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// A running appliance.
pub struct Appliance {
    /// Its process.
    pub process: Process,
    api: String,
    metrics: String,
}

impl Appliance {
    /// An answer of any kind.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        ask(method, &format!("{}{path}", self.api), body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The JSON of a good answer.
    pub fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, "");
        assert_eq!((reply.status, reply.kind.as_str()), (200, "application/json"), "{path}: {reply:?}");
        reply.json()
    }

    fn try_get(&self, path: &str) -> Option<Value> {
        let reply = ask("GET", &format!("{}{path}", self.api), "").ok()?;
        (reply.status == 200).then(|| reply.json())
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        ask("GET", &format!("{}/metrics", self.metrics), "").expect("the metrics page answers").text
    }

    /// The metrics page, unless nobody answers at this moment.
    pub fn try_metrics(&self) -> Option<String> {
        ask("GET", &format!("{}/metrics", self.metrics), "").ok().filter(|reply| reply.status == 200).map(|reply| reply.text)
    }

    /// `GET /status`.
    pub fn status(&self) -> Value {
        self.get("/status")
    }

    /// Looks at the status until `what` holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.status();
            if holds(&last) {
                return last;
            }
            thread::sleep(POLL_EVERY);
        }
        panic!("not within {PATIENCE:?}: {what}\n{}", brief(&last))
    }

    /// Waits until every sink has everything that came in before.
    pub fn until_delivered(&self) -> Value {
        // The status is a snapshot, and the first ones may have been begun before the last rows came in; the one after the next was not.
        let seen = RefCell::new((self.status()["time"].clone(), 0));
        self.until("every sink has everything", |status| {
            let (last, later) = &mut *seen.borrow_mut();
            if *last != status["time"] {
                (*last, *later) = (status["time"].clone(), *later + 1);
            }
            *later >= 2 && list(status, "sinks").iter().all(|sink| sink["rows"]["buffered"] == 0 && sink["results_buffered"] == 0)
        })
    }

    /// Ends it as the service manager does.
    pub fn stop(mut self) {
        let status = self.process.end(Signal::TERM);
        assert_eq!(status.code(), Some(0), "{status}: {}", self.process.log());
    }

    /// Ends it as a power cut does.
    pub fn kill(mut self) {
        self.process.end(Signal::KILL);
    }
}

/// What matters of a status when a test has failed.
fn brief(status: &Value) -> String {
    let keys = ["state", "problems", "sources", "sinks", "store"];
    keys.map(|key| format!("{key}: {}", status[key])).join("\n")
}

/// A list of the status.
pub fn list<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status[key].as_array().unwrap_or_else(|| panic!("no list `{key}` in {status}"))
}

/// The entry of a list with this id.
pub fn entry<'a>(status: &'a Value, key: &str, id: &str) -> &'a Value {
    let found = list(status, key).iter().find(|entry| entry["id"] == id);
    found.unwrap_or_else(|| panic!("no `{id}` among {key}: {status}"))
}

/// A request; an error if nobody answers.
pub fn ask(method: &str, url: &str, body: &str) -> Result<Reply, ureq::Error> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30))).build().into();
    let mut response = match method {
        "GET" => agent.get(url).call()?,
        "POST" => agent.post(url).content_type("application/json").send(body)?,
        "DELETE" => agent.delete(url).call()?,
        other => panic!("{other} is not used here"),
    };
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let text = response.body_mut().with_config().limit(256 << 20).read_to_string()?;
    Ok(Reply { status: response.status().as_u16(), kind, text })
}
