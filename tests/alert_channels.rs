//! Alerts at their far ends: a web server, a broker, a mail relay; and what happens when they say no.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use qadf_edge::{
    deliver::{
        Connect, Identity, Item, Parcel, ResultRecord, Sink, SinkError,
        channel::{Channel, Far, email, mqtt, webhook},
    },
    ingest::{BrokerConfig, start_broker},
    model::{Seq, Severity},
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

fn alert(seq: u64, severity: &str) -> ResultRecord {
    let json = format!(
        "{{\"id\":\"alert:{seq}\",\"pipeline\":\"p\",\"kind\":\"alert\",\"severity\":\"{severity}\",\"source\":\"chart\",\
         \"time\":\"2026-01-01T00:00:00Z\",\"message\":\"point {seq}: zu groß\",\"evidence\":null}}"
    );
    ResultRecord {
        seq: Seq(seq),
        id: format!("alert:{seq}").into(),
        kind: "alert".into(),
        pipeline: "p".into(),
        stream: Some("melt".into()),
        historical: false,
        json: json.into_bytes().into(),
    }
}

fn parcel(results: Vec<ResultRecord>) -> Arc<Parcel> {
    Arc::new(Parcel { results, ..Parcel::default() })
}

fn channel(far: Far) -> Channel {
    Channel::new(Identity { appliance: "lpbf-07".into(), store: 7 }, far, Severity::High)
}

/// A web server that answers request by request with these codes, and hands on head and body.
fn web_server(codes: Vec<u16>) -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for code in codes {
            let (mut stream, _) = listener.accept().unwrap();
            let (head, body) = request(&stream);
            sender.send((head, serde_json::from_slice(&body).unwrap())).unwrap();
            write!(stream, "HTTP/1.1 {code} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    (url, received)
}

fn request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bytes) = line.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        head += &line;
        head.push('\n');
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

