//! The machine's memory of frames that the host has not acknowledged, and when each is sent.
//!
//! ```text
//!  forgotten │ acknowledged │ sent, on their way │ waiting │
//!            └──────────────┴── at most 32,768 ──┴─────────┘
//! ```
//!
//! A host that never acknowledges is served as a plain reader: frames go out as they come, and leave the memory when it is full.
//! From the first acknowledgement on, at most [`WINDOW_ROWS`] rows are on their way, and what gets none for two seconds is sent
//! again. After a reconnection the last [`WINDOW_ROWS`] that are not acknowledged go first: no more, for a host remembers twice as
//! many and could not tell older ones from new. When the memory is full the oldest frames are forgotten, and counted if they had not
//! been sent.

use std::collections::VecDeque;

use firmware_bridge::{Ack, Resend, WINDOW_ROWS};

/// How long rows may be on their way before they are sent again, ns.
const PATIENCE_NS: i64 = 2_000_000_000;

/// A frame of rows, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFrame {
    /// The number of its first row.
    pub seq: u64,
    /// How many rows; at least 1.
    pub rows: u64,
    /// As on the wire.
    pub bytes: Box<[u8]>,
}

impl RowFrame {
    const fn last_seq(&self) -> u64 {
        self.seq + self.rows - 1
    }
}

/// Counts of rows since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct MemoryCounts {
    /// Rows produced.
    pub produced: u64,
    /// Rows put on the wire, those sent again included.
    pub sent: u64,
    /// Rows acknowledged.
    pub acknowledged: u64,
    /// Rows forgotten before they were ever sent: lost.
    pub overrun: u64,
    /// Times the machine went back to send rows again.
    pub rewinds: u64,
}

/// Frames not acknowledged yet, oldest first.
#[derive(Debug)]
pub struct Memory {
    boot: u32,
    frames: VecDeque<RowFrame>,
    /// The place of the next frame to send.
    next: usize,
    /// Frames sent and not acknowledged.
    on_their_way_rows: u64,
    bytes: usize,
    bytes_max: usize,
    /// The number up to which rows have ever been sent.
    sent_seq: u64,
    acknowledging: bool,
    progress_ns: i64,
    counts: MemoryCounts,
}

impl Memory {
    /// Of a machine in its start number `boot`, with room for `bytes_max` bytes of frames.
    pub fn new(boot: u32, bytes_max: usize) -> Self {
        Self {
            boot,
            frames: VecDeque::new(),
            next: 0,
            on_their_way_rows: 0,
            bytes: 0,
            bytes_max,
            sent_seq: 0,
            acknowledging: false,
            progress_ns: 0,
            counts: MemoryCounts::default(),
        }
    }

    /// What has happened so far.
    pub const fn counts(&self) -> MemoryCounts {
        self.counts
    }

