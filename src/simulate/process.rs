//! The melt pool and what the sensors see of it.
//!
//! One number, the **heat** of the melt pool (1 in the middle of an ordinary hatch line), drives all signals, so they move together:
//!
//! ```text
//! heat = power/200 W · √(900 mm/s / speed)         energy: contours are slower, so hotter
//!      · (1 + 6 % on contours                      powder beside the track conducts badly
//!           + 22 % · e^(-since neighbour/1.5 ms)   after a turn the line beside is still hot
//!           + 10 % · e^(-to end/0.15 mm)           the mirrors slow down
//!           + 35 % · overhang)                     powder below conducts badly
//!      · (1 + wander 2 %, 0.8 ms) · (1 + drift)
//! ```
//!
//! Temperature and plume follow the heat with a lag, the photodiode at once; spatter flashes for half a millisecond, a keyhole
//! oscillates for 3 to 10 ms and is loud. The numbers are typical of nickel alloys on a 200 W machine; none is a measurement.

use super::parts::{PARTS, overhang};
use super::path::{Motion, Place};
use super::random::{Random, Wander, decay, sine};

/// Laser power in the hatch, W.
const HATCH_W: f64 = 200.0;
/// Laser power on contours, W.
const CONTOUR_W: f64 = 195.0;
/// Spatters a second of exposure.
const SPATTER_HZ: f64 = 0.5;
/// Keyholes a second of exposure.
const KEYHOLE_HZ: f64 = 0.08;
/// What the pyrometer shows of the bed, °C.
const BED_C: f64 = 180.0;

/// The state of the melt pool and its sensors.
#[derive(Debug, Clone)]
pub struct Process {
    random: Random,
    step_s: f64,
    elapsed_s: f64,
    wander: Wander,
    rumble: Wander,
    spatter: f64,
    spatter_keep: f64,
    keyhole_left_s: f64,
    power_w: f64,
    /// 1 in the middle of an ordinary hatch line, 0 with the laser off.
    heat: f64,
    temperature_c: f64,
    plume: f64,
    strain: f64,
    heated_share: f64,
    cooled_share: f64,
    strain_share: f64,
}

impl Process {
    /// A cold machine, looked at every `step_s`.
    pub fn new(seed: u64, step_s: f64) -> Self {
        let share = |tau_s: f64| 1.0 - decay(step_s / tau_s);
        Self {
            random: Random::new(seed, 1),
            step_s,
            elapsed_s: 0.0,
            wander: Wander::new(0.02, 0.8e-3, step_s),
            rumble: Wander::new(1.0, 0.06e-3, step_s),
            spatter: 0.0,
            spatter_keep: decay(step_s / 0.5e-3),
            keyhole_left_s: 0.0,
            power_w: 0.0,
            heat: 0.0,
            temperature_c: BED_C,
            plume: 0.0,
            strain: 60.0,
            heated_share: share(0.2e-3),
            cooled_share: share(0.6e-3),
            strain_share: share(2.0),
        }
    }

    /// Moves on by one step, with the laser at `place`; `thickness_mm` is that of a layer.
    pub fn step(&mut self, place: &Place, thickness_mm: f64) {
        self.elapsed_s += self.step_s;
        let wander = self.wander.step(&mut self.random);
        self.spatter *= self.spatter_keep;
        self.keyhole_left_s = (self.keyhole_left_s - self.step_s).max(0.0);
        let set_w = match place.motion {
            Motion::Hatch => HATCH_W,
            Motion::Contour => CONTOUR_W,
            Motion::Jump | Motion::Recoat => 0.0,
        };
        if set_w > 0.0 {
            self.power_w = set_w + 0.5 * self.random.normal();
            let overhang = place.part.map_or(0.0, |part| overhang(&PARTS[part], place.layer, thickness_mm, place.at));
            let drift = 0.008 * sine(self.elapsed_s / 1200.0);
            self.heat = energy(self.power_w, place.speed_mm_s) * (1.0 + geometry(place, overhang)) * (1.0 + wander) * (1.0 + drift);
            self.strike();
        } else {
            (self.power_w, self.heat) = (0.0, 0.0);
        }
        self.follow();
    }

    /// Rare events.
    fn strike(&mut self) {
        if self.random.chance(SPATTER_HZ * self.step_s) {
            self.spatter = 1.0;
        }
        if self.random.chance(KEYHOLE_HZ * self.step_s) {
            self.keyhole_left_s = 0.003 + 0.007 * self.random.unit();
        }
    }

    /// What lags behind the heat.
    fn follow(&mut self) {
        let on = self.heat > 0.0;
        let share = if on { self.heated_share } else { self.cooled_share };
        let target_c = if on { 1100.0 + 900.0 * self.heat } else { BED_C };
        self.temperature_c += (target_c - self.temperature_c) * share;
        self.plume += (self.heat - self.plume) * share;
        let target = if on { 90.0 + 40.0 * self.heat } else { 60.0 };
        self.strain += (target - self.strain) * self.strain_share;
    }

    /// A swing between -1 and 1 while a keyhole is open, else 0.
    fn keyhole(&self) -> f64 {
        if self.keyhole_left_s > 0.0 { sine(self.elapsed_s * 7800.0) } else { 0.0 }
    }

    /// Sound on the plate, V.
    pub fn amplitude_v(&mut self) -> f64 {
        let loud = 0.02 + 0.06 * self.heat + 0.4 * self.spatter;
        0.6 * self.keyhole() + loud * self.rumble.step(&mut self.random)
    }

    /// The photodiode's signal, V. The window fogs by half a percent an hour.
    pub fn intensity_v(&mut self) -> f64 {
        let window = 1.0 - 0.005 * (self.elapsed_s / 3600.0).min(20.0);
        let glow = 1.6 * self.heat * self.heat.sqrt() * (1.0 + 0.7 * self.spatter + 0.3 * self.keyhole());
        0.020 + window * glow + 0.008 * self.random.normal()
    }

    /// The laser's power as it reports it, W.
    pub const fn laser_power_w(&self) -> f64 {
        self.power_w
    }

    /// The pyrometer's temperature of the melt pool, °C.
    pub fn temperature_c(&mut self) -> f64 {
        self.temperature_c + 60.0 * self.keyhole() + 4.0 * self.random.normal()
    }

    /// The area of the plume in the camera's picture, mm².
    pub fn plume_mm2(&mut self) -> f64 {
        (1.2 * self.plume * (1.0 + 0.9 * self.spatter) + 0.02 + 0.03 * self.random.normal()).max(0.0)
    }

    /// Strain of the plate, µm/m.
    pub fn strain_um_m(&mut self) -> f64 {
        self.strain + 0.4 * self.random.normal()
    }
}

fn energy(power_w: f64, speed_mm_s: f64) -> f64 {
    power_w / HATCH_W * (900.0 / speed_mm_s).sqrt()
}

/// What the surroundings add to the heat.
fn geometry(place: &Place, overhang: f64) -> f64 {
    let contour = if place.motion == Motion::Contour { 0.06 } else { 0.0 };
    let turn = place.since_neighbour_s.map_or(0.0, |since_s| 0.22 * decay(since_s / 1.5e-3));
    let end = if place.motion == Motion::Hatch { 0.10 * decay(place.to_end_mm / 0.15) } else { 0.0 };
    contour + turn + end + 0.35 * overhang
}
