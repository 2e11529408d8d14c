//! What every answer to the API is made with.

use crate::{
    api::{Answer, Refusal},
    store::StoreError,
};

/// Who sends rows over HTTP, as a source and a partition.
pub(super) const SOURCE: &str = "api";

pub(super) fn refusal(error: &StoreError) -> Refusal {
    if error.is_retryable() { Refusal::Unavailable(error.to_string()) } else { Refusal::Failed(error.to_string()) }
}

pub(super) fn to_bytes<T: serde::Serialize>(value: &T) -> Answer {
    serde_json::to_vec(value).map_err(|error| Refusal::Failed(error.to_string()))
}
