//! What can go wrong with the store, by what the caller can do about it.

use std::path::Path;

use rusqlite::ffi;

/// Why the store did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Retry later or stop the other one: two writers would number rows twice.
    #[error("{dir} is in use by process {pid}: stop it, or give this one another data_dir")]
    Locked {
        /// The data directory.
        dir: String,
        /// The process that holds the lock; empty if it did not say.
        pid: String,
    },
    /// Retry later: nothing was written, and nothing is wrong with what is there. Sources that can wait should.
    #[error("the store is full: {0}")]
    Full(String),
    /// Retry later: the disk refused a write or a read; nothing was written.
    #[error("the disk refused: {0}; check its health and its cables")]
    Disk(String),
    /// Give up and end the process: what was written last may or may not be on disk. The next start recovers.
    #[error("a sync to disk failed ({0}): what is on disk is unknown until the next start reads it")]
    Fatal(String),
    /// The file is damaged. The next [`super::Store::open`] sets it aside and salvages what it can.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// The directory or a file in it cannot be used.
    #[error("{path}: {what}")]
    File {
        /// Which.
        path: String,
        /// The operating system's words.
        what: String,
    },
    /// The caller asked for what the store never does.
    #[error("{0}")]
    Refused(String),
    /// The store was closed, or ended after a fatal error.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Where a store was expected.
    pub(super) fn no_store(path: &Path) -> Self {
        Self::File { path: path.display().to_string(), what: "there is no store here".to_owned() }
    }

    /// An error of the operating system on `path`.
    pub fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::File { path: path.display().to_string(), what: error.to_string() }
    }

    /// Whether trying again later can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Disk(_))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        let Some(code) = error.sqlite_error().map(|error| error.extended_code) else {
            // A column of the wrong type, or text that is no UTF-8: bytes we did not write.
            return Self::Corrupt(text);
        };
        match (code, code & 0xff) {
            (ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC, _) => Self::Fatal(text),
            (ffi::SQLITE_IOERR_CORRUPTFS, _) | (_, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB | ffi::SQLITE_ERROR) => {
                Self::Corrupt(text)
            }
            (_, ffi::SQLITE_FULL) => Self::Full(text),
            _ => Self::Disk(text),
        }
    }
}

impl From<rusqlite::types::FromSqlError> for StoreError {
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32) -> StoreError {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
    }

    #[test]
    fn errors_are_told_apart_by_what_can_be_done() {
        assert!(matches!(of(ffi::SQLITE_FULL), StoreError::Full(_)));
        assert!(matches!(of(ffi::SQLITE_IOERR_FSYNC), StoreError::Fatal(_)));
        assert!(matches!(of(ffi::SQLITE_IOERR_WRITE), StoreError::Disk(_)));
        assert!(matches!(of(ffi::SQLITE_CORRUPT), StoreError::Corrupt(_)));
        assert!(matches!(of(ffi::SQLITE_NOTADB), StoreError::Corrupt(_)));
        assert!(of(ffi::SQLITE_IOERR_WRITE).is_retryable() && !of(ffi::SQLITE_IOERR_FSYNC).is_retryable());
    }
}
