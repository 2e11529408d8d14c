//! The build chamber's slow quantities, as the machine's controller publishes them ten times a second.

use std::fmt;

use super::random::{Random, Wander, sine};
use crate::model::Timestamp;

/// The time from a row to the next, ns.
pub const PERIOD_NS: i64 = 100_000_000;

/// One row of the chamber.
#[derive(Debug, Clone, PartialEq)]
pub struct ChamberRow {
    /// When.
    pub time: Timestamp,
    /// The controller's name.
    pub device: String,
    /// Its count of starts.
    pub boot: u32,
    /// The row's number since the start.
    pub seq: u64,
    /// Oxygen in tenths of a ppm.
    pub oxygen_tenths: i64,
    /// Pressure in hundredths of a millibar.
    pub pressure_hundredths: i64,
    /// Temperature of the powder bed in tenths of a degree.
    pub bed_tenths: i64,
}

/// As JSON, in the contract's form of a row.
impl fmt::Display for ChamberRow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, device, boot, seq, .. } = self;
        let [oxygen, bed] = [self.oxygen_tenths, self.bed_tenths].map(|tenths| tenths as f64 / 10.0);
        let pressure = self.pressure_hundredths as f64 / 100.0;
        write!(
            out,
            r#"{{"time":"{time}","device":"{device}","boot":{boot},"seq":{seq},"oxygen_ppm":{oxygen},"pressure_mbar":{pressure},"bed_temperature_c":{bed}}}"#
        )
    }
}

/// The chamber's state.
#[derive(Debug, Clone)]
pub struct Chamber {
    random: Random,
    device: String,
    boot: u32,
    seq: u64,
    leak: Wander,
    gust: Wander,
    heater: Wander,
    powder_c: f64,
    layer: u32,
}

impl Chamber {
    /// A chamber that has just been flushed with argon.
    pub fn new(seed: u64, device: String, boot: u32) -> Self {
        let step_s = PERIOD_NS as f64 * 1e-9;
        Self {
            random: Random::new(seed, 2),
            device,
            boot,
            seq: 0,
            leak: Wander::new(12.0, 60.0, step_s),
            gust: Wander::new(0.25, 2.0, step_s),
            heater: Wander::new(0.4, 20.0, step_s),
            powder_c: 0.0,
            layer: 0,
        }
    }

    /// The next row, `elapsed_s` after the start, while `layer` is built. Each new layer's powder cools the bed.
    pub fn step(&mut self, time: Timestamp, elapsed_s: f64, layer: u32) -> ChamberRow {
        self.powder_c = self.powder_c * 0.94 - if layer == self.layer { 0.0 } else { 3.5 };
        self.layer = layer;
        let settling = 600.0 / (1.0 + elapsed_s / 30.0);
        let oxygen = (180.0 + settling + self.leak.step(&mut self.random)).max(0.0);
        let pressure = 1025.0 + 0.6 * sine(elapsed_s / 45.0) + self.gust.step(&mut self.random);
        let bed = 180.0 + 0.8 * sine(elapsed_s / 90.0) + self.powder_c + self.heater.step(&mut self.random);
        let seq = self.seq;
        self.seq += 1;
        ChamberRow {
            time,
            device: self.device.clone(),
            boot: self.boot,
            seq,
            oxygen_tenths: (oxygen * 10.0).round() as i64,
            pressure_hundredths: (pressure * 100.0).round() as i64,
            bed_tenths: (bed * 10.0).round() as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_json_with_short_decimals() {
        let row = ChamberRow {
            time: Timestamp(1_500_000_000),
            device: "lpbf-1".into(),
            boot: 3,
            seq: 15,
            oxygen_tenths: 1803,
            pressure_hundredths: 102_511,
            bed_tenths: 1800,
        };
        assert_eq!(
            row.to_string(),
            r#"{"time":"1970-01-01T00:00:01.5Z","device":"lpbf-1","boot":3,"seq":15,"oxygen_ppm":180.3,"pressure_mbar":1025.11,"bed_temperature_c":180}"#
        );
    }

    #[test]
    fn a_chamber_stays_in_its_ranges_and_feels_each_layer() {
        let mut chamber = Chamber::new(1, "lpbf-1".into(), 1);
        let rows: Vec<ChamberRow> = (0..6000).map(|i| chamber.step(Timestamp(0), f64::from(i) / 10.0, 1 + i as u32 / 50)).collect();
        let bed = |row: &ChamberRow| row.bed_tenths as f64 / 10.0;
        assert!(rows.iter().all(|row| (50..9000).contains(&row.oxygen_tenths) && (170.0..190.0).contains(&bed(row))));
        assert!(rows.iter().all(|row| (101_000..104_000).contains(&row.pressure_hundredths)));
        let mean = |phase: usize| rows.iter().skip(phase).step_by(50).map(bed).sum::<f64>() / 120.0;
        assert!(mean(49) - mean(2) > 1.5, "{} {}", mean(49), mean(2));
        assert!(rows.iter().zip(0..).all(|(row, seq)| row.seq == seq));
    }
}
