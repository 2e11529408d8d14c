//! What is built: three parts on a plate of 250 × 250 mm, as cross-sections by height.
//!
//! The strut leans, so one side of it always hangs over powder; the bracket's arms widen every other 0.48 mm, so whole bands do;
//! the block is plain, for comparison.

/// Millimetres in the plane of the plate.
pub type Point = [f64; 2];

/// Height of the build, mm; the next build starts on a new plate.
pub const HEIGHT_MM: f64 = 60.0;

/// A part of the build.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// The number in frames.
    pub number: u16,
    /// For people.
    pub name: &'static str,
    /// Speed of the laser in the hatch, mm/s.
    pub hatch_mm_s: f64,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Bracket,
    Strut,
    Block,
}

/// The parts in the order they are exposed.
pub const PARTS: [Part; 3] = [
    Part { number: 1, name: "bracket", hatch_mm_s: 950.0, form: Form::Bracket },
    Part { number: 2, name: "strut", hatch_mm_s: 800.0, form: Form::Strut },
    Part { number: 3, name: "block", hatch_mm_s: 1100.0, form: Form::Block },
];

impl Part {
    /// The cross-section at height `z_mm`.
    pub fn section(&self, z_mm: f64) -> Section {
        match self.form {
            Form::Bracket => {
                let wide = (z_mm / 0.48).floor() % 2.0 == 0.0;
                Section::Rectangle { center: [60.0, 70.0], half: [if wide { 7.0 } else { 5.0 }, 5.0] }
            }
            Form::Strut => {
                // Leans 1.2 mm a millimetre (50° from upright), there and back every 60 mm.
                let lean = 1.2 * (30.0 - (z_mm % 60.0 - 30.0).abs());
                Section::Circle { center: [110.0 + lean, 125.0], radius: 4.0 }
            }
            Form::Block => Section::Rectangle { center: [180.0, 90.0], half: [5.0, 5.0] },
        }
    }
}

/// A cross-section.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Section {
    /// Parallel to the plate's edges; `half` its width and depth.
    Rectangle {
        /// mm
        center: Point,
        /// mm
        half: Point,
    },
    /// A disc.
    Circle {
        /// mm
        center: Point,
        /// mm
        radius: f64,
    },
}

impl Section {
    /// Whether `at` is inside or on the edge.
    pub fn contains(&self, at: Point) -> bool {
        let [x, y] = self.offset(at);
        match self {
            Self::Rectangle { half, .. } => x.abs() <= half[0] && y.abs() <= half[1],
            Self::Circle { radius, .. } => x * x + y * y <= radius * radius,
        }
    }

    /// Its middle.
    pub const fn center(&self) -> Point {
        match self {
            Self::Rectangle { center, .. } | Self::Circle { center, .. } => *center,
        }
    }

    /// The radius of the circle around it, mm.
    pub fn reach_mm(&self) -> f64 {
        match self {
            Self::Rectangle { half, .. } => (half[0] * half[0] + half[1] * half[1]).sqrt(),
            Self::Circle { radius, .. } => *radius,
        }
    }

    /// The same, smaller by `inset_mm` all around.
    #[must_use]
    pub fn shrunk(&self, inset_mm: f64) -> Self {
        match *self {
            Self::Rectangle { center, half } => Self::Rectangle { center, half: half.map(|side| (side - inset_mm).max(0.0)) },
            Self::Circle { center, radius } => Self::Circle { center, radius: (radius - inset_mm).max(0.0) },
        }
    }

    /// The part inside of the line in `direction` (of length 1) that passes the centre at `offset_mm` to its left.
    pub fn chord(&self, direction: Point, offset_mm: f64) -> Option<[Point; 2]> {
        let foot = [-direction[1] * offset_mm, direction[0] * offset_mm];
        let (mut from, mut to) = (f64::NEG_INFINITY, f64::INFINITY);
        match self {
            Self::Circle { radius, .. } => {
                let half = (radius * radius - offset_mm * offset_mm).max(0.0).sqrt();
                (from, to) = (-half, half);
            }
            Self::Rectangle { half, .. } => {
                for axis in 0..2 {
                    if direction[axis].abs() > 1e-9 {
                        let ends = [-half[axis], half[axis]].map(|side| (side - foot[axis]) / direction[axis]);
                        from = from.max(ends[0].min(ends[1]));
                        to = to.min(ends[0].max(ends[1]));
                    } else if foot[axis].abs() > half[axis] {
                        return None;
                    }
                }
            }
        }
        let [x, y] = self.center();
        let at = |along: f64| [x + foot[0] + direction[0] * along, y + foot[1] + direction[1] * along];
        (to - from > 0.02).then(|| [at(from), at(to)])
    }