#[tokio::test]
async fn a_webhook_gets_each_alert_that_is_severe_enough_and_none_twice_after_a_failure_in_the_middle() {
    let (url, received) = web_server(vec![200, 503, 204]);
    let channel = channel(Far::Webhook(webhook::Settings { url }));
    let parcel = parcel(vec![alert(1, "low"), alert(2, "high"), alert(3, "critical")]);
    let (mut sink, _) = channel.connect().await.unwrap();
    let failed = sink.deliver(&parcel).await.unwrap_err();
    assert!(matches!(&failed, SinkError::Retry(why) if why.contains("503")), "{failed}");
    // The loop makes a new connection.
    let (mut sink, _) = channel.connect().await.unwrap();
    assert_eq!(sink.deliver(&parcel).await.unwrap().results, 3);
    let all: Vec<(String, Value)> = received.iter().collect();
    let ids: Vec<&str> = all.iter().map(|(_, body)| body["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["alert:2", "alert:3", "alert:3"]);
    assert_eq!((&all[0].1["appliance"], &all[0].1["message"]), (&"lpbf-07".into(), &"point 2: zu groß".into()));
    assert!(all[0].0.contains("idempotency-key: lpbf-07-alert:2"), "{}", all[0].0);
    assert!(all[0].0.contains("content-type: application/json"), "{}", all[0].0);
}

#[tokio::test]
async fn what_a_webhook_refuses_for_good_is_named_and_the_rest_goes_on() {
    let (url, _received) = web_server(vec![400, 200]);
    let (mut sink, _) = channel(Far::Webhook(webhook::Settings { url })).connect().await.unwrap();
    let outcome = sink.deliver(&parcel(vec![alert(1, "high"), alert(2, "high")])).await.unwrap_err();
    let SinkError::Reject { which, rest } = outcome else { panic!("{outcome}") };
    assert_eq!((which.len(), which[0].what, rest.results), (1, Item::Result { index: 0 }, 1));
    assert!(which[0].reason.contains("400"), "{}", which[0].reason);
}

#[tokio::test]
async fn a_far_end_that_is_down_is_tried_again() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let settings = mqtt::Settings {
        host: "127.0.0.1".into(),
        port,
        client_id: "a-alerts".into(),
        credentials: None,
        topic: "plant/alerts".into(),
    };
    let mail = email::Settings { server: format!("127.0.0.1:{port}"), from: "a@plant".into(), to: vec!["b@plant".into()] };
    let hook = webhook::Settings { url: format!("http://127.0.0.1:{port}/") };
    for far in [Far::Mqtt(settings), Far::Email(mail), Far::Webhook(hook)] {
        let (mut sink, _) = channel(far).connect().await.unwrap();
        let failed = sink.deliver(&parcel(vec![alert(1, "high")])).await.unwrap_err();
        assert!(matches!(failed, SinkError::Retry(_)), "{failed}");
    }
}

#[tokio::test]
async fn a_broker_gets_alerts_on_their_topic() {
    let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let url = start_broker(BrokerConfig { listen }).await.unwrap();
    let (client, mut events) = AsyncClient::new(MqttOptions::new("shift", &url.host, url.port), 10);
    client.subscribe("plant/alerts", QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    let settings = mqtt::Settings {
        host: url.host,
        port: url.port,
        client_id: "lpbf-07-alerts".into(),
        credentials: None,
        topic: "plant/alerts".into(),
    };
    let delivery = async {
        let (mut sink, _) = channel(Far::Mqtt(settings)).connect().await.unwrap();
        sink.deliver(&parcel(vec![alert(1, "critical"), alert(2, "medium"), alert(3, "high")])).await.unwrap()
    };
    let reception = async {
        let mut ids = Vec::new();
        while ids.len() < 2 {
            if let Event::Incoming(Packet::Publish(message)) = events.poll().await.unwrap() {
                let json: Value = serde_json::from_slice(&message.payload).unwrap();
                ids.push(json["id"].as_str().unwrap().to_owned());
            }
        }
        ids
    };
    let (delivered, ids) = tokio::time::timeout(PATIENCE, async { tokio::join!(delivery, reception) }).await.unwrap();
    assert_eq!((delivered.results, ids), (3, vec!["alert:1".to_owned(), "alert:3".to_owned()]));
}

/// A mail relay for one mail; `refused` is a receiver it does not know.
fn relay(refused: &'static str) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone().unwrap()), stream);
        let (mut said, mut data) = (Vec::new(), false);
        writer.write_all(b"220 relay\r\n").unwrap();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 {
                return said;
            }
            let line = line.trim_end_matches("\r\n").to_owned();
            let answer = match line.as_str() {
                "." if data => {
                    data = false;
                    "250 queued"
                }
                _ if data => "",
                "DATA" => {
                    data = true;
                    "354 go on"
                }
                line if line.starts_with("EHLO") => "250-relay\r\n250 8BITMIME",
                line if line.starts_with("RCPT") && line.contains(refused) => "550 nobody",
                _ => "250 fine",
            };
            said.push(line);
            if !answer.is_empty() {
                // Whoever hangs up early needs no answer.
                let _ = writer.write_all(format!("{answer}\r\n").as_bytes());
            }
        }
    });
    (server, served)
}

#[tokio::test]
async fn a_mail_says_what_happened_and_carries_the_alert() {
    let (server, served) = relay("nobody@");
    let to = vec!["shift@plant".to_owned(), "lead@plant".to_owned()];
    let far = Far::Email(email::Settings { server, from: "lpbf-07@plant".into(), to });
    let (mut sink, _) = channel(far).connect().await.unwrap();
    assert_eq!(sink.deliver(&parcel(vec![alert(5, "critical")])).await.unwrap().results, 1);
    drop(sink);
    let said = served.join().unwrap();
    let has = |line: &str| assert!(said.iter().any(|said| said == line), "{line} is not in {said:#?}");
    has("EHLO lpbf-07");
    has("MAIL FROM:<lpbf-07@plant>");
    has("RCPT TO:<shift@plant>");
    has("RCPT TO:<lead@plant>");
    has("To: <shift@plant>, <lead@plant>");
    has("Subject: [critical] lpbf-07: point 5: zu gro?");
    has("point 5: zu groß");
    let json = said.iter().find(|line| line.starts_with('{')).unwrap();
    assert_eq!(serde_json::from_str::<Value>(json).unwrap()["severity"], "critical");
}

#[tokio::test]
async fn a_mail_that_the_relay_refuses_is_refused_for_good() {
    let (server, served) = relay("nobody@");
    let far = Far::Email(email::Settings { server, from: "lpbf-07@plant".into(), to: vec!["nobody@plant".into()] });
    let (mut sink, _) = channel(far).connect().await.unwrap();
    let outcome = sink.deliver(&parcel(vec![alert(5, "critical")])).await.unwrap_err();
    assert!(matches!(&outcome, SinkError::Reject { which, .. } if which[0].reason.contains("550 nobody")), "{outcome}");
    served.join().unwrap();
}
