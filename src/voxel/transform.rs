//! Rigid transforms with a scale, forwards: a point of the sensor's frame to the build's.
//!
//! `build = R · (scale · sensor) + translate`, with `R = Rz·Ry·Rx` of the three angles (first about x, then y, then z, all
//! about fixed axes) or a turn about one axis (Rodrigues). Right angles are exact: their sines are set, not computed.

use super::GridError;

/// Three rows of three.
pub type Matrix = [[f64; 3]; 3];

const IDENTITY: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

/// From one frame to another. Never degenerate: the scale is positive and finite, the rotation proper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    rotation: Matrix,
    scale: f64,
    translate: [f64; 3],
    /// How much of the work a point needs.
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Nothing,
    ScaleAndMove,
    Everything,
}

impl Transform {
    /// The frame itself.
    pub const IDENTITY: Self = Self { rotation: IDENTITY, scale: 1.0, translate: [0.0; 3], work: Work::Nothing };

    /// Scales, turns by `rotate_degrees` about x, then y, then z (`Rz·Ry·Rx`), and moves by `translate_mm`.
    ///
    /// # Errors
    /// A number that is not finite, or a scale that is not positive.
    pub fn from_euler(translate_mm: [f64; 3], rotate_degrees: [f64; 3], scale: f64) -> Result<Self, GridError> {
        finite("rotate", &rotate_degrees)?;
        let [x, y, z] = rotate_degrees.map(sin_cos);
        let about_x = [[1.0, 0.0, 0.0], [0.0, x.1, -x.0], [0.0, x.0, x.1]];
        let about_y = [[y.1, 0.0, y.0], [0.0, 1.0, 0.0], [-y.0, 0.0, y.1]];
        let about_z = [[z.1, -z.0, 0.0], [z.0, z.1, 0.0], [0.0, 0.0, 1.0]];
        Self::new(translate_mm, product(&about_z, &product(&about_y, &about_x)), scale)
    }

    /// Scales, turns by `degrees` about `axis` (of any length but 0; right-handed), and moves by `translate_mm`.
    ///
    /// # Errors
    /// A number that is not finite, an axis of length 0, or a scale that is not positive.
    pub fn from_axis_angle(translate_mm: [f64; 3], axis: [f64; 3], degrees: f64, scale: f64) -> Result<Self, GridError> {
        finite("rotate", &[degrees])?;
        finite("axis", &axis)?;
        let length = axis.iter().map(|part| part * part).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(GridError::Degenerate { what: "axis", value: length });
        }
        let [x, y, z] = axis.map(|part| part / length);
        let (sin, cos) = sin_cos(degrees);
        let rest = 1.0 - cos;
        let rotation = [
            [cos + x * x * rest, x * y * rest - z * sin, x * z * rest + y * sin],
            [y * x * rest + z * sin, cos + y * y * rest, y * z * rest - x * sin],
            [z * x * rest - y * sin, z * y * rest + x * sin, cos + z * z * rest],
        ];
        Self::new(translate_mm, rotation, scale)
    }

    fn new(translate: [f64; 3], rotation: Matrix, scale: f64) -> Result<Self, GridError> {
        finite("translate", &translate)?;
        // The inverse of a subnormal scale would not be finite.
        if !(scale.is_normal() && scale > 0.0 && (1.0 / scale).is_finite()) {
            return Err(GridError::Degenerate { what: "scale", value: scale });
        }
        Ok(Self::assembled(translate, rotation, scale))
    }

    fn assembled(translate: [f64; 3], rotation: Matrix, scale: f64) -> Self {
        let work = match (rotation == IDENTITY, scale == 1.0 && translate == [0.0; 3]) {
            (true, true) => Work::Nothing,
            (true, false) => Work::ScaleAndMove,
            (false, _) => Work::Everything,
        };
        Self { rotation, scale, translate, work }
    }

    /// The point in the target frame.
    pub fn apply(&self, point: [f64; 3]) -> [f64; 3] {
        let [x, y, z] = point.map(|part| part * self.scale);
        std::array::from_fn(|row| {
            let [a, b, c] = self.rotation[row];
            a * x + b * y + c * z + self.translate[row]
        })
    }

    /// Writes the points `x[i], y[i], z[i]` of equal number in the target frame to `into`, whose axes are at least as long; `false`
    /// (and nothing written) if that frame is this one.
    pub(super) fn apply_all(&self, from: [&[f64]; 3], into: [&mut [f64]; 3]) -> bool {
        match self.work {
            Work::Nothing => return false,
            Work::ScaleAndMove => {
                for ((from, into), by) in from.into_iter().zip(into).zip(self.translate) {
                    into.iter_mut().zip(from).for_each(|(into, from)| *into = from * self.scale + by);
                }
            }
            Work::Everything => {
                for (at, ((x, y), z)) in from[0].iter().zip(from[1]).zip(from[2]).enumerate() {
                    let point = self.apply([*x, *y, *z]);
                    for axis in 0..3 {
                        into[axis][at] = point[axis];
                    }
                }
            }
        }
        true
    }

    /// The way back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let rotation: Matrix = std::array::from_fn(|row| std::array::from_fn(|column| self.rotation[column][row]));
        let scale = 1.0 / self.scale;
        let turned = Self::assembled([0.0; 3], rotation, scale).apply(self.translate);
        Self::assembled(turned.map(|part| -part), rotation, scale)
    }

    /// First this, then `next`.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        Self::assembled(next.apply(self.translate), product(&next.rotation, &self.rotation), self.scale * next.scale)
    }
}