    /// Keeps a new frame, and forgets the oldest ones if there is no room.
    pub fn push(&mut self, frame: RowFrame) {
        self.counts.produced += frame.rows;
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.forget_oldest() else { break };
            if oldest.seq >= self.sent_seq {
                self.counts.overrun += oldest.rows;
            }
        }
    }

    /// The next frame to send, if one may be sent.
    pub fn next(&mut self, now_ns: i64) -> Option<&RowFrame> {
        let frame = self.frames.get(self.next)?;
        if self.on_their_way_rows == 0 {
            self.progress_ns = now_ns;
        } else if self.acknowledging && self.on_their_way_rows + frame.rows > WINDOW_ROWS {
            return None;
        }
        self.next += 1;
        self.on_their_way_rows += frame.rows;
        self.sent_seq = self.sent_seq.max(frame.last_seq() + 1);
        self.counts.sent += frame.rows;
        Some(frame)
    }

    /// Forgets what the host has durably.
    pub fn acknowledge(&mut self, ack: Ack, now_ns: i64) {
        if ack.boot != self.boot {
            return;
        }
        self.acknowledging = true;
        while self.frames.front().is_some_and(|frame| frame.last_seq() <= ack.seq) {
            if let Some(frame) = self.forget_oldest() {
                self.counts.acknowledged += frame.rows;
                self.progress_ns = now_ns;
            }
        }
    }

    /// Goes back to the first row that the host misses.
    pub fn resend(&mut self, resend: Resend) {
        if resend.boot == self.boot {
            self.back_to(|frame, _| frame.last_seq() >= resend.seq);
        }
    }

    /// The line is there again: goes back to what was on its way when it broke.
    pub fn reconnected(&mut self, now_ns: i64) {
        self.progress_ns = now_ns;
        self.back_to(|_, rows| rows <= WINDOW_ROWS);
    }

    /// Goes back if acknowledgements that should come do not.
    pub fn look_for_progress(&mut self, now_ns: i64) {
        if self.acknowledging && self.on_their_way_rows > 0 && now_ns.saturating_sub(self.progress_ns) > PATIENCE_NS {
            self.reconnected(now_ns);
        }
    }

    /// Goes back over frames sent as long as `again` holds for the frame and the rows gone back over with it.
    fn back_to(&mut self, again: impl Fn(&RowFrame, u64) -> bool) {
        let (before, mut rows) = (self.next, 0);
        while let Some(frame) = self.next.checked_sub(1).and_then(|index| self.frames.get(index)) {
            rows += frame.rows;
            if !again(frame, rows) {
                break;
            }
            self.next -= 1;
            self.on_their_way_rows -= frame.rows;
        }
        self.counts.rewinds += u64::from(self.next < before);
    }

    fn forget_oldest(&mut self) -> Option<RowFrame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.bytes.len();
        if let Some(next) = self.next.checked_sub(1) {
            self.next = next;
            self.on_their_way_rows -= frame.rows;
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: u32 = 4;
    const ROWS: u64 = 500;

    fn frame(index: u64) -> RowFrame {
        RowFrame { seq: index * ROWS, rows: ROWS, bytes: vec![1; 100].into() }
    }

    fn memory(frames: u64) -> Memory {
        let mut memory = Memory::new(BOOT, 100 * 100);
        (0..frames).for_each(|index| memory.push(frame(index)));
        memory
    }

    fn sent(memory: &mut Memory) -> Vec<u64> {
        std::iter::from_fn(|| memory.next(0).map(|frame| frame.seq / ROWS)).collect()
    }

    fn ack(memory: &mut Memory, seq: u64, now_ns: i64) {
        memory.acknowledge(Ack { boot: BOOT, seq }, now_ns);
    }

    #[test]
    fn a_host_that_never_acknowledges_gets_everything_once() {
        let mut memory = memory(100);
        assert_eq!(sent(&mut memory), (0..100).collect::<Vec<_>>());
        memory.look_for_progress(i64::MAX);
        memory.push(frame(100));
        assert_eq!(sent(&mut memory), [100]);
        assert_eq!(memory.counts(), MemoryCounts { produced: 50_500, sent: 50_500, ..MemoryCounts::default() });
    }

    #[test]
    fn a_window_of_rows_is_on_its_way() {
        let mut memory = memory(100);
        memory.next(0);
        ack(&mut memory, ROWS - 1, 0);
        assert_eq!(sent(&mut memory), (1..66).collect::<Vec<_>>());
        ack(&mut memory, ROWS * 3 - 1, 0);
        assert_eq!(sent(&mut memory), [66, 67]);
        assert_eq!(memory.counts().acknowledged, 3 * ROWS);
    }

    #[test]
    fn what_was_on_its_way_is_sent_again_after_a_reconnection() {
        let mut memory = memory(3);
        sent(&mut memory);
        ack(&mut memory, ROWS - 1, 0);
        memory.push(frame(3));
        memory.reconnected(0);
        assert_eq!(sent(&mut memory), [1, 2, 3]);
        memory.reconnected(0);
        assert_eq!(memory.counts().rewinds, 2);
    }

    #[test]
    fn no_more_is_sent_again_than_a_host_remembers() {
        let mut memory = memory(100);
        sent(&mut memory);
        memory.reconnected(0);
        assert_eq!(sent(&mut memory), (35..100).collect::<Vec<_>>());
    }

    #[test]
    fn missing_acknowledgements_are_noticed_after_two_seconds() {
        let mut memory = memory(3);
        sent(&mut memory);
        ack(&mut memory, ROWS - 1, 5_000_000_000);
        memory.look_for_progress(7_000_000_000);
        assert_eq!(sent(&mut memory), [0; 0]);
        memory.look_for_progress(7_000_000_001);
        assert_eq!(sent(&mut memory), [1, 2]);
        ack(&mut memory, ROWS * 3 - 1, 0);
        memory.look_for_progress(i64::MAX);
        assert_eq!(memory.counts().rewinds, 1);
    }

    #[test]
    fn a_host_that_misses_rows_gets_them_again() {
        let mut memory = memory(4);
        sent(&mut memory);
        memory.resend(Resend { boot: BOOT, seq: 2 * ROWS + 1 });
        assert_eq!(sent(&mut memory), [2, 3]);
        memory.resend(Resend { boot: BOOT + 1, seq: 0 });
        assert_eq!(sent(&mut memory), [0; 0]);
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_and_counts_what_was_never_sent() {
        let mut memory = memory(99);
        memory.next(0);
        (99..110).for_each(|index| memory.push(frame(index)));
        assert_eq!(memory.counts().overrun, 9 * ROWS);
        assert_eq!(sent(&mut memory), (10..110).collect::<Vec<_>>());
        ack(&mut memory, u64::MAX, 0);
        assert_eq!((memory.bytes, memory.on_their_way_rows, memory.frames.len()), (0, 0, 0));
    }

    #[test]
    fn an_acknowledgement_of_another_start_means_nothing() {
        let mut memory = memory(1);
        memory.acknowledge(Ack { boot: BOOT - 1, seq: u64::MAX }, 0);
        assert_eq!(memory.counts().acknowledged, 0);
    }
}
