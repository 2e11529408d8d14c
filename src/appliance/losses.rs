//! What a salvage could not bring back becomes an alert, once, also if the process ends in between.

use super::now;
use crate::{
    model::{Input, Order, Severity},
    store::{Loss, Store, StoreError},
};

/// What an alert about the store is about.
pub(super) const STORE: &str = "store";
/// How many reports have been announced.
const ANNOUNCED: &str = "lost/announced";
/// Characters of a report that an alert carries; the rest is in the store.
const MESSAGE_CHARS_MAX: usize = 4_000;

/// Raises an alert for every report that none was raised for; without room on the disk the next start does.
pub(super) fn announce(store: &Store) -> Result<(), StoreError> {
    match announce_all(store) {
        Err(error) if error.is_retryable() => {
            tracing::warn!("no alert about the damaged store: {error}");
            Ok(())
        }
        done => done,
    }
}

fn announce_all(store: &Store) -> Result<(), StoreError> {
    let reader = store.reader()?;
    let reports = reader.lost()?;
    let known = reader.state(ANNOUNCED, 1)?;
    let announced = known.first().and_then(|(_, value)| serde_json::from_slice::<usize>(value).ok()).unwrap_or(0);
    for report in reports.iter().skip(announced) {
        let loss: Loss = serde_json::from_value(report.clone()).unwrap_or_default();
        let message = loss.said().chars().take(MESSAGE_CHARS_MAX).collect();
        let order = Order::Report { source: STORE.into(), severity: Severity::Critical, message };
        store.writer().append(Input::Order { time: now(), order })?;
    }
    if reports.len() != announced {
        store.writer().put_state(ANNOUNCED, serde_json::to_vec(&reports.len()).ok())?;
    }
    Ok(())
}
