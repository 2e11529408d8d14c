//! Durations and sizes as people write them.

/// Nanoseconds of a text such as "250ms", "5s", "1.5h", "1h 30m" or "-60s"; units `ns us ms s m h d w` (days of 24 hours).
///
/// # Errors
/// A text that is no duration, or does not fit 292 years.
pub fn duration_ns(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no duration: write a number and a unit, such as \"250ms\", \"5s\" or \"12h\"");
    let (sign, body) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim()),
    };
    let mut total_ns = 0.0_f64;
    let mut rest = body.trim_start();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(rest.len());
        let number: f64 = rest[..digits].replace('_', "").parse().map_err(|_| wrong())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit_ns = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" | "min" => 60e9,
            "h" => 3_600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            _ => return Err(wrong()),
        };
        total_ns += number * unit_ns;
        rest = rest[letters..].trim_start();
    }
    if total_ns >= i64::MAX as f64 {
        return Err(format!("`{text}` is longer than 292 years"));
    }
    Ok((sign * total_ns.round()) as i64)
}

/// Bytes of a text such as "20GB", "512MiB" or "4096".
///
/// # Errors
/// A text that is no size, or more than 2^63 bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write a number and a unit, such as \"20GB\" or \"512MiB\"");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let number: f64 = text[..digits].replace('_', "").parse().map_err(|_| wrong())?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return Err(wrong()),
    };
    let bytes = number * unit;
    if bytes >= i64::MAX as f64 { Err(wrong()) } else { Ok(bytes as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_every_unit() {
        let table = [("250ms", 250_000_000), ("5s", 5_000_000_000), ("12h", 43_200_000_000_000), ("1h 30m", 5_400_000_000_000)];
        for (text, ns) in table {
            assert_eq!(duration_ns(text), Ok(ns), "{text}");
        }
        assert_eq!(duration_ns("-60s"), Ok(-60_000_000_000));
        assert_eq!(duration_ns("0s"), Ok(0));
        assert_eq!(duration_ns("1d"), Ok(86_400_000_000_000));
        for text in ["", "5", "s", "5 parsecs", "-", "1e3s", "999999999999d", "s5", "5ss"] {
            assert!(duration_ns(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_of_every_unit() {
        assert_eq!(bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(bytes("1.5MiB"), Ok(1_572_864));
        assert_eq!(bytes("4096"), Ok(4096));
        for text in ["", "GB", "1XB", "-1GB", "1e9"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
