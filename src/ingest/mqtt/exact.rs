//! QoS 2: which packet ids are between the broker's first PUBLISH and its PUBREL.
//!
//! ```text
//! PUBLISH ─▶ under way ─ synced, PUBREC ─▶ stored ─ PUBREL, PUBCOMP ─▶ forgotten
//! ```
//! A PUBLISH that comes again (another connection, same session) is not stored again: under way, its acknowledgement goes over the new
//! connection; stored, it is acknowledged at once.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::wire::Acknowledger;

/// The packet ids in use. Behind a lock, because the network task learns of messages and the pump of syncs; held for one look-up.
#[derive(Debug, Default)]
pub(super) struct Exact(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    packets: BTreeMap<u16, Packet>,
    tickets: u64,
}

#[derive(Debug)]
struct Packet {
    /// Tells it from another message that gets the same id later.
    ticket: u64,
    acknowledger: Acknowledger,
    stored: bool,
}

/// What to do with a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Store it; this is its ticket.
    New(u64),
    /// It is under way.
    UnderWay,
    /// Acknowledge it.
    Stored,
}

impl Exact {
    /// The broker does not remember the session: its packet ids start anew.
    pub fn forget_all(&self) {
        self.lock().packets.clear();
    }

    /// What is under way will not be stored.
    pub fn forget_under_way(&self) {
        self.lock().packets.retain(|_, packet| packet.stored);
    }

    pub fn arrived(&self, packet_id: u16, acknowledger: &Acknowledger) -> Arrival {
        let mut inner = self.lock();
        if let Some(packet) = inner.packets.get_mut(&packet_id) {
            packet.acknowledger = acknowledger.clone();
            return if packet.stored { Arrival::Stored } else { Arrival::UnderWay };
        }
        inner.tickets += 1;
        let ticket = inner.tickets;
        inner.packets.insert(packet_id, Packet { ticket, acknowledger: acknowledger.clone(), stored: false });
        Arrival::New(ticket)
    }

    /// It will not be stored: there was no room.
    pub fn turned_away(&self, packet_id: u16) {
        self.lock().packets.remove(&packet_id);
    }

    /// It is synced; gives the way to acknowledge it, if it is still wanted.
    pub fn stored(&self, packet_id: u16, ticket: u64) -> Option<Acknowledger> {
        let mut inner = self.lock();
        let packet = inner.packets.get_mut(&packet_id).filter(|packet| packet.ticket == ticket)?;
        packet.stored = true;
        Some(packet.acknowledger.clone())
    }

    /// The broker let go of it.
    pub fn released(&self, packet_id: u16) {
        self.lock().packets.remove(&packet_id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code between lock and unlock can leave half a change behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
