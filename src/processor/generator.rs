//! A source of made-up rows.

use std::time::{Duration, Instant};

use super::{Poll, Polled, Source, SourceError};

/// Row `n` is what a function of `n` says: the same after every restart.
pub struct GeneratorSource<F> {
    row_of: F,
    next: u64,
    rows_max: u64,
    per_second: Option<f64>,
    /// When, and with which row, the pace began.
    began: Option<(Instant, u64)>,
}

impl<T, F: FnMut(u64) -> T> GeneratorSource<F> {
    /// Rows without end, as fast as they are taken.
    pub fn new(row_of: F) -> Self {
        Self { row_of, next: 0, rows_max: u64::MAX, per_second: None, began: None }
    }

    /// Ends after so many rows.
    #[must_use]
    pub fn rows(self, rows_max: u64) -> Self {
        Self { rows_max, ..self }
    }

    /// Gives so many rows a second.
    #[must_use]
    pub fn per_second(self, rows: f64) -> Self {
        Self { per_second: Some(rows), ..self }
    }

    /// The first row that is not due yet.
    fn due(&mut self) -> u64 {
        let Some(per_second) = self.per_second else { return u64::MAX };
        let (began, first) = *self.began.get_or_insert_with(|| (Instant::now(), self.next));
        first.saturating_add((began.elapsed().max(Duration::from_micros(1)).as_secs_f64() * per_second) as u64)
    }
}

impl<T: Send + 'static, F: FnMut(u64) -> T + Send + 'static> Source for GeneratorSource<F> {
    type Row = T;

    fn poll(&mut self, max: usize, into: &mut Polled<T>) -> Result<Poll, SourceError> {
        let due = self.due().min(self.rows_max);
        let until = self.next.saturating_add(max as u64).min(due);
        into.partition = "generator".into();
        if until > self.next {
            into.rows.extend((self.next..until).map(&mut self.row_of));
            self.next = until;
        }
        Ok(match self.next {
            next if next >= self.rows_max => Poll::End,
            next if next >= due => Poll::Pending,
            _ => Poll::Ready,
        })
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
        let position = position.try_into().map_err(|_| SourceError("a position of another source".into()))?;
        self.next = u64::from_le_bytes(position);
        Ok(())
    }
}
