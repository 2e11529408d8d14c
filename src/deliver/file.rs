//! Rows and results as JSON Lines in a file, each exactly once.
//!
//! A line is the row or result as JSON with `appliance`, `stream`, `id`, `kind` in front (`kind` of a row is `row`).
//!
//! Beside `FILE` lies `FILE.cursor`: `{"store":"<16 hex digits>","rows":N,"results":N,"bytes":N,"opened":N}`, replaced after each parcel, once the lines are
//! synced. A crash in between leaves more lines than the cursor knows; opening cuts the file back to `bytes` and goes on from there. So
//! that this holds for the first lines of a file too, the cursor says where they begin before they are written. With
//! `rotate_bytes`, a file that has reached that size is renamed to `FILE.{rows}-{results}` (the last row and result in it) before the
//! next parcel.
//!
//! An attempt that took too long is given up, but its write cannot be called back. So each opening has a number, `opened`, and a write
//! takes its turn (`FILE.lock`) and looks whether it is still of the last opening.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    Delivered, Identity, Parcel, Progress, SinkError, blocking,
    row_json::{RowWriter, write_named_row, write_result},
};
use crate::model::Seq;

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file; it is made if it is missing, its directory is not.
    pub path: PathBuf,
    /// Start a new file once this one has so many bytes; `None` = never.
    pub rotate_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cursor {
    store: String,
    rows: u64,
    results: u64,
    bytes: u64,
    /// How often the file was opened.
    #[serde(default)]
    opened: u64,
}

/// An open file.
pub struct FileSink {
    open: Arc<Open>,
    cursor: Cursor,
}

struct Open {
    settings: Settings,
    identity: Identity,
}

impl FileSink {
    /// Opens the file, cut back to what its cursor knows, and says where that is.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if the file cannot be opened.
    pub async fn open(settings: &Settings, identity: Identity) -> Result<(Self, Option<Progress>), SinkError> {
        let open = Arc::new(Open { settings: settings.clone(), identity });
        let shared = Arc::clone(&open);
        let (cursor, known) = blocking(move || shared.recover().map_err(|error| shared.fault(&error))).await?;
        Ok((Self { open, cursor }, known))
    }

    /// Appends and syncs `parcel`, then replaces the cursor.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if the disk takes nothing more.
    pub async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let (open, parcel, before) = (Arc::clone(&self.open), Arc::clone(parcel), self.cursor.clone());
        let delivered = Delivered { rows: parcel.row_count() as u64, results: parcel.results.len() as u64, repeated: 0 };
        self.cursor = blocking(move || open.append(&parcel, before).map_err(|error| open.fault(&error))).await?;
        Ok(delivered)
    }
}

impl Open {
    fn recover(&self) -> io::Result<(Cursor, Option<Progress>)> {
        let store = format!("{:016x}", self.identity.store);
        let path = &self.settings.path;
        let length = fs::metadata(path).map(|metadata| metadata.len()).ok();
        let _turn = self.turn()?;
        let Some(mut kept) = self.kept() else {
            // Without a cursor, what is there was written by somebody else: it stays, and we go on behind it.
            let cursor = Cursor { store, rows: 0, results: 0, bytes: length.unwrap_or(0), opened: 1 };
            self.keep(&cursor)?;
            return Ok((cursor, None));
        };
        match length {
            Some(length) if length > kept.bytes => truncate(path, kept.bytes)?,
            Some(length) => kept.bytes = length,
            None => kept.bytes = 0,
        }
        let known = (kept.store == store).then_some(Progress { rows: Seq(kept.rows), results: Seq(kept.results) });
        if known.is_none() {
            (kept.store, kept.rows, kept.results) = (store, 0, 0);
        }
        kept.opened = kept.opened.saturating_add(1);
        self.keep(&kept)?;
        Ok((kept, known))
    }

    /// The cursor as kept, if there is one.
    fn kept(&self) -> Option<Cursor> {
        fs::read(self.cursor_path()).ok().and_then(|text| serde_json::from_slice(&text).ok())
    }

