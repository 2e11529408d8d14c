//! What the engine consumes, in the order of the inbox.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Batch, Timestamp};

/// A place in the inbox or the outbox; rows of the inbox are numbered from 1 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// One thing that happened, as the inbox holds it. The engine is a fold over these and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Rows came in.
    Batch(Arc<Batch>),
    /// A source states that no row of `stream` earlier than `time` follows on `partition`.
    Watermark {
        /// The stream.
        stream: Arc<str>,
        /// The source partition that says so.
        partition: Arc<str>,
        /// Nothing earlier follows.
        time: Timestamp,
        /// When it came in.
        arrival: Timestamp,
    },
    /// Time passed: given when a deadline the engine asked for is reached. Carries the appliance's clock.
    Tick(Timestamp),
    /// The end of a replayed input: all windows close.
    End,
}
