//! One writer a directory: a lock that the kernel releases however the process ends.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::StoreError;

/// Holds the directory until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of `dir` and writes this process's id into it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] with the other's id; [`StoreError::File`] if the lock file cannot be made.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let failed = |error: &std::io::Error| StoreError::file(&path, error);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(|error| failed(&error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // The words of the message do without a number that cannot be read.
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
            return Err(StoreError::Locked { dir: dir.display().to_string(), pid: pid.trim().to_owned() });
        }
        let write = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        write.map_err(|error| failed(&error))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(dir.path()).unwrap();
        let Err(StoreError::Locked { pid, .. }) = DirectoryLock::take(dir.path()) else { panic!("not locked") };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        DirectoryLock::take(dir.path()).unwrap();
    }
}