    /// Waits for whoever writes; it is our turn until the file is dropped.
    fn turn(&self) -> io::Result<File> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(suffixed(&self.settings.path, ".lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    fn append(&self, parcel: &Parcel, before: Cursor) -> io::Result<Cursor> {
        let _turn = self.turn()?;
        if self.kept().is_none_or(|kept| kept.opened != before.opened) {
            return Err(io::Error::other("the file was opened again meanwhile"));
        }
        let (mut file, mut cursor) = self.prepare(before)?;
        let lines = self.lines(parcel);
        file.write_all(&lines)?;
        file.sync_data()?;
        cursor.rows = parcel.through.rows.0;
        cursor.results = parcel.through.results.0;
        cursor.bytes += lines.len() as u64;
        self.keep(&cursor)?;
        Ok(cursor)
    }

    /// The file to append to, of which the kept cursor knows where its new lines begin.
    fn prepare(&self, mut cursor: Cursor) -> io::Result<(File, Cursor)> {
        if self.settings.rotate_bytes.is_some_and(|limit| cursor.bytes >= limit && cursor.bytes > 0) {
            self.rotate(&cursor)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.settings.path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            // The name of a new file must survive as well.
            sync_directory(&self.settings.path)?;
        }
        if length != cursor.bytes {
            // It is new, or somebody else has written or cut it.
            cursor.bytes = length;
            self.keep(&cursor)?;
        }
        Ok((file, cursor))
    }

    fn lines(&self, parcel: &Parcel) -> Vec<u8> {
        let appliance = &*self.identity.appliance;
        let (mut lines, mut json) = (Vec::new(), Vec::new());
        for lot in &parcel.rows {
            let writer = RowWriter::new(appliance, &lot.batch, lot.historical);
            for row in 0..lot.batch.rows() {
                let id = self.identity.row_id(Seq(lot.batch.first_seq.0 + row as u64));
                json.clear();
                writer.write(row, &mut json);
                write_named_row(&mut lines, &id, &json);
                lines.push(b'\n');
            }
        }
        for result in &parcel.results {
            write_result(&mut lines, appliance, result);
            lines.push(b'\n');
        }
        lines
    }

    fn rotate(&self, cursor: &Cursor) -> io::Result<()> {
        let old = suffixed(&self.settings.path, &format!(".{}-{}", cursor.rows, cursor.results));
        match fs::rename(&self.settings.path, old) {
            // Renamed before a crash already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    /// Replaces the cursor: a crash leaves the old one or the new one.
    fn keep(&self, cursor: &Cursor) -> io::Result<()> {
        let fresh = suffixed(&self.cursor_path(), ".new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(cursor)?)?;
        file.sync_data()?;
        fs::rename(&fresh, self.cursor_path())?;
        sync_directory(&self.settings.path)
    }

    fn cursor_path(&self) -> PathBuf {
        suffixed(&self.settings.path, ".cursor")
    }

    fn fault(&self, error: &io::Error) -> SinkError {
        SinkError::Retry(format!("{}: {error}", self.settings.path.display()))
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn truncate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_data()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: PathBuf, rotate_bytes: Option<u64>) -> Open {
        Open { settings: Settings { path, rotate_bytes }, identity: Identity { appliance: "a".into(), store: 1 } }
    }

    #[test]
    fn lines_of_a_new_file_that_no_cursor_knows_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let open = open(dir.path().join("rows"), None);
        let (cursor, known) = open.recover().unwrap();
        assert_eq!(known, None);
        let (mut file, _) = open.prepare(cursor).unwrap();
        file.write_all(b"a line\n").unwrap();
        // The crash.
        let (cursor, known) = open.recover().unwrap();
        assert_eq!((cursor.bytes, known), (0, Some(Progress::default())));
        assert_eq!(fs::metadata(dir.path().join("rows")).unwrap().len(), 0);
    }

    #[test]
    fn a_write_that_was_given_up_writes_nothing_after_the_next_opening() {
        let dir = tempfile::tempdir().unwrap();
        let open = open(dir.path().join("rows"), None);
        let (given_up, _) = open.recover().unwrap();
        let (cursor, _) = open.recover().unwrap();
        assert!(open.append(&Parcel::default(), given_up).is_err());
        assert!(open.append(&Parcel::default(), cursor).is_ok());
    }

    #[test]
    fn after_a_rotation_too_and_though_they_are_fewer_than_before() {
        let dir = tempfile::tempdir().unwrap();
        let open = open(dir.path().join("rows"), Some(1));
        fs::write(dir.path().join("rows"), "many lines\n").unwrap();
        let cursor = Cursor { store: format!("{:016x}", 1), rows: 3, results: 4, bytes: 11, opened: 1 };
        open.keep(&cursor).unwrap();
        let (mut file, _) = open.prepare(cursor).unwrap();
        file.write_all(b"a line\n").unwrap();
        let (cursor, known) = open.recover().unwrap();
        assert_eq!((cursor.bytes, known), (0, Some(Progress { rows: Seq(3), results: Seq(4) })));
        assert_eq!(fs::read(dir.path().join("rows.3-4")).unwrap(), b"many lines\n");
        assert_eq!(fs::metadata(dir.path().join("rows")).unwrap().len(), 0);
    }
}
