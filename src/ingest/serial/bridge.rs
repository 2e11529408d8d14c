//! Frames of `firmware-bridge`, which the device keeps until it is told that their rows are durable.
//!
//! Such a line can wait: while the inbox has no room, nothing is read, and the device goes on from its memory. What it has no memory for shows
//! as a gap in its numbers, and is counted as lost.

use std::sync::Arc;

use firmware_bridge::{encode_ack, encode_resend};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::watch,
    time::{self, Instant},
};
use tokio_serial::SerialStream;

use super::{End, Line, Protocol, READ_BYTES, acknowledge::Acknowledger};
use crate::{
    ingest::{
        InboxError,
        decode::{Bridge, Decoded, Heard},
        ended,
        outlet::Outlet,
    },
    model::Stream,
};

/// Longest an acknowledgement at the end may take to leave.
const LAST_WORD_TIME_MAX: time::Duration = time::Duration::from_millis(200);

/// A device that sends frames. What it said of itself, and what is known of its numbers, outlives a line that is unplugged.
pub(super) struct BridgeLine {
    decoder: Bridge,
    acknowledger: Acknowledger,
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
        Self { decoder: Bridge::new(streams), acknowledger: Acknowledger::default(), outgoing: Outgoing::default() }
    }

    /// Decodes what was read, and hands it on.
    async fn take(&mut self, bytes: Option<&[u8]>, line: &Line, outlet: &mut Outlet<Heard>) -> Result<(), InboxError> {
        let (context, mut decoded) = (line.context(), Decoded::default());
        match bytes {
            Some(bytes) => {
                line.status.arrived(context.arrival);
                let mut admit = |rows: &Heard, damaged: bool| {
                    if damaged {
                        self.acknowledger.damaged();
                    }
                    self.acknowledger.heard(rows);
                    self.acknowledger.is_reached(rows)
                };
                self.decoder.feed_in_order(bytes, &context, &mut admit, &mut decoded);
            }
            None => self.decoder.cut_off(&context, &mut decoded),
        }
        if !decoded.rejects.is_empty() {
            self.acknowledger.damaged();
        }
        self.hand_on(decoded, outlet).await
    }

    /// Hands on what waited for rows that are given up.
    async fn release(&mut self, line: &Line, outlet: &mut Outlet<Heard>) -> Result<(), InboxError> {
        let mut decoded = Decoded::default();
        self.decoder.release(&line.context(), &mut |rows, _| self.acknowledger.is_reached(rows), &mut decoded);
        self.hand_on(decoded, outlet).await
    }

    async fn hand_on(&mut self, decoded: Decoded, outlet: &mut Outlet<Heard>) -> Result<(), InboxError> {
        let heard = self.decoder.take_heard();
        if !decoded.is_empty() {
            let started = Instant::now();
            outlet.hand_on(decoded, heard).await?;
            self.acknowledger.waited(started.elapsed());
        }
        Ok(())
    }

    fn answered(&mut self, synced: Result<Vec<Heard>, InboxError>, line: &Line) -> Result<(), InboxError> {
        match synced {
            Ok(receipts) => receipts.iter().for_each(|rows| self.acknowledger.synced(rows)),
            Err(InboxError::Refused(why)) => {
                tracing::warn!(source = %line.id, "the device will be asked for rows again: {why}");
                self.acknowledger.refused(Instant::now());
            }
            Err(InboxError::Closed) => return Err(InboxError::Closed),
        }
        Ok(())
    }

    /// Puts the next word to the device into an empty `outgoing`; whether a gap was given up.
    fn speak(&mut self, line: &Line) -> bool {
        if !self.outgoing.is_empty() {
            return false;
        }
        let before = self.acknowledger.given_up();
        let mut buffer = [0; 32];
        let resend = self.acknowledger.resend(Instant::now());
        let lost_rows = self.acknowledger.take_lost_rows();
        if lost_rows > 0 {
            tracing::warn!(source = %line.id, lost_rows, "the device does not send missing rows again");
            line.status.add_lost(lost_rows);
        }
        for word in [
            resend.and_then(|resend| encode_resend(resend, &mut buffer).ok().map(<[u8]>::to_vec)),
            self.acknowledger.ack().and_then(|ack| encode_ack(ack, &mut buffer).ok().map(<[u8]>::to_vec)),
        ] {
            self.outgoing.bytes.extend(word.unwrap_or_default());
        }
        self.acknowledger.given_up() > before
    }

    /// Acknowledges what still gets synced before the end.
    async fn finish(&mut self, mut to: WriteHalf<SerialStream>, line: &Line, outlet: &mut Outlet<Heard>) {
        let deadline = Outlet::<Heard>::drain_deadline();
        while let Some(receipts) = outlet.drain(deadline).await {
            for rows in &receipts {
                self.acknowledger.synced(rows);
            }
        }
        // If this word does not get through, the device sends again, and the inbox knows its rows.
        let last_word = async {
            to.write_all(self.outgoing.rest()).await?;
            self.outgoing = Outgoing::default();
            self.speak(line);
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
            if self.speak(line) {
                self.release(line, outlet).await?;
            }
            let (reading, started) = (outlet.has_room(), Instant::now());
            let look_at = self.acknowledger.look_at().filter(|_| reading && self.outgoing.is_empty());
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
                self.acknowledger.waited(started.elapsed());
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
        self.acknowledger.opened();
        let end = self.talk(&mut from, &mut to, line, outlet, shutdown).await?;
        if matches!(end, End::Shutdown) {
            self.finish(to, line, outlet).await;
        }
        Ok(end)
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
