//! The run of a simulation: what happens when, from the seed, and whether all is well.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    FaultCounts, Outcome, Settings,
    clock::{Clock, locked},
    disk::Disk,
    ends::{FarEnd, Kind},
    life::{self, Life},
    machine::{self, Machine},
    publisher::{self, Message, Publisher},
};
use crate::{
    engine::EngineConfig,
    ingest::decode::{Context, Decoded, Heard},
    model::{Seq, Timestamp},
    simulate::Random,
    store::{Clocks, Reading},
};

const SECOND_NS: u64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z: when the simulation begins, by a clock that is right.
const START_NS: i64 = 1_767_225_600_000_000_000;
/// A window of both streams, see [`life`].
const WINDOW_NS: u64 = 10 * SECOND_NS;
const FRAME_NS: u64 = machine::FRAME_ROWS * machine::PERIOD_NS;
const MESSAGE_NS: u64 = publisher::MESSAGE_ROWS * publisher::PERIOD_NS;
/// How often the host looks whether it has something to say, and the machine whether it has something to send.
const LOOK_NS: u64 = SECOND_NS / 4;
/// The wait before a sink's loop that ended is started again, as the supervisor has it.
const RESTART_NS: u64 = SECOND_NS;
/// From the end of all faults to where everything must have arrived, at least and at most.
const HEAL_NS: (u64, u64) = (120 * SECOND_NS, 3_600 * SECOND_NS);
/// How often a call of the store fails.
const ERROR_CHANCE: f64 = 0.000_5;

/// Something that happens at a moment.
enum Event {
    /// The machine takes rows.
    Sample,
    /// The broker gets rows.
    Publish,
    /// The engine's second: time, step, checkpoint; and a look at everything.
    Second,
    /// Host and machine look after their line.
    Look,
    /// Something fails.
    Fault,
    /// The appliance starts.
    Start,
    /// The loop of a sink starts again, in this life.
    Restart(usize, u64),
    /// Bytes reach the host over this plugging of the line.
    ToHost(Vec<u8>, u64),
    /// Bytes reach the machine.
    ToMachine(Vec<u8>, u64),
    /// The line is plugged in.
    Plug,
    /// The broker can be reached.
    Connect,
    /// A message reaches the appliance over this connection.
    Arrive(u64, Message),
    /// An acknowledgement reaches the broker.
    Acknowledge(u64, u64),
}

/// What a crash waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Armed {
    /// Rows that are committed while nobody knows.
    Append,
    /// A step, likewise.
    Step,
}

/// See the module.
pub struct Trial {
    settings: Settings,
    clock: Clock,
    random: Random,
    disk: Arc<Mutex<Disk>>,
    engine: EngineConfig,
    machine: Machine,
    publisher: Publisher,
    ends: Vec<FarEnd>,
    events: BTreeMap<(u64, u64), Event>,
    events_count: u64,
    life: Option<Life>,
    /// Which life it is, and which plugging of the line.
    lives: u64,
    plugs: u64,
    armed: Option<Armed>,
    /// How wrong the appliance's wall clock is.
    clock_error_ns: Arc<AtomicI64>,
    /// What the host's clock counts from.
    epoch: Instant,
    faults: FaultCounts,
}

impl Trial {
    /// With its files below `place`, which goes with it.
    pub fn new(settings: Settings, place: PathBuf) -> Self {
        let Settings { seed, is_faulty, .. } = settings;
        let (clock, clock_error_ns) = (Clock::default(), Arc::<AtomicI64>::default());
        let clocks = {
            let (clock, error_ns) = (clock.clone(), Arc::clone(&clock_error_ns));
            Clocks::new(move || Reading {
                wall_ns: START_NS + clock.now_ns() as i64 + error_ns.load(Ordering::Relaxed),
                monotonic_ns: clock.now_ns() as i64,
                boot: "simulated".into(),
            })
        };
        let kinds = [Kind::Upserts, Kind::Compares, Kind::Transactions, Kind::AtMostOnce];
        let end = |(kind, purpose)| FarEnd::new(kind, &clock, Random::new(seed, purpose), is_faulty);
        Self {
            settings,
            random: Random::new(seed, 11),
            disk: Arc::new(Mutex::new(Disk::new(place, clocks))),
            engine: EngineConfig::default(),
            machine: Machine::new(seed, is_faulty),
            publisher: Publisher::new(seed, is_faulty),
            ends: kinds.into_iter().zip(41..).map(end).collect(),
            clock,
            events: BTreeMap::new(),
            events_count: 0,
            life: None,
            lives: 0,
            plugs: 0,
            armed: None,
            clock_error_ns,
            epoch: Instant::now(),
            faults: FaultCounts::default(),
        }
    }

