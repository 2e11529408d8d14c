//! A Modbus RTU line: we ask, units answer.
//!
//! Every interval each poll is asked; its answers make one row, whose time is that of its arrival, or one reject with the reason and what was heard:
//! a unit that does not answer in time, answers damaged, or answers with an exception. Intervals that pass while units are slow are left out. A
//! row that finds no room is shed and counted: asking less would only hide that it is missing.
//!
//! An answer that comes too late looks like one to the next question. So everything heard before a question is thrown away, the rest of a
//! poll is left out after a failure, and a unit that failed is not asked again before another time-out has passed.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_serial::{ClearBuffer, SerialPort, SerialStream};

use super::{End, Line, Protocol};
use crate::ingest::{
    InboxError,
    decode::{Decoded, HEARD_BYTES_MAX, ModbusAnswer, ModbusPoll, ModbusRequest, exception_meaning},
    ended,
    outlet::Outlet,
};

/// What is asked over a Modbus RTU line, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct ModbusConfig {
    /// Asked one after the other.
    pub polls: Vec<ModbusPoll>,
    /// From one round of questions to the next.
    pub every: Duration,
    /// From the beginning of a question to the end of its answer.
    pub timeout: Duration,
}

/// The only one who asks on a line.
pub(super) struct Master {
    polls: Arc<[ModbusPoll]>,
    every: Duration,
    timeout: Duration,
    /// Silence between two frames.
    pause: Duration,
    /// Units that failed, and until when they are not asked.
    quiet: BTreeMap<u8, Instant>,
}

/// What a poll came to.
enum Outcome {
    Row(Vec<u16>),
    /// Not even a part of an answer.
    Silent(String),
    Failed(String),
}

/// What interrupts a round of questions.
enum Stop {
    Ended(End),
    Closed,
}

impl Master {
    pub fn new(config: ModbusConfig, baud: u32) -> Self {
        // Modbus over Serial Line V1.02, section 2.5.1.1: 3.5 characters of 11 bits, and a fixed time above 19,200 baud.
        let pause = Duration::from_secs_f64(38.5 / f64::from(baud.max(1))).max(Duration::from_micros(1750));
        Self { polls: config.polls.into(), every: config.every, timeout: config.timeout, pause, quiet: BTreeMap::new() }
    }

    /// Asks everything once.
    async fn round(&mut self, port: &mut SerialStream, line: &Line, talk: &mut Talk<'_>) -> Result<(), Stop> {
        let mut silence = None;
        let mut any_answer = false;
        for poll in Arc::clone(&self.polls).iter() {
            let mut raw = Vec::new();
            let outcome = talk.while_asking(self.ask(port, poll, &mut raw)).await?;
            let outcome = outcome.map_err(|error| Stop::Ended(End::Gone(format!("{} failed: {error}", line.device))))?;
            let (context, mut decoded) = (line.context(), Decoded::default());
            match outcome {
                Outcome::Row(registers) => {
                    any_answer = true;
                    poll.row(&registers, &raw, &context, &mut decoded);
                }
                Outcome::Failed(why) => {
                    any_answer = true;
                    ModbusPoll::refuse(why, &raw, &context, &mut decoded);
                }
                Outcome::Silent(why) => {
                    silence = Some(why.clone());
                    ModbusPoll::refuse(why, &raw, &context, &mut decoded);
                }
            }
            if !raw.is_empty() {
                line.status.arrived(context.arrival);
            }
            talk.outlet.offer(decoded, Vec::new()).map_err(|_| Stop::Closed)?;
        }
        match silence {
            Some(why) if !any_answer => line.status.down(format!("nobody answers on {}: {why}", line.device)),
            _ => line.status.up(),
        }
        Ok(())
    }

    /// Asks one unit; `raw` is what was heard.
    async fn ask(&mut self, port: &mut SerialStream, poll: &ModbusPoll, raw: &mut Vec<u8>) -> io::Result<Outcome> {
        if let Some(until) = self.quiet.remove(&poll.unit()) {
            time::sleep_until(until).await;
        }
        let mut registers = Vec::new();
        for request in poll.requests() {
            let (answer, heard) = self.exchange(port, request).await?;
            raw.extend(&heard);
            match answer {
                ModbusAnswer::Registers(more) => registers.extend(more),
                ModbusAnswer::Exception(code) => {
                    let meaning = exception_meaning(code);
                    return Ok(Outcome::Failed(format!("{}: exception {code}: {meaning}", request.describe())));
                }
                ModbusAnswer::Incomplete => {
                    self.quiet.insert(poll.unit(), Instant::now() + self.timeout);
                    let (what, within) = (request.describe(), self.timeout);
                    return Ok(match heard.len() {
                        0 => Outcome::Silent(format!("{what}: no answer within {within:?}")),
                        count => {
                            Outcome::Failed(format!("{what}: {count} bytes within {within:?}, but no whole and undamaged answer"))
                        }
                    });
                }
            }
        }
        Ok(Outcome::Row(registers))
    }

    /// One question, and what was heard until its answer was whole, or in time.
    async fn exchange(&self, port: &mut SerialStream, request: &ModbusRequest) -> io::Result<(ModbusAnswer, Vec<u8>)> {
        time::sleep(self.pause).await;
        port.clear(ClearBuffer::Input)?;
        let mut heard = Vec::new();
        let answer = async {
            port.write_all(&request.frame()).await?;
            while heard.len() < HEARD_BYTES_MAX {
                let mut bytes = [0; 256];
                match port.read(&mut bytes).await? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                    count => heard.extend_from_slice(&bytes[..count]),
                }
                match request.answer(&heard) {
                    ModbusAnswer::Incomplete => {}
                    answer => return Ok(answer),
                }
            }
            Ok(ModbusAnswer::Incomplete)
        };
        let answer = time::timeout(self.timeout, answer).await.unwrap_or(Ok(ModbusAnswer::Incomplete))?;
        Ok((answer, heard))
    }
}

/// Everything else that happens on a line.
struct Talk<'t> {
    line: &'t Line,
    outlet: &'t mut Outlet<()>,
    shutdown: &'t mut watch::Receiver<bool>,
}

impl Talk<'_> {
    /// Waits for `asking`, and meanwhile hands on rows.
    async fn while_asking<T>(&mut self, asking: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::pin!(asking);
        loop {
            tokio::select! {
                answer = &mut asking => return Ok(answer),
                synced = self.outlet.next_synced() => self.line.told(synced).map_err(|_| Stop::Closed)?,
                () = ended(self.shutdown) => return Err(Stop::Ended(End::Shutdown)),
            }
        }
    }
}

impl Protocol for Master {
    type Receipt = ();

    async fn session(
        &mut self,
        mut port: SerialStream,
        line: &Line,
        outlet: &mut Outlet<()>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<End, InboxError> {
        let mut ticks = time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut talk = Talk { line, outlet, shutdown };
        loop {
            let stopped = match talk.while_asking(ticks.tick()).await {
                Ok(_) => self.round(&mut port, line, &mut talk).await,
                Err(stop) => Err(stop),
            };
            match stopped {
                Ok(()) => {}
                Err(Stop::Ended(end)) => return Ok(end),
                Err(Stop::Closed) => return Err(InboxError::Closed),
            }
        }
    }
}
