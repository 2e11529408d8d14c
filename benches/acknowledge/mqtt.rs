//! A publisher to a broker, and a proxy between broker and appliance that sees which message is acknowledged when.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::schedule::{Latencies, Load, rows, wait_until};

const TOPIC: &str = "plant/melt";
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
/// After the last message.
const PATIENCE: Duration = Duration::from_secs(30);

/// The numbers of messages that are acknowledged, and when.
type Told = mpsc::Sender<(u64, Instant)>;

/// Between broker and appliance.
pub struct Proxy {
    port: u16,
    told: Arc<Mutex<Option<Told>>>,
}

impl Proxy {
    /// In front of the broker on `broker_port`.
    pub fn start(broker_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let told: Arc<Mutex<Option<Told>>> = Arc::default();
        let heard = Arc::clone(&told);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connect(client, broker_port, &heard).expect("the broker is there");
            }
        });
        Self { port, told }
    }

    /// Where the appliance connects to.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn connect(client: TcpStream, broker_port: u16, told: &Arc<Mutex<Option<Told>>>) -> io::Result<()> {
    let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, broker_port))?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let numbers: Arc<Mutex<HashMap<u16, u64>>> = Arc::default();
    let (mut from_broker, mut to_client) = (broker.try_clone()?, client.try_clone()?);
    let seen = Arc::clone(&numbers);
    thread::spawn(move || {
        forward(&mut from_broker, &mut to_client, |kind, body| {
            if kind == PUBLISH
                && let Some((packet, number)) = published(body)
            {
                seen.lock().expect("no panic").insert(packet, number);
            }
        });
    });
    let (mut from_client, mut to_broker, told) = (client, broker, Arc::clone(told));
    thread::spawn(move || {
        forward(&mut from_client, &mut to_broker, |kind, body| {
            if kind == PUBACK
                && let Some(packet) = body.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
                && let Some(number) = numbers.lock().expect("no panic").remove(&packet)
                && let Some(told) = &*told.lock().expect("no panic")
            {
                let _ = told.send((number, Instant::now()));
            }
        });
    });
    Ok(())
}

/// Packets from one side to the other, each looked at first; until either side ends.
fn forward(from: &mut TcpStream, to: &mut TcpStream, mut look: impl FnMut(u8, &[u8])) {
    let (mut bytes, mut held) = (vec![0; 1 << 16], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        held.extend_from_slice(&bytes[..count]);
        let mut at = 0;
        while let Some((head, length)) = length(&held[at..]).filter(|(head, length)| held.len() >= at + head + length) {
            look(held[at] >> 4, &held[at + head..at + head + length]);
            at += head + length;
        }
        held.drain(..at);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Bytes of the fixed header, and of what follows it; `None` if it is not all there.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for at in 1..=4 {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 127) << (7 * (at - 1));
        if byte < 128 {
            return Some((at + 1, length));
        }
    }
    None
}

/// Packet id and number of a message, of MQTT 3.1.1 or 5: the number stands in the payload's white space.
fn published(body: &[u8]) -> Option<(u16, u64)> {
    let topic = usize::from(u16::from_be_bytes(*body.first_chunk()?));
    let packet = u16::from_be_bytes(*body.get(2 + topic..)?.first_chunk()?);
    let rest = &body[4 + topic..];
    let start = rest.iter().position(|byte| *byte == b'[')?;
    let number = rest[start + 1..].iter().take(64);
    // A space is a one, a tab a zero.
    let bits = number.map_while(|byte| match byte {
        b' ' => Some(1),
        b'\t' => Some(0),
        _ => None,
    });
    Some((packet, bits.fold(0, |number, bit| number << 1 | bit)))
}

fn payload(load: &Load, number: u64) -> String {
    let bits: String = (0..64).rev().map(|bit| if number >> bit & 1 == 1 { ' ' } else { '\t' }).collect();
    format!("[{bits}{}]", rows(load.rows, number, ','))
}

/// One run.
pub fn publish(broker_port: u16, proxy: &Proxy, load: &Load) -> Latencies {
    let (told, heard) = mpsc::channel();
    *proxy.told.lock().expect("no panic") = Some(told);
    let mut link = connected(broker_port).expect("the broker is there");
    let mut answers = link.try_clone().expect("a socket");
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while matches!(answers.read(&mut bytes), Ok(1..)) {}
    });
    let started = Instant::now();
    let due = |number: u64| started + load.period() * u32::try_from(number).expect("not that many");
    for number in 0..load.count() {
        wait_until(due(number));
        link.write_all(&packet(&payload(load, number), (number % 65_535 + 1) as u16)).expect("the broker reads");
    }
    let mut latencies = Latencies::default();
    while (latencies.all.len() as u64) < load.count() {
        let (number, at) = heard.recv_timeout(PATIENCE).expect("every message is acknowledged");
        latencies.all.push((at - due(number)).as_secs_f64() * 1e3);
        latencies.took = latencies.took.max(at - started);
    }
    latencies
}

fn connected(port: u16) -> io::Result<TcpStream> {
    let mut link = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    link.set_nodelay(true)?;
    // CONNECT: MQTT 4, clean session, no keep-alive, no client id; CONNACK with code 0.
    link.write_all(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0])?;
    let mut answer = [0; 4];
    link.read_exact(&mut answer)?;
    if answer == [0x20, 2, 0, 0] { Ok(link) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// PUBLISH at QoS 1.
fn packet(payload: &str, id: u16) -> Vec<u8> {
    let mut length = 4 + TOPIC.len() + payload.len();
    let mut bytes = vec![0x32];
    loop {
        let more = length >= 128;
        bytes.push((length % 128) as u8 | if more { 128 } else { 0 });
        length /= 128;
        if !more {
            break;
        }
    }
    bytes.extend((TOPIC.len() as u16).to_be_bytes());
    bytes.extend(TOPIC.bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload.bytes());
    bytes
}
