//! Where the laser is: contours, hatch lines, the jumps between them, and the recoater's time, layer by layer.
//!
//! ```text
//! layer = for each part: contour, then hatch lines back and forth, turned by 67° (or 90°) from layer to layer
//!         then the recoater: laser off, mirrors parked
//! ```

use super::parts::{HEIGHT_MM, PARTS, Part, Point, Section};
use super::random::{cosine, sine};

/// Distance between hatch lines, mm.
const HATCH_MM: f64 = 0.11;
/// The hatch stays this far inside the contour, mm.
const INSET_MM: f64 = 0.06;
/// Speed along contours, mm/s.
const CONTOUR_MM_S: f64 = 500.0;
/// Speed with the laser off, mm/s.
const JUMP_MM_S: f64 = 5000.0;
/// What the mirrors need to settle after a jump or turn, ns.
const SETTLE_NS: i64 = 400_000;
/// What the recoater needs, ns.
const RECOAT_NS: i64 = 1_200_000_000;
/// Where the mirrors look while the recoater works, mm.
const PARKED: Point = [5.0, 5.0];

/// What the laser is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// Exposing an outline.
    Contour,
    /// Exposing a hatch line.
    Hatch,
    /// On the way to the next line, laser off.
    Jump,
    /// Waiting for powder, laser off.
    Recoat,
}

/// Where the laser is at an instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// mm
    pub at: Point,
    /// From 1.
    pub layer: u32,
    /// Index into [`PARTS`].
    pub part: Option<usize>,
    /// What it is doing.
    pub motion: Motion,
    /// mm/s; 0 while waiting.
    pub speed_mm_s: f64,
    /// Since the laser was beside this place, on the neighbouring line before the turn, s.
    pub since_neighbour_s: Option<f64>,
    /// To the end of the line, mm.
    pub to_end_mm: f64,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    motion: Motion,
    part: Option<usize>,
    from: Point,
    to: Point,
    length_mm: f64,
    duration_ns: i64,
    /// It follows a line beside it.
    turned: bool,
}

/// How far the hatch turns from a layer to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// 67°: the pattern repeats only after 360 layers.
    #[default]
    Degrees67,
    /// 90°.
    Degrees90,
}

impl Rotation {
    /// The angle of the hatch in `layer`, degrees from the x axis.
    pub const fn degrees(self, layer: u32) -> u32 {
        let step = match self {
            Self::Degrees67 => 67,
            Self::Degrees90 => 90,
        };
        (layer % 360) * step % 360
    }
}

/// The way of the laser, a layer planned at a time.
#[derive(Debug, Clone)]
pub struct Path {
    rotation: Rotation,
    thickness_mm: f64,
    layer: u32,
    segments: Vec<Segment>,
    current: usize,
    into_ns: i64,
}

impl Path {
    /// At the beginning of `layer` (from 1 to the top).
    pub fn new(rotation: Rotation, thickness_mm: f64, layer: u32) -> Self {
        let layer = layer.clamp(1, top(thickness_mm));
        let mut path = Self { rotation, thickness_mm, layer, segments: Vec::new(), current: 0, into_ns: 0 };
        path.plan();
        path
    }

    /// Where the laser is now.
    pub fn place(&self) -> Place {
        let segment = &self.segments[self.current];
        let share = self.into_ns as f64 / segment.duration_ns as f64;
        let along = |axis: usize| segment.from[axis] + (segment.to[axis] - segment.from[axis]) * share;
        let speed_mm_s = segment.length_mm / (segment.duration_ns as f64 * 1e-9);
        let since_neighbour_s = segment.turned.then(|| (2 * self.into_ns + SETTLE_NS) as f64 * 1e-9);
        Place {
            at: [along(0), along(1)],
            layer: self.layer,
            part: segment.part,
            motion: segment.motion,
            speed_mm_s,
            since_neighbour_s,
            to_end_mm: segment.length_mm * (1.0 - share),
        }
    }

    /// Moves on by `step_ns`, which is not negative.
    pub fn advance(&mut self, step_ns: i64) {
        self.into_ns += step_ns;
        while self.into_ns >= self.segments[self.current].duration_ns {
            self.into_ns -= self.segments[self.current].duration_ns;
            self.current += 1;
            if self.current == self.segments.len() {
                self.layer = self.layer % top(self.thickness_mm) + 1;
                self.plan();
            }
        }
    }

    fn plan(&mut self) {
        self.segments.clear();
        self.current = 0;
        let turns = f64::from(self.rotation.degrees(self.layer)) / 360.0;
        let direction = [cosine(turns), sine(turns)];
        for (index, part) in PARTS.iter().enumerate() {
            let section = part.section(f64::from(self.layer) * self.thickness_mm);
            self.contour(index, &section);
            self.hatch(index, part, &section, direction);
        }
        let from = self.segments.last().map_or(PARKED, |last| last.to);
        let park = Segment { motion: Motion::Recoat, part: None, turned: false, ..line(from, PARKED, JUMP_MM_S) };
        self.segments.push(park);
        self.segments.push(Segment { from: PARKED, length_mm: 0.0, duration_ns: RECOAT_NS, ..park });
    }

