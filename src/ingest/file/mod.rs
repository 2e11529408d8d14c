//! A file of lines: read to its end, or followed like `tail -F` through renames and truncations.
//!
//! Rows are read once, also over restarts and crashes: the position is kept when rows are synced, and what is read again after a crash is known
//! by its numbers ([`position`]). A file that was renamed is read to its end before the new one at the path begins, also if it was
//! renamed while nobody read, as long as it stays in its directory. Not seen are: a file that came and went while nobody read, and a file that was
//! truncated and then written beyond its old length between two looks, [`LOOK_EVERY`] apart.

mod locate;
mod position;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{self, Instant},
};

use self::{
    locate::{Found, Located, identity_at, locate},
    position::{HEAD_BYTES, Position},
};
use super::{
    InboxError, Parcel, SourceStatus,
    backoff::Backoff,
    decode::{Context, Csv, Decoded, JsonLines, Routes},
    ended,
    outlet::{Outlet, ROWS_MAX},
    status::now,
};

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// How long to wait at the end of a file before looking again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the position may be behind.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How many rows it may be behind. With [`ROWS_MAX`] rows under way, fewer than the inbox remembers.
const SAVE_ROWS: u64 = 8192;

/// A checked file source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The file.
    pub path: PathBuf,
    /// What its lines are.
    pub codec: FileCodec,
    /// Whether to wait for more at its end.
    pub follow: bool,
    /// Where to keep the position; the directory is made.
    pub position: PathBuf,
    /// Where the rows go.
    pub routes: Routes,
}

/// What a file's lines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileCodec {
    /// A JSON object a line.
    JsonLines,
    /// A CSV row a line; `columns` for a file without a header.
    Csv {
        /// The names of the columns.
        columns: Option<Vec<String>>,
    },
}

enum Decoder {
    Json(Box<JsonLines>),
    Csv(Box<Csv>),
}

/// Why reading ended.
enum End {
    /// Everything is read, and there is nothing to wait for.
    Finished,
    /// Something went wrong; to be tried again.
    Trouble(String),
    /// The source shall end.
    Shutdown,
}

/// What was read before.
enum Before {
    /// Nothing that is known.
    Nothing,
    /// A file that is to be read on, wherever it is.
    Unfinished(Position),
    /// A file that was read to its end: the path's is the next.
    Finished { generation: i64 },
}

impl Before {
    fn generation(&self) -> Option<i64> {
        match self {
            Self::Nothing => None,
            Self::Unfinished(position) => Some(position.generation),
            Self::Finished { generation } => Some(*generation),
        }
    }
}

/// What follows the end of a file.
enum Next {
    /// More of the same file, later.
    Later,
    /// Another file, or this one from its beginning.
    Another,
}

/// A position and how many rows came since the one before.
struct Receipt {
    position: Position,
    rows: u64,
}

/// Runs until the end of a file that is not followed, `shutdown`, or the inbox is closed.
pub(super) async fn run(
    id: Arc<str>,
    config: FileConfig,
    inbox: mpsc::Sender<Parcel>,
    status: Arc<SourceStatus>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new();
    let mut outlet = Outlet::new(Arc::clone(&id), inbox, Arc::clone(&status));
    let mut tail = Tail::new(id, config, Arc::clone(&status));
    loop {
        match tail.session(&mut outlet, &mut shutdown, &mut backoff).await {
            Ok(End::Trouble(why)) => {
                tracing::warn!(source = %tail.id, "{why}");
                status.down(why);
            }
            Ok(End::Finished | End::Shutdown) | Err(_) => break,
        }
        tokio::select! {
            () = time::sleep(backoff.pause()) => {}
            () = ended(&mut shutdown) => break,
        }
    }
    let deadline = Outlet::<Receipt>::drain_deadline();
    while let Some(receipts) = outlet.drain(deadline).await {
        tail.synced(receipts);
    }
    if let Err(error) = tail.save().await {
        tracing::warn!(source = %tail.id, "the position is not kept, rows will be read again: {error}");
    }
    status.ended();
}

struct Tail {
    id: Arc<str>,
    partition: Arc<str>,
    config: FileConfig,
    status: Arc<SourceStatus>,
    /// Up to where rows are durable; `None` = not looked up yet, or nothing was read.
    durable: Option<Position>,
    looked_up: bool,
    unsaved: bool,
    unsaved_rows: u64,
    saved_at: Instant,
}

/// A file being read.
struct Open {
    file: tokio::fs::File,
    decoder: Decoder,
    /// Up to where it is read.
    position: Position,
    head: Vec<u8>,
    /// Read up to here, line or not.
    read_bytes: u64,
    renamed: bool,
    /// Whether its path was seen to lead elsewhere before the last read.
    replaced: bool,
}

impl Tail {
    fn new(id: Arc<str>, config: FileConfig, status: Arc<SourceStatus>) -> Self {
        let partition = config.path.display().to_string().into();
        Self {
            id,
            partition,
            config,
            status,
            durable: None,
            looked_up: false,
            unsaved: false,
            unsaved_rows: 0,
            saved_at: Instant::now(),
        }
    }

