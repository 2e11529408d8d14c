//! Numbers at the edge of a picture: round steps, short texts.

/// 1, 2 or 5 times a power of ten, so that `span` has about `count` of it.
pub fn round_step(span: f64, count: usize) -> f64 {
    let rough = span / count.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

/// Five significant digits without trailing zeros.
pub fn shown(value: f64) -> String {
    if value == 0.0 || value.abs() < 1e-12 {
        return "0".into();
    }
    let digits = 4 - value.abs().log10().floor() as i32;
    if !(-3..=10).contains(&digits) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.*}", digits.max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, want) in [(0.0, "0"), (0.3, "0.3"), (-12.5, "-12.5"), (250.0, "250"), (123_456.0, "123456"), (0.1 + 0.2, "0.3")]
        {
            assert_eq!(shown(value), want);
        }
        assert_eq!(shown(1.234e-9), "1.234e-9");
    }

    #[test]
    fn steps_are_round() {
        for (span, count, want) in [(250.0, 10, 50.0), (1.0, 10, 0.1), (7.3, 5, 2.0), (0.4, 8, 0.05)] {
            assert!((round_step(span, count) - want).abs() < 1e-9 * want, "{span} {count}");
        }
    }
}
