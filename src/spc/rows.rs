//! Rows of one key → points: forming subgroups, and the tight loops where nothing stands in the way.

use super::{
    config::{Attribute, ChartKind},
    emit::Sink,
    judge::Judged,
    recent::RECENT_POINTS_MAX,
    rules::{BLOCK_MAX, Block, RuleMask},
    sample::{Boundary, Open, Sample, whole},
    setup::{Grouping, Setup},
    state::{Context, KeyState, Phase},
};
use crate::model::{Flags, Seq};

/// Fewer points than this are judged one by one: a block costs the same however full it is.
const BLOCK_MIN: usize = 8;

/// The numbers of the rows of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    /// Without gaps, from here.
    From(u64),
    /// One by one.
    Listed(&'a [u64]),
}

impl Numbers<'_> {
    #[inline]
    fn at(self, row: usize) -> Seq {
        Seq(match self {
            Self::From(first) => first + row as u64,
            Self::Listed(seqs) => seqs[row],
        })
    }
}

/// The columns of consecutive rows with one key, one source of limits and one boundary.
pub(super) struct Segment<'a> {
    /// One a signal.
    pub values: &'a [&'a [f64]],
    /// Sizes, where a column holds them.
    pub sizes: Option<&'a [f64]>,
    pub time: &'a [i64],
    /// The number of each row in the inbox.
    pub seqs: Numbers<'a>,
    pub flags: Option<&'a [Flags]>,
    /// What is taken off each value, and by what the rest is divided.
    pub shift: f64,
    pub scale: f64,
}

impl Segment<'_> {
    fn rows(&self) -> usize {
        self.time.len()
    }

    fn flagged(&self, row: usize) -> bool {
        self.flags.is_some_and(|flags| flags[row].has(Flags::FLAGGED))
    }

    /// The value of the first signal; `NaN` if it is missing or of bad quality.
    fn value(&self, row: usize) -> f64 {
        if self.flagged(row) { f64::NAN } else { (self.values[0][row] - self.shift) / self.scale }
    }

    fn is_plain(&self) -> bool {
        self.flags.is_none() && self.shift == 0.0 && self.scale == 1.0
    }
}

impl KeyState {
    /// Takes the rows of a segment.
    pub fn rows(&mut self, setup: &Setup, segment: &Segment<'_>, sink: &mut Sink<'_>) {
        match (&setup.config.kind, setup.grouping) {
            (ChartKind::T2 { .. } | ChartKind::Mewma { .. }, _) => self.vectors(setup, segment, sink),
            (ChartKind::Attribute { attribute, .. }, Grouping::Row) => self.counts(setup, *attribute, segment, sink),
            (_, Grouping::Row) => self.individuals(setup, segment, sink),
            (_, Grouping::Size(size)) => self.by_count(setup, segment, size, sink),
            _ => self.by_boundary(setup, segment, sink),
        }
    }

    fn individuals(&mut self, setup: &Setup, segment: &Segment<'_>, sink: &mut Sink<'_>) {
        let mut row = 0;
        while row < segment.rows() {
            if self.is_fast(setup, segment, sink) {
                row += self.fast_individuals(setup, segment, row, sink);
                if row >= segment.rows() {
                    return;
                }
            }
            let value = segment.value(row);
            sink.at = segment.seqs.at(row);
            if value.is_nan() {
                self.missing(1, sink);
            } else {
                self.point(setup, &Sample::single(value), &[value], segment.time[row], sink);
            }
            row += 1;
        }
    }

    /// Whether [`Self::fast_individuals`] may run: an individuals chart in Phase II that shows only violations.
    fn is_fast(&self, setup: &Setup, segment: &Segment<'_>, sink: &Sink<'_>) -> bool {
        setup.config.kind == ChartKind::Individuals
            && self.phase == Phase::Judging
            && self.context != Context::Unknown
            && self.judge.lines.n == 1.0
            && !self.judge.previous.is_nan()
            && segment.is_plain()
            && !sink.wants_all()
    }

    /// Judges values from a row on, block by block, until one is missing; how many were there. The same as [`Self::point`] on each.
    fn fast_individuals(&mut self, setup: &Setup, segment: &Segment<'_>, from: usize, sink: &mut Sink<'_>) -> usize {
        let values = finite(&segment.values[0][from..]);
        if values.len() < BLOCK_MIN {
            return 0;
        }
        // The view holds so many points: earlier ones of this batch would be overwritten anyway.
        let shown_from = values.len().saturating_sub(RECENT_POINTS_MAX);
        for (number, block) in values.chunks(BLOCK_MAX).enumerate() {
            let done = number * BLOCK_MAX;
            self.block(setup, segment, from + done, block, shown_from.saturating_sub(done), sink);
        }
        if let (Some(totals), Some(spec)) = (&mut self.totals, &setup.config.spec) {
            for value in values {
                totals.individual(*value, spec);
            }
        }
        values.len()
    }