    /// Reads file after file. `Err` = the inbox is closed.
    async fn session(
        &mut self,
        outlet: &mut Outlet<Receipt>,
        shutdown: &mut watch::Receiver<bool>,
        backoff: &mut Backoff,
    ) -> Result<End, InboxError> {
        if !self.looked_up {
            let path = self.config.position.clone();
            match blocking(move || Position::load(&path)).await {
                Ok(found) => self.durable = found,
                Err(error) => {
                    let path = self.config.position.display();
                    return Ok(End::Trouble(format!(
                        "cannot read the position in {path}: {error}; remove it to read the file anew"
                    )));
                }
            }
            self.looked_up = true;
        }
        let mut before = self.durable.clone().map_or(Before::Nothing, Before::Unfinished);
        loop {
            let mut open = match self.open(before).await {
                Ok(open) => open,
                Err(why) => return Ok(End::Trouble(why)),
            };
            self.status.up();
            backoff.reset();
            match self.read(&mut open, outlet, shutdown).await? {
                Some(end) => return Ok(end),
                None => before = Before::Finished { generation: open.position.generation },
            }
        }
    }

    /// Opens what comes after `before`.
    async fn open(&mut self, before: Before) -> Result<Open, String> {
        let last = before.generation();
        let unfinished = if let Before::Unfinished(position) = before { Some(position) } else { None };
        let (path, known) = (self.config.path.clone(), unfinished.clone());
        let located = blocking(move || locate(&path, known.as_ref())).await;
        let Located { file, identity, head, found } =
            located.map_err(|error| format!("cannot read {}: {error}", self.partition))?;
        let position = match unfinished.filter(|_| found != Found::New) {
            Some(position) => position,
            None => self.begin(Position::beginning(identity, last, now())).await?,
        };
        let (decoder, read_bytes) = (self.decoder(&position)?, position.offset);
        let renamed = found == Found::Renamed;
        Ok(Open { file: tokio::fs::File::from_std(file), decoder, position, head, read_bytes, renamed, replaced: false })
    }

    /// Takes the generation of a file before any of its rows is stored.
    async fn begin(&mut self, position: Position) -> Result<Position, String> {
        (self.durable, self.unsaved) = (Some(position.clone()), true);
        self.save().await.map_err(|error| self.cannot_keep(&error))?;
        Ok(position)
    }

    fn cannot_keep(&self, error: &io::Error) -> String {
        format!("cannot keep the position in {}: {error}", self.config.position.display())
    }

    fn decoder(&self, position: &Position) -> Result<Decoder, String> {
        let routes = self.config.routes.clone();
        Ok(match &self.config.codec {
            FileCodec::JsonLines => Decoder::Json(Box::new(JsonLines::new(routes))),
            FileCodec::Csv { columns } => match position.columns.as_ref().or(columns.as_ref()) {
                Some(columns) => Decoder::Csv(Box::new(Csv::with_columns(routes, columns)?)),
                None => Decoder::Csv(Box::new(Csv::new(routes))),
            },
        })
    }

