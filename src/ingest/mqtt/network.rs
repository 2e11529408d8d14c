//! The task that drives the connection. It waits for nothing but the network.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    MESSAGE_OVERHEAD_BYTES, MqttConfig, QUEUE_BYTES_MAX, Qos, Received, Shared,
    exact::Arrival,
    wire::{Acknowledger, Incoming, Message, Wire, WireError},
};
use crate::ingest::{backoff::Backoff, ended};

/// A connection that stayed up this long starts its next back-off from the beginning.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// How long to wait at the end for the last acknowledgements to go out.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a broker that sent too much may take to read the acknowledgements of what there was room for.
const CLEARING_TIME_MAX: Duration = Duration::from_mins(1);

/// Why a connection ended.
enum End {
    /// Trouble; try again.
    Broken(String),
    /// The queue is full; try again when there is room.
    Full,
    /// The source ends.
    Left,
}

/// Runs until `leave` turns true or the pump is gone.
pub(super) async fn run(
    config: MqttConfig,
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Received>,
    mut leave: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new();
    loop {
        let began = time::Instant::now();
        let end = match Wire::new(&config) {
            Ok(wire) => connection(wire, &config, &shared, &queue, &mut leave).await,
            Err(error) => End::Broken(error.why),
        };
        let why = match end {
            End::Left => return,
            End::Broken(why) => why,
            End::Full => "the broker sends more than it may leave unacknowledged: waiting for room".to_owned(),
        };
        let why = format!("{}:{}: {why}", config.url.host, config.url.port);
        tracing::warn!(source = %shared.id, "{why}");
        shared.status.down(why);
        if began.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        let pause = async {
            time::sleep(backoff.pause()).await;
            // Closed never: the semaphore lives as long as this task.
            let _ = shared.room.acquire_many(QUEUE_BYTES_MAX / 2).await;
        };
        tokio::select! {
            () = pause => {}
            () = ended(&mut leave) => return,
        }
    }
}

/// Drives one connection to its end.
async fn connection(
    mut wire: Wire,
    config: &MqttConfig,
    shared: &Shared,
    queue: &mpsc::UnboundedSender<Received>,
    leave: &mut watch::Receiver<bool>,
) -> End {
    let session = shared.session.fetch_add(1, Ordering::AcqRel) + 1;
    let acknowledger = wire.acknowledger();
    loop {
        let incoming = tokio::select! {
            incoming = wire.next() => incoming,
            () = shared.refused.notified() => {
                shared.exact.forget_under_way();
                return End::Broken("rows could not be stored: the broker shall bring them again".into());
            }
            () = ended(leave) => {
                // The pump has handed all acknowledgements to the library: they go out before the farewell.
                let _ = time::timeout(FAREWELL_TIME_MAX, farewell(wire, &acknowledger)).await;
                return End::Left;
            }
        };
        let answer = match incoming {
            Ok(Incoming::Connected { session_present }) => connected(&wire, config, shared, session_present),
            Ok(Incoming::Message(message)) => match take(message, session, &acknowledger, shared, queue) {
                Some(End::Full) => {
                    let _ = time::timeout(CLEARING_TIME_MAX, clear(wire, &acknowledger, shared)).await;
                    return End::Full;
                }
                Some(end) => return end,
                None => Ok(()),
            },
            Ok(Incoming::Released { packet_id }) => {
                shared.exact.released(packet_id);
                Ok(())
            }
            Ok(Incoming::SubscriptionsRefused(count)) => {
                shared.status.down(format!("the broker refuses {count} of the subscriptions: look at its access rules"));
                Ok(())
            }
            Ok(Incoming::Left) => return End::Left,
            Ok(Incoming::Other) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = answer {
            return End::Broken(error.why);
        }
    }
}

/// Asks for the subscriptions at every connection: the broker may have lost the session.
fn connected(wire: &Wire, config: &MqttConfig, shared: &Shared, session_present: bool) -> Result<(), WireError> {
    if !session_present {
        shared.exact.forget_all();
    }
    wire.subscribe(&config.subscriptions)?;
    shared.status.up();
    Ok(())
}

/// Queues a message, unless it is known already. `Some` = the connection must end.
fn take(
    message: Message,
    session: u64,
    acknowledger: &Acknowledger,
    shared: &Shared,
    queue: &mpsc::UnboundedSender<Received>,
) -> Option<End> {
    let (qos, packet_id) = (message.qos, message.packet_id);
    let ticket = match (qos == Qos::ExactlyOnce).then(|| shared.exact.arrived(packet_id, acknowledger)) {
        None => 0,
        Some(Arrival::New(ticket)) => ticket,
        Some(Arrival::UnderWay) => return None,
        Some(Arrival::Stored) => {
            let sent = acknowledger.try_acknowledge(qos, packet_id);
            return (!sent).then_some(End::Full);
        }
    };
    let bytes = message.payload.len() + message.topic.len() + MESSAGE_OVERHEAD_BYTES;
    // A packet is shorter than 4 GB: the wire refuses longer ones.
    match Arc::clone(&shared.room).try_acquire_many_owned(bytes as u32) {
        Ok(room) => {
            let received = Received { message, acknowledger: acknowledger.clone(), session, ticket, room };
            // The pump is gone only after it told this task to leave.
            queue.send(received).err().map(|_| End::Left)
        }
        Err(_) if qos == Qos::AtMostOnce => {
            shared.status.shed(1);
            None
        }
        Err(_) => {
            if qos == Qos::ExactlyOnce {
                shared.exact.turned_away(packet_id);
            }
            Some(End::Full)
        }
    }
}

/// Acknowledges what there was room for, so that the broker does not bring all of it again, and leaves what comes meanwhile for the next connection.
async fn clear(mut wire: Wire, acknowledger: &Acknowledger, shared: &Shared) {
    let emptied = shared.room.acquire_many(QUEUE_BYTES_MAX);
    let drive = async {
        loop {
            match wire.next().await {
                Ok(Incoming::Message(message)) if message.qos == Qos::AtMostOnce => shared.status.shed(1),
                Ok(Incoming::Released { packet_id }) => shared.exact.released(packet_id),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = drive => return,
        // Closed never: the semaphore lives as long as this task.
        room = emptied => drop(room),
    }
    farewell(wire, acknowledger).await;
}

/// Sends what is left to send, and waits until the broker hangs up: it has read everything then, and the next connection of this client, which
/// would make it throw away the rest, cannot overtake.
async fn farewell(mut wire: Wire, acknowledger: &Acknowledger) {
    let drive = async { while wire.next().await.is_ok() {} };
    tokio::join!(acknowledger.leave(), drive);
}
