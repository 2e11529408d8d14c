//! Frames of `firmware-bridge`, which the device keeps until it is told that their rows are durable.
//!
//! Such a line can wait: while the inbox has no room, nothing is read, and the device goes on from its memory. What it has no memory for shows
//! as a gap in its numbers, and is counted as lost.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::watch,
    time::{self, Instant},
};
use tokio_serial::SerialStream;

use super::{End, Line, Protocol, READ_BYTES, host::BridgeHost};
use crate::{
    ingest::{
        InboxError,
        decode::{Decoded, Heard},
        ended,
        outlet::Outlet,
    },
    model::Stream,
};

/// Longest an acknowledgement at the end may take to leave.
const LAST_WORD_TIME_MAX: time::Duration = time::Duration::from_millis(200);

/// A device that sends frames. What is known of it outlives a line that is unplugged.
pub(super) struct BridgeLine {
    host: BridgeHost,
    outgoing: Outgoing,
}

/// What is on its way to the device.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl BridgeLine {
    pub fn new(streams: Vec<Arc<Stream>>) -> Self {
        Self { host: BridgeHost::new(streams), outgoing: Outgoing::default() }
    }

    /// Decodes what was read, and hands it on.
    async fn take(&mut self, bytes: Option<&[u8]>, line: &Line, outlet: &mut Outlet<Heard>) -> Result<(), InboxError> {
        let context = line.context();
        let taken = match bytes {
            Some(bytes) => {
                line.status.arrived(context.arrival);
                self.host.received(bytes, &context)
            }
            None => self.host.cut_off(&context),
        };
        self.hand_on(taken, outlet).await
    }

    async fn hand_on(&mut self, (decoded, heard): (Decoded, Vec<Heard>), outlet: &mut Outlet<Heard>) -> Result<(), InboxError> {
        if !decoded.is_empty() {
            let started = Instant::now();
            outlet.hand_on(decoded, heard).await?;
            self.host.waited(started.elapsed());
        }
        Ok(())
    }

    /// Puts the next word to the device into an empty `outgoing`, and hands on what waited for rows that are given up.
    async fn speak(&mut self, line: &Line, outlet: &mut Outlet<Heard>) -> Result<(), InboxError> {
        if !self.outgoing.is_empty() || !self.host.speak(Instant::now(), &mut self.outgoing.bytes) {
            return Ok(());
        }
        let lost_rows = self.host.take_lost_rows();
        if lost_rows > 0 {
            tracing::warn!(source = %line.id, lost_rows, "the device does not send missing rows again");
            line.status.add_lost(lost_rows);
        }
        let waited = self.host.release(&line.context());
        self.hand_on(waited, outlet).await
    }

    /// Acknowledges what still gets synced before the end.
    async fn finish(&mut self, mut to: WriteHalf<SerialStream>, outlet: &mut Outlet<Heard>) {
        let deadline = Outlet::<Heard>::drain_deadline();
        while let Some(receipts) = outlet.drain(deadline).await {
            self.host.synced(&receipts);
        }
        // If this word does not get through, the device sends again, and the inbox knows its rows.
        let last_word = async {
            to.write_all(self.outgoing.rest()).await?;
            self.outgoing = Outgoing::default();
            self.host.speak(Instant::now(), &mut self.outgoing.bytes);
            to.write_all(self.outgoing.rest()).await
        };
        let _ = time::timeout(LAST_WORD_TIME_MAX, last_word).await;
    }

    async fn talk(
        &mut self,
        from: &mut ReadHalf<SerialStream>,
        to: &mut WriteHalf<SerialStream>,
        line: &Line,
        outlet: &mut Outlet<Heard>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<End, InboxError> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            self.speak(line, outlet).await?;
            let (reading, started) = (outlet.has_room(), Instant::now());
            let look_at = self.host.look_at().filter(|_| reading && self.outgoing.is_empty());
            tokio::select! {
                read = from.read(&mut bytes), if reading => {
                    let end = line.end_of(&read);
                    self.take(read.ok().filter(|count| *count > 0).map(|count| &bytes[..count]), line, outlet).await?;
                    if let Some(why) = end {
                        return Ok(End::Gone(why));
                    }
                }
                written = to.write(self.outgoing.rest()), if !self.outgoing.is_empty() => match written {
                    Ok(count) => self.outgoing.advance(count),
                    Err(error) => {
                        self.take(None, line, outlet).await?;
                        return Ok(End::Gone(format!("writing {} failed: {error}", line.device)));
                    }
                },
                synced = outlet.next_synced() => self.answered(synced, line)?,
                () = time::sleep_until(look_at.unwrap_or(started)), if look_at.is_some() => {}
                () = ended(shutdown) => return Ok(End::Shutdown),
            }
            if !reading {
                self.host.waited(started.elapsed());
            }
        }
    }
}

impl Protocol for BridgeLine {
    type Receipt = Heard;

    async fn session(
        &mut self,
        port: SerialStream,
        line: &Line,
        outlet: &mut Outlet<Heard>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<End, InboxError> {
        let (mut from, mut to) = split(port);
        self.outgoing = Outgoing::default();
        self.host.opened();
        let end = self.talk(&mut from, &mut to, line, outlet, shutdown).await?;
        if matches!(end, End::Shutdown) {
            self.finish(to, outlet).await;
        }
        Ok(end)
    }

    fn answered(&mut self, synced: Result<Vec<Heard>, InboxError>, line: &Line) -> Result<(), InboxError> {
        match synced {
            Ok(receipts) => self.host.synced(&receipts),
            Err(InboxError::Refused(why)) => {
                tracing::warn!(source = %line.id, "the device will be asked for rows again: {why}");
                self.host.refused(Instant::now());
            }
            Err(InboxError::Closed) => return Err(InboxError::Closed),
        }
        Ok(())
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
