//! An alert as a mail, handed to a relay on the plant's network (RFC 5321, without TLS and without a login).
//!
//! A 4xx answer is tried again; a 5xx answer refuses the alert for good.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

use super::{Alert, Failed};

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The relay as `host:port`.
    pub server: String,
    /// The sender's address.
    pub from: String,
    /// The receivers' addresses.
    pub to: Vec<String>,
}

/// Lines of one answer.
const LINES_MAX: usize = 100;

/// Sends one alert.
pub(super) async fn send(settings: &Settings, appliance: &str, alert: &Alert) -> Result<(), Failed> {
    let lost = |error: std::io::Error| Failed::Retry(format!("{}: {error}", settings.server));
    let stream = TcpStream::connect(&settings.server).await.map_err(lost)?;
    let mut talk = Talk { stream: BufStream::new(stream), server: &settings.server };
    talk.answer().await?;
    talk.say(&format!("EHLO {}", word(appliance))).await?;
    talk.say(&format!("MAIL FROM:<{}>", settings.from)).await?;
    for to in &settings.to {
        talk.say(&format!("RCPT TO:<{to}>")).await?;
    }
    talk.say("DATA").await?;
    talk.say(&format!("{}\r\n.", text(settings, appliance, alert))).await?;
    // It has the mail; how the connection ends does not matter.
    let _ = talk.say("QUIT").await;
    Ok(())
}

struct Talk<'a> {
    stream: BufStream<TcpStream>,
    server: &'a str,
}

impl Talk<'_> {
    async fn say(&mut self, line: &str) -> Result<(), Failed> {
        let sent = async {
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.write_all(b"\r\n").await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| Failed::Retry(format!("{}: {error}", self.server)))?;
        self.answer().await
    }

    /// The last line of an answer has a space behind its code.
    async fn answer(&mut self) -> Result<(), Failed> {
        for _ in 0..LINES_MAX {
            let mut line = String::new();
            let read =
                self.stream.read_line(&mut line).await.map_err(|error| Failed::Retry(format!("{}: {error}", self.server)))?;
            if read == 0 {
                return Err(Failed::Retry(format!("{} hangs up", self.server)));
            }
            let line = line.trim_end();
            match (line.as_bytes().first(), line.as_bytes().get(3)) {
                (_, Some(b'-')) => {}
                (Some(b'2' | b'3'), _) => return Ok(()),
                (Some(b'5'), _) => return Err(Failed::Refused(format!("{}: {line}", self.server))),
                _ => return Err(Failed::Retry(format!("{}: {line}", self.server))),
            }
        }
        Err(Failed::Retry(format!("{}: an answer without an end", self.server)))
    }
}

/// The mail: headers, what happened, and the alert's JSON. A line that begins with a dot gets a second one.
fn text(settings: &Settings, appliance: &str, alert: &Alert) -> String {
    let known = &alert.known;
    let severity = known.severity.name();
    let subject = header(&format!("[{severity}] {appliance}: {}", known.message));
    let body = format!(
        "{}\r\n\r\nsource: {}\r\ntime: {}\r\nseverity: {severity}\r\n\r\n{}",
        one_line(&known.message),
        one_line(&known.source),
        one_line(&known.time),
        String::from_utf8_lossy(&alert.json)
    );
    let stuffed: Vec<String> =
        body.split("\r\n").map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() }).collect();
    format!(
        "From: <{}>\r\nTo: {}\r\nSubject: {subject}\r\nMessage-ID: <{}@{}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{}",
        settings.from,
        settings.to.iter().map(|to| format!("<{to}>")).collect::<Vec<_>>().join(", "),
        word(&alert.id),
        word(appliance),
        stuffed.join("\r\n")
    )
}

/// A header's text: one line, of a length that every relay takes, in ASCII.
fn header(text: &str) -> String {
    text.chars().take(180).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

/// What may stand in a domain or a message's id.
fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' }).collect()
}
