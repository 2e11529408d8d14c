//! Run rules: Nelson 1–8 and Western Electric 1–4 as two different sets, each rule on its own.
//!
//! A point fires a rule when the rule's pattern *ends* at that point. All comparisons are strict: a value on a limit is inside, a
//! value on the centre line breaks a run, equal neighbours break a trend. A missing point breaks everything.
//!
//! | rule | pattern |
//! |---|---|
//! | `nelson_1`, `western_electric_1` | one point beyond a control limit |
//! | `nelson_2` | 9 in a row on one side of the centre line |
//! | `nelson_3` | 6 in a row (an option: 7) steadily rising or falling |
//! | `nelson_4` | 14 in a row (15) alternating up and down |
//! | `nelson_5`, `western_electric_2` | 2 of 3 beyond two sigma on one side, the last one among them |
//! | `nelson_6`, `western_electric_3` | 4 of 5 beyond one sigma on one side, the last one among them |
//! | `nelson_7` | 15 in a row inside one sigma |
//! | `nelson_8` | 8 in a row outside one sigma, with both sides present (an option: either) |
//! | `western_electric_4` | 8 in a row on one side of the centre line |
//!
//! `2 of 3` may fire at the second point and `4 of 5` at the fourth: the published run lengths need that (Champ and Woodall 1987); an
//! option asks for the full window. Sources: Nelson, *J. Quality Technology* 16 (1984); Western Electric handbook (1956).
//!
//! The state is one shift register of 16 bits a property (above, below, beyond one sigma, …), four of them side by side in a word, and the
//! last value: 40 bytes, O(1) a point, and it survives restarts. A point shifts three words; whether any pattern *can* end there is one
//! test over all registers, and only then are the rules told apart.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::model::Severity;

use super::config::{Conventions, RuleSides};

mod block;

pub use block::{BLOCK_MAX, Block};

/// A named reason for a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Rule {
    Nelson1,
    Nelson2,
    Nelson3,
    Nelson4,
    Nelson5,
    Nelson6,
    Nelson7,
    Nelson8,
    WesternElectric1,
    WesternElectric2,
    WesternElectric3,
    WesternElectric4,
    CusumUpper,
    CusumLower,
}

