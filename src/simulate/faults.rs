//! What goes wrong on the way from the machine, on purpose and from the seed.
//!
//! ```text
//! crc=0.01,drop=0.001,unplug=30s/2s,clock_jump=1m/1h
//! ```
//!
//! | fault | value | what happens |
//! |---|---|---|
//! | `crc` | probability a frame | one of its bytes changes |
//! | `drop` | probability a frame | it is not sent |
//! | `duplicate` | probability a frame | it is sent twice |
//! | `cut` | probability a frame | its end is not sent |
//! | `garbage` | probability a frame | up to 256 bytes of noise come before it |
//! | `unplug` | every/for | the line is gone, and comes back |
//! | `clock_jump` | every/by | the machine's clock jumps, forwards or back, and the next time returns |
//! | `bad_json` | probability a message | it is malformed in one of eight ways |

use std::str::FromStr;

use super::random::Random;

/// Something that happens again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurring {
    /// From one to the next, ns.
    pub every_ns: i64,
    /// How long, or how far, ns.
    pub by_ns: i64,
}

/// What goes wrong; nothing by default. Probabilities are 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// A frame's byte changes.
    pub crc: f64,
    /// A frame is not sent.
    pub drop: f64,
    /// A frame is sent twice.
    pub duplicate: f64,
    /// A frame's end is not sent.
    pub cut: f64,
    /// Noise comes before a frame.
    pub garbage: f64,
    /// A message is malformed.
    pub bad_json: f64,
    /// The line is gone for a while.
    pub unplug: Option<Recurring>,
    /// The machine's clock jumps.
    pub clock_jump: Option<Recurring>,
}

/// A text that names no faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFaultsError {
    /// Not `name=value`.
    #[error("`{0}` is not a fault: write name=value, as in crc=0.01,unplug=30s/2s")]
    Form(String),
    /// No such fault.
    #[error("unknown fault `{0}`: known are crc, drop, duplicate, cut, garbage, bad_json, unplug, clock_jump")]
    Unknown(String),
    /// Not a probability.
    #[error("`{0}={1}`: a probability from 0 to 1 is wanted")]
    Probability(String, String),
    /// Not a duration.
    #[error("`{0}={1}`: how often is wanted, and how long or far, as in {0}=30s/2s")]
    Duration(String, String),
}

impl FromStr for Faults {
    type Err = ParseFaultsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut faults = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').ok_or_else(|| ParseFaultsError::Form(item.into()))?;
            let probability = || {
                let number = value.parse().ok().filter(|number| (0.0..=1.0).contains(number));
                number.ok_or_else(|| ParseFaultsError::Probability(name.into(), value.into()))
            };
            let recurring = |by: &str| recurring(value, by).ok_or_else(|| ParseFaultsError::Duration(name.into(), value.into()));
            match name.trim() {
                "crc" => faults.crc = probability()?,
                "drop" => faults.drop = probability()?,
                "duplicate" => faults.duplicate = probability()?,
                "cut" => faults.cut = probability()?,
                "garbage" => faults.garbage = probability()?,
                "bad_json" => faults.bad_json = probability()?,
                "unplug" => faults.unplug = Some(recurring("2s")?),
                "clock_jump" => faults.clock_jump = Some(recurring("10s")?),
                _ => return Err(ParseFaultsError::Unknown(name.into())),
            }
        }
        Ok(faults)
    }
}

fn recurring(text: &str, by: &str) -> Option<Recurring> {
    let (every, by) = text.split_once('/').unwrap_or((text, by));
    Some(Recurring { every_ns: duration_ns(every)?, by_ns: duration_ns(by)? })
}

/// A duration such as `250ms`, more than nothing and at most a thousand days, in ns.
fn duration_ns(text: &str) -> Option<i64> {
    let text = text.trim();
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let number: f64 = text[..unit_at].parse().ok()?;
    let unit_s = match &text[unit_at..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let ns = number * unit_s * 1e9;
    (1e6..=86_400e12).contains(&ns).then_some(ns as i64)
}

/// How often each fault of the line has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct FaultCounts {
    /// Frames with a changed byte.
    pub crc: u64,
    /// Frames not sent.
    pub drop: u64,
    /// Frames sent twice.
    pub duplicate: u64,
    /// Frames without their end.
    pub cut: u64,
    /// Bursts of noise.
    pub garbage: u64,
}

/// The line's faults.
#[derive(Debug, Clone)]
pub struct Wire {
    faults: Faults,
    random: Random,
    counts: FaultCounts,
}

impl Wire {
    /// The line of one machine.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { faults, random: Random::new(seed, 3), counts: FaultCounts::default() }
    }

    /// What has happened so far.
    pub const fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Appends to `line` what arrives of `frame`.
    pub fn carry(&mut self, frame: &[u8], line: &mut Vec<u8>) {
        if self.happens(|faults| faults.garbage, |counts| &mut counts.garbage) {
            let length = 1 + self.random.below(256);
            line.extend((0..length).map(|_| self.random.bits() as u8));
        }
        if self.happens(|faults| faults.drop, |counts| &mut counts.drop) {
            return;
        }
        let start = line.len();
        line.extend_from_slice(frame);
        // The first and last byte are the zeros around the frame.
        if frame.len() > 2 && self.happens(|faults| faults.crc, |counts| &mut counts.crc) {
            let at = start + 1 + self.random.below(frame.len() - 2);
            line[at] ^= 1 + self.random.below(255) as u8;
        }
        if frame.len() > 2 && self.happens(|faults| faults.cut, |counts| &mut counts.cut) {
            line.truncate(start + 1 + self.random.below(frame.len() - 2));
        }
        if self.happens(|faults| faults.duplicate, |counts| &mut counts.duplicate) {
            line.extend_from_slice(frame);
        }
    }

    fn happens(&mut self, probability: impl Fn(&Faults) -> f64, count: impl Fn(&mut FaultCounts) -> &mut u64) -> bool {
        let happens = self.random.chance(probability(&self.faults));
        *count(&mut self.counts) += u64::from(happens);
        happens
    }
}

