//! Run rules on up to 48 points at once: the same patterns as [`RuleState::step`], a bit a point.
//!
//! Each property of the points (above, below, beyond one sigma, …) is a word: the 16 points before the block, then the block, bit 0 the
//! newest. A pattern is then a few shifts of words, for all points together, and a block in which none ends costs no branch a point.

use super::{Four, Plan, RuleMask, RuleState, Zones, four_of_5, two_of_3};

/// The most points of a block: with the 16 before they fill a word.
pub const BLOCK_MAX: usize = 48;

/// The bit of each point in a full block.
const BITS: [u64; BLOCK_MAX] = {
    let mut bits = [0; BLOCK_MAX];
    let mut i = 0;
    while i < BLOCK_MAX {
        bits[i] = 1 << (BLOCK_MAX - 1 - i);
        i += 1;
    }
    bits
};

/// What the rules say of the points of a block. A point is named by how many points of the block came after it.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    before: RuleState,
    points: usize,
    enabled: RuleMask,
    limits_only: bool,
    /// Four words for each word of registers in the state: zones, sides, moves.
    lanes: [[u64; 4]; 3],
    /// Where the pattern of each run rule ends, in the order of their bits.
    patterns: [u64; 12],
}

impl Block {
    /// A bit for each point at which some enabled rule's pattern ends.
    pub fn any(&self) -> u64 {
        let enabled = |rule: usize| 0_u64.wrapping_sub(u64::from(self.enabled.0 >> rule & 1));
        self.patterns.iter().enumerate().fold(0, |any, (rule, ends)| any | ends & enabled(rule))
    }

    /// The enabled rules whose patterns end at a point.
    pub fn fired(&self, back: usize) -> RuleMask {
        let ends = |(rule, ends): (usize, &u64)| ((ends >> back & 1) as u16) << rule;
        RuleMask(self.patterns.iter().enumerate().fold(0, |all, pattern| all | ends(pattern))).and(self.enabled)
    }

    /// The state after a point, whose value is `last`, as [`RuleState::step`] leaves it.
    pub fn state(&self, back: usize, last: f64) -> RuleState {
        let fired = self.fired(back).0;
        if self.limits_only {
            return RuleState { last, fired, ..self.before };
        }
        let registers = |lanes: &[u64; 4]| Four(lanes.iter().rev().fold(0, |all, lane| all << 16 | (lane >> back & 0xffff)));
        let [zones, sides, moves] = self.lanes.each_ref().map(registers);
        RuleState { last, zones, sides, moves, fired }
    }
}

impl RuleState {
    /// Takes `points` (at least one, at most [`BLOCK_MAX`], none missing) at once.
    pub fn block(&mut self, points: &[f64], zones: &Zones, plan: &Plan) -> Block {
        if let Ok(full) = points.try_into() {
            return self.padded(full, BLOCK_MAX, zones, plan);
        }
        let count = points.len().min(BLOCK_MAX);
        let mut padded = [0.0; BLOCK_MAX];
        padded[..count].copy_from_slice(&points[..count]);
        self.padded(&padded, count, zones, plan)
    }

    /// The first `count` of `values`; what stands behind them is shifted out.
    #[inline]
    #[expect(clippy::needless_bitwise_bool, reason = "several values an instruction, without a branch")]
    fn padded(&mut self, values: &[f64; BLOCK_MAX], count: usize, zones: &Zones, plan: &Plan) -> Block {
        let mut block = Block {
            before: *self,
            points: count,
            enabled: plan.enabled,
            limits_only: plan.limits_only,
            lanes: [[0; 4]; 3],
            patterns: [0; 12],
        };
        let beyond = mask(values, |x| (x > zones.ucl) | (x < zones.lcl)) >> (BLOCK_MAX - count);
        (block.patterns[0], block.patterns[8]) = (beyond, beyond);
        if !plan.limits_only {
            self.fill(&mut block, values, zones);
            block.match_patterns(plan);
        }
        *self = block.state(0, values[count - 1]);
        block
    }