    /// Reads one file to its end; `None` = another follows.
    async fn read(
        &mut self,
        open: &mut Open,
        outlet: &mut Outlet<Receipt>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Option<End>, InboxError> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            if *shutdown.borrow() {
                return Ok(Some(End::Shutdown));
            }
            let count = match open.file.read(&mut bytes).await {
                Ok(count) => count,
                Err(error) => return Ok(Some(End::Trouble(format!("reading {} failed: {error}", self.partition)))),
            };
            let mut at_end = None;
            if count > 0 {
                self.decode(open, Some(&bytes[..count]), outlet).await?;
                open.replaced = false;
            } else if !self.config.follow && !open.renamed {
                self.decode(open, None, outlet).await?;
                at_end = Some(End::Finished);
            } else {
                match self.at_end(open).await {
                    Ok(Next::Later) => {}
                    Ok(Next::Another) => {
                        self.decode(open, None, outlet).await?;
                        return self.all_synced(open, outlet, shutdown).await;
                    }
                    Err(error) => return Ok(Some(End::Trouble(format!("cannot look at {}: {error}", self.partition)))),
                }
            }
            if let Some(end) = at_end {
                return Ok(Some(self.all_synced(open, outlet, shutdown).await?.unwrap_or(end)));
            }
            if let Some(end) = self.wait(open, count == 0 && !open.replaced, outlet, shutdown).await? {
                return Ok(Some(end));
            }
        }
    }

    /// What follows the end that was just met.
    async fn at_end(&self, open: &mut Open) -> io::Result<Next> {
        let length = open.file.metadata().await?.len();
        let (path, file) = (self.config.path.clone(), open.position.file);
        let there = blocking(move || Ok(identity_at(&path))).await?;
        if open.renamed || (open.replaced && there.is_some_and(|there| there != file)) || length < open.read_bytes {
            return Ok(Next::Another);
        }
        // What was written before the path led elsewhere is read before the next file begins.
        open.replaced = there.is_some_and(|there| there != file);
        Ok(Next::Later)
    }

    /// Decodes what was read (`None` = the file ended), and hands it on.
    async fn decode(&mut self, open: &mut Open, bytes: Option<&[u8]>, outlet: &mut Outlet<Receipt>) -> Result<(), InboxError> {
        let context = Context::new(Arc::clone(&self.id), Arc::clone(&self.partition), now()).along(&self.config.routes);
        let mut decoded = Decoded::default();
        if let Some(bytes) = bytes {
            self.status.arrived(context.arrival);
            open.read_bytes += bytes.len() as u64;
            let room = HEAD_BYTES.saturating_sub(open.head.len()).min(bytes.len());
            open.head.extend_from_slice(&bytes[..room]);
        }
        let partial_bytes = open.decoder.take(bytes, &context, &mut decoded);
        let position = &mut open.position;
        position.number(&mut decoded, &self.partition);
        position.offset = open.read_bytes - partial_bytes as u64;
        position.columns = open.decoder.columns();
        (position.head_bytes, position.head_crc) = (open.head.len(), crc32fast::hash(&open.head));
        if decoded.is_empty() {
            return Ok(());
        }
        let rows = decoded.rows();
        // No more may be under way than the inbox remembers, also if a line holds very many rows.
        while rows > ROWS_MAX / 2 && !outlet.is_idle() {
            match outlet.next_synced().await {
                Ok(receipts) => self.synced(receipts),
                Err(error) => return Err(error),
            }
        }
        outlet.hand_on(decoded, vec![Receipt { position: position.clone(), rows }]).await
    }

    /// Waits until there is room for more, and a little longer at the end of the file (`pause`).
    async fn wait(
        &mut self,
        open: &Open,
        pause: bool,
        outlet: &mut Outlet<Receipt>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Option<End>, InboxError> {
        let until = Instant::now() + LOOK_EVERY;
        loop {
            if outlet.is_idle() && self.durable.as_ref() != Some(&open.position) {
                (self.durable, self.unsaved) = (Some(open.position.clone()), true);
            }
            if self.unsaved
                && (outlet.is_idle() || self.unsaved_rows >= SAVE_ROWS || self.saved_at.elapsed() >= SAVE_EVERY)
                && let Err(error) = self.save().await
            {
                return Ok(Some(End::Trouble(self.cannot_keep(&error))));
            }
            let ready = outlet.has_room() && !pause;
            tokio::select! {
                biased;
                () = ended(shutdown) => return Ok(Some(End::Shutdown)),
                synced = outlet.next_synced() => match synced {
                    Ok(receipts) => self.synced(receipts),
                    Err(InboxError::Refused(why)) => {
                        outlet.forget();
                        return Ok(Some(End::Trouble(why)));
                    }
                    Err(InboxError::Closed) => return Err(InboxError::Closed),
                },
                () = std::future::ready(()), if ready => return Ok(None),
                () = time::sleep_until(until), if pause && outlet.has_room() => return Ok(None),
            }
        }
    }

    /// Waits until everything read is durable, and keeps the position.
    async fn all_synced(
        &mut self,
        open: &Open,
        outlet: &mut Outlet<Receipt>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Option<End>, InboxError> {
        loop {
            if let Some(end) = self.wait(open, true, outlet, shutdown).await? {
                return Ok(Some(end));
            }
            if outlet.is_idle() && !self.unsaved {
                return Ok(None);
            }
        }
    }

    fn synced(&mut self, receipts: Vec<Receipt>) {
        for receipt in receipts {
            self.unsaved_rows += receipt.rows;
            self.durable = Some(receipt.position);
            self.unsaved = true;
        }
    }

    async fn save(&mut self) -> io::Result<()> {
        if let Some(position) = self.durable.clone().filter(|_| self.unsaved) {
            let path = self.config.position.clone();
            blocking(move || position.save(&path)).await?;
            (self.unsaved, self.unsaved_rows, self.saved_at) = (false, 0, Instant::now());
        }
        Ok(())
    }
}

impl Decoder {
    /// Decodes what was read, or the end; bytes of a line whose end is not here yet.
    fn take(&mut self, bytes: Option<&[u8]>, context: &Context, out: &mut Decoded) -> usize {
        match (&mut *self, bytes) {
            (Self::Json(decoder), Some(bytes)) => decoder.feed(bytes, context, out),
            (Self::Csv(decoder), Some(bytes)) => decoder.feed(bytes, context, out),
            (Self::Json(decoder), None) => decoder.end(context, out),
            (Self::Csv(decoder), None) => decoder.end(context, out),
        }
        match self {
            Self::Json(decoder) => decoder.partial_bytes(),
            Self::Csv(decoder) => decoder.partial_bytes(),
        }
    }

    fn columns(&self) -> Option<Vec<String>> {
        match self {
            Self::Json(_) => None,
            Self::Csv(decoder) => decoder.columns().map(<[String]>::to_vec),
        }
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
