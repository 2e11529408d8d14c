//! Real servers for tests: Mosquitto, Redis, Apache Kafka and a server that speaks MongoDB's protocol.
//!
//! Each is a process of its own on a free loopback port, with its data in a directory that is removed afterwards. Readiness is
//! asked for over the protocol, never waited for. A server ends with the value that holds it, by its process id. `tests/setup`
//! installs them; a server that is missing is a failed test.
//!
//! [`Server::of`] gives the user's server instead, where `QADF_TEST_MQTT`, `QADF_TEST_REDIS`, `QADF_TEST_MONGODB` or
//! `QADF_TEST_KAFKA` names one. Tests that kill, freeze or restart a server always take one of their own: [`Server::own`].
//!
//! Ports are taken below the range from which the system gives ports to outgoing connections, so that a server which was
//! killed finds its port free when it comes back.

// Each test file uses a part of this.
#![allow(dead_code)]

mod kafka;
mod ready;

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server that has not ended by itself so long after it was asked to is killed.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Long enough for a loaded machine; a healthy one needs 3 s at most.
const READY_WITHIN: Duration = Duration::from_secs(90);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Below 32768, where Linux's range for outgoing connections starts.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mosquitto with everything queued on disk.
    Mqtt,
    /// Redis without persistence: a cache.
    Redis,
    /// A MongoDB-protocol server that syncs every commit.
    Mongodb,
    /// Apache Kafka: one node, broker and controller.
    Kafka,
}

impl Kind {
    fn variable(self) -> &'static str {
        match self {
            Self::Mqtt => "QADF_TEST_MQTT",
            Self::Redis => "QADF_TEST_REDIS",
            Self::Mongodb => "QADF_TEST_MONGODB",
            Self::Kafka => "QADF_TEST_KAFKA",
        }
    }

    fn url(self, port: u16) -> String {
        match self {
            Self::Mqtt => format!("mqtt://127.0.0.1:{port}"),
            Self::Redis => format!("redis://127.0.0.1:{port}/0"),
            Self::Mongodb => format!("mongodb://127.0.0.1:{port}"),
            Self::Kafka => format!("127.0.0.1:{port}"),
        }
    }

    fn command(self, port: u16, dir: &Path) -> Command {
        match self {
            Self::Mqtt => mosquitto(port, dir),
            Self::Redis => redis(port, dir),
            Self::Mongodb => mongodb(port, dir),
            Self::Kafka => kafka::command(port, dir),
        }
    }

    /// Where it keeps its files. Mosquitto writes all that is queued at every message; a process that is killed takes nothing out of memory,
    /// and a disk that is busy with that would make it too slow to answer pings.
    fn place(self) -> &'static Path {
        let memory = Path::new("/dev/shm");
        if self == Self::Mqtt && memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) }
    }

    fn is_ready(self, port: u16) -> bool {
        match self {
            Self::Mqtt => ready::mqtt(port),
            Self::Redis => ready::redis(port),
            Self::Mongodb => ready::listens(port),
            Self::Kafka => ready::kafka(port),
        }
    }
}

/// A running server; ends with the value.
pub struct Server {
    kind: Kind,
    url: String,
    own: Option<Own>,
}

/// What there is of a server that this process started.
struct Own {
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl Server {
    /// The user's server, if the environment names one, or else one shared by the tests of this process that run meanwhile.
    pub fn of(kind: Kind) -> Arc<Self> {
        static SHARED: [Mutex<Weak<Server>>; 4] = [const { Mutex::new(Weak::new()) }; 4];
        if let Ok(url) = std::env::var(kind.variable()) {
            return Arc::new(Self { kind, url, own: None });
        }
        // A poisoned lock means that another test could not start the server: this one tries for itself.
        let mut shared = SHARED[kind as usize].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::own(kind));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of the caller's own, to be killed, frozen and restarted.
    pub fn own(kind: Kind) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{kind:?}-").to_lowercase())
            .tempdir_in(kind.place())
            .expect("cargo made this directory for the tests");
        let port = free_port();
        if kind == Kind::Kafka {
            kafka::format(port, free_port(), dir.path());
        }
        let mut server = Self { kind, url: kind.url(port), own: Some(Own { port, dir, child: None }) };
        server.start();
        server
    }

    /// Where clients connect to: a URL, or for Kafka a list of brokers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port of a server that this process started.
    pub fn port(&self) -> u16 {
        self.own.as_ref().expect("a user's server has a URL only").port
    }

