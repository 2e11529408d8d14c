//! Grouping tags → small numbers.
//!
//! A [`KeyTable`] numbers the combinations of texts that are in use, so that state is indexed rather than looked up by text; numbers
//! of released keys are given again, hence no output may follow their order. Within a batch, tags are compared by their codes alone:
//! a [`KeyCache`] remembers the number of each combination of codes for as long as one batch is worked on.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::model::{Batch, Key, NO_TAG, TagColumn};

/// The texts of the grouping tags of one key, in their configured order; shared with what a checkpoint keeps of them.
pub type KeyTexts = Arc<[Option<Arc<str>>]>;

/// The keys in use, by number.
#[derive(Debug, Default)]
pub struct KeyTable {
    numbers: HashTable<u32>,
    /// By number; an unused number keeps the texts it had last.
    texts: Vec<KeyTexts>,
    free: Vec<u32>,
    /// Counts up whenever a key comes or goes.
    version: u64,
}

fn hash_of<'t>(texts: impl Iterator<Item = Option<&'t Arc<str>>>) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    texts.for_each(|text| text.hash(&mut hasher));
    hasher.finish()
}

impl KeyTable {
    /// The number of the key with these texts; a new one if it is not in use.
    pub fn number<'t>(&mut self, texts: impl Iterator<Item = Option<&'t Arc<str>>> + Clone) -> u32 {
        let hash = hash_of(texts.clone());
        let same = |number: &u32| {
            let mut others = texts.clone();
            self.texts[*number as usize].iter().all(|text| others.next() == Some(text.as_ref()))
        };
        if let Some(number) = self.numbers.find(hash, same) {
            return *number;
        }
        self.version += 1;
        let key: KeyTexts = texts.map(Option::<&Arc<str>>::cloned).collect();
        let number = if let Some(number) = self.free.pop() {
            self.texts[number as usize] = key;
            number
        } else {
            self.texts.push(key);
            (self.texts.len() - 1) as u32
        };
        let all = &self.texts;
        self.numbers.insert_unique(hash, number, |number| hash_of(all[*number as usize].iter().map(Option::as_ref)));
        number
    }

    /// The number of the key with these texts, if it is in use.
    pub fn find(&self, texts: &[Option<&str>]) -> Option<u32> {
        let texts: KeyTexts = texts.iter().map(|text| text.map(Arc::from)).collect();
        self.numbers.find(hash_of(texts.iter().map(Option::as_ref)), |number| *self.texts(*number) == texts).copied()
    }

    /// The texts of a key in use.
    pub fn texts(&self, number: u32) -> &KeyTexts {
        &self.texts[number as usize]
    }

    /// The key as results show it, for grouping tags of these names.
    pub fn shown(&self, number: u32, names: &[Arc<str>]) -> Key {
        names.iter().cloned().zip(self.texts(number).iter().cloned()).collect()
    }

    /// Gives a number back; one that is not in use stays so.
    pub fn release(&mut self, number: u32) {
        let hash = hash_of(self.texts[number as usize].iter().map(Option::as_ref));
        if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
            entry.remove();
            self.free.push(number);
            self.version += 1;
        }
    }

    /// How many keys are in use.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Another number whenever a key has come or gone.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The numbers in use, in no order that means anything.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.numbers.iter().copied()
    }

    /// The numbers in use, ordered by their texts.
    pub fn sorted(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.numbers.iter().copied().collect();
        numbers.sort_unstable_by(|a, b| self.texts(*a).cmp(self.texts(*b)));
        numbers
    }
}

/// Below so many rows, remembering costs more than looking up.
const CACHED_ROWS_MIN: usize = 16;
const UNKNOWN: u32 = u32::MAX;

/// The key numbers of the rows of one batch.
#[derive(Debug, Default)]
pub struct KeyCache {
    tags: Vec<usize>,
    caching: bool,
    /// With one tag: the number by code, null last.
    by_code: Vec<u32>,
    /// With several: the combination of a prefix's combination and a code.
    steps: FxHashMap<(u32, u32), u32>,
    by_combination: Vec<u32>,
}

impl KeyCache {
    /// For rows grouped by the tags in these columns.
    pub fn new(tags: Vec<usize>) -> Self {
        Self { tags, ..Self::default() }
    }

    /// Whether a grouping tag of `row` is null.
    pub fn is_null(&self, batch: &Batch, row: usize) -> bool {
        self.tags.iter().any(|tag| code(batch, *tag, row) == NO_TAG)
    }

    /// Forgets the batch before: `rows` of `batch` follow. Numbers must not be released until the last of them is done.
    pub fn start(&mut self, batch: &Batch, rows: usize) {
        self.caching = rows >= CACHED_ROWS_MIN;
        self.by_code.clear();
        self.steps.clear();
        self.by_combination.clear();
        if let ([tag], true) = (self.tags.as_slice(), self.caching) {
            let names = batch.tags.get(*tag).map_or(0, |column| column.names.len());
            self.caching = names <= 4 * rows;
            self.by_code.resize(names + 1, UNKNOWN);
        }
    }

