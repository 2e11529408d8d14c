//! Recent rows and alerts in Redis, for dashboards.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `qadf:{appliance}:{stream}:latest` | hash | the stream's latest row: `time`, `x`…, tags and signals by name, `id`; and `seq`, `store` |
//! | `qadf:{appliance}:{stream}:recent` | stream | the last rows, capped, gone `ttl` after the last; entry id `{seq}-0`, the same fields but `seq`, `store` |
//! | `qadf:{appliance}:alerts` | stream | the last alerts, capped; entry id `{seq of the outbox}-0`, fields `id`, `severity`, `source`, `time`, `message`, `json`, `store` |
//!
//! One script a stream writes rows and hash together. It compares sequence numbers: what the hash has already is passed over, so
//! repeating a parcel changes nothing. A row of another store (one that started again from 1) replaces what is there. Of a parcel only the rows
//! that the cap would leave are sent. A null tag or missing value has no field.

use std::{fmt::Write, sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, Script, ServerErrorKind, aio::MultiplexedConnection};

use super::{Delivered, Identity, Parcel, ResultRecord, RowLot, SinkError, row_json::write_time};
use crate::model::{Batch, Flags, Timestamp};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Rows in one call of the script; Redis serves nobody else meanwhile.
const ROWS_A_CALL: usize = 500;
const ALERTS_KEPT: usize = 1_000;

/// KEYS: latest, recent. ARGV: store, ttl in ms, cap, then a row at a time: seq, number of fields and values, fields and values.
const WRITE_ROWS: &str = r"
local latest, recent, store = KEYS[1], KEYS[2], ARGV[1]
local known = redis.call('HMGET', latest, 'store', 'seq')
local last = 0
if known[1] == store then last = tonumber(known[2]) else redis.call('DEL', recent) end
local at, newest, repeated = 4, nil, 0
while at <= #ARGV do
  local seq, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  if seq > last then
    redis.call('XADD', recent, ARGV[at] .. '-0', unpack(ARGV, at + 2, at + 1 + count))
    newest = at
  else
    repeated = repeated + 1
  end
  at = at + 2 + count
end
if newest then
  redis.call('XTRIM', recent, 'MAXLEN', ARGV[3])
  redis.call('PEXPIRE', recent, ARGV[2])
  redis.call('DEL', latest)
  redis.call('HSET', latest, 'store', store, 'seq', ARGV[newest], unpack(ARGV, newest + 2, newest + 1 + tonumber(ARGV[newest + 1])))
end
return repeated
";

/// KEYS: alerts. ARGV: store, cap, then an alert at a time: seq, id, severity, source, time, message, json.
const WRITE_ALERTS: &str = r"
local alerts, store = KEYS[1], ARGV[1]
local last, newest = 0, redis.call('XREVRANGE', alerts, '+', '-', 'COUNT', 1)[1]
if newest then
  local known = nil
  for i = 1, #newest[2], 2 do if newest[2][i] == 'store' then known = newest[2][i + 1] end end
  if known == store then last = tonumber(string.match(newest[1], '^%d+')) else redis.call('DEL', alerts) end
end
local repeated = 0
for at = 3, #ARGV, 7 do
  if tonumber(ARGV[at]) > last then
    redis.call('XADD', alerts, 'MAXLEN', ARGV[2], ARGV[at] .. '-0', 'id', ARGV[at + 1], 'severity', ARGV[at + 2], 'source', ARGV[at + 3],
      'time', ARGV[at + 4], 'message', ARGV[at + 5], 'json', ARGV[at + 6], 'store', store)
  else
    repeated = repeated + 1
  end
end
return repeated
";

/// What is configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `redis://[user:password@]host:port/db`
    pub url: String,
    /// How long after the last row a stream's recent rows go.
    pub ttl: Duration,
    /// How many recent rows a stream keeps.
    pub recent_rows: usize,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Settings").field("ttl", &self.ttl).field("recent_rows", &self.recent_rows).finish_non_exhaustive()
    }
}

/// A connection to Redis.
pub struct RedisSink {
    connection: MultiplexedConnection,
    identity: Identity,
    store: String,
    ttl_ms: String,
    recent_rows: usize,
    write_rows: Script,
    write_alerts: Script,
}

