//! One axis of a grid: millimetres to voxel indices, exact at decimal faces.
//!
//! A coordinate is rounded to integer picometres and then divided with a floor, so 0.3 mm at 0.1 mm is voxel 3 (in binary fractions
//! 0.3 / 0.1 is below 3), −0.0001 mm is voxel −1, and what firmware counts in whole nanometres stays whole. The arithmetic is in `f64`, whose
//! integers are exact up to 2⁵³: rounding by adding 1.5·2⁵² (the low bits are then the integer), the quotient as the nearest integer to
//! the product with the reciprocal, one too large where the exact remainder is negative. Neither a division nor a branch: it becomes
//! SIMD.

use super::GridError;

/// Picometres in a millimetre.
const PM_PER_MM: f64 = 1e9;
/// Adding and subtracting this rounds a number below 2⁵¹ to the nearest integer; its low bits then hold the integer.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// Beyond this (about a kilometre) coordinates are refused: all sums below stay under 2⁵¹.
const REACH_PM: f64 = (1_u64 << 50) as f64;

/// Where an axis begins and ends, and its pitch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    origin_pm: f64,
    voxel_pm: f64,
    per_voxel: f64,
    /// Faces of the box, from the origin; and the last coordinate below the upper one.
    lower_pm: f64,
    upper_pm: f64,
    inner_pm: f64,
    /// Index of the first and the last voxel.
    first: f64,
    last: f64,
}

impl Axis {
    /// An axis whose voxel 0 begins at `origin_mm`. With a size it has voxels 0 to ⌈size / voxel⌉ − 1 and takes coordinates from the
    /// origin to origin + size, both inclusive; without one it reaches `voxels_max / 2` voxels to either side.
    ///
    /// # Errors
    /// A voxel or size that is not positive or not finite, an origin out of reach, more than `voxels_max` voxels.
    pub fn new(origin_mm: f64, size_mm: Option<f64>, voxel_mm: f64, voxels_max: u64) -> Result<Self, GridError> {
        let origin_pm = to_pm(origin_mm);
        let voxel_pm = to_pm(voxel_mm);
        if !(voxel_mm.is_finite() && (1.0..REACH_PM).contains(&voxel_pm)) {
            return Err(GridError::NotPositive { what: "voxel", value: voxel_mm });
        }
        if !(origin_mm.is_finite() && origin_pm.abs() < REACH_PM) {
            return Err(GridError::OutOfReach { what: "origin", value: origin_mm });
        }
        let axis = |lower_pm, upper_pm, first, last| Self {
            origin_pm,
            voxel_pm,
            per_voxel: 1.0 / voxel_pm,
            lower_pm,
            upper_pm,
            inner_pm: upper_pm - 1.0,
            first,
            last,
        };
        let Some(size_mm) = size_mm else {
            let half = ((voxels_max / 2) as f64).min((REACH_PM / voxel_pm).floor());
            return Ok(axis(-half * voxel_pm, half * voxel_pm, -half, half - 1.0));
        };
        let size_pm = to_pm(size_mm);
        if !(size_mm.is_finite() && size_pm >= 1.0) {
            return Err(GridError::NotPositive { what: "size", value: size_mm });
        }
        if size_pm >= REACH_PM {
            return Err(GridError::OutOfReach { what: "size", value: size_mm });
        }
        let voxels = (size_pm / voxel_pm).ceil();
        if voxels > voxels_max as f64 {
            return Err(GridError::TooManyVoxels { voxels: voxels as u128, voxels_max });
        }
        Ok(axis(0.0, size_pm, 0.0, voxels - 1.0))
    }

    /// The voxel that holds `mm`, and whether the box does; if not (or not finite), the index means nothing.
    #[inline]
    #[expect(clippy::needless_bitwise_bool, reason = "a branch would keep the loop over rows from being vectorised")]
    pub(super) fn locate(&self, mm: f64) -> (i64, bool) {
        // Both sums are whole and below 2⁵³, so their difference is exact.
        let from_origin = (mm * PM_PER_MM + ROUND) - (self.origin_pm + ROUND);
        let inside = (from_origin >= self.lower_pm) & (from_origin <= self.upper_pm);
        let within = if from_origin > self.inner_pm { self.inner_pm } else { from_origin };
        let near = within * self.per_voxel + ROUND;
        let is_above = within < (near - ROUND) * self.voxel_pm;
        (near.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_sub(u64::from(is_above)) as i64, inside)
    }

    /// The voxel that holds `mm`: floor, but the upper face of the box belongs to the last voxel. `None` outside.
    pub fn index(&self, mm: f64) -> Option<i32> {
        let (index, inside) = self.locate(mm);
        inside.then_some(index as i32)
    }

