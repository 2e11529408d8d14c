//! Which file to read: the one that was being read, wherever it was renamed to, or the one at the path.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    time::SystemTime,
};

use super::position::{HEAD_BYTES, Identity, Position};

/// Most neighbours that are looked at for a renamed file.
const NEIGHBOURS_MAX: usize = 10_000;

/// An open file, standing where to go on.
#[derive(Debug)]
pub(super) struct Located {
    pub file: File,
    pub identity: Identity,
    /// Up to [`HEAD_BYTES`] of what was read before; empty for a file that begins.
    pub head: Vec<u8>,
    pub found: Found,
}

/// Where the file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// At the path, to go on.
    AtPath,
    /// Renamed, to be read to its end.
    Renamed,
    /// At the path, to begin; what was not read of an earlier one is not there any more.
    New,
}

/// Opens the file at `path`, or the one of `position` if that is another and still there.
pub(super) fn locate(path: &Path, position: Option<&Position>) -> io::Result<Located> {
    let Some(position) = position else { return begin(path) };
    if let Some((file, head)) = go_on(path, position)? {
        return Ok(Located { file, identity: position.file, head, found: Found::AtPath });
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(directory)?.take(NEIGHBOURS_MAX).flatten() {
        if entry.metadata().is_ok_and(|metadata| identity(&metadata) == position.file)
            && let Some((file, head)) = go_on(&entry.path(), position)?
        {
            return Ok(Located { file, identity: position.file, head, found: Found::Renamed });
        }
    }
    begin(path)
}

/// The identity of what is at `path` now, if anything is.
pub(super) fn identity_at(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| identity(&metadata))
}

pub(super) fn identity(metadata: &Metadata) -> Identity {
    let made = metadata.created().ok().and_then(|made| made.duration_since(SystemTime::UNIX_EPOCH).ok());
    let made_ns = made.and_then(|made| u64::try_from(made.as_nanos()).ok());
    Identity { device: metadata.dev(), inode: metadata.ino(), made_ns }
}

fn begin(path: &Path) -> io::Result<Located> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory: name a file"));
    }
    let identity = identity(&metadata);
    Ok(Located { file, identity, head: Vec::new(), found: Found::New })
}

/// The file at `path` at the position, if it is the one that was read.
fn go_on(path: &Path, position: &Position) -> io::Result<Option<(File, Vec<u8>)>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if identity(&metadata) != position.file || metadata.len() < position.offset {
        return Ok(None);
    }
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    if head.get(..position.head_bytes).map(crc32fast::hash) != Some(position.head_crc) {
        return Ok(None);
    }
    head.truncate(usize::try_from(position.offset).map_or(HEAD_BYTES, |offset| offset.max(position.head_bytes)));
    file.seek(SeekFrom::Start(position.offset))?;
    Ok(Some((file, head)))
}
