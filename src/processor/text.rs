//! Rows as JSON Lines: files, and the console.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, ErrorKind, Seek, SeekFrom, Write},
    marker::PhantomData,
    path::PathBuf,
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{DeliveryGuarantee, Poll, Polled, Sink, SinkError, Source, SourceError};

/// A line longer than this is refused.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Rows of a file of JSON Lines. Lines that cannot be read are dead letters.
pub struct FileSource<T> {
    path: PathBuf,
    partition: Arc<str>,
    follow: bool,
    reader: Option<BufReader<File>>,
    /// Bytes that were handed over, up to the end of a line.
    offset: u64,
    line: Vec<u8>,
    rows: PhantomData<fn() -> T>,
}

impl<T> FileSource<T> {
    /// Reads the file to its end.
    pub fn json_lines(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let partition = path.to_string_lossy().into();
        Self { path, partition, follow: false, reader: None, offset: 0, line: Vec::new(), rows: PhantomData }
    }

    /// Waits for more at its end.
    #[must_use]
    pub fn follow(self) -> Self {
        Self { follow: true, ..self }
    }

    fn open(&mut self) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        self.reader = Some(BufReader::with_capacity(1 << 16, file));
        Ok(())
    }
}

fn failed(path: &std::path::Path, error: &std::io::Error) -> SourceError {
    SourceError(format!("{}: {error}", path.display()))
}

impl<T: DeserializeOwned + Send + 'static> Source for FileSource<T> {
    type Row = T;

    fn poll(&mut self, max: usize, into: &mut Polled<T>) -> Result<Poll, SourceError> {
        into.partition = Arc::clone(&self.partition);
        let opened = if self.reader.is_none() { self.open() } else { Ok(()) };
        match opened {
            Err(error) if self.follow && error.kind() == ErrorKind::NotFound => return Ok(Poll::Pending),
            opened => opened.map_err(|error| failed(&self.path, &error))?,
        }
        let Some(reader) = &mut self.reader else { return Ok(Poll::End) };
        while into.rows.len() + into.rejected.len() < max {
            let bytes = reader.read_until(b'\n', &mut self.line).map_err(|error| failed(&self.path, &error))?;
            let is_whole = self.line.last() == Some(&b'\n');
            if bytes == 0 && self.line.is_empty() || !is_whole && self.follow {
                return Ok(if self.follow { Poll::Pending } else { Poll::End });
            }
            self.offset += self.line.len() as u64;
            let text = self.line.trim_ascii();
            if !text.is_empty() {
                let row = if text.len() > LINE_BYTES_MAX { Err("the line is too long".into()) } else { parse(text) };
                match row {
                    Ok(row) => into.rows.push(row),
                    Err(reason) => into.rejected.push((reason, String::from_utf8_lossy(text).into_owned())),
                }
            }
            self.line.clear();
        }
        Ok(Poll::Ready)
    }

    fn position(&self) -> Vec<u8> {
        self.offset.to_le_bytes().to_vec()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
        let position = position.try_into().map_err(|_| SourceError("a position of another source".into()))?;
        self.offset = u64::from_le_bytes(position);
        self.line.clear();
        self.reader = None;
        Ok(())
    }
}

/// A row of JSON.
pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Writes rows to a file of JSON Lines. After a restart it is cut where the checkpoint was, so that each row is in it once.
pub struct FileSink {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    bytes: u64,
}

impl FileSink {
    /// Appends to the file, which is made if it is missing.
    pub fn json_lines(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, bytes: 0 }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> SinkError {
        SinkError::Fatal(format!("{}: {error}", self.path.display()))
    }

    fn opened(&mut self) -> Result<&mut BufWriter<File>, SinkError> {
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path).map_err(|error| self.failed(&error))?;
            self.bytes = file.metadata().map_err(|error| self.failed(&error))?.len();
            self.file = Some(BufWriter::with_capacity(1 << 16, file));
        }
        self.file.as_mut().ok_or_else(|| SinkError::Fatal("the file was not opened".into()))
    }
}

impl<T: Serialize + 'static> Sink<T> for FileSink {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, row).map_err(|error| self.failed(&error))?;
            text.push(b'\n');
        }
        let written = self.opened()?.write_all(&text);
        written.map_err(|error| self.failed(&error))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn flush(&mut self) -> Result<Vec<u8>, SinkError> {
        let file = self.opened()?;
        let synced = file.flush().and_then(|()| file.get_ref().sync_data());
        synced.map_err(|error| self.failed(&error))?;
        Ok(self.bytes.to_le_bytes().to_vec())
    }

    fn rewind(&mut self, position: &[u8]) -> Result<(), SinkError> {
        let position = position.try_into().map_err(|_| SinkError::Fatal("a position of another sink".into()))?;
        let bytes = u64::from_le_bytes(position);
        self.file = None;
        let file = OpenOptions::new().create(true).append(true).open(&self.path).map_err(|error| self.failed(&error))?;
        let known = file.metadata().map_err(|error| self.failed(&error))?.len();
        if known < bytes {
            return Err(
                self.failed(&format!("it has {known} bytes, and had {bytes} at the checkpoint: put it back, or begin anew"))
            );
        }
        file.set_len(bytes).map_err(|error| self.failed(&error))
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some(mut file) = self.file.take() {
            // A checkpoint has flushed what counts.
            let _ = file.flush();
        }
    }
}

/// Prints rows to standard output: numbered, indented JSON.
#[derive(Debug, Default)]
pub struct ConsoleSink {
    printed: u64,
}

impl ConsoleSink {
    /// Counts from 1.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T: Serialize + 'static> Sink<T> for ConsoleSink {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        let mut text = Vec::new();
        for (number, row) in (self.printed + 1..).zip(rows) {
            let json = serde_json::to_string_pretty(row).map_err(|error| SinkError::Fatal(error.to_string()))?;
            // Writing to memory does not fail.
            let _ = writeln!(text, "[{number}] {json}");
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&text).and_then(|()| out.flush()).map_err(|error| SinkError::Fatal(format!("standard output: {error}")))?;
        self.printed += rows.len() as u64;
        Ok(())
    }
}
