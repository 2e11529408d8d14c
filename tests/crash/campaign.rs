//! What is killed and frozen when, from a seed.
//!
//! A round starts the appliance, does something to a server or not, and kills the appliance at a random moment: some within
//! milliseconds of its start, in the middle of recovery, others in full work. In every fourth round it lives until it has caught up, while
//! the oracle holds back what is new: so no backlog grows without end before servers that are slower than the oracle and the machine, and a
//! campaign in which nothing moves does not pass for a good one.

use std::{
    fmt::Write,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    ends::{StoredCount, check_ledger, stored},
    oracle::{Oracle, POSTED, PUBLISHED, topic},
    process::{Appliance, PATIENCE, Process, Site, entry, list, qadf_edge, until},
    servers::{Kind, Server},
    tap::Tap,
    verdict,
};

/// Samples a second of the simulated machine on the serial line.
const MACHINE_RATE: &str = "300";
/// What the serial line does to its frames.
const LINE_FAULTS: &str = "crc=0.005,cut=0.002,duplicate=0.01";
/// Rows that may wait for a sink that has caught up.
const CAUGHT_UP_ROWS: u64 = 3_000;
/// Every sink of the site.
pub const SINKS: [&str; 4] = ["recent", "archive", "plant", "lines"];

/// `SplitMix64` (Steele, Lea and Flood, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, not including, `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.bits() % (to - from))
    }
}

/// What happens to a server during a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// `kill -9`, and started again in the same round.
    Kill(usize),
    /// Stopped in order, and started again in the same round.
    Stop(usize),
    /// `SIGSTOP`, then `SIGCONT`.
    Freeze(usize),
    /// The appliance itself is frozen for a while.
    FreezeAppliance,
}

/// Servers, site and oracle of one campaign.
pub struct Campaign {
    random: Random,
    seed: u64,
    site: Site,
    /// Mosquitto, Redis, MongoDB, Kafka.
    servers: [Server; 4],
    tap: Tap,
    journal: StoredCount,
    /// What happened, for the report.
    log: String,
}

/// Where Mosquitto is among the servers.
const BROKER: usize = 0;

impl Campaign {
    pub fn new(seed: u64) -> Self {
        let site = Site::new("crash");
        let servers = [Kind::Mqtt, Kind::Redis, Kind::Mongodb, Kind::Kafka].map(Server::own);
        let tap = Tap::start(servers[BROKER].port());
        site.configure(&configuration(&site, &servers, &tap));
        Self { random: Random::new(seed), seed, site, servers, tap, journal: StoredCount::default(), log: String::new() }
    }

    /// Kills the appliance `crashes` times, lets everything settle, and holds the far ends against what was sent.
    pub fn run(mut self, crashes: u64) {
        let begun = Instant::now();
        // The broker knows from here on for whom it keeps messages.
        let appliance = self.site.start();
        appliance.until("the broker knows us", |status| entry(status, "sources", "floor")["state"] == "up");
        let oracle = Oracle::start(&self.site, self.servers[BROKER].port(), self.seed);
        let machine = self.site.machine(None, &["--rate", MACHINE_RATE, "--faults", LINE_FAULTS, "--seed", &self.seed.to_string()]);
        appliance.kill();
        for round in 1..crashes {
            self.round(round, round + 1 == crashes, &oracle);
        }
        eprint!("{}", self.log);
        eprintln!("{crashes} crashes in {:?}", begun.elapsed());

        let appliance = self.site.start();
        let sent = oracle.finish();
        let report = machine.switch_off();
        let acknowledged = report["serial"]["rows"]["acknowledged"].as_u64().expect("a count");
        assert_eq!(report["serial"]["rows"]["overrun"], 0, "the machine's memory is large enough: {report}");
        appliance.until("the line is seen to be off", |status| entry(status, "sources", "line")["state"] == "down");
        until("all that was sent is in the journal", || {
            let rows = stored(&mut self.site.store());
            let all_there =
                |(stream, sent): &(&str, u64)| rows.values().filter(|row| row.stream == *stream).count() as u64 >= *sent;
            sent.iter().all(all_there).then_some(())
        });
        // Their last windows fire then.
        until("every stream is idle", || {
            let watermarks = appliance.get("/watermarks");
            let is_idle = |stream: &str| {
                let partitions = watermarks["watermarks"][stream]["partitions"].as_object().expect("it is there");
                partitions.values().all(|partition| partition["idle"] == true)
            };
            sent.iter().all(|(stream, _)| is_idle(stream)).then_some(())
        });
        // The status is of a moment ago.
        thread::sleep(Duration::from_secs(1));
        let status = appliance.until_delivered();
        check_balanced(&appliance);
        let rows = stored(&mut self.site.store()).len() as u64;
        for sink in SINKS {
            assert_eq!(entry(&status, "sinks", sink)["rows"]["accepted"].as_u64(), Some(rows), "{sink}");
            assert_eq!(entry(&status, "sinks", sink)["rows"]["expired"], 0, "{sink}");
        }
        appliance.stop();
        let [_, cache, archive, log] = &self.servers;
        let rows = verdict::Ends { site: &self.site, cache, archive, log, tap: &self.tap }.check(&sent, acknowledged);
        let (seed, seconds) = (self.seed, begun.elapsed().as_secs());
        println!(
            "{{\"seed\":{seed},\"crashes\":{crashes},\"seconds\":{seconds},\"rows\":{rows},\"lost\":0,\"doubled\":0,\"out_of_order\":0}}"
        );
    }

