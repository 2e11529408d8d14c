//! Several signals as one: Hotelling's T², its limits in both phases, each signal's contribution, and principal components.
//!
//! `T² = (x − x̄)ᵀ S⁻¹ (x − x̄)`, by the inverse of the Cholesky factor of S. Limits for single rows, `m` baseline rows, `p` signals
//! (Tracy, Young and Mason 1992):
//!
//! - Phase I: `(m−1)²/m · Beta(α; p/2, (m−p−1)/2)`
//! - Phase II: `p(m+1)(m−1) / (m(m−p)) · F(α; p, m−p)`; with known parameters, chi-square with `p` degrees of freedom.
//!
//! The contribution of a signal is what T² would lose without it (Runger, Alt and Montgomery 1996): `(S⁻¹d)ⱼ² / (S⁻¹)ⱼⱼ`.

use serde::{Deserialize, Serialize};

use super::distribution::{beta_upper, chi_square_upper, f_upper};

/// A pivot below this fraction of its variance means that the signal follows from those before it.
const PIVOT_MIN: f64 = 1e-10;

/// A centre and a covariance that can be divided by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ellipsoid {
    center: Vec<f64>,
    /// Rows of the inverse of the lower Cholesky factor, each up to its diagonal.
    whitening: Vec<f64>,
}

impl Ellipsoid {
    /// From a centre and a covariance (row by row).
    ///
    /// # Errors
    /// The first signal that is constant, follows from the ones before it, or breaks the symmetry.
    pub fn new(center: Vec<f64>, covariance: &[f64]) -> Result<Self, usize> {
        let p = center.len();
        if covariance.len() != p * p {
            return Err(0);
        }
        let mut factor = vec![0.0; p * p];
        for row in 0..p {
            for column in 0..=row {
                let (here, mirrored) = (covariance[row * p + column], covariance[column * p + row]);
                let dot: f64 = (0..column).map(|k| factor[row * p + k] * factor[column * p + k]).sum();
                let rest = here - dot;
                if !rest.is_finite() || (here - mirrored).abs() > 1e-9 * (here.abs() + mirrored.abs()) {
                    return Err(row);
                }
                factor[row * p + column] = if row != column {
                    rest / factor[column * p + column]
                } else if here > 0.0 && rest > PIVOT_MIN * here {
                    rest.sqrt()
                } else {
                    return Err(row);
                };
            }
        }
        Ok(Self { center, whitening: inverse_of_lower(&factor, p) })
    }

    /// How many signals.
    pub fn signals(&self) -> usize {
        self.center.len()
    }

    /// The centre.
    pub fn center(&self) -> &[f64] {
        &self.center
    }

    /// Whether the parts fit each other; a snapshot from elsewhere might not.
    pub fn is_consistent(&self) -> bool {
        let p = self.center.len();
        self.whitening.len() == p * (p + 1) / 2
    }

    /// Squared distance of `offset` (already relative to the centre) in units of the covariance.
    #[inline]
    pub fn square(&self, offset: &[f64]) -> f64 {
        let mut sum = 0.0;
        let mut rest = self.whitening.as_slice();
        for row in 1..=offset.len() {
            let Some((weights, after)) = rest.split_at_checked(row) else { return f64::NAN };
            let value: f64 = weights.iter().zip(offset).map(|(a, b)| a * b).sum();
            sum += value * value;
            rest = after;
        }
        sum
    }

    /// What T² of `offset` would lose without each signal.
    pub fn contributions(&self, offset: &[f64]) -> Vec<f64> {
        let p = self.center.len();
        let row = |i: usize| &self.whitening[i * (i + 1) / 2..(i + 1) * (i + 2) / 2];
        let whitened: Vec<f64> = (0..p).map(|i| row(i).iter().zip(offset).map(|(a, b)| a * b).sum()).collect();
        (0..p)
            .map(|j| {
                let weighted: f64 = (j..p).map(|i| row(i)[j] * whitened[i]).sum();
                let diagonal: f64 = (j..p).map(|i| row(i)[j] * row(i)[j]).sum();
                weighted * weighted / diagonal
            })
            .collect()
    }
}

/// The inverse of a lower triangle, packed by rows.
fn inverse_of_lower(factor: &[f64], p: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; p * p];
    for column in 0..p {
        for row in column..p {
            let unit = if row == column { 1.0 } else { 0.0 };
            let dot: f64 = (column..row).map(|k| factor[row * p + k] * inverse[k * p + column]).sum();
            inverse[row * p + column] = (unit - dot) / factor[row * p + row];
        }
    }
    (0..p).flat_map(|row| inverse[row * p..=row * p + row].to_vec()).collect()
}

/// Mean and covariance (divided by n − 1, row by row) of rows of `p` values.
pub fn covariance(rows: &[f64], p: usize) -> (Vec<f64>, Vec<f64>) {
    let m = rows.len() / p.max(1);
    let mut mean = vec![0.0; p];
    for row in rows.chunks_exact(p.max(1)) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / m as f64);
    }
    let mut matrix = vec![0.0; p * p];
    for row in rows.chunks_exact(p.max(1)) {
        for i in 0..p {
            for j in 0..p {
                matrix[i * p + j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (m as f64 - 1.0);
            }
        }
    }
    (mean, matrix)
}

