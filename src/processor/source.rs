//! Where rows come from.

use std::sync::Arc;

/// What a source gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// There may be more at once.
    Ready,
    /// Nothing for now.
    Pending,
    /// Nothing ever again.
    End,
}

/// Rows that a source hands over, all of one partition.
#[derive(Debug)]
pub struct Polled<T> {
    /// The rows, in order.
    pub rows: Vec<T>,
    /// The partition that the watermark is kept for, such as a file or a partition of a topic.
    pub partition: Arc<str>,
    /// What could not be read: why, and the raw text.
    pub rejected: Vec<(String, String)>,
}

impl<T> Polled<T> {
    /// Nothing yet, of the partition `source`.
    pub fn new() -> Self {
        Self { rows: Vec::new(), partition: "source".into(), rejected: Vec::new() }
    }
}

impl<T> Default for Polled<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A source that gives no more rows, although it has not ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Something that rows come from. `poll` alone makes one; with `position` and `seek` it goes on where a checkpoint was.
///
/// ```
/// use qadf_edge::processor::{Poll, Polled, Source, SourceError};
///
/// struct Countdown(u32);
/// impl Source for Countdown {
///     type Row = u32;
///     fn poll(&mut self, max: usize, into: &mut Polled<u32>) -> Result<Poll, SourceError> {
///         while self.0 > 0 && into.rows.len() < max {
///             into.rows.push(self.0);
///             self.0 -= 1;
///         }
///         Ok(if self.0 == 0 { Poll::End } else { Poll::Ready })
///     }
///     fn position(&self) -> Vec<u8> {
///         self.0.to_le_bytes().to_vec()
///     }
///     fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
///         let bytes = position.try_into().map_err(|_| SourceError("four bytes are a position".into()))?;
///         self.0 = u32::from_le_bytes(bytes);
///         Ok(())
///     }
/// }
/// ```
pub trait Source: Send + 'static {
    /// What a row is.
    type Row: Send + 'static;

    /// Adds up to `max` rows to `into`, without waiting for long.
    ///
    /// # Errors
    /// What ends the processor: a source retries by itself whatever may pass.
    fn poll(&mut self, max: usize, into: &mut Polled<Self::Row>) -> Result<Poll, SourceError>;

    /// The place behind the last row handed over, to be kept in a checkpoint.
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on from such a place.
    ///
    /// # Errors
    /// A place that this source does not have.
    fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
        if position.is_empty() { Ok(()) } else { Err(SourceError("this source cannot go back to a position".into())) }
    }

    /// What was handed over is safe up to `position`.
    ///
    /// # Errors
    /// What ends the processor.
    fn acknowledge(&mut self, _position: &[u8]) -> Result<(), SourceError> {
        Ok(())
    }
}
