//! `POST /rows` over a few connections that stay open.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
    time::Instant,
};

use super::schedule::{Latencies, Load, rows, wait_until};

const CONNECTIONS: u64 = 8;

/// One run.
pub fn post(api: &str, load: &Load) -> Latencies {
    let address = api.strip_prefix("http://").expect("an address");
    let started = Instant::now();
    let posting = |connection| move || post_all(address, load, connection, started);
    let all = thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(posting(connection))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect()
    });
    Latencies { all, took: started.elapsed() }
}

fn post_all(address: &str, load: &Load, connection: u64, started: Instant) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let mut answers = BufReader::new(stream.try_clone().expect("a socket"));
    let mut all = Vec::new();
    for number in (connection..load.count()).step_by(CONNECTIONS as usize) {
        let due = started + load.period() * u32::try_from(number).expect("not that many");
        wait_until(due);
        let body = rows(load.rows, number, '\n');
        let head = format!("POST /rows?stream=melt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("it reads");
        let status = answer(&mut answers);
        assert!(status.starts_with("HTTP/1.1 202"), "{status}");
        all.push(due.elapsed().as_secs_f64() * 1e3);
    }
    all
}

/// Reads a whole answer; its first line.
fn answer(answers: &mut impl BufRead) -> String {
    let (mut status, mut length) = (String::new(), 0);
    answers.read_line(&mut status).expect("it answers");
    loop {
        let mut line = String::new();
        answers.read_line(&mut line).expect("it answers");
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = bytes.trim().parse().expect("a length");
        }
    }
    answers.take(length).read_to_end(&mut Vec::new()).expect("it answers");
    status
}
