//! The host's side of a `firmware-bridge` line, without the line: bytes in, rows in order and words for the device out.
//!
//! What a device said of itself, and what is known of its numbers, outlives a line that is unplugged.

use std::{sync::Arc, time::Duration};

use firmware_bridge::{encode_ack, encode_resend};
use tokio::time::Instant;

use super::acknowledge::Acknowledger;
use crate::{
    ingest::decode::{Bridge, Context, Decoded, Heard},
    model::Stream,
};

/// One device's partner.
#[derive(Debug)]
pub struct BridgeHost {
    decoder: Bridge,
    acknowledger: Acknowledger,
}

impl BridgeHost {
    /// For frames whose stream number is a place in `streams`.
    pub fn new(streams: Vec<Arc<Stream>>) -> Self {
        Self { decoder: Bridge::new(streams), acknowledger: Acknowledger::default() }
    }

    /// The line was opened: the device may have missed what it was told.
    pub fn opened(&mut self) {
        self.acknowledger.opened();
    }

    /// Rows from what came in that may be stored now, and the receipt that [`Self::synced`] wants once they are.
    pub fn received(&mut self, bytes: &[u8], context: &Context) -> (Decoded, Vec<Heard>) {
        let mut decoded = Decoded::default();
        let mut admit = |rows: &Heard| {
            self.acknowledger.heard(rows);
            self.acknowledger.is_reached(rows)
        };
        self.decoder.feed_in_order(bytes, context, &mut admit, &mut decoded);
        self.taken(decoded)
    }

    /// The line is gone: the beginning of a frame is refused.
    pub fn cut_off(&mut self, context: &Context) -> (Decoded, Vec<Heard>) {
        let mut decoded = Decoded::default();
        self.decoder.cut_off(context, &mut decoded);
        self.taken(decoded)
    }

    /// What waited for rows that are given up.
    pub fn release(&mut self, context: &Context) -> (Decoded, Vec<Heard>) {
        let mut decoded = Decoded::default();
        self.decoder.release(context, &mut |rows| self.acknowledger.is_reached(rows), &mut decoded);
        self.taken(decoded)
    }

    fn taken(&mut self, decoded: Decoded) -> (Decoded, Vec<Heard>) {
        (decoded, self.decoder.take_heard())
    }

    /// Rows are durable.
    pub fn synced(&mut self, receipt: &[Heard]) {
        receipt.iter().for_each(|rows| self.acknowledger.synced(rows));
    }

    /// Rows could not be stored: they have to come again, after a while.
    pub fn refused(&mut self, now: Instant) {
        self.acknowledger.refused(now);
    }

    /// For so long nothing was read; the device cannot be blamed for it.
    pub fn waited(&mut self, time: Duration) {
        self.acknowledger.waited(time);
    }

    /// When to [`Self::speak`] if nothing comes in.
    pub fn look_at(&self) -> Option<Instant> {
        self.acknowledger.look_at()
    }

    /// Adds the next words to the device to `out`; whether missing rows were given up, so that [`Self::release`] has something.
    pub fn speak(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 32];
        let before = self.acknowledger.given_up();
        if let Some(resend) = self.acknowledger.resend(now) {
            out.extend_from_slice(encode_resend(resend, &mut buffer).unwrap_or_default());
        }
        if let Some(ack) = self.acknowledger.ack() {
            out.extend_from_slice(encode_ack(ack, &mut buffer).unwrap_or_default());
        }
        self.acknowledger.given_up() > before
    }

    /// Rows given up since the last call: the device does not have them any more.
    pub fn take_lost_rows(&mut self) -> u64 {
        self.acknowledger.take_lost_rows()
    }
}
