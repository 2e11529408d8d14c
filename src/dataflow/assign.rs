//! Which rows belong to which shard: by a hash of their keys' texts, the same in every run.
//!
//! Each shard finds its own rows. The texts of a batch are mostly those of the batch before, the very same ones; so what is known of a text
//! is kept by its code, and a row costs one look into a small table.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use rustc_hash::FxBuildHasher;

use crate::model::{Batch, TagColumn};

/// The hash that decides on the shard of a text: the same in every run.
fn hash_of_text(text: Option<&str>) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(text.unwrap_or_default().as_bytes());
    hasher.write_u8(u8::from(text.is_some()));
    hasher.finish()
}

/// The hash of the texts before and of one more.
#[inline]
fn hash_with(before: u64, text: u64) -> u64 {
    before.rotate_left(5) ^ text
}

#[inline]
fn shard_of(hash: u64, shards: usize) -> usize {
    // The low bits of this hash are the weak ones.
    ((u128::from(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * shards as u128) >> 64) as usize
}

/// The shard of the key with these texts.
pub fn shard_of_key(key: &[Option<Arc<str>>], shards: usize) -> usize {
    let hash = key.iter().fold(0_u64, |hash, text| hash_with(hash, hash_of_text(text.as_deref())));
    shard_of(hash, shards)
}

/// The hashes of the texts of one tag, by code; that of null is last.
#[derive(Debug)]
struct Known {
    tag: usize,
    texts: Vec<Arc<str>>,
    hashes: Vec<u64>,
    /// Beside `hashes`: whether a key of this text alone is ours.
    own: Vec<bool>,
    /// Codes have kept their texts while this is the same.
    since: Option<u64>,
}

/// Finds the rows of one shard.
#[derive(Debug)]
pub struct Assignment {
    number: usize,
    shards: usize,
    tags: Vec<Known>,
    hashes: Vec<u64>,
    rows: Vec<u32>,
}

impl Known {
    fn new(tag: usize) -> Self {
        Self { tag, texts: Vec::new(), hashes: Vec::new(), own: Vec::new(), since: None }
    }

    /// Makes what is known that of `column`. Codes have the texts that they had when this was called with the same `since`.
    fn learn(&mut self, column: &TagColumn, since: Option<u64>, (number, shards): (usize, usize)) {
        let names = &column.names;
        if since.is_some() && since == self.since && self.texts.len() == names.len() && !self.own.is_empty() {
            return;
        }
        let checked = if since.is_some() && since == self.since { self.texts.len().min(names.len()) } else { 0 };
        self.since = since;
        self.texts.truncate(names.len());
        self.hashes.truncate(self.texts.len());
        self.own.truncate(self.texts.len());
        let own = |hash| shard_of(hash_with(0, hash), shards) == number;
        for (place, name) in names.iter().enumerate().skip(checked) {
            match self.texts.get_mut(place) {
                Some(known) if Arc::ptr_eq(known, name) => {}
                Some(known) => {
                    *known = Arc::clone(name);
                    self.hashes[place] = hash_of_text(Some(name));
                    self.own[place] = own(self.hashes[place]);
                }
                None => {
                    let hash = hash_of_text(Some(name));
                    self.texts.push(Arc::clone(name));
                    self.hashes.push(hash);
                    self.own.push(own(hash));
                }
            }
        }
        let null = hash_of_text(None);
        self.hashes.push(null);
        self.own.push(own(null));
    }
}

impl Assignment {
    /// Shard `number` of `shards`; keys are the texts of `tags`.
    pub fn new(number: usize, shards: usize, tags: &[usize]) -> Self {
        let tags = tags.iter().map(|tag| Known::new(*tag)).collect();
        Self { number, shards, tags, hashes: Vec::new(), rows: Vec::new() }
    }

    /// The rows of `batch` that are ours, rising. With one tag, codes have the texts that they had when this was called with the same `since`.
    pub fn rows(&mut self, batch: &Batch, since: Option<u64>) -> &[u32] {
        let Self { number, shards, tags, hashes, rows } = self;
        let count = batch.rows();
        if rows.len() < count {
            rows.resize(count, 0);
        }
        if let [known] = tags.as_mut_slice()
            && (since.is_some() || batch.tags[known.tag].names.len() <= count)
        {
            let column = &batch.tags[known.tag];
            known.learn(column, since, (*number, *shards));
            let last = known.own.len() - 1;
            return picked(rows, column.codes.iter().map(|code| known.own[(*code as usize).min(last)]));
        }
        hashes.clear();
        hashes.resize(count, 0);
        for known in tags {
            let column = &batch.tags[known.tag];
            if column.names.len() > count {
                for (row, hash) in hashes.iter_mut().enumerate() {
                    *hash = hash_with(*hash, hash_of_text(column.get(row).map(|text| &**text)));
                }
                continue;
            }
            known.learn(column, None, (*number, *shards));
            let last = known.hashes.len() - 1;
            for (hash, code) in hashes.iter_mut().zip(&column.codes) {
                *hash = hash_with(*hash, known.hashes[(*code as usize).min(last)]);
            }
        }
        picked(rows, hashes.iter().map(|hash| shard_of(*hash, *shards) == *number))
    }
}

/// The places of what is ours.
fn picked(rows: &mut [u32], own: impl Iterator<Item = bool>) -> &[u32] {
    let mut count = 0;
    // Whether a row is ours is as good as random: no branch depends on it.
    for (row, own) in (0..).zip(own) {
        rows[count] = row;
        count += usize::from(own);
    }
    &rows[..count]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Stream, Timestamp};

    #[test]
    fn each_row_belongs_to_the_shard_of_its_key_whatever_came_before() {
        for (tags, shards) in [(vec![0], 2), (vec![0], 7), (vec![1, 0], 3)] {
            let mut assignments: Vec<_> = (0..shards).map(|number| Assignment::new(number, shards, &tags)).collect();
            for (rows, texts, since) in
                [(100, 20, None), (100, 20, None), (5, 30, None), (100, 30, Some(1)), (90, 40, Some(1)), (9, 12, Some(2))]
            {
                let mut batch = Batch::new(Arc::new(Stream::new("s", &[], &["a", "b"])), "s".into(), "s".into(), Timestamp(0));
                let names: Vec<Arc<str>> = (0..texts).map(|text| format!("{rows}-{text}").into()).collect();
                let names = if since == Some(1) { (0..texts).map(|text| format!("{text}").into()).collect() } else { names };
                for row in 0..rows {
                    batch.time.push(row);
                    batch.tags[1].push([Some("x"), None][row as usize % 2]);
                }
                // Every text and none.
                batch.tags[0] = TagColumn { codes: (0..rows as u32).map(|row| row * 7 % (texts + 1)).collect(), names };
                let since = since.filter(|_| tags.len() == 1);
                let mut owners = vec![None; rows as usize];
                for (number, assignment) in assignments.iter_mut().enumerate() {
                    for row in assignment.rows(&batch, since) {
                        assert_eq!(owners[*row as usize].replace(number), None);
                    }
                }
                for (row, owner) in owners.into_iter().enumerate() {
                    let key: Vec<_> = tags.iter().map(|tag| batch.tags[*tag].get(row).cloned()).collect();
                    assert_eq!(owner, Some(shard_of_key(&key, shards)), "{key:?}");
                }
            }
        }
    }
}