    /// The words of a block: what the registers hold, then its points.
    #[inline]
    #[expect(clippy::needless_bitwise_bool, reason = "several values an instruction, without a branch")]
    fn fill(&self, block: &mut Block, values: &[f64; BLOCK_MAX], zones: &Zones) {
        let count = block.points;
        let word = |register: u16, new: u64| u64::from(register) << count | new >> (BLOCK_MAX - count);
        let over_1 = word(self.zones.get(2), mask(values, |x| x > zones.plus_1));
        let under_1 = word(self.zones.get(3), mask(values, |x| x < zones.minus_1));
        block.lanes[0] = [
            word(self.zones.get(0), mask(values, |x| x > zones.plus_2)),
            word(self.zones.get(1), mask(values, |x| x < zones.minus_2)),
            over_1,
            under_1,
        ];
        block.lanes[1] = [
            word(self.sides.get(0), mask(values, |x| x > zones.center)),
            word(self.sides.get(1), mask(values, |x| x < zones.center)),
            word(self.sides.get(2), mask(values, |x| (x < zones.plus_1) & (x > zones.minus_1))),
            word(self.sides.get(3), (1 << BLOCK_MAX) - 1),
        ];
        let mut before = [self.last; BLOCK_MAX];
        before[1..].copy_from_slice(&values[..BLOCK_MAX - 1]);
        let rising = word(self.moves.get(0), mask_of_two(&before, values, |before, x| x > before));
        let falling = word(self.moves.get(1), mask_of_two(&before, values, |before, x| x < before));
        let new = (1 << count) - 1;
        let turning = (rising & falling >> 1) | (falling & rising >> 1);
        let turning = u64::from(self.moves.get(2)) << count | turning & new;
        let outside = u64::from(self.moves.get(3)) << count | (over_1 | under_1) & new;
        block.lanes[2] = [rising, falling, turning, outside];
    }
}

impl Block {
    fn match_patterns(&mut self, plan: &Plan) {
        let [zones, sides, moves] = &self.lanes;
        let [over_2, under_2, over_1, under_1] = *zones;
        let [above, below, inside, present] = *sides;
        let [rising, falling, turning, outside] = *moves;
        let (above_8, below_8) = (run(above, 8), run(below, 8));
        let run_9 = (above_8 & above >> 8) | (below_8 & below >> 8);
        let trend = plan.trend.count_ones();
        let two = (two_of_3(over_2) | two_of_3(under_2)) & run(present, plan.window_of_3.count_ones());
        let four = (four_of_5(over_1) | four_of_5(under_1)) & run(present, plan.window_of_5.count_ones());
        let sides = if plan.both_sides { some_of_8(over_1) & some_of_8(under_1) } else { u64::MAX };
        let new = (1 << self.points) - 1;
        let beyond = self.patterns[0];
        self.patterns = [
            beyond,
            run_9,
            run(rising, trend) | run(falling, trend),
            run(turning, plan.alternation.count_ones()),
            two,
            four,
            run(inside, 15),
            run(outside, 8) & sides,
            beyond,
            two,
            four,
            above_8 | below_8,
        ]
        .map(|ends| ends & new);
    }
}

/// A bit for each value of which it holds.
#[inline]
fn mask(values: &[f64; BLOCK_MAX], holds: impl Fn(f64) -> bool) -> u64 {
    values.iter().zip(&BITS).fold(0, |word, (x, bit)| word | if holds(*x) { *bit } else { 0 })
}

/// The same of pairs.
#[inline]
fn mask_of_two(before: &[f64; BLOCK_MAX], values: &[f64; BLOCK_MAX], holds: impl Fn(f64, f64) -> bool) -> u64 {
    before.iter().zip(values).zip(&BITS).fold(0, |word, ((before, x), bit)| word | if holds(*before, *x) { *bit } else { 0 })
}

/// Where a run of so many set bits ends; everywhere for none.
#[inline]
fn run(mut word: u64, length: u32) -> u64 {
    if length == 0 {
        return u64::MAX;
    }
    let mut have = 1;
    while have < length {
        let more = have.min(length - have);
        word &= word >> more;
        have += more;
    }
    word
}

/// Where one of the last eight is set.
#[inline]
fn some_of_8(word: u64) -> u64 {
    let word = word | word >> 1;
    let word = word | word >> 2;
    word | word >> 4
}
