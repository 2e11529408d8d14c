//! A publisher of MQTT 3.1.1 in a page, independent of the library that the appliance uses: what it counts as acknowledged, the broker has
//! said so itself.
//!
//! Up to [`WINDOW`] messages are under way. After a broken connection it starts a clean session and publishes again, in order, what was not
//! acknowledged.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// Messages under way at a time.
pub const WINDOW: usize = 20;
/// Longer than any server is frozen here.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// While nothing comes in, the caller may publish more.
const LISTEN_FOR: Duration = Duration::from_millis(5);

/// A message under way.
struct UnderWay {
    packet: u16,
    payload: Vec<u8>,
    number: u64,
}

/// A connection to a broker, and what it has not acknowledged.
pub struct Publisher {
    port: u16,
    topic: String,
    qos: u8,
    link: Option<TcpStream>,
    received: Vec<u8>,
    under_way: VecDeque<UnderWay>,
    next_packet: u16,
}

impl Publisher {
    /// Publishes to `topic` at `qos`, 1 or 2.
    pub fn new(port: u16, topic: String, qos: u8) -> Self {
        Self { port, topic, qos, link: None, received: Vec::new(), under_way: VecDeque::new(), next_packet: 0 }
    }

    /// Whether another message may be under way.
    pub fn has_room(&self) -> bool {
        self.under_way.len() < WINDOW
    }

    /// Whether everything is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Sends a message; from here on it is repeated until the broker has acknowledged it.
    pub fn publish(&mut self, number: u64, payload: Vec<u8>) {
        let packet = self.packet();
        self.under_way.push_back(UnderWay { packet, payload, number });
        let last = self.under_way.len() - 1;
        if self.link.is_some() && self.send(last).is_err() {
            self.link = None;
        }
    }

    /// Takes what the broker says, connecting first if need be; the number up to which everything is acknowledged, if that moved.
    pub fn listen(&mut self) -> Option<u64> {
        let listened = if self.link.is_none() { self.connect() } else { self.hear() };
        listened.unwrap_or_else(|_| {
            self.link = None;
            None
        })
    }

    fn packet(&mut self) -> u16 {
        self.next_packet = self.next_packet % u16::MAX + 1;
        self.next_packet
    }

    fn connect(&mut self) -> io::Result<Option<u64>> {
        let mut link = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        link.set_nodelay(true)?;
        link.set_read_timeout(Some(ANSWER_WITHIN))?;
        // CONNECT: MQTT 4, clean session, no keep-alive, no client id; CONNACK with code 0.
        link.write_all(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0])?;
        let mut answer = [0; 4];
        link.read_exact(&mut answer)?;
        if answer != [0x20, 2, 0, 0] {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        link.set_read_timeout(Some(LISTEN_FOR))?;
        self.received.clear();
        self.link = Some(link);
        for at in 0..self.under_way.len() {
            self.under_way[at].packet = self.packet();
            self.send(at)?;
        }
        Ok(None)
    }

    fn send(&mut self, at: usize) -> io::Result<()> {
        let message = &self.under_way[at];
        let mut body = (self.topic.len() as u16).to_be_bytes().to_vec();
        body.extend(self.topic.bytes());
        body.extend(message.packet.to_be_bytes());
        body.extend(&message.payload);
        let mut frame = vec![0x30 | self.qos << 1];
        let mut length = body.len();
        loop {
            let more = length >= 128;
            frame.push((length % 128) as u8 | if more { 128 } else { 0 });
            length /= 128;
            if !more {
                break;
            }
        }
        frame.extend(body);
        self.link()?.write_all(&frame)
    }

    fn link(&mut self) -> io::Result<&mut TcpStream> {
        self.link.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn hear(&mut self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 4096];
        match self.link()?.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(count) => self.received.extend(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut acknowledged = None;
        // Everything that a broker says to a publisher has four bytes: kind, 2, packet id.
        while self.received.len() >= 4 {
            let word: Vec<u8> = self.received.drain(..4).collect();
            let packet = u16::from_be_bytes([word[2], word[3]]);
            match word[0] >> 4 {
                // PUBREC: PUBREL.
                5 => self.link()?.write_all(&[0x62, 2, word[2], word[3]])?,
                // PUBACK, PUBCOMP.
                4 | 7 => {
                    let first = self.under_way.front().map(|message| message.packet);
                    assert_eq!(first, Some(packet), "a broker acknowledges in order");
                    acknowledged = self.under_way.pop_front().map(|message| message.number);
                }
                other => panic!("a broker says {other} to a publisher"),
            }
        }
        Ok(acknowledged)
    }
}
