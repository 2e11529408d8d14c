//! The constants that turn an average range or standard deviation into sigma: d2, d3, c4 and what follows from them.
//!
//! Computed for every subgroup size from 2 to 100, not copied from a printed table (those have three digits and misprints, such as B3
//! for n = 6, 7, 9, 10). For a sample of `n` from a normal law with sigma 1, `d2` and `d3` are mean and standard deviation of the
//! range W, and `c4` is the mean of the standard deviation S (divided by n − 1):
//!
//! - density of W: `n (n−1) ∫ [Φ(t + w/2) − Φ(t − w/2)]^(n−2) φ(t − w/2) φ(t + w/2) dt`. The inner integral is a trapezoidal sum, which
//!   converges faster than any power for such integrands; the outer one is Gauss–Legendre in four panels.
//! - `c4(n) = √(2/(n−1)) Γ(n/2) / Γ((n−1)/2)` by the exact recursion of the ratio of gamma functions.
//!
//! Letters as in Montgomery, *Introduction to Statistical Quality Control*, appendix VI, and ASTM E2587.

use std::sync::LazyLock;

use super::distribution::{gauss_legendre, normal_above, normal_density};

/// The largest subgroup that has range constants.
pub const SUBGROUP_ROWS_MAX: usize = 100;
/// Median of the range of two values of a normal law with sigma 1: √2 Φ⁻¹(3/4).
pub const D4_OF_TWO: f64 = 0.953_872_552_408_990_8;

/// The basic constants of one subgroup size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Rows in a subgroup.
    pub n: usize,
    /// Mean of the standard deviation, in sigma.
    pub c4: f64,
    /// Mean of the range, in sigma.
    pub d2: f64,
    /// Standard deviation of the range, in sigma.
    pub d3: f64,
}

/// The letters of the printed tables, for limits at three sigma.
#[allow(missing_docs)]
impl Constants {
    pub fn a(&self) -> f64 {
        3.0 / (self.n as f64).sqrt()
    }
    pub fn a2(&self) -> f64 {
        self.a() / self.d2
    }
    pub fn a3(&self) -> f64 {
        self.a() / self.c4
    }
    pub fn b3(&self) -> f64 {
        self.b5() / self.c4
    }
    pub fn b4(&self) -> f64 {
        self.b6() / self.c4
    }
    pub fn b5(&self) -> f64 {
        (self.c4 - 3.0 * c5(self.c4)).max(0.0)
    }
    pub fn b6(&self) -> f64 {
        self.c4 + 3.0 * c5(self.c4)
    }
    pub fn d_1(&self) -> f64 {
        (self.d2 - 3.0 * self.d3).max(0.0)
    }
    pub fn d_2(&self) -> f64 {
        self.d2 + 3.0 * self.d3
    }
    pub fn d_3(&self) -> f64 {
        self.d_1() / self.d2
    }
    pub fn d_4(&self) -> f64 {
        self.d_2() / self.d2
    }
    pub fn e2(&self) -> f64 {
        3.0 / self.d2
    }
}

/// The constants of subgroups of `n` rows, for `n` from 2 to [`SUBGROUP_ROWS_MAX`].
pub fn constants(n: usize) -> Option<&'static Constants> {
    TABLE.get(n.checked_sub(2)?)
}

/// Mean of the standard deviation of `n` values, in sigma, for any `n` of at least 2.
pub fn c4(n: usize) -> f64 {
    if let Some(known) = constants(n) {
        return known.c4;
    }
    // The series of Γ(z + 1/2) / (√z Γ(z)) at z = (n − 1)/2; its error is below 1e-11 beyond n = 100.
    let z = (n.max(2) as f64 - 1.0) / 2.0;
    1.0 - (1.0 / 8.0 - (1.0 / 128.0 + (5.0 / 1024.0 - 21.0 / (32_768.0 * z)) / z) / z) / z
}

/// Standard deviation of the standard deviation, in sigma.
pub fn c5(c4: f64) -> f64 {
    (1.0 - c4 * c4).max(0.0).sqrt()
}

static TABLE: LazyLock<Vec<Constants>> = LazyLock::new(table);

fn table() -> Vec<Constants> {
    let moments = range_moments();
    // Γ(n/2) / Γ((n−1)/2) at n = 2, then r(n+1) = (n−1) / (2 r(n)).
    let mut ratio = 1.0 / std::f64::consts::PI.sqrt();
    (2..=SUBGROUP_ROWS_MAX)
        .map(|n| {
            let c4 = (2.0 / (n as f64 - 1.0)).sqrt() * ratio;
            ratio = (n as f64 - 1.0) / (2.0 * ratio);
            let (d2, square) = moments[n - 2];
            Constants { n, c4, d2, d3: (square - d2 * d2).sqrt() }
        })
        .collect()
}

/// Mean and mean square of the range for each size from 2.
fn range_moments() -> Vec<(f64, f64)> {
    const STEP: f64 = 0.08;
    const REACH: usize = 112; // 112 · 0.08 = 9 sigma from the middle of the range
    let mut moments = vec![(0.0, 0.0); SUBGROUP_ROWS_MAX - 1];
    let panels = [(0.0, 2.0), (2.0, 5.0), (5.0, 9.0), (9.0, 18.0)];
    for (w, weight) in panels.iter().flat_map(|(low, high)| gauss_legendre(20, *low, *high)) {
        for step in 0..=REACH {
            let t = step as f64 * STEP;
            // Symmetric in t: the half sum counts twice, its first term once.
            let fold = if step == 0 { 1.0 } else { 2.0 };
            let between = normal_above(t - 0.5 * w) - normal_above(t + 0.5 * w);
            let mut part = weight * fold * STEP * normal_density(t - 0.5 * w) * normal_density(t + 0.5 * w);
            for (i, (mean, square)) in moments.iter_mut().enumerate() {
                let n = (i + 2) as f64;
                *mean += n * (n - 1.0) * part * w;
                *square += n * (n - 1.0) * part * w * w;
                part *= between;
            }
        }
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_constants_have_twelve_digits() {
        let two = constants(2).unwrap();
        assert!((two.d2 - 2.0 / std::f64::consts::PI.sqrt()).abs() < 1e-13, "{}", two.d2);
        let three = constants(3).unwrap();
        assert!((three.d2 - 3.0 / std::f64::consts::PI.sqrt()).abs() < 1e-13, "{}", three.d2);
        let hundred = constants(100).unwrap();
        assert!((hundred.d2 - 5.015_187_272_883_502_5).abs() < 1e-11, "{}", hundred.d2);
        assert!((hundred.d3 - 0.605_179_109_486_697_8).abs() < 1e-11, "{}", hundred.d3);
    }

    #[test]
    fn c4_goes_on_beyond_the_table() {
        let hundred = constants(100).unwrap().c4;
        // r(n+1) r(n) = (n−1)/2, so c4(n+1) c4(n) = √((n−1)/n): the series meets the recursion.
        assert!((c4(101) * hundred - (99.0_f64 / 100.0).sqrt()).abs() < 1e-11);
        assert!(constants(1).is_none() && constants(101).is_none());
    }
}
