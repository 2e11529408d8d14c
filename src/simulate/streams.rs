//! The machine's five streams: their rates, signals and converters.

use firmware_bridge::Scale;

/// A measured quantity and the grid of its converter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// As in rows.
    pub name: &'static str,
    /// UCUM.
    pub unit: &'static str,
    /// How counts become values.
    pub scale: Scale,
    /// The smallest and largest count.
    pub range: [i16; 2],
}

impl SignalInfo {
    const fn new(name: &'static str, unit: &'static str, multiplier: i32, exponent: i8, range: [i16; 2]) -> Self {
        Self { name, unit, scale: Scale { multiplier, offset: 0, exponent }, range }
    }

    /// The count nearest to `value`, at most at full scale.
    pub fn count(&self, value: f64) -> i16 {
        // All scales here divide: 10^exponent with a negative exponent and no offset.
        let per_unit = self.scale.value(1);
        // A value beyond the range of i16 stops at the range of the converter, and NaN does not arise.
        ((value / per_unit).round() as i16).clamp(self.range[0], self.range[1])
    }
}

/// One stream of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamInfo {
    /// The number in frames.
    pub number: u16,
    /// The name to configure.
    pub name: &'static str,
    /// Samples a second at the default rate.
    pub hz: u32,
    /// In the order of the frame's columns.
    pub signals: &'static [SignalInfo],
}

const BITS_12: [i16; 2] = [0, 4095];
const BITS_14: [i16; 2] = [0, 16_383];
/// The converter's lowest count means *no value* in a frame.
const BITS_16: [i16; 2] = [-32_767, 32_767];

/// The streams, by number. Their rates are those of AM-QADF's sensors: 62,100 samples a second in all.
pub const STREAMS: [StreamInfo; 5] = [
    StreamInfo { number: 0, name: "acoustic", hz: 50_000, signals: &[SignalInfo::new("amplitude", "V", 2, -4, BITS_16)] },
    StreamInfo {
        number: 1,
        name: "optical",
        hz: 10_000,
        signals: &[SignalInfo::new("intensity", "V", 1, -3, BITS_12), SignalInfo::new("laser_power", "W", 1, -1, BITS_12)],
    },
    StreamInfo { number: 2, name: "thermal", hz: 1000, signals: &[SignalInfo::new("temperature", "Cel", 25, -2, BITS_14)] },
    StreamInfo { number: 3, name: "plume", hz: 1000, signals: &[SignalInfo::new("area", "mm2", 1, -3, BITS_12)] },
    StreamInfo { number: 4, name: "strain", hz: 100, signals: &[SignalInfo::new("strain", "um/m", 1, -1, BITS_16)] },
];

/// Samples a second of all streams at the default rate.
pub const SAMPLES_HZ: u32 = 62_100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_add_up() {
        assert_eq!(STREAMS.iter().map(|stream| stream.hz).sum::<u32>(), SAMPLES_HZ);
        for (number, stream) in STREAMS.iter().enumerate() {
            assert_eq!(usize::from(stream.number), number);
            assert_eq!(STREAMS[0].hz % stream.hz, 0, "every stream samples at a whole part of the fastest one's instants");
        }
    }

    #[test]
    fn counts_stop_at_full_scale() {
        let intensity = &STREAMS[1].signals[0];
        assert_eq!([1.6004, 99.0, -1.0].map(|value| intensity.count(value)), [1600, 4095, 0]);
        assert_eq!(STREAMS[0].signals[0].count(-1e9), -32_767);
        assert_eq!(STREAMS[2].signals[0].count(2000.3), 8001);
    }
}