    /// Judges the block of values that starts at a row; the view shows those from `shown_from` on.
    fn block(&mut self, setup: &Setup, segment: &Segment<'_>, from: usize, values: &[f64], shown_from: usize, sink: &mut Sink<'_>) {
        let (lines, count, first) = (self.judge.lines, values.len(), self.next_index);
        let mut spreads = [0.0; BLOCK_MAX];
        let mut previous = self.judge.previous;
        for (spread, value) in spreads.iter_mut().zip(values) {
            *spread = (value - previous).abs();
            previous = *value;
        }
        let rules = self.judge.rules.block(values, &lines.zones, &setup.plan);
        let spread_rules = (!setup.spread_plan.enabled.is_empty())
            .then(|| self.judge.spread_rules.block(&spreads[..count], &lines.spread, &setup.spread_plan));
        let after = (self.judge.rules, self.judge.spread_rules);
        let any = rules.any() | spread_rules.as_ref().map_or(0, Block::any);
        let judged = |i: usize| {
            let mut judged = Judged::bare(values[i], spreads[i]);
            (judged.center, judged.lcl, judged.ucl) = (lines.zones.center, lines.zones.lcl, lines.zones.ucl);
            let back = count - 1 - i;
            if any >> back & 1 == 1 {
                judged.rules = rules.fired(back);
                judged.spread_rules = spread_rules.as_ref().map_or(RuleMask::NONE, |rules| rules.fired(back));
            }
            judged
        };
        if let Some(recent) = &mut self.recent {
            for i in shown_from..count {
                recent.push(first + i as u64, segment.time[from + i], &judged(i), 2);
            }
        }
        self.unjudged = false;
        let mut left = any;
        while left != 0 {
            let back = left.ilog2() as usize;
            left ^= 1 << back;
            let i = count - 1 - back;
            if i > 0 && any >> (back + 1) & 1 == 0 {
                (self.fired, self.spread_fired) = (RuleMask::NONE, RuleMask::NONE);
            }
            // Evidence is read from the registers.
            self.judge.rules = rules.state(back, values[i]);
            sink.at = segment.seqs.at(from + i);
            self.tell(setup, first + i as u64, segment.time[from + i], &judged(i), &[], sink);
        }
        if any & 1 == 0 {
            (self.fired, self.spread_fired) = (RuleMask::NONE, RuleMask::NONE);
        }
        (self.judge.rules, self.judge.spread_rules) = after;
        self.judge.previous = previous;
        self.next_index += count as u64;
        sink.counts.points += count as u64;
    }

    fn counts(&mut self, setup: &Setup, attribute: Attribute, segment: &Segment<'_>, sink: &mut Sink<'_>) {
        for row in 0..segment.rows() {
            sink.at = segment.seqs.at(row);
            if let Some((value, n)) = count_of(setup, attribute, segment, row) {
                let sample = Sample { n, ..Sample::single(value) };
                self.point(setup, &sample, &[value], segment.time[row], sink);
            } else {
                sink.counts.invalid += u64::from(!segment.value(row).is_nan());
                self.missing(1, sink);
            }
        }
    }

    fn vectors(&mut self, setup: &Setup, segment: &Segment<'_>, sink: &mut Sink<'_>) {
        let mut row_values = [0.0; 32];
        let Some(row_values) = row_values.get_mut(..segment.values.len()) else { return };
        for row in 0..segment.rows() {
            let mut sum = 0.0;
            for (value, column) in row_values.iter_mut().zip(segment.values) {
                *value = column[row];
                sum += *value;
            }
            sink.at = segment.seqs.at(row);
            // A missing value in any signal shows in the sum.
            if sum.is_nan() || segment.flagged(row) {
                self.missing(1, sink);
            } else {
                self.point(setup, &Sample::single(f64::NAN), row_values, segment.time[row], sink);
            }
        }
    }

    fn by_count(&mut self, setup: &Setup, segment: &Segment<'_>, size: usize, sink: &mut Sink<'_>) {
        let measured = !matches!(setup.config.kind, ChartKind::Attribute { .. });
        let mut row = 0;
        while row < segment.rows() {
            let idle = self.open.as_ref().is_none_or(|open| open.rows == 0);
            if measured && idle && segment.is_plain() && segment.rows() - row >= size {
                row += self.whole_subgroups(setup, segment, row, size, sink);
                if segment.rows() - row < size {
                    continue;
                }
            }
            sink.at = segment.seqs.at(row);
            self.add(setup, segment, row, &Boundary::Count, sink);
            if self.open.as_ref().is_some_and(|open| open.rows >= size as u64) {
                self.close(setup, sink);
            }
            row += 1;
        }
    }

