//! Which rows the inbox already has: exact matches of (source, device, boot, seq), remembered for the last 65,536 rows of a device.
//!
//! Rules (contract, section 3):
//! - A row without `seq` is never a duplicate.
//! - A lower `seq` that was not seen is accepted; it may be a late one.
//! - Without `boot`, a jump back to 0, or back by more than 65,536, starts a new boot.
//! - What is remembered is the last 65,536 accepted rows, in order of acceptance, whatever their numbers.
//!
//! Devices count up, so what is remembered is a few runs of consecutive numbers: a device in good order costs one run, whatever it has
//! sent. A device that numbers its rows at random costs at most 65,536 runs (about 5 MB); above [`RUNS_MAX`] runs or [`DEVICES_MAX`]
//! devices in all, the device that was silent the longest is forgotten and counted.
//!
//! The state is a fold over the accepted rows and nothing else: a snapshot and the rows after it give the same state again. That is
//! how it survives a restart ([`super::tail`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::wire::{Cursor, DecodeError, put_signed, put_text, put_varint};
use crate::model::{Batch, Origin};

/// Rows of a device that are remembered.
pub const REMEMBERED_MAX: u64 = 65_536;
/// Devices that are remembered.
pub const DEVICES_MAX: usize = 4_096;
/// Runs of consecutive numbers that are remembered over all devices: about 80 MB at the worst.
pub const RUNS_MAX: usize = 1 << 20;

/// Who numbers rows: the configured source and the device behind it, if it says its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// As in `[sources.*]`.
    pub source: Arc<str>,
    /// As in the rows.
    pub device: Option<Arc<str>>,
}

/// Which start of a device a number belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Boot {
    /// The device says so.
    Stated(i64),
    /// Counted here from jumps back.
    Guessed(i64),
}

/// Consecutive numbers of one boot, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    boot: Boot,
    first: i64,
    last: i64,
}

impl Run {
    /// How many numbers. A run never has more than a batch has rows.
    fn len(&self) -> u64 {
        self.last.wrapping_sub(self.first) as u64 + 1
    }
}

/// What is remembered of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Device {
    /// Boots counted for a device that does not state them.
    guessed: i64,
    /// The highest number of the guessed boot.
    highest: Option<i64>,
    /// In order of acceptance; the front is forgotten first.
    accepted: VecDeque<Run>,
    /// The same numbers in order: (boot, first) → last; disjoint, never touching.
    seen: BTreeMap<(Boot, i64), i64>,
    /// How many numbers that is.
    remembered: u64,
    /// When it was last heard of, in batches.
    used: u64,
}

impl Device {
    /// The boot that a number without one belongs to.
    fn guess(&mut self, seq: i64) -> Boot {
        if let Some(highest) = self.highest
            && seq < highest
            && (seq == 0 || highest.saturating_sub(seq) > REMEMBERED_MAX as i64)
        {
            self.guessed += 1;
            self.highest = None;
        }
        Boot::Guessed(self.guessed)
    }

    /// The remembered run that holds `seq` or is the last one below it.
    fn at_or_below(&self, boot: Boot, seq: i64) -> Option<Run> {
        let (key, last) = self.seen.range((boot, i64::MIN)..=(boot, seq)).next_back()?;
        Some(Run { boot, first: key.1, last: *last })
    }

    /// How many numbers from `first` on are all new, or all known, and which.
    fn alike(&self, boot: Boot, first: i64, last: i64) -> (bool, i64) {
        match self.at_or_below(boot, first) {
            Some(run) if run.last >= first => (false, run.last.min(last)),
            _ => match self.seen.range((boot, first)..=(boot, last)).next() {
                Some((key, _)) => (true, key.1 - 1),
                None => (true, last),
            },
        }
    }

    /// Remembers numbers that are all new.
    fn accept(&mut self, run: Run) {
        if matches!(run.boot, Boot::Guessed(_)) {
            self.highest = Some(self.highest.map_or(run.last, |highest| highest.max(run.last)));
        }
        match self.accepted.back_mut() {
            Some(back) if back.boot == run.boot && back.last.checked_add(1) == Some(run.first) => back.last = run.last,
            _ => self.accepted.push_back(run),
        }
        self.remembered += run.len();
        self.insert(run);
        while self.remembered > REMEMBERED_MAX {
            self.forget(self.remembered - REMEMBERED_MAX);
        }
    }

