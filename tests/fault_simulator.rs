//! The deterministic simulator of faults: the same seeds in every build and a new one each time; the same seed gives the same history.
//!
//! | variable | means | without it |
//! |---|---|---|
//! | `QADF_SEED` | the new seed | from the clock; a failure names it |
//! | `QADF_HOURS` | simulated hours of the new seed | 0.05 |

use std::time::{SystemTime, UNIX_EPOCH};

use qadf_edge::commands::simulate_faults::{Outcome, Settings, simulate};

fn check(seed: u64, hours: f64) -> Outcome {
    let outcome = simulate(Settings { seed, hours, is_faulty: true }).unwrap_or_else(|what| panic!("{what}"));
    eprintln!("{}", serde_json::to_string(&outcome).expect("plain numbers"));
    assert_eq!(outcome.rows as f64, (hours * 360.0).floor() * 5_000.0, "every row that was produced");
    outcome
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order_whatever_fails() {
    let outcomes: Vec<Outcome> = [1, 2, 3].map(|seed| check(seed, 0.05)).into();
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let happened = [
        sum(|outcome| outcome.faults.crashes),
        sum(|outcome| outcome.faults.servers_away),
        sum(|outcome| outcome.faults.servers_frozen),
        sum(|outcome| outcome.faults.answers_lost),
        sum(|outcome| outcome.faults.lines_cut),
        sum(|outcome| outcome.faults.connections_broken),
        sum(|outcome| outcome.faults.clock_steps),
        sum(|outcome| outcome.faults.disk_errors + outcome.faults.loops_restarted),
        sum(|outcome| outcome.faults.damaged_frames),
        sum(|outcome| outcome.faults.duplicates),
    ];
    assert!(happened.iter().all(|count| *count > 0), "every kind of fault happens: {happened:?}");
}

#[test]
fn a_seed_that_nobody_has_tried_finds_nothing_either() {
    let from = |name: &str| std::env::var(name).ok().map(|text| text.parse::<f64>().expect("a number"));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() % 1_000_000_000);
    let seed = from("QADF_SEED").map_or(clock as u64, |seed| seed as u64);
    eprintln!("QADF_SEED={seed}");
    check(seed, from("QADF_HOURS").unwrap_or(0.05));
}

#[test]
fn a_seed_gives_the_same_history_again() {
    let [first, second] = [(); 2].map(|()| check(77, 0.03));
    assert_eq!((&first.digest, &first.faults, first.results), (&second.digest, &second.faults, second.results));
    assert_ne!(first.digest, check(78, 0.03).digest);
}