    /// What it has written since its last start.
    pub fn log(&self) -> String {
        let own = self.own.as_ref().expect("a user's server keeps its log to itself");
        fs::read_to_string(own.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts a stopped or killed server again, on the same port and with the same data, and waits until it answers.
    pub fn start(&mut self) {
        self.start_unready();
        self.wait_until_ready();
    }

    /// Like [`Server::start`], without waiting.
    pub fn start_unready(&mut self) {
        let kind = self.kind;
        let own = self.own_mut();
        assert!(own.child.is_none(), "{kind:?} runs already");
        let log = File::create(own.dir.path().join("log")).expect("the directory was made for it");
        let mut command = kind.command(own.port, own.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the file is open")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{kind:?} cannot be started ({error}: {command:?}): run tests/setup, which installs what the tests need")
        });
        own.child = Some(child);
    }

    /// Returns once the server answers; fails with the end of its log if it ends or stays silent.
    pub fn wait_until_ready(&mut self) {
        let kind = self.kind;
        let own = self.own_mut();
        let deadline = Instant::now() + READY_WITHIN;
        let child = own.child.as_mut().expect("started before");
        while !kind.is_ready(own.port) {
            let ended = child.try_wait().expect("it is our child");
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(own.dir.path().join("log")).unwrap_or_default();
                let tail = log.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
                panic!("{kind:?} does not answer on port {} ({ended:?}). The end of its log:\n{tail}", own.port);
            }
            thread::sleep(POLL_EVERY);
        }
    }

    /// Ends the server as a power cut would: `kill -9`.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Ends the server as its administrator would: `kill -15`, and waits until it has gone.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Freezes the server: connections stay open, nothing answers (`SIGSTOP`).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on (`SIGCONT`).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut child) = self.own_mut().child.take() {
            // The MongoDB-protocol server sometimes does not hear of its end.
            let deadline = Instant::now() + END_WITHIN;
            while child.try_wait().expect("it is our child").is_none() {
                if Instant::now() > deadline {
                    child.kill().expect("it is our child");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.own.as_ref().and_then(|own| own.child.as_ref()) {
            let pid = Pid::from_raw(child.id().cast_signed()).expect("process ids are positive");
            kill_process(pid, signal).expect("a child that was not waited for keeps its id");
        }
    }

    fn own_mut(&mut self) -> &mut Own {
        self.own.as_mut().expect("only a server of one's own can be started and ended: use Server::own")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.own.as_mut().and_then(|own| own.child.take()) {
            // Kills a frozen process too. There is nobody to tell if it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where `tests/setup` puts servers.
fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.servers").join(path)
}

/// A port that nobody listens on. Two processes that test at once start looking at different places.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Neighbours among processes begin far from each other.
    let start = (std::process::id().wrapping_mul(7_919) % u32::from(count)) as u16;
    for _ in 0..count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = PORTS.start + (u32::from(start) + u32::from(step) * 7).rem_euclid(u32::from(count)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("every port from {} to {} is taken", PORTS.start, PORTS.end);
}

/// A system program; Debian keeps servers where a user's `PATH` may not look.
fn system(program: &str) -> Command {
    let there = Path::new("/usr/sbin").join(program);
    if there.exists() { Command::new(there) } else { Command::new(program) }
}

/// Persistence on and saved at every change, because with the defaults a kill loses every queued message; run as root it would
/// drop to a user that may not write here.
fn mosquitto(port: u16, dir: &Path) -> Command {
    let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\n{user}persistence true\npersistence_location {}/\n\
         autosave_interval 1\nautosave_on_changes true\nmax_queued_messages 0\nmax_inflight_messages 100\n",
        dir.display()
    );
    let file = dir.join("mosquitto.conf");
    fs::write(&file, config).expect("the directory was made for it");
    let mut command = system("mosquitto");
    command.arg("-c").arg(file);
    command
}

fn redis(port: u16, dir: &Path) -> Command {
    let mut command = system("redis-server");
    command.args(["--bind", "127.0.0.1", "--port"]).arg(port.to_string()).arg("--dir").arg(dir);
    command.args(["--save", "", "--appendonly", "no"]);
    command
}

/// The compiled server where there is one, which is faster; or the one from a wheel. Without `--sync-on-commit` either would
/// lose acknowledged writes in a kill.
fn mongodb(port: u16, dir: &Path) -> Command {
    let compiled = installed("mongodb-compiled/bin/secantusd-rs");
    let mut command = Command::new(if compiled.exists() { compiled } else { installed("mongodb/bin/secantusd-py") });
    command.args(["--host", "127.0.0.1", "--port"]).arg(port.to_string());
    command.arg("--storage-path").arg(dir.join("data"));
    command.args(["--sync-on-commit", "--cache-size", "128M", "--log-level", "WARNING"]);
    // Otherwise it takes settings from the user's home or the working directory.
    let config = dir.join("secantus.toml");
    fs::write(&config, "").expect("the directory was made for it");
    command.arg("--config").arg(config);
    command
}
