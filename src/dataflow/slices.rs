//! The pieces of time that windows share.
//!
//! Time is cut at every start and every end of a window. The piece between two cuts is a *slice*: a row belongs to one slice, whatever
//! the number of windows around it, and a window is a run of slices (Li, Maier, Tufte, Papadimos, Tucker, SIGMOD Record 2005; for a slide
//! that does not divide the size: paired windows, Krishnamurthy, Wu, Franklin, SIGMOD 2006).
//!
//! Windows and slices are numbered in the order of time. Window `k` of a sliding specification is `[offset + k · slide, … + size)`; with
//! `r = size mod slide`, a period of the slide has one slice if `r = 0`, else two: `[0, r)` and `[r, slide)`. Windows of civil time share
//! nothing: they are their own slices, numbered by their first nanosecond.

use super::{WindowConfig, WindowKind};

/// Size, slide (or days) and offset, and whether the calendar cuts.
pub(super) type Signature = (i64, i64, i64, bool);

/// A piece of time and the windows around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Its number.
    pub number: i64,
    /// First instant inside.
    pub start: i64,
    /// First instant after.
    pub end: i64,
    /// The first window that contains it.
    pub first: i64,
    /// The last one; less than `first` in a gap between windows.
    pub last: i64,
}

/// How time is cut.
#[derive(Debug, Clone)]
pub enum Slices {
    /// By size, slide and offset.
    Regular(Regular),
    /// By a wall clock.
    Civil(Box<WindowConfig>),
}

/// Windows of one size, a slide apart.
#[derive(Debug, Clone, Copy)]
pub struct Regular {
    size_ns: i64,
    slide_ns: i64,
    offset_ns: i64,
    /// Whole slides in a window.
    whole: i64,
    /// What is left of the size.
    rest_ns: i64,
    /// Slices in a slide: 1, or 2 if something is left.
    per: i64,
}