    /// The number of the key of `row`.
    pub fn number(&mut self, batch: &Batch, row: usize, table: &mut KeyTable) -> u32 {
        if !self.caching {
            return self.look_up(batch, row, table);
        }
        let place = match self.tags.as_slice() {
            [tag] => (code(batch, *tag, row) as usize).min(self.by_code.len() - 1),
            tags => {
                let mut combination = 0;
                for tag in tags {
                    let next = self.steps.len() as u32 + 1;
                    combination = *self.steps.entry((combination, code(batch, *tag, row))).or_insert(next);
                }
                combination as usize
            }
        };
        let known = if self.tags.len() == 1 { &mut self.by_code } else { &mut self.by_combination };
        if place >= known.len() {
            known.resize(place + 1, UNKNOWN);
        }
        match known[place] {
            UNKNOWN => {
                let number = self.look_up(batch, row, table);
                let known = if self.tags.len() == 1 { &mut self.by_code } else { &mut self.by_combination };
                known[place] = number;
                number
            }
            number => number,
        }
    }

    fn look_up(&self, batch: &Batch, row: usize, table: &mut KeyTable) -> u32 {
        table.number(self.tags.iter().map(|tag| batch.tags.get(*tag).and_then(|column| column.get(row))))
    }
}

fn code(batch: &Batch, tag: usize, row: usize) -> u32 {
    batch.tags.get(tag).map_or(NO_TAG, |column| column.codes[row])
}

/// The key numbers of texts by their address: texts that are seen again from batch to batch, at the same place of their column, are
/// not looked up again. To be cleared when a key is released.
#[derive(Debug, Default)]
pub struct KeyMemo {
    tags: Vec<usize>,
    /// By code of the only tag; the texts are kept, so that no other text gets their address.
    by_code: Vec<Option<(Arc<str>, u32)>>,
    null: Option<u32>,
    /// If the only tag's codes keep their texts: since when, and the numbers by code.
    lasting: Option<(u64, Vec<u32>)>,
    /// With one tag whose codes do not last: the numbers of the batch under way, by code.
    current: Vec<u32>,
    /// With several tags: a number for each text, by tag.
    texts: Vec<TextMemo>,
    /// The combination of a prefix's combination and a text, and the key number of whole combinations.
    steps: FxHashMap<(u32, u32), u32>,
    by_combination: FxHashMap<u32, u32>,
}

/// The texts of one tag, numbered.
#[derive(Debug, Default)]
struct TextMemo {
    by_code: Vec<Option<(Arc<str>, u32)>>,
    numbers: FxHashMap<Arc<str>, u32>,
}

/// More are not remembered.
const REMEMBERED_MAX: usize = 1 << 20;

impl KeyMemo {
    /// For rows grouped by the tags in these columns.
    pub fn new(tags: Vec<usize>) -> Self {
        let texts = tags.iter().map(|_| TextMemo::default()).collect();
        Self { tags, texts, ..Self::default() }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let since = self.lasting.take().map(|(since, _)| since);
        *self = Self::new(std::mem::take(&mut self.tags));
        self.lasting = since.map(|since| (since, Vec::new()));
    }

    /// From here on, codes keep their texts from batch to batch for as long as this is called with the same number.
    pub fn last(&mut self, since: u64) {
        if self.tags.len() == 1 && self.lasting.as_ref().is_none_or(|(known, _)| *known != since) {
            self.lasting = Some((since, Vec::new()));
        }
    }

    /// The number of the key of `row`.
    #[inline]
    pub fn number(&mut self, batch: &Batch, row: usize, table: &mut KeyTable) -> u32 {
        if let ([tag], Some((_, known))) = (self.tags.as_slice(), &self.lasting)
            && let Some(number) = known.get(batch.tags[*tag].codes[row] as usize)
            && *number != UNKNOWN
        {
            return *number;
        }
        self.look_up(batch, row, table)
    }

    /// The numbers of the keys of `rows`, behind those that are in `numbers`.
    pub fn numbers(&mut self, batch: &Batch, rows: &[u32], table: &mut KeyTable, numbers: &mut Vec<u32>) {
        let first = numbers.len();
        match (self.tags.as_slice(), &self.lasting) {
            ([tag], Some((_, known))) => numbers.extend(known_numbers(&batch.tags[*tag], rows, known)),
            ([tag], None) if batch.tags[*tag].names.len() <= rows.len() => {
                let column = &batch.tags[*tag];
                let known = |(text, known): (&Arc<str>, &Option<(Arc<str>, u32)>)| match known {
                    Some((known, number)) if Arc::ptr_eq(known, text) => *number,
                    _ => UNKNOWN,
                };
                self.current.clear();
                self.current.extend(column.names.iter().zip(&self.by_code).map(known));
                numbers.extend(known_numbers(column, rows, &self.current));
            }
            _ => numbers.resize(first + rows.len(), UNKNOWN),
        }
        for (row, number) in rows.iter().zip(&mut numbers[first..]) {
            if *number == UNKNOWN {
                *number = self.look_up(batch, *row as usize, table);
            }
        }
    }