impl Rule {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 14] = [
        Self::Nelson1,
        Self::Nelson2,
        Self::Nelson3,
        Self::Nelson4,
        Self::Nelson5,
        Self::Nelson6,
        Self::Nelson7,
        Self::Nelson8,
        Self::WesternElectric1,
        Self::WesternElectric2,
        Self::WesternElectric3,
        Self::WesternElectric4,
        Self::CusumUpper,
        Self::CusumLower,
    ];

    /// The name in configuration and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nelson1 => "nelson_1",
            Self::Nelson2 => "nelson_2",
            Self::Nelson3 => "nelson_3",
            Self::Nelson4 => "nelson_4",
            Self::Nelson5 => "nelson_5",
            Self::Nelson6 => "nelson_6",
            Self::Nelson7 => "nelson_7",
            Self::Nelson8 => "nelson_8",
            Self::WesternElectric1 => "western_electric_1",
            Self::WesternElectric2 => "western_electric_2",
            Self::WesternElectric3 => "western_electric_3",
            Self::WesternElectric4 => "western_electric_4",
            Self::CusumUpper => "cusum_upper",
            Self::CusumLower => "cusum_lower",
        }
    }

    /// Its short name in pictures: `N1`, `W4`, `C+`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Nelson1 => "N1",
            Self::Nelson2 => "N2",
            Self::Nelson3 => "N3",
            Self::Nelson4 => "N4",
            Self::Nelson5 => "N5",
            Self::Nelson6 => "N6",
            Self::Nelson7 => "N7",
            Self::Nelson8 => "N8",
            Self::WesternElectric1 => "W1",
            Self::WesternElectric2 => "W2",
            Self::WesternElectric3 => "W3",
            Self::WesternElectric4 => "W4",
            Self::CusumUpper => "C+",
            Self::CusumLower => "C-",
        }
    }

    /// What it looks for, with the points of the default conventions.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Nelson1 | Self::WesternElectric1 => "a point beyond the control limits",
            Self::Nelson2 => "9 points in a row on one side of the centre",
            Self::Nelson3 => "6 points in a row rising, or falling",
            Self::Nelson4 => "14 points in a row alternating up and down",
            Self::Nelson5 | Self::WesternElectric2 => "2 of 3 points beyond 2 sigma on one side",
            Self::Nelson6 | Self::WesternElectric3 => "4 of 5 points beyond 1 sigma on one side",
            Self::Nelson7 => "15 points in a row within 1 sigma",
            Self::Nelson8 => "8 points in a row beyond 1 sigma, on both sides",
            Self::WesternElectric4 => "8 points in a row on one side of the centre",
            Self::CusumUpper => "the upper sum is beyond the decision interval",
            Self::CusumLower => "the lower sum is beyond the decision interval",
        }
    }

    /// The run rule of that name; the CUSUM's own names are not configured.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL[..12].iter().copied().find(|rule| rule.name() == name)
    }

    /// Its place in a [`RuleMask`].
    pub const fn mask(self) -> RuleMask {
        RuleMask(1 << self as u8)
    }

    /// The fewest points that can make up the pattern, by the default conventions.
    pub const fn points(self) -> u32 {
        match self {
            Self::Nelson1 | Self::WesternElectric1 | Self::CusumUpper | Self::CusumLower => 1,
            Self::Nelson5 | Self::WesternElectric2 => 2,
            Self::Nelson6 | Self::WesternElectric3 => 4,
            Self::Nelson3 => 6,
            Self::Nelson8 | Self::WesternElectric4 => 8,
            Self::Nelson2 => 9,
            Self::Nelson4 => 14,
            Self::Nelson7 => 15,
        }
    }

    /// How much it matters: a point beyond the limits most, patterns that only hint at stratification or over-control least.
    pub const fn severity(self) -> Severity {
        match self {
            Self::Nelson1 | Self::WesternElectric1 | Self::CusumUpper | Self::CusumLower => Severity::Critical,
            Self::Nelson2 | Self::Nelson5 | Self::WesternElectric2 | Self::WesternElectric4 => Severity::High,
            Self::Nelson3 | Self::Nelson6 | Self::WesternElectric3 => Severity::Medium,
            Self::Nelson4 | Self::Nelson7 | Self::Nelson8 => Severity::Low,
        }
    }
}

/// The shared texts of all rule names, in the order of [`Rule::ALL`].
static NAMES: LazyLock<[Arc<str>; 14]> = LazyLock::new(|| Rule::ALL.map(|rule| rule.name().into()));

/// A set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleMask(pub u16);

impl RuleMask {
    /// No rule.
    pub const NONE: Self = Self(0);
    /// Nelson 1–8.
    pub const NELSON: Self = Self(0x00ff);
    /// Nelson 1–4, the ones that need no zones.
    pub const NELSON_WITHOUT_ZONES: Self = Self(0x000f);
    /// Western Electric 1–4.
    pub const WESTERN_ELECTRIC: Self = Self(0x0f00);
    /// Western Electric 1 and 4, the ones that need no zones.
    pub const WESTERN_ELECTRIC_WITHOUT_ZONES: Self = Self(0x0900);
    /// The first rule of both sets: one point beyond a limit.
    pub const BEYOND_LIMITS: Self = Self(0x0101);

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `rule` is in it.
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & rule.mask().0 != 0
    }

    /// Rules in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Rules in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Rules of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The rules, in order.
    pub fn iter(self) -> impl Iterator<Item = Rule> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let rule = Rule::ALL.get(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(*rule)
        })
    }

    /// Their names, in order.
    pub fn names(self) -> Vec<Arc<str>> {
        let mut names = Vec::with_capacity(self.0.count_ones() as usize);
        names.extend(self.iter().map(shared_name));
        names
    }
}

/// The shared text of a rule's name.
pub fn shared_name(rule: Rule) -> Arc<str> {
    Arc::clone(&NAMES[rule as usize])
}

/// The rules in order of what to look at first: most severe, then fewest points.
pub fn prioritise(rules: RuleMask) -> Vec<Rule> {
    let mut order: Vec<Rule> = rules.iter().collect();
    order.sort_by_key(|rule| (std::cmp::Reverse(rule.severity()), rule.points(), *rule));
    order
}

