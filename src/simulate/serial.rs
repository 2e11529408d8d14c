//! The machine's serial line: a real pseudo-terminal behind a symbolic link that stands for the device's name.
//!
//! The machine holds the controlling side. Reading it fails with `EIO` while nobody has the other side open: that is how it sees
//! that the line is free, taken, or taken by somebody else meanwhile. A free line carries nothing, and what the last reader left on
//! it is flushed. Whoever opens it gets the presentation and then every row that the machine remembers and may send ([`Memory`]).
//! To unplug the line is to close it and remove the link.

use std::fs::{remove_file, rename, symlink_metadata};
use std::io;
use std::mem::replace;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use firmware_bridge::{Accumulator, Frame};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::faults::{FaultCounts, Recurring, Wire};
use super::machine::Settings;
use super::memory::{Memory, MemoryCounts, RowFrame};

/// The line is filled up to this; the kernel's own buffer is 8 KB.
const LINE_BYTES: usize = 16_384;

/// Who says more than this at once is there.
const HEARD_READS_MAX: usize = 256;

/// A symbolic link that goes when the line goes.
#[derive(Debug)]
struct Link(PathBuf);

impl Link {
    /// Points `at` to `target` in one step. Only a link is ever replaced.
    fn point(at: &Path, target: &Path) -> io::Result<Self> {
        if symlink_metadata(at).is_ok_and(|there| !there.is_symlink()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is at that place: choose another link"));
        }
        let mut name = at.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let beside = at.with_file_name(name);
        symlink(target, &beside)?;
        rename(&beside, at)?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Somebody may have removed it before; it is gone either way.
        let _ = remove_file(&self.0);
    }
}

/// The controlling side of a pseudo-terminal.
#[derive(Debug)]
struct Port {
    controller: OwnedFd,
    /// The other side's name.
    name: PathBuf,
}

impl Port {
    /// A pseudo-terminal that passes bytes as they are; its controlling side does not block.
    fn open() -> io::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let mut mode = tcgetattr(&controller)?;
        mode.make_raw();
        tcsetattr(&controller, OptionalActions::Now, &mode)?;
        fcntl_setfl(&controller, fcntl_getfl(&controller)? | OFlags::NONBLOCK)?;
        let name = ptsname(&controller, Vec::new())?.into_string().map_err(io::Error::other)?;
        let port = Self { controller, name: name.into() };
        port.flush()?;
        Ok(port)
    }

    /// Throws away what nobody has read. Opens and closes the other side, without which the kernel would take a line that nobody has
    /// ever opened for one in use.
    fn flush(&self) -> io::Result<()> {
        let other = rustix::fs::open(&self.name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(tcflush(other, QueueSelector::IFlush)?)
    }
}

#[derive(Debug)]
enum State {
    /// There is no line until that time of the machine, ns.
    Unplugged { until_ns: i64 },
    /// Nobody reads.
    Free(Port, Link),
    /// Somebody reads.
    Taken(AsyncFd<OwnedFd>, PathBuf, Link),
}

/// Counts of the line since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct SerialCounts {
    /// Rows.
    pub rows: MemoryCounts,
    /// Faults.
    pub faults: FaultCounts,
    /// Times somebody opened the line.
    pub connections: u64,
    /// Times it was unplugged.
    pub unplugged: u64,
    /// Frames from the host that were none.
    pub rejected: u64,
}

/// The machine's end of the line.
#[derive(Debug)]
pub struct Serial {
    link: PathBuf,
    state: State,
    now_ns: i64,
    unplug: Option<Recurring>,
    next_unplug_ns: i64,
    hello: Vec<u8>,
    memory: Memory,
    wire: Wire,
    /// Bytes on their way to the kernel, and how many of them are there.
    line: Vec<u8>,
    written: usize,
    accumulator: Accumulator<64>,
    counts: SerialCounts,
}

