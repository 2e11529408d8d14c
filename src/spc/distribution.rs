//! The few probability functions that control limits need: the normal law, quantiles of beta, F and chi-square, and a
//! quadrature rule.
//!
//! Incomplete beta and gamma functions come from `statrs`, `erfc` from `libm` (that of `statrs` has only eleven digits); quantiles invert them by bisection to the last bit, because a limit is computed once
//! and used a billion times. All functions are pure; arguments outside a law's domain give `NaN`, which callers never print.

use statrs::function::{beta::beta_reg, gamma};

/// Density of the standard normal law.
pub fn normal_density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Probability that a standard normal value is above `z`, exact far into the tail.
pub fn normal_above(z: f64) -> f64 {
    0.5 * libm::erfc(z / std::f64::consts::SQRT_2)
}

/// The value that a standard normal one is below with probability `p` in (0, 1).
pub fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 { -normal_quantile(1.0 - p) } else { -fall_to(normal_above, p, 0.0, 40.0) }
}

/// The value that a chi-square one with `degrees` of freedom exceeds with probability `alpha` in (0, 1).
pub fn chi_square_upper(alpha: f64, degrees: f64) -> f64 {
    let above = |x: f64| if x <= 0.0 { 1.0 } else { gamma::gamma_ur(degrees / 2.0, x / 2.0) };
    let mut high = degrees.max(1.0);
    while above(high) > alpha && high < 1e9 {
        high *= 2.0;
    }
    fall_to(above, alpha, 0.0, high)
}

/// The value in (0, 1) that a beta one with parameters `a`, `b` exceeds with probability `alpha`.
pub fn beta_upper(alpha: f64, a: f64, b: f64) -> f64 {
    // The mirrored function keeps its precision where the upper tail is small.
    fall_to(|x| beta_reg(b, a, (1.0 - x).clamp(0.0, 1.0)), alpha, 0.0, 1.0)
}

/// The value that an F one with `numerator` and `denominator` degrees of freedom exceeds with probability `alpha`.
pub fn f_upper(alpha: f64, numerator: f64, denominator: f64) -> f64 {
    // With x = d / (d + n F), the upper tail of F is the regularised beta of x: solved in x, where small tails stay exact.
    let x = fall_to(|x| 1.0 - beta_reg(denominator / 2.0, numerator / 2.0, x.clamp(0.0, 1.0)), 1.0 - alpha, 0.0, 1.0);
    denominator * (1.0 - x) / (numerator * x)
}

/// Where the falling function `tail` passes `level` between `low` and `high`.
fn fall_to(tail: impl Fn(f64) -> f64, level: f64, mut low: f64, mut high: f64) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if tail(middle) > level { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Nodes and weights of Gauss–Legendre quadrature with `n` points on [`low`, `high`] (Newton on the Legendre polynomial).
pub fn gauss_legendre(n: usize, low: f64, high: f64) -> Vec<(f64, f64)> {
    let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
    (0..n)
        .map(|i| {
            let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
            let mut slope = 1.0;
            for _ in 0..100 {
                let (value, derivative) = legendre(n, x);
                slope = derivative;
                let step = value / derivative;
                x -= step;
                if step.abs() < 1e-15 {
                    break;
                }
            }
            (middle + half * x, half * 2.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}

/// The Legendre polynomial of degree `n` and its slope at `x` inside (-1, 1).
fn legendre(n: usize, x: f64) -> (f64, f64) {
    let (mut before, mut here) = (1.0, x);
    for k in 2..=n {
        let k = k as f64;
        (before, here) = (here, ((2.0 * k - 1.0) * x * here - (k - 1.0) * before) / k);
    }
    (here, n as f64 * (x * here - before) / (x * x - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64, relative: f64) {
        assert!((got - want).abs() <= relative * want.abs(), "{got} is not {want}");
    }

    #[test]
    fn quantiles_agree_with_published_tables() {
        close(normal_quantile(0.975), 1.959_963_984_540_054, 1e-12);
        close(normal_above(3.0), 0.001_349_898_031_630_095, 1e-12);
        close(chi_square_upper(0.05, 2.0), 5.991_464_547_107_98, 1e-12);
        close(chi_square_upper(0.0027, 2.0), -2.0 * 0.0027_f64.ln(), 1e-12);
        close(chi_square_upper(0.01, 5.0), 15.086_272_469, 1e-9);
        close(f_upper(0.05, 2.0, 98.0), 49.0 * (0.05_f64.powf(-1.0 / 49.0) - 1.0), 1e-12);
        close(f_upper(0.01, 5.0, 10.0), 5.636_326, 1e-6);
        close(beta_upper(0.05, 1.0, 1.0), 0.95, 1e-12);
    }

    #[test]
    fn quadrature_is_exact_for_polynomials() {
        let integral: f64 = gauss_legendre(10, 0.0, 2.0).iter().map(|(x, w)| w * x.powi(19)).sum();
        close(integral, 2_f64.powi(20) / 20.0, 1e-12);
    }
}