/// The lines a point is judged against. Control limits are kept apart from the zones: a clamped or wider limit moves no zone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Zones {
    /// Centre line.
    pub center: f64,
    /// Lower control limit; −∞ where there is none.
    pub lcl: f64,
    /// Upper control limit; ∞ where there is none.
    pub ucl: f64,
    /// Two sigma below the centre line.
    pub minus_2: f64,
    /// One sigma below.
    pub minus_1: f64,
    /// One sigma above.
    pub plus_1: f64,
    /// Two sigma above.
    pub plus_2: f64,
}

impl Zones {
    /// Zones at one and two `sigma` of the plotted statistic, limits at `width` of them, clamped to [`low`, `high`].
    pub fn new(center: f64, sigma: f64, width: f64, [low, high]: [f64; 2]) -> Self {
        Self {
            center,
            lcl: (center - width * sigma).max(low),
            ucl: (center + width * sigma).min(high),
            minus_2: center - 2.0 * sigma,
            minus_1: center - sigma,
            plus_1: center + sigma,
            plus_2: center + 2.0 * sigma,
        }
    }
}

/// Which rules are looked at and in which variant, as bit patterns over the registers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// The rules that are reported.
    pub enabled: RuleMask,
    /// Nothing but points beyond the limits is asked for.
    limits_only: bool,
    trend: u16,
    alternation: u16,
    window_of_3: u16,
    window_of_5: u16,
    both_sides: bool,
}

impl Plan {
    /// The plan for `enabled` rules under `conventions`.
    pub fn new(enabled: RuleMask, conventions: Conventions) -> Self {
        let ones = |count: u8| ((1_u32 << count) - 1) as u16;
        let full = conventions.full_window;
        Self {
            enabled,
            limits_only: enabled.without(RuleMask::BEYOND_LIMITS).is_empty(),
            // A trend of n points is n − 1 rises; n alternating points are n − 2 turns.
            trend: ones(conventions.trend_points.clamp(3, 16) - 1),
            alternation: ones(conventions.alternation_points.clamp(4, 17) - 2),
            window_of_3: if full { ones(3) } else { 0 },
            window_of_5: if full { ones(5) } else { 0 },
            both_sides: conventions.rule_8_sides == RuleSides::Both,
        }
    }
}

/// Four registers of 16 bits in a word; bit 0 of each is the newest point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Four(u64);

impl Four {
    const LOWEST: u64 = 0x0001_0001_0001_0001;
    const HIGHEST: u64 = Self::LOWEST << 15;

    /// Shifts `bits` in.
    #[inline]
    fn push(&mut self, [a, b, c, d]: [bool; 4]) {
        let bits = u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
        self.0 = (self.0 & !Self::HIGHEST) << 1 | bits;
    }

    /// Register `lane`.
    #[inline]
    const fn get(self, lane: u32) -> u16 {
        (self.0 >> (16 * lane)) as u16
    }

    /// Whether some register may have all bits of its mask in `wanted` set: never misses one, and seldom errs otherwise.
    #[inline]
    const fn some_full(self, wanted: u64) -> u64 {
        let lacking = !self.0 & wanted;
        lacking.wrapping_sub(Self::LOWEST) & !lacking & Self::HIGHEST
    }
}

const fn four(a: u16, b: u16, c: u16, d: u16) -> u64 {
    a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48
}

/// What a rule has to remember of the points before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RuleState {
    last: f64,
    /// Over two sigma, under minus two; over one, under minus one.
    zones: Four,
    /// Above and below the centre line; inside one sigma; there at all.
    sides: Four,
    /// Rising, falling, turning; outside one sigma.
    moves: Four,
    fired: u16,
}

impl Default for RuleState {
    fn default() -> Self {
        Self { last: f64::NAN, zones: Four(0), sides: Four(0), moves: Four(0), fired: 0 }
    }
}

impl RuleState {
    /// Forgets everything: a missing point, a gap, another recipe.
    pub fn break_runs(&mut self) {
        *self = Self::default();
    }

    /// What fired at the newest point.
    pub const fn fired(&self) -> RuleMask {
        RuleMask(self.fired)
    }

