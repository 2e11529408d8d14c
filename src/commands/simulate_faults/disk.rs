//! The store on a disk that is pulled out.
//!
//! The store is the real one, on a file in memory. A read transaction held open keeps every commit in the log, so the file stands still
//! and the length of the log after each commit is what a crash can not take away once somebody outside has seen that commit. A crash
//! keeps the log up to some commit from there on, and of the next one whichever sectors it likes, in whichever order: whole, torn,
//! zeroed or of noise. Now and then the log is moved into the file, as the store does by itself; a crash in the middle of that leaves
//! some pages of the file new and some old beside the whole log.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, config::DbConfig};

use crate::{
    simulate::Random,
    store::{Clocks, FILE_NAME, Recovered, Store, StoreConfig},
};

/// The log is moved into the file when it is longer; below where the store does that by itself.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Nothing ages: every row is wanted at the end.
const AGE_NS_MAX: i64 = 200 * 365 * 86_400 * 1_000_000_000;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// The log's header, which is synced before anything else of the log is written.
const LOG_HEADER_BYTES: usize = 32;

/// The store, and what a crash would leave of it.
pub struct Disk {
    root: PathBuf,
    lives: u64,
    clocks: Clocks,
    /// Open until the next crash.
    open: Option<Open>,
    /// Lengths of the log: when it was last seen from outside, and after each commit since.
    commits: Vec<u64>,
    /// Moves of the log into the file.
    pub log_moves: u64,
}

/// The reader goes before the store, which moves its log when it closes.
struct Open {
    pin: Connection,
    store: Store,
    place: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.open = None;
        // What cannot be removed is left for the operating system's own cleaning.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Disk {
    /// An empty one below `root`, which must not exist and goes with it.
    pub fn new(root: PathBuf, clocks: Clocks) -> Self {
        Self { root, lives: 0, clocks, open: None, commits: vec![0], log_moves: 0 }
    }

    fn place(&self) -> PathBuf {
        self.root.join(self.lives.to_string())
    }

    /// Opens what is there; a crash is no damage.
    pub fn open(&mut self) -> Result<Recovered, String> {
        let place = self.place();
        let settings = StoreConfig { max_age_ns: AGE_NS_MAX, clocks: self.clocks.clone(), ..StoreConfig::default() };
        let (store, recovered) = Store::open(&place, settings).map_err(|error| error.to_string())?;
        if recovered.loss.is_some() || !recovered.notices.is_empty() {
            return Err(format!("after a crash the store takes itself for damaged: {:?}", recovered.notices));
        }
        let pin = Connection::open(place.join(FILE_NAME)).map_err(|error| error.to_string())?;
        self.open = Some(Open { pin, store, place });
        self.move_log().map_err(|error| error.to_string())?;
        Ok(recovered)
    }

    /// The store.
    pub fn store(&self) -> Result<&Store, String> {
        self.open.as_ref().map(|open| &open.store).ok_or_else(|| "the store is closed".to_owned())
    }

    fn log_bytes(&self) -> u64 {
        let log = |open: &Open| fs::metadata(log_of(&open.place)).map_or(0, |metadata| metadata.len());
        self.open.as_ref().map_or(0, log)
    }

    /// A commit was made of which nobody outside knows.
    pub fn committed(&mut self) {
        let bytes = self.log_bytes();
        if self.commits.last() != Some(&bytes) {
            self.commits.push(bytes);
        }
    }

    /// Somebody outside knows of every commit so far.
    pub fn seen(&mut self) {
        self.commits = vec![self.log_bytes()];
    }

    /// Moves the log into the file if it is long.
    pub fn tidy(&mut self) -> Result<(), String> {
        if self.log_bytes() < LOG_BYTES_MAX {
            return Ok(());
        }
        self.log_moves += 1;
        self.move_log().map_err(|error| error.to_string())
    }