    /// The corners of its outline, in order; a circle in 48.
    pub fn outline(&self) -> Vec<Point> {
        let [x, y] = self.center();
        match self {
            Self::Rectangle { half: [w, d], .. } => vec![[x - w, y - d], [x + w, y - d], [x + w, y + d], [x - w, y + d]],
            Self::Circle { radius, .. } => (0..48)
                .map(|corner| f64::from(corner) / 48.0)
                .map(|turns| [x + radius * super::random::cosine(turns), y + radius * super::random::sine(turns)])
                .collect(),
        }
    }

    fn offset(&self, at: Point) -> Point {
        let center = self.center();
        [at[0] - center[0], at[1] - center[1]]
    }
}

/// How much of the material just below `at` is powder: 0 on solid material or the plate, 1 over nothing but powder.
///
/// The share of the eight layers below that are not part of the part there.
pub fn overhang(part: &Part, layer: u32, thickness_mm: f64, at: Point) -> f64 {
    const DEPTH: u32 = 8;
    let below = |depth: &u32| layer > *depth && !part.section(f64::from(layer - depth) * thickness_mm).contains(at);
    (1..=DEPTH).filter(below).count() as f64 / f64::from(DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_on_the_plate_and_apart() {
        for layer in 0..1500 {
            let sections = PARTS.map(|part| part.section(f64::from(layer) * 0.04));
            for (index, section) in sections.iter().enumerate() {
                let [x, y] = section.center();
                let reach = section.reach_mm();
                assert!(x - reach > 0.0 && x + reach < 250.0 && y - reach > 0.0 && y + reach < 250.0);
                for other in &sections[..index] {
                    let [u, v] = other.center();
                    assert!(((x - u).powi(2) + (y - v).powi(2)).sqrt() > reach + other.reach_mm());
                }
            }
        }
    }

    #[test]
    fn chords_end_on_the_edge() {
        let section = Section::Rectangle { center: [1.0, 2.0], half: [3.0, 4.0] };
        assert_eq!(section.chord([1.0, 0.0], 1.0), Some([[-2.0, 3.0], [4.0, 3.0]]));
        assert_eq!(section.chord([0.0, 1.0], 5.0), None);
        let circle = Section::Circle { center: [0.0, 0.0], radius: 5.0 };
        assert_eq!(circle.chord([1.0, 0.0], 3.0), Some([[-4.0, 3.0], [4.0, 3.0]]));
        assert_eq!(circle.chord([0.0, 1.0], 5.1), None);
    }

    #[test]
    fn only_what_is_over_powder_overhangs() {
        let (bracket, strut, block) = (&PARTS[0], &PARTS[1], &PARTS[2]);
        assert_eq!(overhang(strut, 1, 0.04, [110.0, 125.0]), 0.0);
        let z = 100.0 * 0.04;
        let [x, y] = strut.section(z).center();
        assert_eq!(overhang(strut, 100, 0.04, [x - 3.9, y]), 0.0);
        assert!(overhang(strut, 100, 0.04, [x + 3.99, y]) > 0.8);
        assert_eq!(overhang(block, 100, 0.04, [184.9, 94.9]), 0.0);
        let arm = |layer| overhang(bracket, layer, 0.04, [66.5, 70.0]);
        assert!(!bracket.section(0.6).contains([66.5, 70.0]) && bracket.section(0.97).contains([66.5, 70.0]));
        assert_eq!((arm(10), arm(24), arm(28), arm(33)), (0.0, 1.0, 0.5, 0.0));
    }
}
