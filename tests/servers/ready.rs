//! Whether a server answers, asked over its own protocol.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whether anything accepts connections.
pub fn listens(port: u16) -> bool {
    connect(port).is_some()
}

/// MQTT 3.1.1: CONNECT with an empty client id gives CONNACK with code 0.
pub fn mqtt(port: u16) -> bool {
    let connect = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0];
    asks(port, &connect, &[0x20, 2, 0, 0])
}

/// `PING` gives `PONG`.
pub fn redis(port: u16) -> bool {
    asks(port, b"PING\r\n", b"+PONG\r\n")
}

/// The broker knows itself and a controller, and so can create topics.
pub fn kafka(port: u16) -> bool {
    if !listens(port) {
        return false;
    }
    let consumer: Result<BaseConsumer, _> =
        ClientConfig::new().set("bootstrap.servers", format!("127.0.0.1:{port}")).set("log_level", "0").create();
    consumer.is_ok_and(|consumer| consumer.fetch_metadata(None, ANSWER_WITHIN).is_ok_and(|metadata| !metadata.brokers().is_empty()))
}

fn connect(port: u16) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, ANSWER_WITHIN).ok()
}

fn asks(port: u16, question: &[u8], answer: &[u8]) -> bool {
    let mut got = vec![0; answer.len()];
    let mut ask = || {
        let mut stream = connect(port)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        stream.write_all(question).ok()?;
        stream.read_exact(&mut got).ok()
    };
    ask().is_some() && got == answer
}
