//! HTTP: health, status, results and a few acts, for operators, scripts and the terminal UI.
//!
//! What is only looked at comes from the [`Snapshot`] that the appliance publishes; what needs the engine or the store is a
//! [`Request`] on a bounded channel, answered by the appliance. So no handler holds a lock or touches the engine, and a slow client
//! delays nobody. Every error is `application/problem+json` (RFC 9457).
//!
//! - [`routes`]: the endpoints of the contract, section 5, and their OpenAPI document.
//! - [`quality`]: those that concern alerts, checkpoints and baselines.
//! - [`problem`]: errors as problem documents.
//! - [`guard`]: the bearer token, and [`tls`], both needed off loopback.

mod ask;
pub mod guard;
pub mod openapi;
pub mod problem;
pub mod quality;
pub mod routes;
pub mod tls;

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::model::{Order, Severity, Timestamp};
pub use crate::status::Snapshot;
use tls::{TlsFiles, TlsListener};

/// What the handlers work with.
#[derive(Clone)]
pub struct Handle {
    /// The newest state of everything.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Questions and acts for the appliance.
    pub requests: mpsc::Sender<Request>,
    /// Results as JSON lines, as they are committed.
    pub events: broadcast::Sender<Arc<Event>>,
    /// What a client must present off loopback.
    pub token: Option<Arc<str>>,
}

/// A committed result, for `GET /events`.
#[derive(Debug, Clone)]
pub struct Event {
    /// The result's id.
    pub id: String,
    /// The result's kind.
    pub kind: String,
    /// The result as one line of JSON.
    pub json: String,
}

/// An answer: JSON bytes, or why not.
pub type Answer = Result<Vec<u8>, Refusal>;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    NotFound(String),
    /// The request makes no sense.
    Invalid(String),
    /// Not now: degraded, stopping or overloaded.
    Unavailable(String),
    /// It should have worked.
    Failed(String),
}

/// Something only the appliance can answer or do.
#[derive(Debug)]
pub struct Request {
    /// What.
    pub act: Act,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Which alerts are wanted; `None` = any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertFilter {
    /// At least this severe.
    pub severity: Option<Severity>,
    /// Raised by this source.
    pub source: Option<Arc<str>>,
    /// Acknowledged, or not.
    pub acknowledged: Option<bool>,
    /// Not before this time.
    pub from: Option<Timestamp>,
}

/// The questions and acts.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Feed a pipeline (again).
    StartPipeline(String),
    /// Feed a pipeline no longer; its state stays.
    StopPipeline(String),
    /// Write a checkpoint now.
    Checkpoint,
    /// Keyed state below a prefix.
    State {
        /// Start of the keys.
        prefix: String,
    },
    /// Open windows.
    Windows {
        /// Of one pipeline only.
        pipeline: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Rows of a stream's ring.
    Recent {
        /// The stream.
        stream: String,
        /// The last so many.
        rows: Option<usize>,
        /// Or those of the last so many nanoseconds.
        duration_ns: Option<i64>,
    },
    /// Rows of a stream from the journal, both ends included.
    History {
        /// The stream.
        stream: String,
        /// From here.
        from: Timestamp,
        /// To here.
        to: Timestamp,
        /// Only rows for which this expression holds.
        condition: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Voxels of a grid.
    Voxels {
        /// The grid.
        grid: String,
        /// Of one layer only.
        layer: Option<i64>,
        /// Changed after this version only.
        since: Option<u64>,
        /// Voxels 2^level times as long.
        level: u32,
        /// At most about so many.
        limit: Option<usize>,
    },
    /// A grid's layers in figures, or one of them with what is missing from it.
    Layers {
        /// The grid.
        grid: String,
        /// Only this one.
        layer: Option<i64>,
    },
    /// All rows of the voxels whose centres lie in a box.
    Region {
        /// The grid.
        grid: String,
        /// mm
        lower: [f64; 3],
        /// mm
        upper: [f64; 3],
    },
    /// Charts by id, all keys.
    Chart(String),
    /// What was raised, newest first.
    Alerts {
        /// Which.
        filter: AlertFilter,
        /// At most so many.
        limit: usize,
    },
    /// Whether rows meet the checkpoints of a pipeline; nothing follows.
    Validate {
        /// The pipeline.
        pipeline: String,
        /// One checkpoint; `None` = all.
        checkpoint: Option<String>,
        /// The rows, as JSON; empty = the newest row of the stream.
        rows: Vec<u8>,
    },
    /// Something that goes through the inbox.
    Order(Order),
    /// Refused input, oldest first.
    DeadLetters {
        /// After this number.
        after: u64,
        /// At most so many.
        limit: usize,
    },
    /// Take a dead letter's bytes again, as rows of its stream.
    Resubmit(u64),
    /// Rows to take in; answered once they are durable.
    Append {
        /// JSON or JSON Lines.
        body: Vec<u8>,
        /// The stream of rows that do not name theirs.
        stream: Option<String>,
    },
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address.
    #[error("cannot listen on {listen}: {source}; is another appliance running, or the port taken?")]
    Address {
        /// Asked for.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificate.
    #[error("no TLS for the API: {0}")]
    Tls(String),
}

/// Opens a listener.
///
/// # Errors
/// The address is taken, not ours, or not allowed.
pub async fn bind(listen: SocketAddr) -> Result<tokio::net::TcpListener, ListenError> {
    tokio::net::TcpListener::bind(listen).await.map_err(|source| ListenError::Address { listen, source })
}

/// Opens a listener with TLS if there are files for it.
///
/// # Errors
/// Those of [`bind`], and files that cannot be used.
pub async fn bind_api(listen: SocketAddr, tls: Option<&TlsFiles>) -> Result<ApiListener, ListenError> {
    let acceptor = tls.map(TlsFiles::acceptor).transpose().map_err(ListenError::Tls)?;
    let plain = bind(listen).await?;
    Ok(match acceptor {
        None => ApiListener::Plain(plain),
        Some(acceptor) => {
            let secured = TlsListener::new(plain, acceptor);
            ApiListener::Tls(secured.map_err(|source| ListenError::Address { listen, source })?)
        }
    })
}

/// Where the API listens.
pub enum ApiListener {
    /// On loopback.
    Plain(tokio::net::TcpListener),
    /// Anywhere.
    Tls(TlsListener),
}

impl ApiListener {
    /// The address, with the port that was free if any would do.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Plain(listener) => listener.local_addr(),
            Self::Tls(listener) => axum::serve::Listener::local_addr(listener),
        }
    }
}

/// Serves the API until `stop` says so.
pub async fn serve(listener: ApiListener, handle: Handle, stop: watch::Receiver<bool>) {
    match listener {
        ApiListener::Plain(listener) => serve_on(listener, handle, stop).await,
        ApiListener::Tls(listener) => serve_on(listener, handle, stop).await,
    }
}

async fn serve_on<L>(listener: L, handle: Handle, mut stop: watch::Receiver<bool>)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let router = routes::api(handle);
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the API ended");
    }
}

/// Serves `/metrics` until `stop` says so.
pub async fn serve_metrics(listener: tokio::net::TcpListener, handle: Handle, mut stop: watch::Receiver<bool>) {
    let router = routes::metrics(handle);
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the metrics page ended");
    }
}