impl Serial {
    /// A line at `link` for a machine that presents itself with `hello` and remembers `memory_bytes` of frames.
    ///
    /// # Errors
    /// If the system gives no pseudo-terminal or the link cannot be made.
    pub fn open(settings: &Settings, link: &Path, hello: Vec<u8>, memory_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            link: link.to_owned(),
            state: plug(link)?,
            now_ns: 0,
            unplug: settings.faults.unplug,
            next_unplug_ns: settings.faults.unplug.map_or(i64::MAX, |unplug| unplug.every_ns),
            hello,
            memory: Memory::new(settings.boot, memory_bytes),
            wire: Wire::new(settings.seed, settings.faults),
            line: Vec::new(),
            written: 0,
            accumulator: Accumulator::new(),
            counts: SerialCounts::default(),
        })
    }

    /// The link to the line.
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// What has happened so far.
    pub const fn counts(&self) -> SerialCounts {
        SerialCounts { rows: self.memory.counts(), faults: self.wire.counts(), ..self.counts }
    }

    /// Rows to send, now or when somebody reads.
    pub fn push(&mut self, frame: RowFrame) {
        self.memory.push(frame);
    }

    /// Plugs and unplugs, and sees whether somebody has opened a free line, `now_ns` after the machine's start.
    ///
    /// # Errors
    /// If the line cannot be opened again.
    pub fn look_after(&mut self, now_ns: i64) -> io::Result<()> {
        self.now_ns = now_ns;
        self.memory.look_for_progress(now_ns);
        if let Some(unplug) = self.unplug.filter(|_| now_ns >= self.next_unplug_ns) {
            self.next_unplug_ns = now_ns.saturating_add(unplug.every_ns);
            self.counts.unplugged += 1;
            self.state = State::Unplugged { until_ns: now_ns.saturating_add(unplug.by_ns) };
        }
        match replace(&mut self.state, State::Unplugged { until_ns: now_ns }) {
            State::Unplugged { until_ns } if now_ns >= until_ns => self.state = plug(&self.link)?,
            State::Free(port, link) => self.state = self.serve_if_taken(port, link)?,
            other => self.state = other,
        }
        Ok(())
    }

    /// Waits until the line takes or gives bytes, and moves them. Waits for ever while nobody reads. May be abandoned at any time.
    ///
    /// # Errors
    /// If the line can be neither used nor freed.
    pub async fn work(&mut self) -> io::Result<()> {
        self.fill();
        let State::Taken(port, ..) = &self.state else { return std::future::pending().await };
        let interest = if self.line.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let mut guard = port.ready(interest).await?;
        let mut open = !guard.ready().is_read_closed();
        if open && guard.ready().is_readable() {
            let mut bytes = [0; 256];
            match rustix::io::read(port.get_ref(), &mut bytes) {
                Ok(count) => hear(&mut self.memory, &mut self.accumulator, &mut self.counts, &bytes[..count], self.now_ns),
                Err(Errno::AGAIN) => guard.clear_ready_matching(Ready::READABLE),
                Err(Errno::INTR) => {}
                Err(_) => open = false,
            }
        }
        if open && guard.ready().is_writable() && !self.line.is_empty() {
            match rustix::io::write(port.get_ref(), &self.line[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => guard.clear_ready_matching(Ready::WRITABLE),
                Err(Errno::INTR) => {}
                Err(_) => open = false,
            }
        }
        drop(guard);
        if open { Ok(()) } else { self.free() }
    }

    /// Puts frames on the line once it is empty.
    fn fill(&mut self) {
        if self.written < self.line.len() || !matches!(self.state, State::Taken(..)) {
            return;
        }
        self.line.clear();
        self.written = 0;
        while self.line.len() < LINE_BYTES
            && let Some(frame) = self.memory.next(self.now_ns)
        {
            self.wire.carry(&frame.bytes, &mut self.line);
        }
    }

    fn serve_if_taken(&mut self, port: Port, link: Link) -> io::Result<State> {
        if !self.hear_out(&port.controller) {
            return Ok(State::Free(port, link));
        }
        self.counts.connections += 1;
        self.memory.reconnected(self.now_ns);
        self.line.clone_from(&self.hello);
        self.written = 0;
        #[expect(deprecated, reason = "its successor is unsafe, for descriptors that close while registered; this one is owned")]
        let controller = AsyncFd::new(port.controller)?;
        Ok(State::Taken(controller, port.name, link))
    }

    /// Hears what has been said on a free line, be it by a reader that has gone, and gives whether somebody is there.
    fn hear_out(&mut self, controller: &OwnedFd) -> bool {
        let mut bytes = [0; 256];
        for _ in 0..HEARD_READS_MAX {
            match rustix::io::read(controller, &mut bytes) {
                Ok(count) => hear(&mut self.memory, &mut self.accumulator, &mut self.counts, &bytes[..count], self.now_ns),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The reader has gone.
    fn free(&mut self) -> io::Result<()> {
        self.line.clear();
        self.written = 0;
        if let State::Taken(port, name, link) = replace(&mut self.state, State::Unplugged { until_ns: self.now_ns }) {
            let port = Port { controller: port.into_inner(), name };
            // A reader that had the line for itself and was killed has left it locked for good: then there is a new one.
            self.state = if port.flush().is_ok() {
                State::Free(port, link)
            } else {
                drop((port, link));
                plug(&self.link)?
            };
        }
        Ok(())
    }
}

fn plug(link: &Path) -> io::Result<State> {
    let port = Port::open()?;
    let link = Link::point(link, &port.name)?;
    Ok(State::Free(port, link))
}

/// Does what the host asks for.
fn hear(memory: &mut Memory, accumulator: &mut Accumulator<64>, counts: &mut SerialCounts, bytes: &[u8], now_ns: i64) {
    accumulator.feed(bytes, |event| match event {
        Ok(Frame::Ack(ack)) => memory.acknowledge(ack, now_ns),
        Ok(Frame::Resend(resend)) => memory.resend(resend),
        Ok(Frame::Data(_) | Frame::Hello(_)) | Err(_) => counts.rejected += 1,
    });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use firmware_bridge::{Ack, encode_ack};

    use super::super::machine::{Event, Machine};
    use super::*;
    use crate::model::Timestamp;

    /// A machine's line with the frames of `seconds` in its memory, and the rows in them.
    fn line(link: &Path, seconds: i64) -> (Serial, u64) {
        let settings = Settings::default();
        let mut machine = Machine::new(settings.clone());
        let mut serial = Serial::open(&settings, link, machine.hello(), 1 << 24).unwrap();
        let mut events = Vec::new();
        machine.advance(Timestamp(seconds * 1_000_000_000), &mut events);
        machine.flush(&mut events);
        for event in events {
            if let Event::Frame(frame) = event {
                serial.push(frame);
            }
        }
        let rows = serial.counts().rows.produced;
        (serial, rows)
    }

    /// Reads the other side until `rows` have come, acknowledges them if asked to, and gives their numbers and the presentations.
    fn read(link: PathBuf, rows: u64, acknowledge: bool) -> (Vec<u64>, usize) {
        let mut other = std::fs::File::options().read(true).write(true).open(link).unwrap();
        let mut accumulator = Box::new(Accumulator::<{ firmware_bridge::WIRE_BYTES_MAX }>::new());
        let (mut numbers, mut hellos) = (Vec::new(), 0);
        let mut bytes = [0; 4096];
        while (numbers.len() as u64) < rows {
            let count = other.read(&mut bytes).unwrap();
            let mut last = None;
            accumulator.feed(&bytes[..count], |event| match event {
                Ok(Frame::Data(data)) => {
                    numbers.extend(data.head().seq..=data.last_seq());
                    last = Some(Ack { boot: data.head().boot, seq: data.last_seq() });
                }
                Ok(Frame::Hello(_)) => hellos += 1,
                other => unreachable!("{other:?}"),
            });
            if let Some(ack) = last.filter(|_| acknowledge) {
                let mut buffer = [0; 32];
                other.write_all(encode_ack(ack, &mut buffer).unwrap()).unwrap();
            }
        }
        (numbers, hellos)
    }

    /// Runs the machine's end until the reader is done and gone.
    async fn serve(serial: &mut Serial, reader: tokio::task::JoinHandle<(Vec<u64>, usize)>) -> (Vec<u64>, usize) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(1));
        let mut elapsed_ns = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    elapsed_ns += 1_000_000;
                    serial.look_after(elapsed_ns).unwrap();
                }
                result = serial.work() => result.unwrap(),
            }
            if reader.is_finished() && matches!(serial.state, State::Free(..)) {
                return reader.await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn every_row_crosses_a_real_pseudo_terminal_and_is_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("machine");
        let (mut serial, rows) = line(&link, 2);
        assert_eq!(rows, 2 * 62_100);
        let other = link.clone();
        let reader = tokio::task::spawn_blocking(move || read(other, rows, true));
        let (numbers, hellos) = serve(&mut serial, reader).await;
        assert!(numbers.iter().copied().eq(0..rows));
        assert_eq!(hellos, 5);
        let counts = serial.counts();
        assert_eq!((counts.rows.sent, counts.rows.overrun, counts.connections, counts.rejected), (rows, 0, 1, 0));
        drop(serial);
        assert!(symlink_metadata(&link).is_err());
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_gets_what_it_had_not_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("machine");
        let (mut serial, rows) = line(&link, 1);
        for (wanted, first) in [(5000, 0), (rows, 0)] {
            let other = link.clone();
            let reader = tokio::task::spawn_blocking(move || read(other, wanted, false));
            let (numbers, hellos) = serve(&mut serial, reader).await;
            assert_eq!((numbers[0], hellos), (first, 5));
            assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        }
        let counts = serial.counts();
        assert_eq!((counts.connections, counts.rows.rewinds), (2, 1));
    }

    #[tokio::test]
    async fn an_unplugged_line_is_gone_and_comes_back_with_everything() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("machine");
        let (mut serial, rows) = line(&link, 1);
        (serial.unplug, serial.next_unplug_ns) = (Some(Recurring { every_ns: i64::MAX, by_ns: 50 }), 100);
        assert!(symlink_metadata(&link).is_ok());
        serial.look_after(100).unwrap();
        assert!(symlink_metadata(&link).is_err());
        serial.look_after(149).unwrap();
        assert!(symlink_metadata(&link).is_err());
        serial.look_after(150).unwrap();
        let reader = tokio::task::spawn_blocking({
            let link = link.clone();
            move || read(link, rows, true)
        });
        let (numbers, _) = serve(&mut serial, reader).await;
        assert!(numbers.iter().copied().eq(0..rows));
        assert_eq!(serial.counts().unplugged, 1);
    }

    #[tokio::test]
    async fn only_links_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("precious");
        std::fs::write(&file, "x").unwrap();
        assert!(Serial::open(&Settings::default(), &file, Vec::new(), 1).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
        let stale = directory.path().join("stale");
        symlink("/dev/null", &stale).unwrap();
        let serial = Serial::open(&Settings::default(), &stale, Vec::new(), 1).unwrap();
        assert_ne!(std::fs::read_link(&stale).unwrap(), Path::new("/dev/null"));
        drop(serial);
    }
}
