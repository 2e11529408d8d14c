//! Nothing lost, nothing doubled, nothing out of order: the real appliance between real servers, killed with `kill -9` again and again
//! while an oracle sends numbered rows.
//!
//! The oracle ([`oracle`]) numbers rows from 1 and sends them over MQTT at both levels that promise something, over HTTP and over a serial
//! line; a row counts as sent once its protocol has acknowledged it. The campaign ([`campaign`]) kills the appliance at seeded moments,
//! kills and freezes the servers, and looks whether every sink goes on. Between broker and appliance a relay ([`tap`]) notes the order in which
//! the broker sends rows. The verdict ([`verdict`]) reads every far end with a client of
//! its own and counts what is lost, doubled and out of order.
//!
//! | variable | means | without it |
//! |---|---|---|
//! | `QADF_CRASHES` | how often the appliance is killed | 20 |
//! | `QADF_SEED` | what follows what | from the clock; the report names it |
//!
//! The campaign of the night is `QADF_CRASHES=200 cargo test --release --test crash -- --nocapture`.

mod servers;

#[path = "crash/campaign.rs"]
mod campaign;
#[path = "appliance/ends.rs"]
mod ends;
#[path = "crash/mqtt.rs"]
mod mqtt;
#[path = "crash/oracle.rs"]
mod oracle;
#[path = "appliance/process.rs"]
mod process;
#[path = "crash/tap.rs"]
mod tap;
#[path = "crash/verdict.rs"]
mod verdict;

/// A number from the environment.
fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order_whatever_is_killed() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = from_environment("QADF_SEED").unwrap_or_else(|| since.map_or(1, |since| since.as_secs() % 1_000_000));
    let crashes = from_environment("QADF_CRASHES").unwrap_or(20);
    eprintln!("crash campaign: QADF_SEED={seed} QADF_CRASHES={crashes}");
    campaign::Campaign::new(seed).run(crashes);
}
