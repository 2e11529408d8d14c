//! Numbers that look random and are the same on every machine for the same seed, and the few functions the physics needs.
//!
//! Everything here is made of IEEE additions, multiplications, divisions and square roots, whose results the standard fixes; the
//! platform's `exp` and `sin` differ in the last bit between libraries, and a last bit is enough to move a count.

/// `SplitMix64` (Steele, Lea and Flood, 2014): one addition and two multiplications a number.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The numbers of `seed` for one `purpose`; purposes do not disturb each other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut random = Self { state: seed ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03) };
        random.state = random.bits();
        random
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this probability happens. Nothing is drawn for what never does.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// Evenly from 0 up to, not including, `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }

    /// Nearly normal, mean 0 and variance 1: the sum of eight even numbers, so never beyond 4.9.
    pub fn normal(&mut self) -> f64 {
        fn quarters(bits: u64) -> u64 {
            (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48)
        }
        // Eight times an even distribution over [0, 1): mean 4, variance 8/12.
        const STDDEV: f64 = 0.816_496_580_927_726;
        let sum = quarters(self.bits()) + quarters(self.bits());
        ((sum as f64 + 4.0) / 65_536.0 - 4.0) / STDDEV
    }
}

/// A value that wanders around 0 and forgets with a time constant (Ornstein and Uhlenbeck).
#[derive(Debug, Clone)]
pub struct Wander {
    value: f64,
    keep: f64,
    kick: f64,
}

impl Wander {
    /// With standard deviation `sigma` and correlation time `tau_s`, looked at every `step_s`.
    pub fn new(sigma: f64, tau_s: f64, step_s: f64) -> Self {
        let keep = decay(step_s / tau_s);
        Self { value: 0.0, keep, kick: sigma * (1.0 - keep * keep).sqrt() }
    }

    /// The next value.
    pub fn step(&mut self, random: &mut Random) -> f64 {
        self.value = self.keep * self.value + self.kick * random.normal();
        self.value
    }
}

/// e^-x for `x` from 0, to about 2 in 10,000: (1 + x/16 + x²/512 + x³/24576)^-16.
pub fn decay(x: f64) -> f64 {
    let part = x / 16.0;
    let root = 1.0 + part * (1.0 + part * (0.5 + part / 6.0));
    let power = root * root * root * root;
    1.0 / (power * power * power * power)
}

/// The sine of `turns` full turns, to 10^-10.
pub fn sine(turns: f64) -> f64 {
    let turns = turns - turns.round();
    // sin(180° - a) = sin(a) brings the angle to a quarter turn.
    let quarter = if turns.abs() > 0.25 { turns.signum() * 0.5 - turns } else { turns };
    let x = quarter * std::f64::consts::TAU;
    let square = x * x;
    let term = |sum: f64, divisor: f64| 1.0 - square / divisor * sum;
    x * [210.0, 156.0, 110.0, 72.0, 42.0, 20.0, 6.0].into_iter().fold(1.0, term)
}

/// The cosine of `turns` full turns, to 10^-10.
pub fn cosine(turns: f64) -> f64 {
    sine(turns + 0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers_of_splitmix_come_out() {
        let mut random = Random { state: 1_234_567 };
        let first = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(first.map(|_| random.bits()), first);
    }

    #[test]
    fn moments_are_as_stated() {
        let mut random = Random::new(1, 0);
        let count = 200_000;
        let (mut sum, mut squares, mut units) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            let value = random.normal();
            sum += value;
            squares += value * value;
            units += random.unit();
        }
        let count = f64::from(count);
        assert!((sum / count).abs() < 0.01 && (squares / count - 1.0).abs() < 0.02 && (units / count - 0.5).abs() < 0.005);
    }

    #[test]
    fn wandering_forgets_with_its_time_constant() {
        let (mut random, mut wander) = (Random::new(2, 0), Wander::new(3.0, 10.0, 1.0));
        let values: Vec<f64> = (0..200_000).map(|_| wander.step(&mut random)).collect();
        let product = |lag: usize| values.iter().zip(&values[lag..]).map(|(a, b)| a * b).sum::<f64>() / values.len() as f64;
        assert!((product(0) - 9.0).abs() < 0.7, "{}", product(0));
        assert!((product(10) / product(0) - (-1.0_f64).exp()).abs() < 0.05);
    }

    #[test]
    fn functions_are_as_close_as_stated() {
        for i in 0..4000 {
            let x = f64::from(i) / 100.0;
            assert!((decay(x) - (-x).exp()).abs() < 4e-4, "{x}");
            let turns = x - 20.0;
            assert!((sine(turns) - (turns * std::f64::consts::TAU).sin()).abs() < 1e-10, "{turns}");
            assert!((cosine(turns) - (turns * std::f64::consts::TAU).cos()).abs() < 1e-10, "{turns}");
        }
    }
}
