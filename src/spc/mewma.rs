//! The limit of a MEWMA chart from the average run length it should have in control.
//!
//! In control the length `q` of the averaged vector is a Markov process by itself: given `q`, the next squared length over λ² is
//! noncentral chi-square with `p` degrees of freedom and noncentrality `((1−λ) q / λ)²`. The run length solves
//! `L(q) = 1 + ∫₀ᵇ f(r | q) L(r) dr`, `b = √(h λ / (2−λ))` (Rigdon 1995), here with Gauss–Legendre nodes; `h` by bisection on `log L(0)`.
//! This is the chart with asymptotic covariance, which is the default; with the exact one the run length is a little shorter.

use super::distribution::gauss_legendre;

/// Below this λ the integral needs too many nodes: give the limit itself.
pub const LAMBDA_MIN: f64 = 0.005;

/// Average run length in control of `signals` signals, weight `lambda`, limit `h` on T².
pub fn run_length(signals: usize, lambda: f64, h: f64) -> f64 {
    let b = (h * lambda / (2.0 - lambda)).sqrt();
    let count = (24.0 + 3.0 * b / lambda).clamp(32.0, 160.0) as usize;
    let nodes = gauss_legendre(count, 0.0, b);
    let kernel = |from: f64, to: f64| {
        let noncentrality = ((1.0 - lambda) * from / lambda).powi(2);
        2.0 * to / (lambda * lambda) * noncentral_density(to * to / (lambda * lambda), signals as f64, noncentrality)
    };
    let mut matrix: Vec<Vec<f64>> = nodes
        .iter()
        .enumerate()
        .map(|(i, (from, _))| {
            let row = nodes.iter().enumerate();
            let mut row: Vec<f64> =
                row.map(|(j, (to, weight))| f64::from(u8::from(i == j)) - weight * kernel(*from, *to)).collect();
            row.push(1.0);
            row
        })
        .collect();
    let lengths = solve(&mut matrix);
    1.0 + nodes.iter().zip(&lengths).map(|((to, weight), length)| weight * kernel(0.0, *to) * length).sum::<f64>()
}

/// The limit on T² that gives an average run length of `run_length_wanted` in control.
pub fn limit(signals: usize, lambda: f64, run_length_wanted: f64) -> f64 {
    let short = |h: f64| {
        let length = run_length(signals, lambda, h);
        length.is_finite() && length > 0.0 && length < run_length_wanted
    };
    let (mut low, mut high) = (0.01, 1.0);
    while short(high) && high < 1e4 {
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if short(middle) { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Density of the noncentral chi-square law, as a Poisson mixture summed outward from its largest term.
fn noncentral_density(x: f64, degrees: f64, noncentrality: f64) -> f64 {
    let (half, near) = (0.5 * noncentrality, 0.5 * x);
    if near <= 0.0 {
        return 0.0;
    }
    // Term j: Poisson(j; half) · chi-square density with degrees + 2j; the ratio of neighbours is half·near / ((j+1)(degrees/2 + j)).
    let shape = 0.5 * degrees;
    let peak = (0.25 * (shape - 1.0).powi(2) + half * near).sqrt() - 0.5 * (shape - 1.0);
    let peak = peak.max(0.0).floor();
    let poisson = if half > 0.0 { peak * half.ln() } else { 0.0 } - half - libm::lgamma(peak + 1.0);
    let chi = (shape + peak - 1.0) * near.ln() - near - libm::lgamma(shape + peak) - std::f64::consts::LN_2;
    let top = (poisson + chi).exp();
    let mut sum = top;
    let (mut term, mut j) = (top, peak);
    while term > 1e-17 * sum && half > 0.0 {
        term *= half * near / ((j + 1.0) * (shape + j));
        sum += term;
        j += 1.0;
    }
    (term, j) = (top, peak);
    while term > 1e-17 * sum && j >= 1.0 {
        j -= 1.0;
        term *= (j + 1.0) * (shape + j) / (half * near);
        sum += term;
    }
    sum
}

/// Gaussian elimination with row pivots on `[A | b]`.
fn solve(rows: &mut [Vec<f64>]) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs())).unwrap_or(column);
        rows.swap(column, pivot);
        let (done, rest) = rows.split_at_mut(column + 1);
        let head = &done[column];
        for row in rest {
            let factor = row[column] / head[column];
            row[column..].iter_mut().zip(&head[column..]).for_each(|(value, above)| *value -= factor * above);
        }
    }
    let mut solution = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * solution[j]).sum();
        solution[i] = (rows[i][n] - known) / rows[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_agree_with_prabhu_and_runger() {
        // Prabhu and Runger (1997), table 1: ARL 200.
        for (signals, lambda, h) in [(2, 0.1, 8.64), (4, 0.1, 12.73), (2, 0.4, 10.29), (2, 0.8, 10.58)] {
            let got = limit(signals, lambda, 200.0);
            assert!((got - h).abs() < 0.03, "p {signals}, lambda {lambda}: {got}, published {h}");
        }
    }

    #[test]
    fn weight_one_is_a_chi_square_chart() {
        assert!((run_length(2, 1.0, -2.0 * 0.005_f64.ln()) - 200.0).abs() < 1e-6);
    }
}