    fn round(&mut self, round: u64, is_last: bool, oracle: &Oracle) {
        // After the last one a slow stream may have no row that a server, empty again, could show.
        let fault = if is_last { Fault::None } else { self.fault() };
        let lives_long = round.is_multiple_of(4);
        // Half of the others die within their first moments.
        let life = if lives_long || self.random.below(2) == 0 { self.random.ms(1_000, 5_000) } else { self.random.ms(1, 1_500) };
        let _ =
            writeln!(self.log, "round {round}: {fault:?}, lives {life:?}{}", if lives_long { " and until all move" } else { "" });
        self.journal.look(&mut self.site.store());
        oracle.journaled(|stream| self.journal.of(stream));
        let started = Instant::now();
        let mut appliance = if lives_long {
            Ok(self.site.start())
        } else {
            let mut command = qadf_edge(&["run", "-c"]);
            command.arg(self.site.config());
            Err(Process::start("appliance", command, self.site.folder()))
        };
        self.inflict(fault, &mut appliance, oracle);
        if let Ok(appliance) = &appliance {
            let (before, acknowledged) = (appliance.status(), oracle.acknowledged());
            until_getting_on(appliance, "every sink moves", |status| {
                SINKS.iter().all(|sink| delivered(status, sink) > delivered(&before, sink))
            });
            oracle.hold();
            self.until_journaled(&acknowledged);
            until_getting_on(appliance, "every sink has caught up", |status| {
                check_balanced(appliance);
                SINKS.iter().all(|sink| waiting(status, sink) < CAUGHT_UP_ROWS)
            });
            oracle.go_on();
        }
        thread::sleep(life.saturating_sub(started.elapsed()));
        match appliance {
            Ok(appliance) => appliance.kill(),
            Err(mut process) => {
                assert!(process.runs(), "the appliance has ended by itself: {}", process.log());
                process.end(Signal::KILL);
            }
        }
        thread::sleep(self.random.ms(0, 400));
    }