impl RedisSink {
    /// Connects.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if nobody answers; [`SinkError::Fatal`] for a wrong URL or password.
    pub async fn connect(settings: &Settings, identity: Identity) -> Result<Self, SinkError> {
        let client = Client::open(settings.url.as_str()).map_err(|error| fate(&error))?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_WITHIN)).set_response_timeout(Some(ANSWER_WITHIN));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| fate(&error))?;
        Ok(Self {
            connection,
            store: format!("{:016x}", identity.store),
            identity,
            ttl_ms: settings.ttl.as_millis().max(1).to_string(),
            recent_rows: settings.recent_rows.max(1),
            write_rows: Script::new(WRITE_ROWS),
            write_alerts: Script::new(WRITE_ALERTS),
        })
    }

    /// Writes what of `parcel` is recent, and its alerts.
    ///
    /// # Errors
    /// [`SinkError::Fatal`] if a key of ours holds something else.
    pub async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let mut repeated = 0;
        for (batch, rows) in recent(&parcel.rows, self.recent_rows) {
            for start in rows.clone().step_by(ROWS_A_CALL) {
                repeated += self.write_rows(batch, start..rows.end.min(start + ROWS_A_CALL)).await?;
            }
        }
        let alerts: Vec<_> = parcel.results.iter().filter(|result| &*result.kind == "alert").collect();
        let newest = alerts.len().saturating_sub(ALERTS_KEPT);
        if !alerts.is_empty() {
            repeated += self.write_alerts(&alerts[newest..]).await?;
        }
        Ok(Delivered { rows: parcel.row_count() as u64, results: parcel.results.len() as u64, repeated })
    }

    async fn write_rows(&mut self, batch: &Batch, rows: std::ops::Range<usize>) -> Result<u64, SinkError> {
        let prefix = format!("qadf:{}:{}", self.identity.appliance, batch.stream.id);
        let mut call = self.write_rows.key(format!("{prefix}:latest"));
        call.key(format!("{prefix}:recent")).arg(&self.store).arg(&self.ttl_ms).arg(self.recent_rows);
        for row in rows {
            let seq = crate::model::Seq(batch.first_seq.0 + row as u64);
            let fields = fields(batch, row, self.identity.row_id(seq));
            call.arg(seq.0).arg(fields.len() * 2);
            for (name, value) in fields {
                call.arg(name).arg(value);
            }
        }
        call.invoke_async(&mut self.connection).await.map_err(|error| fate(&error))
    }

    async fn write_alerts(&mut self, alerts: &[&ResultRecord]) -> Result<u64, SinkError> {
        let mut call = self.write_alerts.key(format!("qadf:{}:alerts", self.identity.appliance));
        call.arg(&self.store).arg(ALERTS_KEPT);
        for alert in alerts {
            let body: serde_json::Value = serde_json::from_slice(&alert.json).unwrap_or_default();
            let text = |name: &str| body.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            call.arg(alert.seq.0).arg(&*alert.id).arg(text("severity")).arg(text("source"));
            call.arg(text("time")).arg(text("message")).arg(&*alert.json);
        }
        call.invoke_async(&mut self.connection).await.map_err(|error| fate(&error))
    }
}

/// The rows that a cap of `kept` a stream leaves, in inbox order.
fn recent(lots: &[RowLot], kept: usize) -> Vec<(&Batch, std::ops::Range<usize>)> {
    let mut room: Vec<(&str, usize)> = Vec::new();
    let mut ranges = Vec::new();
    for lot in lots.iter().rev() {
        let batch = &*lot.batch;
        let at = room.iter().position(|(stream, _)| *stream == &*batch.stream.id).unwrap_or_else(|| {
            room.push((&batch.stream.id, kept));
            room.len() - 1
        });
        let taken = batch.rows().min(room[at].1);
        room[at].1 -= taken;
        if taken > 0 {
            ranges.push((batch, batch.rows() - taken..batch.rows()));
        }
    }
    ranges.reverse();
    ranges
}

fn fields(batch: &Batch, row: usize, id: String) -> Vec<(&str, String)> {
    let mut fields = Vec::with_capacity(8 + batch.signals.len() + batch.tags.len());
    fields.push(("id", id));
    let mut time = Vec::with_capacity(30);
    write_time(&mut time, Timestamp(batch.time[row]));
    fields.push(("time", String::from_utf8(time).unwrap_or_default()));
    if let Some(position) = batch.position(row) {
        fields.extend(["x", "y", "z"].into_iter().zip(position.map(number)));
    }
    if let Some(layer) = batch.layer(row) {
        fields.push(("layer", layer.to_string()));
    }
    for (name, column) in batch.stream.tags.iter().zip(&batch.tags) {
        if let Some(text) = column.get(row) {
            fields.push((name, text.to_string()));
        }
    }
    for (signal, column) in batch.stream.signals.iter().zip(&batch.signals) {
        if !column[row].is_nan() {
            fields.push((&signal.name, number(column[row])));
        }
    }
    let flags = batch.flags(row);
    for (flag, name) in Flags::NAMED {
        if flags.has(flag) {
            fields.push((name, "true".to_owned()));
        }
    }
    fields
}

/// The shortest text that reads back as the same number.
fn number(value: f64) -> String {
    let mut text = String::with_capacity(20);
    // Writing to memory cannot fail.
    let _ = write!(text, "{value}");
    text
}

fn fate(error: &RedisError) -> SinkError {
    let text = format!("Redis: {error}");
    let wrong_type = error.code() == Some("WRONGTYPE") || error.to_string().contains("WRONGTYPE");
    let fatal = wrong_type
        || matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig | ErrorKind::Server(ServerErrorKind::NoPerm)
        );
    if fatal { SinkError::Fatal(text) } else { SinkError::Retry(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Seq, Stream};

    fn lot(stream: &str, first: u64, rows: usize) -> RowLot {
        let mut batch = Batch::new(Arc::new(Stream::new(stream, &[], &[])), "s".into(), "p".into(), Timestamp(0));
        batch.first_seq = Seq(first);
        batch.time = vec![0; rows];
        RowLot { batch: Arc::new(batch), historical: false }
    }

    #[test]
    fn only_rows_that_the_cap_leaves_are_sent() {
        let lots = [lot("a", 1, 4), lot("b", 5, 1), lot("a", 6, 4)];
        let sent: Vec<_> = recent(&lots, 5).into_iter().map(|(batch, rows)| (batch.first_seq.0, rows)).collect();
        assert_eq!(sent, [(1, 3..4), (5, 0..1), (6, 0..4)]);
        assert_eq!(recent(&lots, 4).len(), 2);
    }
}
