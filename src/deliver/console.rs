//! Rows and results on standard output: numbered, indented JSON, for people who try things out.

use std::{fmt::Write as _, io::Write as _, sync::Arc};

use super::{
    Delivered, Identity, Parcel, SinkError, blocking,
    row_json::{RowWriter, write_result},
};

/// Standard output.
pub struct ConsoleSink {
    identity: Identity,
    /// Counts what was printed since the start.
    printed: u64,
}

impl ConsoleSink {
    /// Starts counting at 1.
    pub fn new(identity: Identity) -> Self {
        Self { identity, printed: 0 }
    }

    /// Prints all of `parcel`.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if standard output takes nothing more.
    pub async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let (text, count) = pretty(&self.identity.appliance, parcel, self.printed);
        blocking(move || {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .map_err(|error| SinkError::Retry(format!("standard output: {error}")))
        })
        .await?;
        self.printed += count;
        Ok(Delivered { rows: parcel.row_count() as u64, results: parcel.results.len() as u64, repeated: 0 })
    }
}

/// The text, and how many objects it holds.
fn pretty(appliance: &str, parcel: &Parcel, printed: u64) -> (String, u64) {
    let (mut text, mut count) = (String::new(), 0);
    let mut add = |json: &[u8]| {
        count += 1;
        let shown = serde_json::from_slice::<serde_json::Value>(json)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned());
        // Writing to memory cannot fail.
        let _ = writeln!(text, "[{}] {shown}", printed + count);
    };
    let mut json = Vec::new();
    for lot in &parcel.rows {
        let writer = RowWriter::new(appliance, &lot.batch, lot.historical);
        for row in 0..lot.batch.rows() {
            json.clear();
            writer.write(row, &mut json);
            add(&json);
        }
    }
    for result in &parcel.results {
        json.clear();
        write_result(&mut json, appliance, result);
        add(&json);
    }
    (text, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::ResultRecord;
    use crate::model::Seq;

    #[test]
    fn objects_are_numbered_and_indented() {
        let result = ResultRecord {
            seq: Seq(1),
            id: "i".into(),
            kind: "alert".into(),
            pipeline: "p".into(),
            stream: Some("s".into()),
            historical: false,
            json: Arc::from(&b"{\"kind\":\"alert\"}"[..]),
        };
        let parcel = Parcel { results: vec![result], ..Parcel::default() };
        let (text, count) = pretty("a", &parcel, 16);
        assert_eq!(count, 1);
        assert_eq!(text, "[17] {\n  \"appliance\": \"a\",\n  \"kind\": \"alert\",\n  \"stream\": \"s\"\n}\n");
    }
}