fn clamp(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

impl Regular {
    fn new(size_ns: i64, slide_ns: i64, offset_ns: i64) -> Self {
        let rest_ns = size_ns % slide_ns;
        Self { size_ns, slide_ns, offset_ns, whole: size_ns / slide_ns, rest_ns, per: if rest_ns == 0 { 1 } else { 2 } }
    }

    /// The period of the slide that contains `time`, and how far into it.
    fn period(&self, time: i64) -> (i64, i64) {
        match time.checked_sub(self.offset_ns) {
            Some(since) => (since.div_euclid(self.slide_ns), since.rem_euclid(self.slide_ns)),
            None => {
                let since = i128::from(time) - i128::from(self.offset_ns);
                let slide = i128::from(self.slide_ns);
                (clamp(since.div_euclid(slide)), clamp(since.rem_euclid(slide)))
            }
        }
    }

    fn at(&self, period: i64, into_ns: i64) -> i64 {
        clamp(i128::from(period) * i128::from(self.slide_ns) + i128::from(self.offset_ns) + i128::from(into_ns))
    }

    fn slice(&self, time: i64) -> Slice {
        if self.per == 1
            && let Some(since) = time.checked_sub(self.offset_ns)
            && let Some(end) = time.checked_add(self.slide_ns)
        {
            // The usual case: no bound is beyond the range of times, but perhaps the start.
            let into_ns = since.rem_euclid(self.slide_ns);
            let period = since.div_euclid(self.slide_ns);
            let start = time.saturating_sub(into_ns);
            return Slice { number: period, start, end: end - into_ns, first: period.saturating_sub(self.whole) + 1, last: period };
        }
        let (period, into_ns) = self.period(time);
        let first = period.saturating_sub(self.whole);
        if self.per == 1 {
            let (start, end) = (self.at(period, 0), self.at(period, self.slide_ns));
            return Slice { number: period, start, end, first: first + 1, last: period };
        }
        let (start, middle, end) = (self.at(period, 0), self.at(period, self.rest_ns), self.at(period, self.slide_ns));
        let number = period.saturating_mul(2);
        if into_ns < self.rest_ns {
            Slice { number, start, end: middle, first, last: period }
        } else {
            Slice { number: number.saturating_add(1), start: middle, end, first: first + 1, last: period }
        }
    }

    /// The last window that ends at or before `time`.
    fn ended(&self, time: i64) -> i64 {
        let since = i128::from(time) - i128::from(self.offset_ns) - i128::from(self.size_ns);
        clamp(since.div_euclid(i128::from(self.slide_ns)))
    }

    /// The first end of a window after `time`.
    fn next_end(&self, time: i64) -> i64 {
        let slide = i128::from(self.slide_ns);
        let first = i128::from(self.offset_ns) + i128::from(self.size_ns);
        clamp(i128::from(time) + slide - (i128::from(time) - first).rem_euclid(slide))
    }
}

impl Slices {
    /// For tumbling and sliding windows; none for sessions, whose bounds follow their rows.
    pub fn of(config: &WindowConfig) -> Option<Self> {
        match config.kind {
            WindowKind::Tumbling { .. } if config.timezone.is_some() => Some(Self::Civil(Box::new(config.clone()))),
            WindowKind::Tumbling { size_ns, .. } => Some(Self::shifted(size_ns, size_ns, config.offset_ns)),
            WindowKind::Sliding { size_ns, slide_ns } => Some(Self::shifted(size_ns, slide_ns, config.offset_ns)),
            WindowKind::Session { .. } => None,
        }
    }

    /// An offset of whole slides changes no bound, and would only carry sums beyond the range of times.
    fn shifted(size_ns: i64, slide_ns: i64, offset_ns: i64) -> Self {
        Self::Regular(Regular::new(size_ns, slide_ns, offset_ns.rem_euclid(slide_ns)))
    }

    /// The slice around `time`.
    pub fn around(&self, time: i64) -> Slice {
        match self {
            Self::Regular(regular) => regular.slice(time),
            Self::Civil(config) => {
                let (start, end) = config.tumbling(time);
                Slice { number: start, start, end, first: start, last: start }
            }
        }
    }

    /// Start and end of window `window`.
    pub fn bounds(&self, window: i64) -> (i64, i64) {
        match self {
            Self::Regular(regular) => (regular.at(window, 0), regular.at(window, regular.size_ns)),
            Self::Civil(config) => config.tumbling(window),
        }
    }

    /// The first slice of window `window`, and the first one after it.
    pub fn run(&self, window: i64) -> (i64, i64) {
        match self {
            Self::Regular(regular) if regular.per == 1 => (window, window.saturating_add(regular.whole)),
            Self::Regular(regular) => {
                let end = window.saturating_add(regular.whole).saturating_mul(2).saturating_add(1);
                (window.saturating_mul(2), end)
            }
            Self::Civil(_) => (window, window.saturating_add(1)),
        }
    }

    /// The windows that contain slice `slice`: the first and the last.
    pub fn windows(&self, slice: i64) -> (i64, i64) {
        match self {
            Self::Regular(regular) => {
                let period = slice.div_euclid(regular.per);
                let first = period.saturating_sub(regular.whole);
                let before_rest = regular.per == 2 && slice.rem_euclid(2) == 0;
                (if before_rest { first } else { first + 1 }, period)
            }
            Self::Civil(_) => (slice, slice),
        }
    }

    /// The last window that ends at or before `time`; every window up to it does.
    pub fn ended(&self, time: i64) -> i64 {
        match (time, self) {
            (i64::MAX, _) => i64::MAX,
            (i64::MIN, _) => i64::MIN,
            (_, Self::Regular(regular)) => regular.ended(time),
            (_, Self::Civil(config)) => config.tumbling(time).0.saturating_sub(1),
        }
    }

    /// The first end of a window after `time`.
    pub fn next_end(&self, time: i64) -> i64 {
        match self {
            Self::Regular(regular) => regular.next_end(time),
            Self::Civil(config) => config.tumbling(time).1,
        }
    }

    /// What must not change for state to be gone on with.
    pub fn signature(&self) -> Signature {
        match self {
            Self::Regular(regular) => (regular.size_ns, regular.slide_ns, regular.offset_ns, false),
            Self::Civil(config) => {
                let WindowKind::Tumbling { size_ns, calendar_days } = config.kind else { return (0, 0, 0, true) };
                (size_ns, calendar_days.map_or(0, i64::from), config.offset_ns, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every window that contains `time`, by the definition.
    fn around(size: i64, slide: i64, offset: i64, time: i64) -> Vec<i64> {
        (-200..200).filter(|k| (k * slide + offset..k * slide + offset + size).contains(&time)).collect()
    }

    #[test]
    fn slices_and_windows_agree_with_the_definition() {
        for (size, slide, offset) in
            [(10, 10, 0), (10, 10, 3), (30, 10, -4), (25, 10, 0), (7, 3, 1), (10, 30, 5), (1, 1, 0), (9, 10, 2)]
        {
            let slices = Slices::Regular(Regular::new(size, slide, offset));
            for time in -100..100 {
                let slice = slices.around(time);
                assert!(slice.start <= time && time < slice.end, "{size} {slide} {offset}: {time} in {slice:?}");
                let windows: Vec<i64> = (slice.first..=slice.last).collect();
                assert_eq!(windows, around(size, slide, offset, time), "{size} {slide} {offset}: {time}");
                assert_eq!(slices.windows(slice.number), (slice.first, slice.last));
                for window in windows {
                    let (from, until) = slices.run(window);
                    assert!((from..until).contains(&slice.number));
                    let (start, end) = slices.bounds(window);
                    assert!((start, end) == (window * slide + offset, window * slide + offset + size));
                    assert_eq!(slices.around(start).number, from);
                    assert_eq!(slices.around(end - 1).number, until - 1);
                }
                let ended = slices.ended(time);
                assert!(slices.bounds(ended).1 <= time && slices.bounds(ended + 1).1 > time);
                assert_eq!(slices.next_end(time), slices.bounds(ended + 1).1);
            }
        }
    }

    #[test]
    fn the_ends_of_time_are_in_slices() {
        for (size, slide) in [(25, 10), (i64::MAX, i64::MAX), (i64::MAX, 1), (1, i64::MAX), (3, 2)] {
            for offset in [0, i64::MAX, i64::MIN] {
                let slices = Slices::shifted(size, slide, offset);
                for time in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
                    let slice = slices.around(time);
                    assert!(
                        slice.start <= time && (time < slice.end || slice.end == i64::MAX),
                        "{size} {slide} {offset}: {slice:?}"
                    );
                    assert!(slices.next_end(time) > time || time == i64::MAX);
                }
            }
        }
    }
}