    /// Waits until the journal has as many rows of each stream.
    fn until_journaled(&mut self, rows: &[(&'static str, u64)]) {
        until("all that was acknowledged is in the journal", || {
            self.journal.look(&mut self.site.store());
            rows.iter().all(|(stream, rows)| self.journal.of(stream) >= *rows).then_some(())
        });
    }

    fn fault(&mut self) -> Fault {
        let server = self.random.below(self.servers.len());
        match self.random.below(8) {
            0 | 1 => Fault::Kill(server),
            2 | 3 => Fault::Freeze(server),
            4 => Fault::Stop(server),
            5 => Fault::FreezeAppliance,
            _ => Fault::None,
        }
    }

    fn inflict(&mut self, fault: Fault, appliance: &mut Result<Appliance, Process>, oracle: &Oracle) {
        thread::sleep(self.random.ms(0, 500));
        let away = self.random.ms(100, 2_000);
        match fault {
            Fault::None => {}
            Fault::Kill(server) => {
                if server == BROKER {
                    // Mosquitto saves after it has acknowledged: with a message in between, it would lose that itself.
                    oracle.hold_published();
                    self.servers[server].wait_until_ready();
                }
                self.servers[server].kill();
                oracle.go_on();
                thread::sleep(away);
                self.servers[server].start_unready();
            }
            Fault::Stop(server) => {
                self.servers[server].stop();
                thread::sleep(away);
                self.servers[server].start_unready();
            }
            Fault::Freeze(server) => {
                self.servers[server].pause();
                thread::sleep(away);
                self.servers[server].resume();
            }
            Fault::FreezeAppliance => {
                let process = appliance.as_ref().map_or_else(|process| process, |appliance| &appliance.process);
                process.signal(Signal::STOP);
                thread::sleep(away);
                process.signal(Signal::CONT);
            }
        }
    }
}

/// Looks at the status until `holds`, for as long as some sink gets on.
fn until_getting_on(appliance: &Appliance, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let (mut best, mut since) = (0, Instant::now());
    loop {
        let status = appliance.status();
        if holds(&status) {
            return status;
        }
        let moved = SINKS.iter().map(|sink| delivered(&status, sink)).sum();
        if moved > best {
            (best, since) = (moved, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "nothing moves, and not yet: {what}\n{}", status["sinks"]);
        thread::sleep(Duration::from_millis(50));
    }
}

fn waiting(status: &Value, sink: &str) -> u64 {
    entry(status, "sinks", sink)["rows"]["buffered"].as_u64().expect("a count")
}

fn delivered(status: &Value, sink: &str) -> u64 {
    entry(status, "sinks", sink)["rows"]["delivered"].as_u64().expect("a count")
}

/// The ledger of the page, and the appliance's own look at it.
fn check_balanced(appliance: &Appliance) {
    check_ledger(&appliance.metrics());
    let status = appliance.status();
    let unaccounted: Vec<_> = list(&status, "problems").iter().filter(|text| text.to_string().contains("unaccounted")).collect();
    assert!(unaccounted.is_empty(), "{unaccounted:?}");
}

fn configuration(site: &Site, servers: &[Server; 4], tap: &Tap) -> String {
    let [_, cache, archive, log] = servers;
    let mut text = String::new();
    for stream in PUBLISHED.iter().map(|(stream, _)| *stream).chain([POSTED]) {
        let _ = write!(text, "[streams.{stream}]\nsignals = {{ n = \"1\" }}\nwatermark = {{ delay = \"100ms\", idle = \"2s\" }}\n");
        let _ = write!(
            text,
            "[[pipelines]]\nid = \"{stream}_counts\"\nstream = \"{stream}\"\n\
             [[pipelines.windows]]\nid = \"{stream}_1s\"\ntype = \"tumbling\"\nsize = \"1s\"\n\
             aggregate = {{ rows = \"count()\", sum = \"sum(n)\" }}\n"
        );
    }
    for (stream, signals) in verdict::MACHINE_STREAMS {
        let _ = write!(text, "[streams.{stream}]\nsignals = {signals}\ntags = [\"part\"]\n");
    }
    let names: Vec<String> = verdict::MACHINE_STREAMS.iter().map(|(stream, _)| format!("\"{stream}\"")).collect();
    let _ = write!(
        text,
        "[sources.line]\ntype = \"serial\"\ndevice = \"{}\"\nbaud = 921600\ncodec = \"bridge\"\nstreams = [{}]\n",
        site.line().display(),
        names.join(", ")
    );
    let subscriptions: Vec<String> = PUBLISHED
        .iter()
        .map(|(stream, qos)| {
            format!("{{ topic = \"{}\", qos = {qos}, codec = \"json\", stream = \"{stream}\" }}", topic(site, stream))
        })
        .collect();
    let _ = write!(
        text,
        "[sources.floor]\ntype = \"mqtt\"\nurl = \"{}\"\nclient_id = \"{}\"\nsubscriptions = [ {} ]\n",
        tap.url(),
        site.id,
        subscriptions.join(", ")
    );
    let _ = write!(
        text,
        "[sinks.recent]\ntype = \"redis\"\nurl = \"{}\"\nttl = \"1h\"\nrecent_rows = {}\n\
         [sinks.archive]\ntype = \"mongodb\"\nurl = \"{}\"\ndatabase = \"{id}\"\nbatch_rows = 1000\n\
         [sinks.plant]\ntype = \"kafka\"\nbrokers = [\"{}\"]\ntopic = \"{id}\"\ndelivery = \"exactly_once\"\n\
         [sinks.lines]\ntype = \"file\"\npath = \"{}\"\n",
        cache.url(),
        verdict::RECENT_ROWS,
        archive.url(),
        log.url(),
        verdict::lines_path(site).display(),
        id = site.id,
    );
    text
}