    fn insert(&mut self, run: Run) {
        let (mut first, mut last) = (run.first, run.last);
        if let Some(below) = self.at_or_below(run.boot, first)
            && below.last.checked_add(1) == Some(first)
        {
            first = below.first;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.seen.remove(&(run.boot, next))
        {
            last = end;
        }
        self.seen.insert((run.boot, first), last);
    }

    /// Forgets up to `count` of the oldest run.
    fn forget(&mut self, count: u64) {
        let Some(mut front) = self.accepted.pop_front() else {
            self.remembered = 0;
            return;
        };
        let gone = count.min(front.len());
        let last_gone = front.first + (gone - 1) as i64;
        self.remembered -= gone;
        // The run was accepted, so one remembered run holds all of it.
        if let Some(holder) = self.at_or_below(front.boot, front.first) {
            self.seen.remove(&(front.boot, holder.first));
            if holder.first < front.first {
                self.seen.insert((front.boot, holder.first), front.first - 1);
            }
            if last_gone < holder.last {
                self.seen.insert((front.boot, last_gone + 1), holder.last);
            }
        }
        if last_gone < front.last {
            front.first = last_gone + 1;
            self.accepted.push_front(front);
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.accepted.len() * 6);
        put_signed(&mut out, self.guessed);
        put_varint(&mut out, u64::from(self.highest.is_some()));
        put_signed(&mut out, self.highest.unwrap_or(0));
        put_varint(&mut out, self.accepted.len() as u64);
        for run in &self.accepted {
            let (kind, boot) = match run.boot {
                Boot::Stated(boot) => (0, boot),
                Boot::Guessed(boot) => (1, boot),
            };
            out.push(kind);
            put_signed(&mut out, boot);
            put_signed(&mut out, run.first);
            put_varint(&mut out, run.len());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor(bytes);
        let guessed = cursor.signed()?;
        let has_highest = cursor.varint()? != 0;
        let highest = Some(cursor.signed()?).filter(|_| has_highest);
        let mut device = Self { guessed, ..Self::default() };
        for _ in 0..cursor.count(REMEMBERED_MAX as usize)? {
            let boot = if cursor.byte()? == 0 { Boot::Stated(cursor.signed()?) } else { Boot::Guessed(cursor.signed()?) };
            let first = cursor.signed()?;
            let len = cursor.count(REMEMBERED_MAX as usize)?.max(1);
            let last = first.checked_add(len as i64 - 1).ok_or(DecodeError::Invalid("a run is beyond all numbers"))?;
            device.accept(Run { boot, first, last });
        }
        device.highest = highest;
        Ok(device)
    }
}

/// Which rows of a batch are new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// All of them.
    All,
    /// These places, in order.
    Some(Vec<usize>),
}

/// What is remembered of all devices.
#[derive(Debug, Default)]
pub struct Duplicates {
    devices: BTreeMap<DeviceId, Device>,
    /// Devices that changed since the last snapshot.
    changed: BTreeSet<DeviceId>,
    runs: usize,
    batches: u64,
    forgotten: u64,
}

impl Duplicates {
    /// The rows of `batch` that were not seen before; remembers them.
    pub fn admit(&mut self, batch: &Batch) -> Admitted {
        let Some(origin) = batch.origin.as_ref().filter(|origin| origin.seq.iter().any(Option::is_some)) else {
            return Admitted::All;
        };
        self.batches += 1;
        let mut keep = Vec::new();
        let mut row = 0;
        while row < batch.rows() {
            let end = run_end(origin, row);
            self.admit_run(batch, origin, row..end, &mut keep);
            row = end;
        }
        self.bound();
        if keep.len() == batch.rows() { Admitted::All } else { Admitted::Some(keep) }
    }

    /// Rows of one device and boot with consecutive numbers, or one row without a number.
    fn admit_run(&mut self, batch: &Batch, origin: &Origin, rows: std::ops::Range<usize>, keep: &mut Vec<usize>) {
        let Some(seq) = origin.seq[rows.start] else { return keep.extend(rows) };
        let id = DeviceId { source: Arc::clone(&batch.source), device: origin.device.get(rows.start).cloned() };
        if !self.changed.contains(&id) {
            self.changed.insert(id.clone());
        }
        let device = self.devices.entry(id).or_default();
        let runs_before = device.accepted.len();
        device.used = self.batches;
        let boot = origin.boot[rows.start].map_or_else(|| device.guess(seq), Boot::Stated);
        let last = seq + (rows.len() - 1) as i64;
        let mut first = seq;
        loop {
            let (new, alike_last) = device.alike(boot, first, last);
            let place = |number: i64| rows.start + (number - seq) as usize;
            if new {
                device.accept(Run { boot, first, last: alike_last });
                keep.extend(place(first)..=place(alike_last));
            }
            if alike_last == last {
                break;
            }
            first = alike_last + 1;
        }
        self.runs = (self.runs + device.accepted.len()).saturating_sub(runs_before);
    }

    /// Forgets the devices that were silent the longest, above the limits.
    fn bound(&mut self) {
        while self.devices.len() > DEVICES_MAX || (self.runs > RUNS_MAX && self.devices.len() > 1) {
            let Some(id) = self.devices.iter().min_by_key(|(_, device)| device.used).map(|(id, _)| id.clone()) else { return };
            let gone = self.devices.remove(&id).map_or(0, |device| device.accepted.len());
            self.runs = self.runs.saturating_sub(gone);
            self.changed.insert(id);
            self.forgotten += 1;
        }
    }