    /// Where `mm` lies in units of voxels from the origin; for weights, not for indices.
    pub(super) fn fraction(&self, mm: f64) -> f64 {
        ((mm * PM_PER_MM).round() - self.origin_pm) / self.voxel_pm
    }

    /// Whether voxel `index` is one of the axis.
    pub fn contains(&self, index: i32) -> bool {
        (self.first..=self.last).contains(&f64::from(index))
    }

    /// Voxels along the axis.
    pub fn voxels(&self) -> u64 {
        (self.last - self.first) as u64 + 1
    }

    /// The indices, first and last.
    pub fn range(&self) -> (i32, i32) {
        (self.first as i32, self.last as i32)
    }

    /// Edge length of a voxel, mm.
    pub fn voxel_mm(&self) -> f64 {
        self.voxel_pm / PM_PER_MM
    }

    /// The lower face of voxel `index`, mm.
    pub fn lower_mm(&self, index: i32) -> f64 {
        (self.origin_pm + f64::from(index) * self.voxel_pm) / PM_PER_MM
    }

    /// The centre of voxel `index`, mm.
    pub fn center_mm(&self, index: i32) -> f64 {
        (self.origin_pm + (f64::from(index) + 0.5) * self.voxel_pm) / PM_PER_MM
    }

    /// The voxels whose centres lie from `lower_mm` to `upper_mm`, both inclusive; none if a bound is not a number.
    pub(super) fn centers_within(&self, lower_mm: f64, upper_mm: f64) -> std::ops::RangeInclusive<i32> {
        let lowest = (self.fraction(lower_mm) - 0.5).ceil().max(self.first);
        let highest = (self.fraction(upper_mm) - 0.5).floor().min(self.last);
        if lowest <= highest { lowest as i32..=highest as i32 } else { std::ops::RangeInclusive::new(1, 0) }
    }

    /// The same stretch in voxels `ratio` times as long.
    pub(super) fn coarser(&self, ratio: i32) -> Self {
        let ratio = f64::from(ratio);
        let voxel_pm = self.voxel_pm * ratio;
        Self {
            voxel_pm,
            per_voxel: 1.0 / voxel_pm,
            first: (self.first / ratio).floor(),
            last: (self.last / ratio).floor(),
            ..*self
        }
    }

    /// Whether both axes have the same voxels.
    pub(super) fn has_voxels_of(&self, other: &Self) -> bool {
        self.origin_pm == other.origin_pm && self.voxel_pm == other.voxel_pm
    }
}

fn to_pm(mm: f64) -> f64 {
    (mm * PM_PER_MM).round()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1 << 25;

    #[test]
    fn floor_equals_integer_division() {
        for voxel_pm in [1_i64, 3, 62_500_000, 100_000_000, 333_333_333] {
            let axis = Axis::new(0.0, None, voxel_pm as f64 / PM_PER_MM, MAX).unwrap();
            for step in -2000_i64..2000 {
                for pm in [step, step * voxel_pm, step * voxel_pm - 1, step * voxel_pm + 1, step * 777_777] {
                    let want = pm.div_euclid(voxel_pm);
                    let got = axis.index(pm as f64 / PM_PER_MM);
                    if want.unsigned_abs() < MAX / 2 {
                        assert_eq!(got.map(i64::from), Some(want), "{pm} / {voxel_pm}");
                    }
                }
            }
        }
    }

    #[test]
    fn upper_face_belongs_to_the_last_voxel_and_nothing_beyond() {
        let axis = Axis::new(0.0, Some(10.0), 3.0, MAX).unwrap();
        assert_eq!(axis.voxels(), 4);
        for (mm, want) in [(0.0, Some(0)), (9.0, Some(3)), (10.0, Some(3)), (10.000_000_001, None), (-0.000_000_001, None)] {
            assert_eq!(axis.index(mm), want, "{mm}");
        }
        for mm in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 1e300] {
            assert_eq!(axis.index(mm), None, "{mm}");
        }
    }

    #[test]
    fn impossible_axes_are_refused() {
        for (origin, size, voxel) in [
            (0.0, Some(10.0), 0.0),
            (0.0, Some(10.0), -1.0),
            (0.0, Some(10.0), f64::NAN),
            (0.0, Some(0.0), 1.0),
            (0.0, Some(f64::INFINITY), 1.0),
            (f64::NAN, Some(1.0), 1.0),
            (1e12, Some(1.0), 1.0),
            (0.0, Some(1e5), 1e-4),
        ] {
            assert!(Axis::new(origin, size, voxel, MAX).is_err(), "{origin} {size:?} {voxel}");
        }
    }
}