    fn move_log(&mut self) -> rusqlite::Result<()> {
        let Some(Open { pin, .. }) = &self.open else { return Ok(()) };
        if !pin.is_autocommit() {
            pin.execute_batch("COMMIT")?;
        }
        // Another connection may be doing the same at this moment.
        while pin.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))? != 0 {
            std::thread::yield_now();
        }
        pin.execute_batch("BEGIN")?;
        pin.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
        self.commits = vec![0];
        Ok(())
    }

    /// Pulls the disk out: what is left is what the next [`Self::open`] finds.
    pub fn crash(&mut self, random: &mut Random) -> Result<(), String> {
        self.committed();
        let Some(Open { pin, store, place }) = self.open.take() else { return Err("the store is closed".to_owned()) };
        let kept = random.below(self.commits.len());
        let (log, file) = (log_of(&place), place.join(FILE_NAME));
        let mut image = fs::read(&log).unwrap_or_default();
        let end = self.commits.get(kept + 1).copied().unwrap_or(self.commits[kept]) as usize;
        let synced = self.commits[kept] as usize;
        image.truncate(end);
        let is_torn = tear(&mut image, synced, random);
        self.lives += 1;
        let next = self.place();
        let failed = |error: std::io::Error| format!("{}: {error}", next.display());
        fs::create_dir_all(&next).map_err(failed)?;
        fs::copy(&file, next.join(FILE_NAME)).map_err(failed)?;
        if !is_torn && image.len() > LOG_HEADER_BYTES && random.chance(0.3) {
            half_move(&next, &image, random).map_err(|error| format!("half a move of the log: {error}"))?;
        }
        fs::write(log_of(&next), &image).map_err(failed)?;
        drop((pin, store));
        fs::remove_dir_all(&place).map_err(failed)?;
        self.commits = vec![0];
        Ok(())
    }
}

fn log_of(place: &Path) -> PathBuf {
    place.join(format!("{FILE_NAME}-wal"))
}

/// Does to the bytes from `synced` on what a disk may do that had not synced them; whether it did anything.
fn tear(log: &mut Vec<u8>, synced: usize, random: &mut Random) -> bool {
    let intact = log.clone();
    let action = random.below(4);
    if action == 0 {
        // Nothing of it arrived.
        log.truncate(synced);
        return *log != intact;
    }
    let synced = synced.max(LOG_HEADER_BYTES).min(log.len());
    match action {
        // Its beginning did.
        1 => log.truncate(synced + random.below(log.len() - synced + 1)),
        // Some of its sectors did.
        2 => {
            let mut from = synced;
            while from < log.len() {
                let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(log.len());
                match random.below(4) {
                    0 => log[from..to].fill(0),
                    1 => log[from..to].iter_mut().for_each(|byte| *byte = random.bits() as u8),
                    _ => {}
                }
                from = to;
            }
        }
        // All of it did.
        _ => {}
    }
    *log != intact
}

/// Leaves the file in `place` as if the machine had stopped while `log` was moved into it.
fn half_move(place: &Path, log: &[u8], random: &mut Random) -> Result<(), Box<dyn std::error::Error>> {
    let (file, moved) = (place.join(FILE_NAME), place.join("moved.db"));
    fs::copy(&file, &moved)?;
    fs::write(place.join("moved.db-wal"), log)?;
    let connection = Connection::open(&moved)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    drop(connection);
    let (new, old) = (fs::File::open(&moved)?, fs::File::options().read(true).write(true).open(&file)?);
    let len = new.metadata()?.len();
    let (mut ours, mut theirs) = (vec![0; 4_096], vec![0; 4_096]);
    for at in (0..len).step_by(4_096) {
        new.read_exact_at(&mut theirs, at)?;
        ours.fill(0xff);
        // Beyond the old end of the file nothing is read.
        let _ = old.read_at(&mut ours, at)?;
        if ours != theirs && random.chance(0.5) {
            old.write_all_at(&theirs, at)?;
        }
    }
    for name in ["moved.db", "moved.db-wal", "moved.db-shm"] {
        if let Err(error) = fs::remove_file(place.join(name))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
    }
    Ok(())
}