    /// What changed since the last call, as (key, state) to store; no state = forgotten.
    pub fn take_changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| (encode_id(&id), self.devices.get(&id).map(Device::encode))).collect()
    }

    /// Takes back what [`Self::take_changes`] gave.
    ///
    /// # Errors
    /// What it never gave.
    pub fn restore(&mut self, key: &[u8], state: &[u8]) -> Result<(), DecodeError> {
        let device = Device::decode(state)?;
        self.runs += device.accepted.len();
        self.devices.insert(decode_id(key)?, device);
        Ok(())
    }

    /// Devices forgotten because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// The first row after `row` that is not the next number of the same device and boot.
fn run_end(origin: &Origin, row: usize) -> usize {
    let follows = |next: usize| match (origin.seq[next - 1], origin.seq[next]) {
        (Some(before), Some(seq)) => before.checked_add(1) == Some(seq),
        _ => false,
    };
    let same = |next: usize| origin.device.codes[next] == origin.device.codes[row] && origin.boot[next] == origin.boot[row];
    (row + 1..origin.seq.len()).find(|next| !follows(*next) || !same(*next)).unwrap_or(origin.seq.len())
}

fn encode_id(id: &DeviceId) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    put_text(&mut out, &id.source);
    if let Some(device) = &id.device {
        put_text(&mut out, device);
    }
    out
}