    /// Takes complete subgroups from a row on until one has a missing value; how many rows that were.
    fn whole_subgroups(&mut self, setup: &Setup, segment: &Segment<'_>, from: usize, size: usize, sink: &mut Sink<'_>) -> usize {
        let spec = setup.config.spec.as_ref();
        let mut taken = 0;
        for chunk in segment.values[0][from..].chunks_exact(size) {
            let Some(sample) = whole(chunk, spec) else { break };
            taken += size;
            let last = from + taken - 1;
            sink.at = segment.seqs.at(last);
            self.point(setup, &sample, &[sample.value], segment.time[last], sink);
        }
        taken
    }

    fn by_boundary(&mut self, setup: &Setup, segment: &Segment<'_>, sink: &mut Sink<'_>) {
        let Some(boundary) = self.open.as_ref().map(|open| open.boundary.clone()) else { return };
        for row in 0..segment.rows() {
            self.add(setup, segment, row, &boundary, sink);
        }
    }

    /// Adds a row to the open subgroup.
    fn add(&mut self, setup: &Setup, segment: &Segment<'_>, row: usize, boundary: &Boundary, sink: &mut Sink<'_>) {
        let (value, size) = match &setup.config.kind {
            ChartKind::Attribute { attribute, .. } => count_of(setup, *attribute, segment, row).unwrap_or_else(|| {
                sink.counts.invalid += u64::from(!segment.value(row).is_nan());
                (f64::NAN, 0.0)
            }),
            _ => (segment.value(row), 1.0),
        };
        let open = self.open.get_or_insert_with(|| Box::new(Open::new(boundary.clone())));
        open.push(value, size, segment.time[row], setup.config.spec.as_ref());
    }

    /// Opens a subgroup at `boundary`, closing another one.
    pub fn turn_to(&mut self, setup: &Setup, boundary: Boundary, sink: &mut Sink<'_>) {
        let skipped = match (&self.open, &boundary, setup.grouping) {
            (Some(open), _, _) if open.boundary == boundary => return,
            (Some(open), Boundary::Slot(next), Grouping::Every(ns)) => match open.boundary {
                Boundary::Slot(last) => (next.saturating_sub(last) / ns - 1).max(0) as u64,
                _ => 0,
            },
            _ => 0,
        };
        if self.open.is_some() {
            self.close(setup, sink);
        }
        if skipped > 0 {
            self.missing(skipped, sink);
        }
        self.open = Some(Box::new(Open::new(boundary)));
    }

    /// The open subgroup is complete.
    pub fn close(&mut self, setup: &Setup, sink: &mut Sink<'_>) {
        let Some(open) = self.open.as_mut().filter(|open| open.rows > 0) else { return };
        let time = open.time;
        let sample = match &setup.config.kind {
            ChartKind::Attribute { .. } => open.counted(),
            _ => open.measured(setup.least_values(), setup.config.spec.as_ref()),
        };
        let sample = sample.map(|sample| if setup.config.is_individual() { Sample::single(sample.value) } else { sample });
        open.reset();
        match sample {
            Some(sample) => self.point(setup, &sample, &[sample.value], time, sink),
            None => self.missing(1, sink),
        }
    }

    /// Other limits hold from here on: a subgroup by count that has begun cannot be completed.
    pub fn cut(&mut self, setup: &Setup, sink: &mut Sink<'_>) {
        match setup.grouping {
            Grouping::Size(_) => {
                if self.open.take_if(|open| open.rows > 0).is_some() {
                    self.missing(1, sink);
                }
            }
            _ => self.close(setup, sink),
        }
    }
}

/// The values up to the first that is missing or infinite.
fn finite(values: &[f64]) -> &[f64] {
    // A chunk at a time without an exit inside: that is several values an instruction.
    let full = values.chunks(64).take_while(|chunk| chunk.iter().fold(true, |all, value| all & value.is_finite())).count();
    let from = values.len().min(64 * full);
    let rest = values[from..].iter().position(|value| !value.is_finite());
    rest.map_or(values, |rest| &values[..from + rest])
}

/// Count and size of a row; `None` if one is missing or they are impossible.
fn count_of(setup: &Setup, attribute: Attribute, segment: &Segment<'_>, row: usize) -> Option<(f64, f64)> {
    let value = segment.value(row);
    let n = segment.sizes.map_or(setup.size, |sizes| sizes[row]);
    let possible = value >= 0.0 && n > 0.0 && (!attribute.is_binomial() || value <= n);
    possible.then_some((value, n))
}
