//! Where a file source stands, kept in a small file of its own.
//!
//! A [`Position`] is written (beside, synced, renamed) once the rows before it are synced, so after a crash it is at most a little behind, and some rows
//! are read again. For the inbox to know them again, rows that the file does not number are numbered here: the device is the file's path
//! and the stream, `boot` is the file's **generation**, `seq` counts the stream's rows in the file. Every file begun gets a generation that none
//! had before, so an inode that is used again is not taken for the file before.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    ingest::decode::Decoded,
    model::{Batch, Origin, TagColumn, Timestamp},
};

/// Bytes at the beginning of a file by which it is told from another one with the same inode.
pub(super) const HEAD_BYTES: usize = 256;

/// Which file of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub device: u64,
    pub inode: u64,
    /// When it was made, ns since 1970, where the file system says so: inodes are used again.
    pub made_ns: Option<u64>,
}

/// A place in a file, and what has to be known to go on there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub file: Identity,
    pub generation: i64,
    /// The beginning of the next line, bytes.
    pub offset: u64,
    /// Rows so far, by stream.
    pub rows: BTreeMap<String, i64>,
    /// The names of a CSV file's columns, once known.
    pub columns: Option<Vec<String>>,
    /// How many of the first bytes `head_crc` is of.
    pub head_bytes: usize,
    pub head_crc: u32,
}

impl Position {
    /// At the beginning of a file; after all generations up to `last`.
    pub fn beginning(file: Identity, last: Option<i64>, now: Timestamp) -> Self {
        // The clock keeps generations apart if the position was deleted.
        let generation = last.map_or(i64::MIN, |last| last.saturating_add(1)).max(now.0 / 1000);
        Self { file, generation, offset: 0, rows: BTreeMap::new(), columns: None, head_bytes: 0, head_crc: crc32fast::hash(&[]) }
    }

    /// Reads what [`Self::save`] wrote; `None` if there is nothing.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it to `path`, whole or not at all; returns once it is synced.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    /// Numbers the rows of `decoded`, which follow this position, and counts them.
    pub fn number(&mut self, decoded: &mut Decoded, path: &str) {
        for batch in &mut decoded.batches {
            let count = self.rows.entry(batch.stream.id.to_string()).or_default();
            number(batch, self.generation, *count, path);
            *count += batch.rows() as i64;
        }
    }
}

/// Gives the rows that have no number of their own those from `first` on.
fn number(batch: &mut Batch, generation: i64, first: i64, path: &str) {
    let device = format!("{path}#{}", batch.stream.id);
    let rows = batch.rows();
    let numbers = (first..).take(rows).map(Some);
    let Some(origin) = &mut batch.origin else {
        let device = TagColumn::constant(Some(&device), rows);
        batch.origin = Some(Origin { device, boot: vec![Some(generation); rows], seq: numbers.collect() });
        return;
    };
    let own = std::mem::take(&mut origin.device);
    for (row, number) in numbers.enumerate() {
        if origin.seq[row].is_some() {
            origin.device.push(own.get(row).map(|name| &**name));
        } else {
            origin.device.push(Some(&device));
            (origin.boot[row], origin.seq[row]) = (Some(generation), number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ingest::decode::{Context, JsonLines, Routes},
        model::Stream,
    };

    const FILE: Identity = Identity { device: 1, inode: 2, made_ns: None };

    fn decode(lines: &str) -> Decoded {
        let streams = ["a", "b"].map(|id| Arc::new(Stream::new(id, &[], &[])));
        let mut decoded = Decoded::default();
        let context = Context::new("s".into(), "p".into(), Timestamp(0));
        JsonLines::new(Routes::by_row(&streams, None).unwrap()).feed(lines.as_bytes(), &context, &mut decoded);
        decoded
    }

    fn numbers(decoded: &Decoded) -> Vec<(String, Option<i64>)> {
        let of = |batch: &Batch| {
            assert!(batch.is_consistent());
            let origin = batch.origin.clone().unwrap();
            (0..batch.rows()).map(|row| (origin.device.get(row).unwrap().to_string(), origin.seq[row])).collect::<Vec<_>>()
        };
        decoded.batches.iter().flat_map(of).collect()
    }

    #[test]
    fn a_row_has_the_same_number_however_the_file_is_cut() {
        let lines = ["{\"stream\":\"a\",\"time\":1}\n", "{\"stream\":\"b\",\"time\":2}\n", "{\"stream\":\"a\",\"time\":3}\n"];
        let mut whole = decode(&lines.concat());
        Position::beginning(FILE, None, Timestamp(0)).number(&mut whole, "f");
        let mut position = Position::beginning(FILE, None, Timestamp(0));
        let mut pieces = Vec::new();
        for line in lines {
            let mut decoded = decode(line);
            position.number(&mut decoded, "f");
            pieces.extend(numbers(&decoded));
        }
        let mut whole = numbers(&whole);
        whole.sort();
        pieces.sort();
        assert_eq!(pieces, whole);
        assert_eq!(whole, [("f#a".into(), Some(0)), ("f#a".into(), Some(1)), ("f#b".into(), Some(0))]);
    }

    #[test]
    fn rows_with_a_number_of_their_own_keep_it() {
        let mut decoded =
            decode("{\"stream\":\"a\",\"time\":1,\"device\":\"d\",\"seq\":7}\n{\"stream\":\"a\",\"time\":2,\"device\":\"d\"}\n");
        Position::beginning(FILE, None, Timestamp(0)).number(&mut decoded, "f");
        assert_eq!(numbers(&decoded), [("d".into(), Some(7)), ("f#a".into(), Some(1))]);
    }

    #[test]
    fn no_generation_comes_twice() {
        let first = Position::beginning(FILE, None, Timestamp(5_000_000));
        assert_eq!(first.generation, 5000);
        assert_eq!(Position::beginning(FILE, Some(5000), Timestamp(0)).generation, 5001);
        assert_eq!(Position::beginning(FILE, None, Timestamp(6_000_000)).generation, 6000);
    }

    #[test]
    fn a_position_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/s.json");
        assert_eq!(Position::load(&path).unwrap(), None);
        let mut position = Position::beginning(FILE, Some(3), Timestamp(0));
        position.rows.insert("a".into(), 9);
        position.save(&path).unwrap();
        assert_eq!(Position::load(&path).unwrap(), Some(position));
        fs::write(&path, "rubbish").unwrap();
        assert!(Position::load(&path).is_err());
    }
}