    /// Takes the next point and says which enabled rules' patterns end there.
    #[inline]
    #[expect(clippy::needless_bitwise_bool, reason = "the registers are filled without a branch")]
    pub fn step(&mut self, x: f64, zones: &Zones, plan: &Plan) -> RuleMask {
        let beyond = x > zones.ucl || x < zones.lcl;
        if plan.limits_only {
            self.last = x;
            self.fired = if beyond { RuleMask::BEYOND_LIMITS.0 & plan.enabled.0 } else { 0 };
            return RuleMask(self.fired);
        }
        let (up, down) = (x > self.last, x < self.last);
        let turn = (up & (self.moves.0 >> 16 & 1 == 1)) | (down & (self.moves.0 & 1 == 1));
        let (over_1, under_1) = (x > zones.plus_1, x < zones.minus_1);
        let inside = (x < zones.plus_1) & (x > zones.minus_1);
        self.last = x;
        self.zones.push([x > zones.plus_2, x < zones.minus_2, over_1, under_1]);
        self.sides.push([x > zones.center, x < zones.center, inside, true]);
        self.moves.push([up, down, turn, over_1 | under_1]);
        // A run of 8, hugging; trend, alternation, outside; 2 of 3, 4 of 5. `There at all` is no run: its answer is left out.
        let runs = self.sides.some_full(four(0xff, 0xff, 0x7fff, 0xffff)) & (Four::HIGHEST >> 16);
        let moves = self.moves.some_full(four(plan.trend, plan.trend, plan.alternation, 0xff));
        let clusters = (two_of_3(self.zones.0) & four(1, 1, 0, 0)) | (four_of_5(self.zones.0) & four(0, 0, 1, 1));
        if !beyond && runs | moves | clusters == 0 {
            self.fired = 0;
            return RuleMask::NONE;
        }
        self.fired = self.patterns(beyond, plan) & plan.enabled.0;
        RuleMask(self.fired)
    }

    /// Every pattern that ends at the newest point.
    fn patterns(&self, beyond: bool, plan: &Plan) -> u16 {
        let bit = u16::from;
        let all = |register: u16, mask: u16| bit(register & mask == mask);
        let (above, below, present) = (self.sides.get(0), self.sides.get(1), self.sides.get(3));
        let (over_1, under_1) = (self.zones.get(2), self.zones.get(3));
        let beyond = bit(beyond);
        let run_8 = all(above, 0xff) | all(below, 0xff);
        let run_9 = all(above, 0x1ff) | all(below, 0x1ff);
        let trend = all(self.moves.get(0), plan.trend) | all(self.moves.get(1), plan.trend);
        let alternation = all(self.moves.get(2), plan.alternation);
        let cluster = |register: u16, of: fn(u64) -> u64| of(u64::from(register)) as u16 & 1;
        let two = cluster(self.zones.get(0), two_of_3) | cluster(self.zones.get(1), two_of_3);
        let four = cluster(over_1, four_of_5) | cluster(under_1, four_of_5);
        let (two, four) = (two & all(present, plan.window_of_3), four & all(present, plan.window_of_5));
        let hugging = all(self.sides.get(2), 0x7fff);
        let sides = bit(!plan.both_sides) | (bit(over_1 & 0xff != 0) & bit(under_1 & 0xff != 0));
        let outside = all(self.moves.get(3), 0xff) & sides;
        let nelson = beyond | run_9 << 1 | trend << 2 | alternation << 3 | two << 4 | four << 5 | hugging << 6 | outside << 7;
        nelson | beyond << 8 | two << 9 | four << 10 | run_8 << 11
    }

    /// The points that make up the pattern of `rule` ending at the newest point, whose index is `index`; oldest first.
    pub fn evidence(&self, rule: Rule, index: u64, plan: &Plan) -> Vec<u64> {
        let last = |count: u32| 1_u32.checked_shl(count).map_or(u32::MAX, |bit| bit - 1);
        let bits = match rule {
            Rule::Nelson1 | Rule::WesternElectric1 | Rule::CusumUpper | Rule::CusumLower => 1,
            Rule::Nelson2 => last(9),
            Rule::WesternElectric4 | Rule::Nelson8 => last(8),
            Rule::Nelson3 => last(plan.trend.count_ones() + 1),
            Rule::Nelson4 => last(plan.alternation.count_ones() + 2),
            Rule::Nelson5 | Rule::WesternElectric2 => u32::from(side(self.zones.get(0), self.zones.get(1)) & 0b111),
            Rule::Nelson6 | Rule::WesternElectric3 => u32::from(side(self.zones.get(2), self.zones.get(3)) & 0b1_1111),
            Rule::Nelson7 => last(15),
        };
        let mut points = Vec::with_capacity(bits.count_ones() as usize);
        points.extend((0..32_u64).rev().filter(|back| bits >> back & 1 == 1 && *back <= index).map(|back| index - back));
        points
    }
}