    fn look_up(&mut self, batch: &Batch, row: usize, table: &mut KeyTable) -> u32 {
        let [tag] = self.tags.as_slice() else { return self.combined(batch, row, table) };
        let column = &batch.tags[*tag];
        let code = column.codes[row] as usize;
        let Some(text) = column.names.get(code) else {
            return *self.null.get_or_insert_with(|| table.number([None].into_iter()));
        };
        if let Some((_, known)) = &mut self.lasting {
            let number = table.number([Some(text)].into_iter());
            if code < REMEMBERED_MAX {
                known.resize(known.len().max(code + 1), UNKNOWN);
                known[code] = number;
            }
            return number;
        }
        match self.by_code.get(code) {
            Some(Some((known, number))) if Arc::ptr_eq(known, text) => *number,
            _ => {
                let number = table.number([Some(text)].into_iter());
                if code < REMEMBERED_MAX {
                    if self.by_code.len() <= code {
                        self.by_code.resize(column.names.len().min(REMEMBERED_MAX).max(code + 1), None);
                    }
                    self.by_code[code] = Some((Arc::clone(text), number));
                }
                number
            }
        }
    }

    fn combined(&mut self, batch: &Batch, row: usize, table: &mut KeyTable) -> u32 {
        if self.steps.len() > REMEMBERED_MAX {
            self.clear();
        }
        let mut combination = 0;
        for (tag, TextMemo { by_code, numbers }) in self.tags.iter().zip(&mut self.texts) {
            let column = &batch.tags[*tag];
            let code = column.codes[row] as usize;
            let text = column.names.get(code).map_or(0, |text| match by_code.get(code) {
                Some(Some((known, number))) if Arc::ptr_eq(known, text) => *number,
                _ => {
                    let next = numbers.len() as u32 + 1;
                    let number = *numbers.entry(Arc::clone(text)).or_insert(next);
                    if by_code.len() <= code && code < REMEMBERED_MAX {
                        by_code.resize(code + 1, None);
                    }
                    if let Some(known) = by_code.get_mut(code) {
                        *known = Some((Arc::clone(text), number));
                    }
                    number
                }
            });
            let next = self.steps.len() as u32 + 1;
            combination = *self.steps.entry((combination, text)).or_insert(next);
        }
        *self.by_combination.entry(combination).or_insert_with(|| {
            let texts = self.tags.iter().map(|tag| batch.tags[*tag].get(row));
            table.number(texts)
        })
    }
}

/// The numbers of `rows` by the codes of `column`, as far as they are known.
fn known_numbers<'k>(column: &'k TagColumn, rows: &'k [u32], known: &'k [u32]) -> impl Iterator<Item = u32> + 'k {
    rows.iter().map(|row| known.get(column.codes[*row as usize] as usize).copied().unwrap_or(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Stream, Timestamp};

    #[test]
    fn equal_texts_have_equal_numbers_with_and_without_the_cache() {
        for tags in [vec![], vec![0], vec![1], vec![0, 1], vec![1, 0, 1]] {
            let mut batch = Batch::new(Arc::new(Stream::new("s", &[], &["a", "b"])), "s".into(), "s".into(), Timestamp(0));
            for row in 0..100 {
                batch.time.push(row);
                batch.tags[0].push([Some("x"), None, Some("y")][row as usize % 3]);
                batch.tags[1].push([Some("x"), Some("z")][row as usize / 50]);
            }
            let (mut table, mut cache) = (KeyTable::default(), KeyCache::new(tags.clone()));
            cache.start(&batch, 100);
            for row in 0..100 {
                let number = cache.number(&batch, row, &mut table);
                let texts: Vec<_> = tags.iter().map(|tag| batch.tags[*tag].get(row).cloned()).collect();
                assert_eq!(**table.texts(number), *texts);
                assert_eq!(cache.look_up(&batch, row, &mut table), number);
            }
        }
    }

    #[test]
    fn released_numbers_are_given_again_and_only_once() {
        let mut table = KeyTable::default();
        let text: Arc<str> = "a".into();
        let a = table.number([Some(&text)].into_iter());
        table.release(a);
        table.release(a);
        assert_eq!((table.len(), table.number([None].into_iter())), (0, a));
        assert_ne!(table.number([Some(&text)].into_iter()), a);
        assert_eq!(table.sorted().len(), 2);
    }
}
