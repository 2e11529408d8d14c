//! Checkpoints of a processor: one file each, the last two kept.
//!
//! `checkpoint-{number:020}` is `postcard` with its CRC-32: format, number, and of each flow the source's position and the steps' states by
//! name. It is written under another name, synced, and renamed, so that a crash leaves the one before. The one before is kept, because a
//! sink may not yet have made the newest visible. `positions` holds what at-most-once has given up; it is not synced, as what is lost with
//! the machine may be.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::error::ProcessorError;

const FORMAT: u32 = 2;
const KEPT: usize = 2;
const PREFIX: &str = "checkpoint-";

/// What is kept of a flow.
#[derive(Debug, Serialize, Deserialize)]
pub struct FlowState {
    pub position: Vec<u8>,
    pub steps: Vec<(String, Vec<u8>)>,
}

/// What is kept of a processor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    pub number: u64,
    pub flows: Vec<FlowState>,
}

/// A directory of checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> ProcessorError {
    ProcessorError::Checkpoint(format!("{}: {error}", path.display()))
}

impl Checkpoints {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Their numbers, rising.
    fn numbers(&self) -> Vec<u64> {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix(PREFIX)?.parse().ok();
        let mut numbers: Vec<u64> = names.filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{number:020}"))
    }

    pub fn last_number(&self) -> u64 {
        self.numbers().last().copied().unwrap_or(0)
    }

    /// The newest one that is whole and, if sinks keep count, not newer than what they show.
    pub fn load(&self, until: Option<u64>) -> Result<Option<Saved>, ProcessorError> {
        let numbers = self.numbers();
        let mut fitting = numbers.iter().rev().filter(|number| until.is_none_or(|until| **number <= until)).peekable();
        if fitting.peek().is_none() {
            return match until {
                Some(until) if until > 0 => Err(failed(
                    &self.folder,
                    &format!("a sink shows checkpoint {until}, which is not there: results would be repeated"),
                )),
                _ => Ok(None),
            };
        }
        let mut fault = None;
        for number in fitting {
            match self.read(*number) {
                Ok(saved) => return Ok(Some(saved)),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        fault.map_or(Ok(None), Err)
    }

    fn read(&self, number: u64) -> Result<Saved, ProcessorError> {
        let path = self.path(number);
        let bytes = fs::read(&path).map_err(|error| failed(&path, &error))?;
        let damaged = || failed(&path, &"it is damaged");
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(damaged());
        }
        let (format, saved): (u32, Saved) = postcard::from_bytes(body).map_err(|error| failed(&path, &error))?;
        if format == FORMAT {
            Ok(saved)
        } else {
            Err(failed(&path, &format!("it has format {format}, this program reads {FORMAT}")))
        }
    }

    pub fn save(&mut self, saved: &Saved) -> Result<(), ProcessorError> {
        let path = self.path(saved.number);
        fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        let mut bytes = postcard::to_stdvec(&(FORMAT, saved)).map_err(|error| failed(&path, &error))?;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let draft = self.folder.join("draft");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error: std::io::Error| failed(&path, &error))?;
        let numbers = self.numbers();
        for number in numbers.iter().rev().skip(KEPT) {
            // One too many does no harm.
            let _ = fs::remove_file(self.path(*number));
        }
        Ok(())
    }

    /// Notes what at-most-once does not ask for again.
    pub fn give_up(&self, positions: &[Vec<u8>]) -> Result<(), ProcessorError> {
        let path = self.folder.join("positions");
        fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        let bytes = postcard::to_stdvec(positions).map_err(|error| failed(&path, &error))?;
        let draft = self.folder.join("positions-draft");
        fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, &path)).map_err(|error| failed(&path, &error))
    }

    /// What was noted last.
    pub fn positions(&self) -> Option<Vec<Vec<u8>>> {
        postcard::from_bytes(&fs::read(self.folder.join("positions")).ok()?).ok()
    }
}