/// The T² limit for the `m` baseline rows themselves.
pub fn phase_1_limit(m: usize, p: usize, alpha: f64) -> f64 {
    let (m, p) = (m as f64, p as f64);
    (m - 1.0) * (m - 1.0) / m * beta_upper(alpha, p / 2.0, (m - p - 1.0) / 2.0)
}

/// The T² limit for new rows, with centre and covariance from `m` baseline rows.
pub fn phase_2_limit(m: usize, p: usize, alpha: f64) -> f64 {
    let (m, p) = (m as f64, p as f64);
    p * (m + 1.0) * (m - 1.0) / (m * (m - p)) * f_upper(alpha, p, m - p)
}

/// The T² limit with known centre and covariance.
pub fn known_limit(p: usize, alpha: f64) -> f64 {
    chi_square_upper(alpha, p as f64)
}

/// A direction in which signals vary together.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Variance along it.
    pub variance: f64,
    /// Its share of the whole variance.
    pub share: f64,
    /// Weight of each signal; length 1, the largest weight positive.
    pub weights: Vec<f64>,
}

/// Principal components of a covariance (row by row), the largest first: Jacobi rotations.
pub fn principal_components(matrix: &[f64], p: usize) -> Vec<Component> {
    let mut a = matrix.to_vec();
    let mut vectors: Vec<f64> = (0..p * p).map(|i| f64::from(u8::from(i / p == i % p))).collect();
    for _sweep in 0..64 {
        let off: f64 = (0..p).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * p + j].abs()).sum();
        if off == 0.0 {
            break;
        }
        for i in 0..p {
            for j in i + 1..p {
                rotate(&mut a, &mut vectors, p, i, j);
            }
        }
    }
    let total: f64 = (0..p).map(|i| a[i * p + i]).sum();
    let mut components: Vec<Component> = (0..p)
        .map(|column| {
            let mut weights: Vec<f64> = (0..p).map(|row| vectors[row * p + column]).collect();
            let largest = weights.iter().copied().fold(0.0, |best: f64, w| if w.abs() > best.abs() { w } else { best });
            if largest < 0.0 {
                for weight in &mut weights {
                    *weight = -*weight;
                }
            }
            let variance = a[column * p + column];
            Component { variance, share: variance / total, weights }
        })
        .collect();
    components.sort_by(|a, b| b.variance.total_cmp(&a.variance));
    components
}

/// One Jacobi rotation that makes element (i, j) zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], p: usize, i: usize, j: usize) {
    let off = a[i * p + j];
    if off == 0.0 {
        return;
    }
    let theta = (a[j * p + j] - a[i * p + i]) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..p {
        let (x, y) = (a[k * p + i], a[k * p + j]);
        (a[k * p + i], a[k * p + j]) = (c * x - s * y, s * x + c * y);
        let (x, y) = (vectors[k * p + i], vectors[k * p + j]);
        (vectors[k * p + i], vectors[k * p + j]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..p {
        let (x, y) = (a[i * p + k], a[j * p + k]);
        (a[i * p + k], a[j * p + k]) = (c * x - s * y, s * x + c * y);
    }
    (a[i * p + j], a[j * p + i]) = (0.0, 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_that_of_the_inverse_covariance() {
        let ellipsoid = Ellipsoid::new(vec![0.0, 0.0], &[4.0, 1.0, 1.0, 2.0]).unwrap();
        // S⁻¹ = [[2, −1], [−1, 4]] / 7
        let want = (2.0 * 9.0 + 2.0 * 3.0 * 2.0 + 4.0 * 4.0) / 7.0;
        assert!((ellipsoid.square(&[3.0, -2.0]) - want).abs() < 1e-12);
        // Dropping the second signal leaves 9 / 4, dropping the first 4 / 2.
        let parts = ellipsoid.contributions(&[3.0, -2.0]);
        assert!((parts[1] - (want - 9.0 / 4.0)).abs() < 1e-12, "{parts:?}");
        assert!((parts[0] - (want - 4.0 / 2.0)).abs() < 1e-12, "{parts:?}");
    }

    #[test]
    fn a_signal_that_follows_from_another_is_named() {
        assert_eq!(Ellipsoid::new(vec![0.0; 2], &[1.0, 2.0, 2.0, 4.0]), Err(1));
        assert_eq!(Ellipsoid::new(vec![0.0; 2], &[0.0, 0.0, 0.0, 4.0]), Err(0));
        assert_eq!(Ellipsoid::new(vec![0.0; 2], &[1.0, f64::NAN, f64::NAN, 4.0]), Err(1));
    }

    #[test]
    fn components_are_the_eigenvectors() {
        let parts = principal_components(&[2.0, 1.0, 1.0, 2.0], 2);
        assert!((parts[0].variance - 3.0).abs() < 1e-12 && (parts[1].variance - 1.0).abs() < 1e-12);
        assert!((parts[0].weights[0] - parts[0].weights[1]).abs() < 1e-12);
        assert!((parts[0].share - 0.75).abs() < 1e-12);
    }

    #[test]
    fn phase_2_is_wider_than_phase_1() {
        assert!(phase_2_limit(30, 4, 0.0027) > known_limit(4, 0.0027));
        assert!(phase_1_limit(30, 4, 0.0027) < known_limit(4, 0.0027));
    }
}