fn decode_id(key: &[u8]) -> Result<DeviceId, DecodeError> {
    let mut cursor = Cursor(key);
    let source = cursor.shared_text()?;
    let device = if cursor.0.is_empty() { None } else { Some(cursor.shared_text()?) };
    Ok(DeviceId { source, device })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Stream, TagColumn, Timestamp};

    type Number = (Option<i64>, Option<i64>);

    fn batch(device: Option<&str>, numbers: &[Number]) -> Batch {
        let mut batch = Batch::new(Arc::new(Stream::new("s", &[], &[])), "source".into(), "p".into(), Timestamp(0));
        batch.time = vec![0; numbers.len()];
        batch.origin = Some(Origin {
            device: TagColumn::constant(device, numbers.len()),
            boot: numbers.iter().map(|number| number.0).collect(),
            seq: numbers.iter().map(|number| number.1).collect(),
        });
        batch
    }

    fn kept(state: &mut Duplicates, device: Option<&str>, numbers: &[Number]) -> Vec<usize> {
        match state.admit(&batch(device, numbers)) {
            Admitted::All => (0..numbers.len()).collect(),
            Admitted::Some(rows) => rows,
        }
    }

    /// One row at a time; the places of those that are kept.
    fn check(numbers: &[Number], expected: &[usize]) {
        let mut single = Duplicates::default();
        let one_by_one: Vec<usize> =
            (0..numbers.len()).filter(|i| !kept(&mut single, Some("d"), &numbers[*i..=*i]).is_empty()).collect();
        assert_eq!(one_by_one, expected, "{numbers:?}");
        assert_eq!(kept(&mut Duplicates::default(), Some("d"), numbers), expected, "{numbers:?} in one batch");
    }

    const fn n(seq: i64) -> Number {
        (None, Some(seq))
    }

    const fn b(boot: i64, seq: i64) -> Number {
        (Some(boot), Some(seq))
    }

    #[test]
    fn exact_matches_are_duplicates_and_nothing_else() {
        check(&[n(0), n(1), n(2), n(3)], &[0, 1, 2, 3]);
        check(&[n(5), n(5)], &[0]);
        check(&[n(5), n(6), n(7), n(6), n(7), n(8)], &[0, 1, 2, 5]);
        check(&[n(5), n(9), n(7), n(7), n(8), n(6)], &[0, 1, 2, 4, 5]);
        check(&[(None, None), (None, None)], &[0, 1]);
        check(&[b(1, 4), b(2, 4), b(1, 4), b(2, 4), b(2, 5)], &[0, 1, 4]);
        check(&[n(-3), n(-3), n(i64::MAX), n(i64::MAX), n(i64::MIN)], &[0, 2, 4]);
    }

    #[test]
    fn without_boot_a_jump_back_to_0_or_far_back_is_a_new_boot() {
        check(&[n(0), n(0)], &[0]);
        check(&[n(0), n(1), n(0), n(1), n(1)], &[0, 1, 2, 3]);
        check(&[n(100_000), n(100_000 - 65_536), n(100_000)], &[0, 1]);
        check(&[n(100_000), n(100_000 - 65_537), n(100_000)], &[0, 1, 2]);
        // With a boot nothing is guessed.
        check(&[b(1, 0), b(1, 1), b(1, 0)], &[0, 1]);
        check(&[b(1, 100_000), b(1, 1), b(1, 100_000)], &[0, 1]);
    }

    #[test]
    fn devices_and_sources_do_not_mix() {
        let mut state = Duplicates::default();
        assert_eq!(kept(&mut state, Some("a"), &[n(1)]), [0]);
        assert_eq!(kept(&mut state, Some("b"), &[n(1)]), [0]);
        assert_eq!(kept(&mut state, None, &[n(1)]), [0]);
        assert_eq!(kept(&mut state, Some("a"), &[n(1)]), [] as [usize; 0]);
        let mut other = batch(Some("a"), &[n(1)]);
        other.source = "other".into();
        assert_eq!(state.admit(&other), Admitted::All);
    }

    #[test]
    fn the_last_65_536_rows_are_remembered_and_no_more() {
        let mut state = Duplicates::default();
        let numbers: Vec<Number> = (0..65_537).map(|seq| b(1, seq)).collect();
        assert_eq!(kept(&mut state, Some("d"), &numbers).len(), 65_537);
        assert_eq!(kept(&mut state, Some("d"), &[b(1, 65_536), b(1, 1), b(1, 0)]), [2]);
        // Remembering 0 again forgot 1.
        assert_eq!(kept(&mut state, Some("d"), &[b(1, 2), b(1, 1)]), [1]);
    }

    #[test]
    fn a_device_in_order_costs_one_run() {
        let mut state = Duplicates::default();
        for start in (0..200_000).step_by(64) {
            let numbers: Vec<Number> = (start..start + 64).map(n).collect();
            assert_eq!(state.admit(&batch(Some("d"), &numbers)), Admitted::All);
        }
        assert_eq!(state.runs, 1);
        let bytes: usize = state.take_changes().iter().map(|(_, state)| state.as_ref().map_or(0, Vec::len)).sum();
        assert!(bytes < 32, "{bytes}");
    }

    #[test]
    fn too_many_devices_forget_the_silent_ones() {
        let mut state = Duplicates::default();
        for device in 0..DEVICES_MAX + 2 {
            kept(&mut state, Some(&device.to_string()), &[n(1)]);
        }
        assert_eq!((state.devices.len(), state.forgotten()), (DEVICES_MAX, 2));
        assert_eq!(kept(&mut state, Some("0"), &[n(1)]), [0]);
        assert_eq!(kept(&mut state, Some("100"), &[n(1)]), [] as [usize; 0]);
    }

    /// The rules as plainly as possible: a list of the last accepted numbers.
    #[derive(Default)]
    struct Plain {
        accepted: VecDeque<(Boot, i64)>,
        guessed: i64,
        highest: Option<i64>,
    }

    impl Default for Boot {
        fn default() -> Self {
            Self::Guessed(0)
        }
    }

    impl Plain {
        fn admit(&mut self, (boot, seq): Number) -> bool {
            let Some(seq) = seq else { return true };
            let boot = boot.map_or_else(
                || {
                    if self.highest.is_some_and(|highest| seq < highest && (seq == 0 || highest - seq > 65_536)) {
                        self.guessed += 1;
                        self.highest = None;
                    }
                    Boot::Guessed(self.guessed)
                },
                Boot::Stated,
            );
            if self.accepted.contains(&(boot, seq)) {
                return false;
            }
            if matches!(boot, Boot::Guessed(_)) {
                self.highest = Some(self.highest.map_or(seq, |highest| highest.max(seq)));
            }
            self.accepted.push_back((boot, seq));
            true
        }
    }

    proptest! {
        #[test]
        fn runs_decide_as_a_plain_list_does(
            numbers in prop::collection::vec((prop::option::of(0i64..2), prop::option::of(prop_oneof![0i64..40, 70_000i64..70_040])), 1..200),
            cuts in prop::collection::vec(1usize..20, 1..40),
            stop in 0usize..40,
        ) {
            let (mut state, mut plain) = (Duplicates::default(), Plain::default());
            let mut rest = &numbers[..];
            for (i, cut) in cuts.into_iter().enumerate() {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                let expected: Vec<usize> = (0..head.len()).filter(|row| plain.admit(head[*row])).collect();
                prop_assert_eq!(kept(&mut state, Some("d"), head), expected);
                if i == stop {
                    let changes = state.take_changes();
                    let mut again = Duplicates::default();
                    for (key, bytes) in &changes {
                        again.restore(key, bytes.as_ref().unwrap()).unwrap();
                    }
                    for (id, device) in &mut state.devices { device.used = 0; prop_assert_eq!(Some(&*device), again.devices.get(id)); }
                    state = again;
                }
                rest = tail;
            }
        }

        #[test]
        fn any_stored_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Duplicates::default().restore(&bytes, &bytes);
        }
    }
}
