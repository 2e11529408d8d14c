//! A relay between the broker and the appliance that notes in which order the broker sends rows.
//!
//! Mosquitto keeps order only with `max_inflight_messages 1`, says its manual. With more, a message that is published while others wait for a
//! free place may be sent before them: 2.0.11 does that every few hundred faults. What is held against the appliance is the order in which it was
//! given rows.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::Value;

const PUBLISH: u8 = 3;

/// By stream and number, as which message of a connection the broker sent it first.
type Connection = HashMap<(String, u64), usize>;
type Connections = Arc<Mutex<Vec<Connection>>>;

/// The relay; runs as long as the process.
pub struct Tap {
    port: u16,
    connections: Connections,
}

impl Tap {
    /// Relays to the broker on `broker_port`, whether it is there yet or not.
    pub fn start(broker_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let connections = Connections::default();
        let tap = Self { port, connections: Arc::clone(&connections) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Without a broker the client is hung up on, as it would be refused.
                if let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker_port)) {
                    relay(&client, &broker, &connections);
                }
            }
        });
        tap
    }

    /// Where the appliance connects to.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Whether the broker sent the row `first` of `stream` before `then`: when it sent them for the first time, or again over one connection.
    pub fn sent_before(&self, stream: &str, first: u64, then: u64) -> bool {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |connection: &Connection, number| connection.get(&(stream.to_owned(), number)).copied();
        let at_first = |number| connections.iter().enumerate().find_map(|(at, connection)| Some((at, place(connection, number)?)));
        let is_before = |places: (usize, usize)| places.0 < places.1;
        at_first(first).zip(at_first(then)).is_some_and(|(first, then)| first < then)
            || connections.iter().any(|connection| place(connection, first).zip(place(connection, then)).is_some_and(is_before))
    }
}

fn relay(client: &TcpStream, broker: &TcpStream, connections: &Connections) {
    let number = {
        let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(Connection::new());
        connections.len() - 1
    };
    let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
    let (from, to) = (clone(client), clone(broker));
    thread::spawn(move || pass(from, to, |_| {}));
    let (from, to, connections) = (clone(broker), clone(client), Arc::clone(connections));
    let (mut unread, mut messages) = (Vec::new(), 0);
    thread::spawn(move || {
        pass(from, to, |bytes| {
            unread.extend_from_slice(bytes);
            while let Some((kind, body, length)) = packet(&unread) {
                if let Some(row) = (kind == PUBLISH).then(|| row(body)).flatten() {
                    connections.lock().unwrap_or_else(PoisonError::into_inner)[number].entry(row).or_insert(messages);
                    messages += 1;
                }
                unread.drain(..length);
            }
        });
    });
}

/// Passes on what comes until either end is gone, and lets the other know.
fn pass(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut bytes = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        look(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Gone already, perhaps.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The kind of the first packet, what follows its length, and where the next begins; `None` if it is not whole.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 127) << (7 * (at - 1));
        at += 1;
        if byte < 128 {
            break;
        }
    }
    Some((bytes[0] >> 4, bytes.get(at..at + length)?, at + length))
}

/// The oracle's row in a message: its device is the stream.
fn row(body: &[u8]) -> Option<(String, u64)> {
    let json = body.iter().position(|byte| *byte == b'{')?;
    let value: Value = serde_json::from_slice(&body[json..]).ok()?;
    Some((value["device"].as_str()?.to_owned(), value["n"].as_u64()?))
}
