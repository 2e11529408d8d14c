//! Why a processor ends, and why a sink does not take rows.

use std::any::Any;

/// Why a processor does not start, or has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessorError {
    /// It was started before.
    #[error("the processor has been started already: make a new one")]
    Started,
    /// What was asked for makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// Its checkpoints cannot be written, or do not fit.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// A source, a step or a sink failed for good.
    #[error("{0}")]
    Failed(String),
}

impl ProcessorError {
    pub(super) fn checkpoint(error: impl std::fmt::Display) -> Self {
        Self::Checkpoint(error.to_string())
    }

    /// Of what a step's panic carries.
    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Failed(format!("a step panicked: {}", words.unwrap_or("without a message")))
    }
}

/// Why a sink did not take rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may take them later: the same rows are written again, with growing waits.
    #[error("{0}")]
    Retry(String),
    /// It never will: the processor fails.
    #[error("{0}")]
    Fatal(String),
}