fn product(left: &Matrix, right: &Matrix) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| (0..3).map(|at| left[row][at] * right[at][column]).sum()))
}

/// Sine and cosine of an angle in degrees, exact at right angles.
fn sin_cos(degrees: f64) -> (f64, f64) {
    let turned = degrees.rem_euclid(360.0);
    match turned {
        0.0 => (0.0, 1.0),
        90.0 => (1.0, 0.0),
        180.0 => (0.0, -1.0),
        270.0 => (-1.0, 0.0),
        _ => turned.to_radians().sin_cos(),
    }
}

fn finite(what: &'static str, values: &[f64]) -> Result<(), GridError> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(GridError::Degenerate { what, value: *value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: [f64; 3], right: [f64; 3]) -> bool {
        left.iter().zip(right).all(|(left, right)| (left - right).abs() < 1e-9)
    }

    #[test]
    fn points_move_forwards_in_the_order_scale_x_y_z_translate() {
        let check = |rotate, point, want| {
            let got = Transform::from_euler([1.0, 2.0, 3.0], rotate, 2.0).unwrap().apply(point);
            assert_eq!(got, want, "{rotate:?} {point:?}");
        };
        check([0.0; 3], [1.0, 1.0, 1.0], [3.0, 4.0, 5.0]);
        check([0.0, 0.0, 90.0], [1.0, 0.0, 0.0], [1.0, 4.0, 3.0]);
        check([90.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 2.0, 5.0]);
        // First about x (y becomes z), then about z (z stays).
        check([90.0, 0.0, 90.0], [0.0, 1.0, 0.0], [1.0, 2.0, 5.0]);
        // First about x (z becomes -y), then about z (-y becomes x).
        check([90.0, 0.0, 90.0], [0.0, 0.0, 1.0], [3.0, 2.0, 3.0]);
        check([0.0, 90.0, 0.0], [0.0, 0.0, 1.0], [3.0, 2.0, 3.0]);
    }

    #[test]
    fn the_inverse_leads_back() {
        let there = Transform::from_euler([10.0, -20.0, 0.5], [12.0, -47.0, 201.0], 0.25).unwrap();
        for point in [[0.0; 3], [1.0, 2.0, 3.0], [-250.0, 0.04, 325.0]] {
            assert!(close(there.inverse().apply(there.apply(point)), point));
            assert!(close(there.then(&there.inverse()).apply(point), point));
        }
    }

    #[test]
    fn an_angle_about_an_axis_is_the_same_turn() {
        let euler = Transform::from_euler([0.0; 3], [0.0, 30.0, 0.0], 1.0).unwrap();
        let turn = Transform::from_axis_angle([0.0; 3], [0.0, 5.0, 0.0], 30.0, 1.0).unwrap();
        assert!(close(euler.apply([1.0, 2.0, 3.0]), turn.apply([1.0, 2.0, 3.0])));
    }

    #[test]
    fn degenerate_transforms_are_refused() {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320] {
            assert!(Transform::from_euler([0.0; 3], [0.0; 3], scale).is_err(), "{scale}");
        }
        assert!(Transform::from_euler([f64::NAN, 0.0, 0.0], [0.0; 3], 1.0).is_err());
        assert!(Transform::from_euler([0.0; 3], [f64::INFINITY, 0.0, 0.0], 1.0).is_err());
        assert!(Transform::from_axis_angle([0.0; 3], [0.0; 3], 10.0, 1.0).is_err());
    }

    #[test]
    fn one_at_a_time_and_all_at_once_agree() {
        let rows = ([1.0, -3.5], [2.0, 4.25], [3.0, 0.0]);
        for rotate in [[0.0; 3], [10.0, 20.0, 30.0]] {
            let transform = Transform::from_euler([0.5, 0.0, -1.0], rotate, 1.5).unwrap();
            let (mut x, mut y, mut z) = ([0.0; 2], [0.0; 2], [0.0; 2]);
            assert!(transform.apply_all([&rows.0, &rows.1, &rows.2], [&mut x, &mut y, &mut z]));
            for row in 0..2 {
                assert!(close([x[row], y[row], z[row]], transform.apply([rows.0[row], rows.1[row], rows.2[row]])));
            }
        }
    }
}