    fn contour(&mut self, index: usize, section: &Section) {
        let corners = section.outline();
        let closed = corners.iter().cycle().skip(1);
        for (from, to) in corners.iter().zip(closed) {
            if from == &corners[0] {
                self.jump(index, *from, false);
            }
            self.segments.push(Segment { motion: Motion::Contour, part: Some(index), ..line(*from, *to, CONTOUR_MM_S) });
        }
    }

    fn hatch(&mut self, index: usize, part: &Part, section: &Section, direction: Point) {
        let area = section.shrunk(INSET_MM);
        let lines = (area.reach_mm() / HATCH_MM) as i32;
        let mut turned = false;
        for number in -lines..=lines {
            let Some(mut ends) = area.chord(direction, f64::from(number) * HATCH_MM) else { continue };
            if number % 2 != 0 {
                ends.reverse();
            }
            self.jump(index, ends[0], turned);
            let exposed = line(ends[0], ends[1], part.hatch_mm_s);
            self.segments.push(Segment { motion: Motion::Hatch, part: Some(index), turned, ..exposed });
            turned = true;
        }
    }

    fn jump(&mut self, index: usize, to: Point, turned: bool) {
        let from = self.segments.last().map_or(PARKED, |last| last.to);
        let mut jump = line(from, to, JUMP_MM_S);
        jump.duration_ns = if turned { SETTLE_NS } else { jump.duration_ns + SETTLE_NS };
        self.segments.push(Segment { motion: Motion::Jump, part: Some(index), ..jump });
    }
}

/// The last layer of a build.
fn top(thickness_mm: f64) -> u32 {
    ((HEIGHT_MM / thickness_mm) as u32).max(1)
}

fn line(from: Point, to: Point, speed_mm_s: f64) -> Segment {
    let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    let length_mm = (dx * dx + dy * dy).sqrt();
    let duration_ns = ((length_mm / speed_mm_s * 1e9) as i64).max(1);
    Segment { motion: Motion::Jump, part: None, from, to, length_mm, duration_ns, turned: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directions of the hatch lines of a layer, degrees in [0, 180).
    fn hatch_degrees(path: &Path) -> Vec<f64> {
        let hatch = path.segments.iter().filter(|segment| segment.motion == Motion::Hatch && segment.length_mm > 1.0);
        hatch.map(|line| (line.to[1] - line.from[1]).atan2(line.to[0] - line.from[0]).to_degrees().rem_euclid(180.0)).collect()
    }

    #[test]
    fn each_layer_is_hatched_67_degrees_further() {
        for layer in [1, 2, 3, 100, 359, 360, 361] {
            let expected = f64::from(layer * 67 % 180);
            let degrees = hatch_degrees(&Path::new(Rotation::Degrees67, 0.04, layer));
            assert!(degrees.len() > 100);
            assert!(
                degrees.iter().all(|degrees| (degrees - expected).abs() < 1e-6 || (degrees - expected).abs() > 179.99),
                "{layer}"
            );
        }
        assert_eq!([1, 2, 3, 4].map(|layer| Rotation::Degrees90.degrees(layer)), [90, 180, 270, 0]);
    }

    #[test]
    fn exposure_stays_inside_its_part_at_the_speeds_stated() {
        let path = Path::new(Rotation::Degrees67, 0.04, 17);
        for segment in &path.segments {
            let speed = segment.length_mm / (segment.duration_ns as f64 * 1e-9);
            match segment.motion {
                Motion::Hatch => assert!((500.0..=1200.0).contains(&speed), "{speed}"),
                Motion::Contour => assert!((speed - CONTOUR_MM_S).abs() < 1.0),
                Motion::Jump | Motion::Recoat => continue,
            }
            let section = PARTS[segment.part.unwrap()].section(17.0 * 0.04).shrunk(-1e-9);
            assert!(section.contains(segment.from) && section.contains(segment.to));
        }
    }

    #[test]
    fn the_way_has_no_gaps_and_layers_follow_each_other() {
        let mut path = Path::new(Rotation::Degrees67, 0.04, 1);
        for pair in path.segments.windows(2) {
            assert_eq!(pair[0].to, pair[1].from);
        }
        let layer_s = path.segments.iter().map(|segment| segment.duration_ns).sum::<i64>() as f64 * 1e-9;
        assert!((3.0..10.0).contains(&layer_s), "{layer_s}");
        let mut layers = vec![1];
        for _ in 0..4000 {
            path.advance(10_000_000);
            if layers.last() != Some(&path.layer) {
                layers.push(path.layer);
            }
        }
        assert!(layers.len() > 5 && layers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{layers:?}");
        let mut top = Path::new(Rotation::Degrees67, 0.04, 1500);
        top.advance(20_000_000_000);
        assert!(top.layer < 10);
    }
}
