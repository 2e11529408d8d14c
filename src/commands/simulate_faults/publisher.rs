//! A broker that delivers at least once: it keeps a message until it is acknowledged, and sends everything that is not again, in order,
//! whenever the connection is made anew. Some messages come twice, some late.

use std::{collections::VecDeque, fmt::Write, sync::Arc};

use crate::simulate::Random;

/// Rows in a message.
pub const MESSAGE_ROWS: u64 = 100;
/// From one row to the next.
pub const PERIOD_NS: u64 = 10_000_000;
/// Messages that are on their way at most; their rows are fewer than a host remembers.
const IN_FLIGHT_MAX: usize = 200;

/// A message: its number and its text.
pub type Message = (u64, Arc<str>);

/// The broker, and the machine behind it that publishes.
pub struct Publisher {
    random: Random,
    is_faulty: bool,
    /// Not acknowledged, oldest first.
    kept: VecDeque<Message>,
    /// How many of those were sent over this connection.
    sent: usize,
    messages: u64,
    last_ns: u64,
    /// Which connection this is; messages of an earlier one never arrive. `None` while there is none.
    pub connection: Option<u64>,
    connections: u64,
}

impl Publisher {
    /// With nothing published.
    pub fn new(seed: u64, is_faulty: bool) -> Self {
        Self {
            random: Random::new(seed, 31),
            is_faulty,
            kept: VecDeque::new(),
            sent: 0,
            messages: 0,
            last_ns: 0,
            connection: None,
            connections: 0,
        }
    }

    /// Rows published so far.
    pub const fn rows(&self) -> u64 {
        self.messages * MESSAGE_ROWS
    }

    /// Publishes a message of rows, each of which is its own number; `time_ns` is that of the first.
    pub fn publish(&mut self, time_ns: i64) {
        let first = self.rows();
        let mut text = String::with_capacity(64 * MESSAGE_ROWS as usize);
        for row in 0..MESSAGE_ROWS {
            let (number, time) = (first + row, time_ns + (row * PERIOD_NS) as i64);
            let comma = if row == 0 { '[' } else { ',' };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{{\"time\":{time},\"n\":{number},\"device\":\"floor\",\"boot\":1,\"seq\":{number}}}");
        }
        text.push(']');
        self.kept.push_back((self.messages, text.into()));
        self.messages += 1;
    }

    /// A new connection: everything that is kept goes out again.
    pub fn connect(&mut self) {
        self.connections += 1;
        self.connection = Some(self.connections);
        self.sent = 0;
    }

    /// What goes out now, each with when it arrives.
    pub fn send(&mut self, now_ns: u64) -> Vec<(u64, Message)> {
        let mut out = Vec::new();
        while self.connection.is_some() && self.sent < self.kept.len().min(IN_FLIGHT_MAX) {
            let message = self.kept[self.sent].clone();
            self.sent += 1;
            let is_twice = self.is_faulty && self.random.chance(0.01);
            for _ in 0..=usize::from(is_twice) {
                let delay_ms = if self.is_faulty && self.random.chance(0.01) { 5_000 } else { 30 };
                self.last_ns = self.last_ns.max(now_ns + 1_000_000 + self.random.below(delay_ms * 1_000_000) as u64);
                out.push((self.last_ns, message.clone()));
            }
        }
        out
    }

    /// The message is acknowledged.
    pub fn acknowledged(&mut self, number: u64) {
        if let Some(place) = self.kept.iter().position(|(kept, _)| *kept == number) {
            self.kept.remove(place);
            self.sent -= usize::from(place < self.sent);
        }
    }
}