/// In each register's bit 0: whether the newest is set, and at least one of the two before.
#[inline]
fn two_of_3(registers: u64) -> u64 {
    registers & (registers >> 1 | registers >> 2)
}

/// In each register's bit 0: whether the newest is set, and at least three of the four before.
#[inline]
fn four_of_5(registers: u64) -> u64 {
    let [a, b, c, d] = [registers >> 1, registers >> 2, registers >> 3, registers >> 4];
    registers & ((a & b & (c | d)) | (c & d & (a | b)))
}

/// The register of the side on which the newest point is.
fn side(over: u16, under: u16) -> u16 {
    if over & 1 == 1 { over } else { under }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(values: &[f64], enabled: RuleMask, conventions: Conventions) -> Vec<(u64, Rule, Vec<u64>)> {
        let zones = Zones::new(0.0, 1.0, 3.0, [f64::NEG_INFINITY, f64::INFINITY]);
        let plan = Plan::new(enabled, conventions);
        let mut state = RuleState::default();
        let mut all = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if value.is_nan() {
                state.break_runs();
                continue;
            }
            let mask = state.step(*value, &zones, &plan);
            all.extend(mask.iter().map(|rule| (index as u64, rule, state.evidence(rule, index as u64, &plan))));
        }
        all
    }

    #[test]
    fn a_missing_point_breaks_every_run() {
        let mut values = vec![0.5; 17];
        values[8] = f64::NAN;
        assert!(fired(&values, Rule::Nelson2.mask(), Conventions::default()).is_empty());
        values[8] = 0.5;
        assert_eq!(fired(&values, Rule::Nelson2.mask(), Conventions::default()).len(), 9);
    }

    #[test]
    fn evidence_names_only_the_points_beyond() {
        let hits = fired(&[2.1, -2.5, 2.2], Rule::Nelson5.mask(), Conventions::default());
        assert_eq!(hits, [(2, Rule::Nelson5, vec![0, 2])]);
        let hits = fired(&[1.5, 1.5, 0.2, 1.5, 1.5], Rule::WesternElectric3.mask(), Conventions::default());
        assert_eq!(hits, [(4, Rule::WesternElectric3, vec![0, 1, 3, 4])]);
    }

    #[test]
    fn a_falling_trend_counts_like_a_rising_one() {
        let values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05];
        assert_eq!(fired(&values, Rule::Nelson3.mask(), Conventions::default()), [(5, Rule::Nelson3, vec![0, 1, 2, 3, 4, 5])]);
        let seven = Conventions { trend_points: 7, ..Conventions::default() };
        assert!(fired(&values, Rule::Nelson3.mask(), seven).is_empty());
    }

    #[test]
    fn most_severe_and_shortest_come_first() {
        let mask = Rule::Nelson7.mask().or(Rule::Nelson2.mask()).or(Rule::Nelson5.mask()).or(Rule::Nelson1.mask());
        let order = prioritise(mask);
        assert_eq!(order, [Rule::Nelson1, Rule::Nelson5, Rule::Nelson2, Rule::Nelson7]);
    }

    #[test]
    fn rule_state_is_40_bytes() {
        assert!(size_of::<RuleState>() <= 40);
    }

    /// The rules as their definitions read, over the whole history.
    fn by_definition(z: &[f64], conventions: Conventions) -> u16 {
        let n = z.len();
        let last = |count: usize| (n >= count).then(|| &z[n - count..]);
        let holds = |count: usize, test: &dyn Fn(&[f64]) -> bool| u16::from(last(count).is_some_and(test));
        let x = z[n - 1];
        let side = |z: &[f64]| z.iter().all(|z| *z > 0.0) || z.iter().all(|z| *z < 0.0);
        let rising = |z: &[f64]| z.windows(2).all(|two| two[1] > two[0]) || z.windows(2).all(|two| two[1] < two[0]);
        let turning = |z: &[f64]| z.windows(3).all(|w| (w[1] - w[0]) * (w[2] - w[1]) < 0.0);
        let cluster = |of: usize, wanted: usize, line: f64| {
            let window = &z[n.saturating_sub(of)..];
            let full = !conventions.full_window || n >= of;
            let up = x > line && window.iter().filter(|z| **z > line).count() >= wanted;
            let down = x < -line && window.iter().filter(|z| **z < -line).count() >= wanted;
            u16::from(full && (up || down))
        };
        let outside = |z: &[f64]| {
            let both = z.iter().any(|z| *z > 1.0) && z.iter().any(|z| *z < -1.0);
            z.iter().all(|z| z.abs() > 1.0) && (both || conventions.rule_8_sides == RuleSides::Either)
        };
        let beyond = u16::from(x.abs() > 3.0);
        beyond
            | holds(9, &side) << 1
            | holds(usize::from(conventions.trend_points), &rising) << 2
            | holds(usize::from(conventions.alternation_points), &turning) << 3
            | cluster(3, 2, 2.0) << 4
            | cluster(5, 4, 1.0) << 5
            | holds(15, &|z| z.iter().all(|z| z.abs() < 1.0)) << 6
            | holds(8, &outside) << 7
            | beyond << 8
            | cluster(3, 2, 2.0) << 9
            | cluster(5, 4, 1.0) << 10
            | holds(8, &side) << 11
    }

    proptest::proptest! {
        #[test]
        fn registers_agree_with_the_definitions(
            stretches in proptest::collection::vec((0_u8..6, -14_i32..=14, 1_usize..20), 1..12),
            variant in 0_u8..4,
            enabled in proptest::prop_oneof![proptest::strategy::Just(0x0fff_u16), 0_u16..0x1000],
            sizes in proptest::collection::vec(1..=BLOCK_MAX, 1..6),
        ) {
            let conventions = Conventions {
                trend_points: if variant & 1 == 0 { 6 } else { 7 },
                alternation_points: if variant & 1 == 0 { 14 } else { 15 },
                rule_8_sides: if variant & 2 == 0 { RuleSides::Both } else { RuleSides::Either },
                full_window: variant & 2 == 2,
            };
            // Quarters of a sigma, so that ties and values on the lines are common; runs, trends and zigzags are made likely.
            let mut z: Vec<f64> = Vec::new();
            for (kind, value, points) in stretches {
                for point in 0..points {
                    let last = z.last().copied().unwrap_or(0.0);
                    let value = f64::from(value) / 4.0;
                    z.push(match kind {
                        0 => value,
                        1 => last + 0.25,
                        2 => last - 0.25,
                        3 => -last,
                        4 => if point % 2 == 0 { value } else { value / 2.0 },
                        _ => value % 1.0,
                    });
                }
            }
            let plan = Plan::new(RuleMask(enabled), conventions);
            let zones = Zones::new(0.0, 1.0, 3.0, [f64::NEG_INFINITY, f64::INFINITY]);
            let mut state = RuleState::default();
            let mut states = Vec::new();
            for i in 0..z.len() {
                let got = state.step(z[i], &zones, &plan);
                proptest::prop_assert_eq!(got.0, by_definition(&z[..=i], conventions) & enabled, "point {} of {:?}", i, &z[..=i]);
                states.push(state);
            }
            let mut by_block = RuleState::default();
            let mut rest = &z[..];
            for size in sizes.iter().cycle() {
                let points = &rest[..rest.len().min(*size)];
                if points.is_empty() {
                    break;
                }
                let from = z.len() - rest.len();
                let block = by_block.block(points, &zones, &plan);
                for i in 0..points.len() {
                    let (back, want) = (points.len() - 1 - i, &states[from + i]);
                    proptest::prop_assert_eq!(&block.state(back, z[from + i]), want, "point {} of {:?} in blocks of {:?}", from + i, z, sizes);
                    proptest::prop_assert_eq!(block.any() >> back & 1 == 1, !want.fired().is_empty());
                }
                rest = &rest[points.len()..];
            }
        }
    }
}