    /// Simulated time since the start.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Rows come until then, and faults.
    fn end_ns(&self) -> u64 {
        (self.settings.hours * 3_600e9) as u64 / WINDOW_NS * WINDOW_NS
    }

    /// From then on the wall clock is right, so that the last rows are seen to be old when they are.
    fn clocks_right_ns(&self) -> u64 {
        self.end_ns() - (self.end_ns() / 4).min(60 * SECOND_NS)
    }

    fn is_over(&self) -> bool {
        self.now_ns() >= self.end_ns()
    }

    /// What the appliance takes for the time.
    fn wall(&self) -> Timestamp {
        Timestamp(START_NS + self.now_ns() as i64 + self.clock_error_ns.load(Ordering::Relaxed))
    }

    fn host_now(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.now_ns())
    }

    fn schedule(&mut self, at_ns: u64, event: Event) {
        self.events_count += 1;
        self.events.insert((at_ns, self.events_count), event);
    }

    fn schedule_in(&mut self, after_ns: u64, event: Event) {
        self.schedule(self.now_ns() + after_ns, event);
    }

    /// Until all faults are over and everything has arrived.
    ///
    /// # Errors
    /// What is wrong.
    pub fn run(&mut self) -> Result<Outcome, String> {
        self.engine = life::configuration()?;
        for event in [Event::Start, Event::Sample, Event::Publish, Event::Connect] {
            self.schedule(0, event);
        }
        self.schedule(LOOK_NS, Event::Look);
        self.schedule(SECOND_NS, Event::Second);
        if self.settings.is_faulty {
            self.schedule(SECOND_NS, Event::Fault);
        }
        loop {
            self.run_tasks()?;
            let event_ns = self.events.keys().next().map_or(u64::MAX, |(at_ns, _)| *at_ns);
            let timer_ns = self.clock.next_ns().unwrap_or(u64::MAX);
            self.clock.advance(event_ns.min(timer_ns));
            if event_ns <= timer_ns
                && let Some((_, event)) = self.events.pop_first()
                && self.happen(event)?
            {
                return self.verdict();
            }
        }
    }

    fn run_tasks(&mut self) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let ended = life.tasks.run();
        for (place, end) in ended {
            match end {
                // Nobody stops a loop here, and its store is there as long as it is.
                Ok(()) => return Err(format!("the loop of {:?} has ended by itself", self.ends[place].kind)),
                Err(error) if !self.settings.is_faulty => return Err(error.to_string()),
                Err(_) => {
                    self.faults.loops_restarted += 1;
                    self.schedule_in(RESTART_NS, Event::Restart(place, self.lives));
                }
            }
        }
        for end in &self.ends {
            if let Some(what) = end.server(|server| server.wrongs.any().then(|| server.first_wrong.clone())).flatten() {
                return Err(what);
            }
        }
        Ok(())
    }

    /// Whether that was the end.
    fn happen(&mut self, event: Event) -> Result<bool, String> {
        let now_ns = self.now_ns();
        match event {
            Event::Sample if !self.is_over() => {
                self.machine.sample(START_NS + now_ns as i64);
                self.send();
                self.schedule_in(FRAME_NS, Event::Sample);
            }
            Event::Publish if !self.is_over() => {
                self.publisher.publish(START_NS + now_ns as i64);
                self.deliver();
                self.schedule_in(MESSAGE_NS, Event::Publish);
            }
            Event::Second => return self.second(),
            Event::Look => {
                self.send();
                self.speak()?;
                self.schedule_in(LOOK_NS, Event::Look);
            }
            Event::Fault => self.fault()?,
            Event::Start => self.start()?,
            Event::Restart(place, life) if life == self.lives => self.attach(place)?,
            Event::ToHost(bytes, plug) if plug == self.plugs && self.machine.plugged => self.receive(&bytes)?,
            Event::ToMachine(bytes, plug) if plug == self.plugs && self.machine.plugged => {
                self.machine.hear(&bytes, now_ns);
                self.send();
            }
            Event::Plug => self.plug(),
            Event::Connect if self.life.is_some() => {
                self.publisher.connect();
                self.deliver();
            }
            Event::Arrive(connection, message) if self.publisher.connection == Some(connection) => {
                self.arrive(connection, &message)?;
            }
            Event::Acknowledge(connection, number) if self.publisher.connection == Some(connection) => {
                self.publisher.acknowledged(number);
                self.deliver();
            }
            // After the end of production, or of a line, a connection or a life that is no more.
            _ => {}
        }
        Ok(false)
    }

    fn start(&mut self) -> Result<(), String> {
        self.life = Some(Life::start(&self.disk, &self.engine)?);
        self.lives += 1;
        (0..self.ends.len()).try_for_each(|place| self.attach(place))?;
        self.plug();
        self.publisher.connect();
        self.deliver();
        Ok(())
    }

    fn attach(&mut self, place: usize) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.attach(place, &self.ends[place], self.settings, &self.clock, &mut self.random)
    }

    /// The line is there, and somebody at both of its ends.
    fn plug(&mut self) {
        let now_ns = self.now_ns();
        if let Some(life) = &mut self.life
            && !self.machine.plugged
        {
            self.plugs += 1;
            life.host.opened();
            self.machine.connected(now_ns);
            self.send();
        }
    }

    /// What the machine has to send goes on its way.
    fn send(&mut self) {
        for (at_ns, bytes) in self.machine.send(self.now_ns()) {
            self.schedule(at_ns, Event::ToHost(bytes, self.plugs));
        }
    }

    /// What the broker has to send goes on its way.
    fn deliver(&mut self) {
        let Some(connection) = self.publisher.connection else { return };
        for (at_ns, message) in self.publisher.send(self.now_ns()) {
            self.schedule(at_ns, Event::Arrive(connection, message));
        }
    }

    fn line_context(&self) -> Context {
        Context::new("line".into(), "line".into(), self.wall())
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        let context = self.line_context();
        let Some(life) = &mut self.life else { return Ok(()) };
        let decoded = life.host.received(bytes, &context);
        self.take_in(decoded)?;
        self.speak()
    }

    /// Rows from the line into the store, and word of them back to the host.
    fn take_in(&mut self, (decoded, heard): (Decoded, Vec<Heard>)) -> Result<(), String> {
        if decoded.is_empty() {
            return Ok(());
        }
        self.faults.damaged_frames += decoded.rejects.len() as u64;
        let (is_told, now) = (self.append(decoded)?, self.host_now());
        match (&mut self.life, is_told) {
            (Some(life), true) => life.host.synced(&heard),
            (Some(life), false) => life.host.refused(now),
            (None, _) => {}
        }
        Ok(())
    }

    /// Appends; whether the source may be told that it is done. The appliance may be gone afterwards.
    fn append(&mut self, decoded: Decoded) -> Result<bool, String> {
        let is_faulty = self.settings.is_faulty && !self.is_over();
        let fails = (is_faulty && self.random.chance(ERROR_CHANCE)).then(|| self.random.chance(0.5));
        self.faults.disk_errors += u64::from(fails.is_some());
        let Some(life) = &mut self.life else { return Ok(false) };
        if fails == Some(false) {
            return Ok(false);
        }
        let taken = life.append(decoded)?;
        if self.armed == Some(Armed::Append) {
            self.crash()?;
            return Ok(false);
        }
        self.faults.duplicates += taken.duplicates;
        life.note(taken)?;
        locked(&self.disk).tidy()?;
        Ok(fails.is_none())
    }

    /// The host's words to the machine.
    fn speak(&mut self) -> Result<(), String> {
        let (now, context, mut words) = (self.host_now(), self.line_context(), Vec::new());
        let Some(life) = self.life.as_mut().filter(|_| self.machine.plugged) else { return Ok(()) };
        let gave_up = life.host.speak(now, &mut words);
        let lost = life.host.take_lost_rows();
        if lost > 0 {
            return Err(format!("the host has given up {lost} rows that the machine still has"));
        }
        let released = if gave_up { life.host.release(&context) } else { Default::default() };
        if !words.is_empty() {
            for (at_ns, bytes) in self.machine.told(&words, self.now_ns()) {
                self.schedule(at_ns, Event::ToMachine(bytes, self.plugs));
            }
        }
        self.take_in(released)
    }

    fn arrive(&mut self, connection: u64, (number, text): &Message) -> Result<(), String> {
        let context = Context::new("floor".into(), "floor".into(), self.wall());
        let Some(life) = &mut self.life else { return Ok(()) };
        let mut decoded = Decoded::default();
        life.json.message(text.as_bytes(), &context, &mut decoded);
        if self.append(decoded)? {
            let back_ns = 1_000_000 + self.random.below(20_000_000) as u64;
            self.schedule_in(back_ns, Event::Acknowledge(connection, *number));
        } else if self.life.is_some() {
            self.disconnect(SECOND_NS);
        }
        Ok(())
    }

    fn disconnect(&mut self, for_ns: u64) {
        self.publisher.connection = None;
        self.schedule_in(for_ns, Event::Connect);
    }

    /// Time, step and checkpoint; whether that was the end.
    fn second(&mut self) -> Result<bool, String> {
        self.schedule_in(SECOND_NS, Event::Second);
        let wall = self.wall();
        if let Some(life) = &mut self.life {
            life.tick(wall)?;
            let results = life.commit()?;
            if self.armed == Some(Armed::Step) {
                self.crash()?;
                return Ok(false);
            }
            life.announce(Seq(0), results);
            life.balances()?;
            locked(&self.disk).tidy()?;
        }
        let healing_ns = self.now_ns().saturating_sub(self.end_ns());
        if self.now_ns() >= self.clocks_right_ns() {
            self.clock_error_ns.store(0, Ordering::Relaxed);
        }
        if healing_ns >= HEAL_NS.0 && self.all_is_there()? {
            return Ok(true);
        }
        if healing_ns >= HEAL_NS.1 {
            return Err(format!("an hour after the last fault not everything has arrived: {}", self.counts()));
        }
        Ok(false)
    }

    fn produced(&self) -> u64 {
        self.machine.rows() + self.publisher.rows()
    }

    fn all_is_there(&self) -> Result<bool, String> {
        let Some(life) = &self.life else { return Ok(false) };
        let (rows, results) = life.newest();
        let holds = |end: &FarEnd| end.kind == Kind::AtMostOnce || end.server(|server| server.counts()) == (rows.0, results.0);
        Ok(rows.0 == self.produced() && life.balances()? && self.ends.iter().all(holds))
    }

    fn counts(&self) -> String {
        let newest = self.life.as_ref().map(Life::newest);
        let ends: Vec<_> = self.ends.iter().map(|end| (end.kind, end.server(|server| server.counts()))).collect();
        format!("{} rows produced, in the store {newest:?}, at the far ends {ends:?}", self.produced())
    }

    /// The next fault, and when the one after it comes.
    fn fault(&mut self) -> Result<(), String> {
        if self.is_over() {
            return Ok(());
        }
        // Some sixty in a short run, one in one and a half minutes in a long one.
        let gap_ns = (self.end_ns() / 60).clamp(2 * SECOND_NS, 90 * SECOND_NS);
        let next_ns = self.random.below(2 * gap_ns as usize) as u64 + SECOND_NS / 1_000;
        self.schedule_in(next_ns, Event::Fault);
        let left_ns = self.end_ns() - self.now_ns();
        let away_ns = (self.random.below(300_000) as u64 * 1_000_000).min(left_ns).min(gap_ns * 8);
        let until_ns = self.now_ns() + away_ns;
        let end = self.random.below(self.ends.len());
        match self.random.below(8) {
            0 => match self.random.below(3) {
                0 => self.crash()?,
                1 => self.armed = Some(Armed::Append),
                _ => self.armed = Some(Armed::Step),
            },
            1 | 2 => {
                self.faults.servers_away += 1;
                self.ends[end].server(|server| server.away_until_ns = until_ns);
            }
            3 => {
                self.faults.servers_frozen += 1;
                self.ends[end].server(|server| server.frozen_until_ns = until_ns);
            }
            4 | 5 => self.cut_line(away_ns / 20)?,
            6 if self.life.is_some() => {
                self.faults.connections_broken += 1;
                self.disconnect(away_ns / 20);
            }
            7 if self.now_ns() < self.clocks_right_ns() => {
                self.faults.clock_steps += 1;
                let day_ns = 86_400 * SECOND_NS as i64;
                let to_1970_ns = -(START_NS + self.now_ns() as i64);
                let errors_ns = [0, 0, SECOND_NS as i64, -(SECOND_NS as i64), day_ns, -day_ns, to_1970_ns];
                self.clock_error_ns.store(errors_ns[self.random.below(7)], Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(())
    }

    fn cut_line(&mut self, for_ns: u64) -> Result<(), String> {
        if !self.machine.plugged {
            return Ok(());
        }
        self.faults.lines_cut += 1;
        self.machine.plugged = false;
        self.schedule_in(for_ns, Event::Plug);
        let context = self.line_context();
        let Some(life) = &mut self.life else { return Ok(()) };
        let decoded = life.host.cut_off(&context);
        self.take_in(decoded)
    }

    /// The appliance is gone in the middle of whatever it did, and comes back after a while.
    fn crash(&mut self) -> Result<(), String> {
        self.armed = None;
        if self.life.take().is_none() {
            return Ok(());
        }
        self.faults.crashes += 1;
        self.machine.plugged = false;
        self.publisher.connection = None;
        let mut random = Random::new(self.settings.seed, 1_000 + self.faults.crashes);
        locked(&self.disk).crash(&mut random)?;
        let away_ns = 10_000_000 + self.random.below(20_000_000_000) as u64;
        self.schedule_in(away_ns, Event::Start);
        Ok(())
    }

    /// Everything is there: is it right?
    fn verdict(&self) -> Result<Outcome, String> {
        let Some(life) = &self.life else { return Err("the appliance is gone".to_owned()) };
        let (rows, results) = life.newest();
        let windows = self.end_ns() / WINDOW_NS;
        for end in self.ends.iter().filter(|end| end.kind != Kind::AtMostOnce) {
            end.server(|server| {
                let line = server.windows_of("line_counts");
                let wrong = line.iter().find(|rows| **rows != WINDOW_NS / machine::PERIOD_NS);
                // The last window is open: nothing has come after it.
                if wrong.is_some() || line.len() as u64 + 1 < windows {
                    return Err(format!("{:?}: {} of {windows} windows, one of {wrong:?} rows", end.kind, line.len()));
                }
                let late = server.late.get("floor_counts").copied().unwrap_or(0);
                let (counted, flagged) = (server.windows_of("floor_counts").iter().sum::<u64>(), life.flagged());
                if counted + late + flagged != self.publisher.rows() {
                    let produced = self.publisher.rows();
                    return Err(format!("{:?}: {counted} rows in windows, {late} late, {flagged} marked, of {produced}", end.kind));
                }
                Ok(())
            })?;
        }
        let mut faults = self.faults.clone();
        faults.answers_lost = self.ends.iter().map(|end| end.server(|server| server.answers_lost)).sum();
        let delivered = self.ends.iter().map(|end| end.server(|server| server.counts().0 + server.counts().1)).sum();
        let digest = self.ends.iter().fold(0, |digest: u64, end| digest.rotate_left(7) ^ end.server(|server| server.digest));
        Ok(Outcome {
            seed: self.settings.seed,
            simulated_seconds: self.now_ns() as f64 / 1e9,
            rows: rows.0,
            results: results.0,
            delivered,
            log_moves: locked(&self.disk).log_moves,
            faults,
            windows,
            digest: format!("{digest:016x}"),
            ..Outcome::default()
        })
    }
}