/// Ways to spoil a message.
const SPOILERS: [fn(&str) -> String; 8] = [
    |good| good[..good.len() / 2].to_owned(),
    |good| good.replacen("\"oxygen_ppm\":", "\"oxygen_ppm\":NaN,\"x\":", 1),
    |good| good.replacen("\"oxygen_ppm\"", "\"oxigen_ppm\"", 1),
    |good| good.replacen("\"time\"", "\"when\"", 1),
    |good| good.replacen("\"oxygen_ppm\":", "\"oxygen_ppm\":\"high\",\"pressure_mbar\":", 1),
    |good| good.replacen("\"time\":\"2", "\"time\":\"92", 1).replacen("\"time\":\"1", "\"time\":\"91", 1),
    |_| "\u{fffd}\u{0}\u{1}not json".to_owned(),
    |_| "null".to_owned(),
];

/// The messages' faults.
#[derive(Debug, Clone)]
pub struct Messages {
    probability: f64,
    random: Random,
    /// Messages spoilt so far.
    pub spoilt: u64,
}

impl Messages {
    /// The messages of one machine.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { probability: faults.bad_json, random: Random::new(seed, 4), spoilt: 0 }
    }

    /// The message as it is published.
    pub fn carry(&mut self, good: String) -> String {
        if !self.random.chance(self.probability) {
            return good;
        }
        self.spoilt += 1;
        SPOILERS[self.random.below(SPOILERS.len())](&good)
    }
}

#[cfg(test)]
mod tests {
    use firmware_bridge::{Accumulator, Ack, encode_ack};

    use super::*;

    #[test]
    fn faults_are_read_from_text() {
        let faults: Faults =
            "crc=0.01, drop=0.001,garbage=1,duplicate=0,cut=0.5,bad_json=0.1,unplug=30s,clock_jump=1m/1h".parse().unwrap();
        assert_eq!((faults.crc, faults.drop, faults.garbage, faults.cut, faults.bad_json), (0.01, 0.001, 1.0, 0.5, 0.1));
        assert_eq!(faults.unplug, Some(Recurring { every_ns: 30_000_000_000, by_ns: 2_000_000_000 }));
        assert_eq!(faults.clock_jump, Some(Recurring { every_ns: 60_000_000_000, by_ns: 3_600_000_000_000 }));
        assert_eq!("".parse(), Ok(Faults::default()));
    }

    #[test]
    fn what_is_no_fault_is_refused_with_a_hint() {
        for text in
            ["crc", "crc=2", "crc=NaN", "crc=-1", "unplug=30", "unplug=0s", "unplug=30s/", "unplug=é", "flood=1", "unplug=1e99d"]
        {
            let error = text.parse::<Faults>().unwrap_err().to_string();
            assert!(error.contains("name=value") || error.contains("known are") || error.contains("wanted"), "{error}");
        }
    }

    /// Good and bad frames out of a hundred thousand, and what the wire counted.
    fn carried(text: &str) -> (u64, u64, FaultCounts) {
        let mut wire = Wire::new(5, text.parse().unwrap());
        let mut accumulator = Accumulator::<512>::new();
        let (mut good, mut bad) = (0, 0);
        let mut line = Vec::new();
        for seq in 0..100_000 {
            let mut buffer = [0; 32];
            wire.carry(encode_ack(Ack { boot: 1, seq }, &mut buffer).unwrap(), &mut line);
            accumulator.feed(&line, |event| if event.is_ok() { good += 1 } else { bad += 1 });
            line.clear();
        }
        (good, bad, wire.counts())
    }

    #[test]
    fn each_fault_happens_as_often_as_asked_and_costs_what_it_says() {
        let near = |count: u64| (900..1100).contains(&count);
        assert_eq!(carried(""), (100_000, 0, FaultCounts::default()));
        let (good, bad, counts) = carried("drop=0.01");
        assert!(near(counts.drop) && good == 100_000 - counts.drop && bad == 0);
        let (good, bad, counts) = carried("crc=0.01");
        assert!(near(counts.crc) && good == 100_000 - counts.crc && bad >= counts.crc);
        let (good, _, counts) = carried("duplicate=0.01");
        assert!(near(counts.duplicate) && good == 100_000 + counts.duplicate);
        let (good, bad, counts) = carried("cut=0.01");
        assert!(near(counts.cut) && good == 100_000 - counts.cut && bad > counts.cut * 8 / 10);
        let (good, bad, counts) = carried("garbage=0.01");
        assert!(near(counts.garbage) && good == 100_000 && bad >= counts.garbage);
    }

    #[test]
    fn every_spoilt_message_differs_from_the_good_one() {
        let good = r#"{"time":"2026-01-01T00:00:00Z","oxygen_ppm":180.3,"pressure_mbar":1025.11}"#;
        assert!(SPOILERS.iter().all(|spoil| spoil(good) != good));
        let mut messages = Messages::new(1, "bad_json=0.25".parse().unwrap());
        let bad = (0..4000).filter(|_| messages.carry(good.into()) != good).count() as u64;
        assert_eq!(bad, messages.spoilt);
        assert!((900..1100).contains(&bad));
    }
}
