//! An input as a blob: self-describing, versioned, checked.
//!
//! ```text
//! blob       'Q', version 1, kind, body, CRC-32 of everything before (little endian)
//! kind 1     batch      shape, text source, text partition, signed arrival (ns), varint rows, presence bits,
//!                       integers time, numbers each signal, tags each tag,
//!                       [1] numbers x, y, z   [2] integers layer   [4] integers flags
//!                       [8] tags device, optional boot, optional seq
//! kind 2     watermark  text stream, text partition, signed time, signed arrival
//! kind 3     tick       signed time
//! kind 4     order      signed time, text order (JSON)
//! shape      bytes { text id, text time field, unit 0..=3, missing 0|1, varint signals, (text name, text unit) each,
//!                    varint tags, text name each }
//! tags       varint distinct texts, text each, integers: 0 = null, otherwise 1 + place of the text
//! optional   0 none | 1 integers | 2 integers 0|1 = missing|there, integers (0 where missing)
//! ```
//! [`super::wire`] and [`super::columns`] draw the parts. A batch names its own stream, signals and units, so that a row can be read
//! back whatever the configuration says today. What does not fit the limits below is not written: [`fits`].
//!
//! Version 1 is frozen by a test over its bytes; a change of layout is a new version beside it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::columns::{put_integers, put_numbers, take_integers, take_numbers};
use super::wire::{Cursor, TEXT_BYTES_MAX, put_signed, put_text, put_varint};
use crate::model::{
    Batch, Flags, Input, MissingTime, NO_TAG, Origin, Positions, Seq, Signal, Stream, TagColumn, TimeUnit, Timestamp,
};

pub use super::wire::DecodeError;

/// Rows of one batch; more are split before they are stored.
pub const BATCH_ROWS_MAX: usize = 65_536;
/// Signals, and tags, of one stream.
pub const COLUMNS_MAX: usize = 4_096;
/// Rows × columns of one batch: 32 MB decoded.
pub const CELLS_MAX: usize = 1 << 22;
/// Shapes that a reader keeps, so that batches of one stream share theirs.
const SHAPES_MAX: usize = 1_024;

const MAGIC: u8 = b'Q';
const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;

const HAS_POSITIONS: u8 = 1;
const HAS_LAYER: u8 = 2;
const HAS_FLAGS: u8 = 4;
const HAS_ORIGIN: u8 = 8;

/// Whether a batch is within the limits of one blob.
pub fn fits(batch: &Batch) -> bool {
    let shape = &batch.stream;
    let texts =
        |column: &TagColumn| column.names.len() <= BATCH_ROWS_MAX && column.names.iter().all(|name| name.len() <= TEXT_BYTES_MAX);
    batch.rows() <= rows_max(batch)
        && shape.signals.len() <= COLUMNS_MAX
        && shape.tags.len() <= COLUMNS_MAX
        && batch.tags.iter().all(texts)
        && batch.origin.as_ref().is_none_or(|origin| texts(&origin.device))
}

/// How many rows of this shape go into one blob.
pub fn rows_max(batch: &Batch) -> usize {
    (CELLS_MAX / columns(batch.stream.signals.len(), batch.stream.tags.len())).clamp(1, BATCH_ROWS_MAX)
}

/// Columns a batch can have, the optional ones included.
const fn columns(signals: usize, tags: usize) -> usize {
    signals + tags + 9
}

/// An input as a blob; `None` for [`Input::End`] and orders longer than a text may be, which are never stored.
pub fn encode(input: &Input) -> Option<Vec<u8>> {
    match input {
        Input::Batch(batch) => Some(encode_batch(batch)),
        Input::Watermark { stream, partition, time, arrival } => Some(sealed(2, 64, |out| {
            put_text(out, stream);
            put_text(out, partition);
            put_signed(out, time.0);
            put_signed(out, arrival.0);
        })),
        Input::Tick(time) => Some(sealed(3, 16, |out| put_signed(out, time.0))),
        // Whoever makes an order keeps it far below this bound ([`crate::model::ORDER_BYTES_MAX`]).
        Input::Order { time, order } => serde_json::to_string(order).ok().filter(|json| json.len() <= TEXT_BYTES_MAX).map(|json| {
            sealed(4, 32 + json.len(), |out| {
                put_signed(out, time.0);
                put_text(out, &json);
            })
        }),
        Input::End => None,
    }
}

/// A batch as a blob. `first_seq` is not in it: the inbox numbers rows later.
pub fn encode_batch(batch: &Batch) -> Vec<u8> {
    sealed(1, 128 + batch.rows() * 8, |out| put_batch(out, batch))
}

fn sealed(kind: u8, capacity: usize, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(&[MAGIC, VERSION, kind]);
    body(&mut out);
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn put_batch(out: &mut Vec<u8>, batch: &Batch) {
    put_shape(out, &batch.stream);
    put_text(out, &batch.source);
    put_text(out, &batch.partition);
    put_signed(out, batch.arrival.0);
    put_varint(out, batch.rows() as u64);
    let presence = [
        (batch.positions.is_some(), HAS_POSITIONS),
        (batch.layer.is_some(), HAS_LAYER),
        (batch.flags.is_some(), HAS_FLAGS),
        (batch.origin.is_some(), HAS_ORIGIN),
    ];
    out.push(presence.iter().filter(|(there, _)| *there).map(|(_, bit)| bit).sum());
    put_integers(out, &batch.time);
    batch.signals.iter().for_each(|column| put_numbers(out, column));
    batch.tags.iter().for_each(|column| put_tags(out, column));
    if let Some(at) = &batch.positions {
        [&at.x, &at.y, &at.z].into_iter().for_each(|axis| put_numbers(out, axis));
    }
    if let Some(layer) = &batch.layer {
        put_integers(out, &layer.iter().map(|layer| i64::from(*layer)).collect::<Vec<_>>());
    }
    if let Some(flags) = &batch.flags {
        put_integers(out, &flags.iter().map(|flags| i64::from(flags.0)).collect::<Vec<_>>());
    }
    if let Some(origin) = &batch.origin {
        put_tags(out, &origin.device);
        put_optional(out, &origin.boot);
        put_optional(out, &origin.seq);
    }
}

fn put_shape(out: &mut Vec<u8>, stream: &Stream) {
    let mut shape = Vec::with_capacity(64);
    put_text(&mut shape, &stream.id);
    put_text(&mut shape, &stream.time_field);
    shape.push(match stream.time_unit {
        TimeUnit::Nanoseconds => 0,
        TimeUnit::Microseconds => 1,
        TimeUnit::Milliseconds => 2,
        TimeUnit::Seconds => 3,
    });
    shape.push(u8::from(stream.time_missing == MissingTime::Arrival));
    put_varint(&mut shape, stream.signals.len() as u64);
    for signal in &stream.signals {
        put_text(&mut shape, &signal.name);
        put_text(&mut shape, &signal.unit);
    }
    put_varint(&mut shape, stream.tags.len() as u64);
    stream.tags.iter().for_each(|tag| put_text(&mut shape, tag));
    put_varint(out, shape.len() as u64);
    out.extend_from_slice(&shape);
}

fn put_tags(out: &mut Vec<u8>, column: &TagColumn) {
    put_varint(out, column.names.len() as u64);
    column.names.iter().for_each(|name| put_text(out, name));
    let place = |code: u32| if code == NO_TAG { 0 } else { i64::from(code) + 1 };
    match column.codes.split_first() {
        Some((first, rest)) if rest.iter().all(|code| code == first) => put_integers(out, &[place(*first)]),
        _ => put_integers(out, &column.codes.iter().map(|code| place(*code)).collect::<Vec<_>>()),
    }
}

fn put_optional(out: &mut Vec<u8>, values: &[Option<i64>]) {
    let there = values.iter().filter(|value| value.is_some()).count();
    out.push(if there == 0 { 0 } else { 1 + u8::from(there < values.len()) });
    if there == 0 {
        return;
    }
    if there < values.len() {
        put_integers(out, &values.iter().map(|value| i64::from(value.is_some())).collect::<Vec<_>>());
    }
    put_integers(out, &values.iter().map(|value| value.unwrap_or(0)).collect::<Vec<_>>());
}

/// Blobs back to inputs. Keeps the shapes it saw, so that batches of one stream share one [`Stream`].
#[derive(Debug, Default)]
pub struct Decoder {
    shapes: FxHashMap<Vec<u8>, Arc<Stream>>,
}

impl Decoder {
    /// The input in `blob`; rows are numbered from `first_seq`.
    ///
    /// # Errors
    /// What is not exactly what [`encode`] wrote.
    pub fn decode(&mut self, blob: &[u8], first_seq: Seq) -> Result<Input, DecodeError> {
        let (kind, mut cursor) = open(blob)?;
        let input = match kind {
            1 => Input::Batch(Arc::new(self.take_batch(&mut cursor, first_seq)?)),
            2 => Input::Watermark {
                stream: cursor.shared_text()?,
                partition: cursor.shared_text()?,
                time: Timestamp(cursor.signed()?),
                arrival: Timestamp(cursor.signed()?),
            },
            3 => Input::Tick(Timestamp(cursor.signed()?)),
            4 => {
                let time = Timestamp(cursor.signed()?);
                let order = serde_json::from_str(&cursor.shared_text()?);
                Input::Order { time, order: order.map_err(|_| DecodeError::Invalid("an order that is none"))? }
            }
            _ => return Err(DecodeError::Invalid("an unknown kind of input")),
        };
        if cursor.0.is_empty() { Ok(input) } else { Err(DecodeError::Invalid("bytes after the end")) }
    }

    fn take_batch(&mut self, cursor: &mut Cursor<'_>, first_seq: Seq) -> Result<Batch, DecodeError> {
        let stream = self.shape(cursor.bytes()?)?;
        let mut batch = Batch::new(stream, cursor.shared_text()?, cursor.shared_text()?, Timestamp(cursor.signed()?));
        batch.first_seq = first_seq;
        let rows = cursor.count(rows_max(&batch))?;
        let presence = cursor.byte()?;
        batch.time = take_integers(cursor, rows)?;
        for column in &mut batch.signals {
            *column = take_numbers(cursor, rows)?;
        }
        for column in &mut batch.tags {
            *column = take_tags(cursor, rows)?;
        }
        if presence & HAS_POSITIONS != 0 {
            let [x, y, z] = [take_numbers(cursor, rows)?, take_numbers(cursor, rows)?, take_numbers(cursor, rows)?];
            batch.positions = Some(Positions { x, y, z });
        }
        if presence & HAS_LAYER != 0 {
            batch.layer = Some(take_narrow(cursor, rows, "a layer is out of range")?);
        }
        if presence & HAS_FLAGS != 0 {
            let bits = take_narrow(cursor, rows, "flags are out of range")?;
            batch.flags = Some(bits.into_iter().map(Flags).collect());
        }
        if presence & HAS_ORIGIN != 0 {
            let device = take_tags(cursor, rows)?;
            batch.origin = Some(Origin { device, boot: take_optional(cursor, rows)?, seq: take_optional(cursor, rows)? });
        }
        Ok(batch)
    }

    fn shape(&mut self, bytes: &[u8]) -> Result<Arc<Stream>, DecodeError> {
        if let Some(known) = self.shapes.get(bytes) {
            return Ok(Arc::clone(known));
        }
        let stream = Arc::new(take_shape(&mut Cursor(bytes))?);
        if self.shapes.len() >= SHAPES_MAX {
            self.shapes.clear();
        }
        self.shapes.insert(bytes.to_vec(), Arc::clone(&stream));
        Ok(stream)
    }
}

/// Checks the frame of a blob; its kind and body.
fn open(blob: &[u8]) -> Result<(u8, Cursor<'_>), DecodeError> {
    let (content, checksum) = blob.split_last_chunk::<CRC_BYTES>().ok_or(DecodeError::Truncated)?;
    let [MAGIC, version, kind, body @ ..] = content else { return Err(DecodeError::Truncated) };
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(DecodeError::Checksum);
    }
    if *version == VERSION { Ok((*kind, Cursor(body))) } else { Err(DecodeError::Version(*version)) }
}

/// The stream a batch's blob belongs to, and its source, without decoding its rows; `None` for other kinds.
///
/// # Errors
/// As [`Decoder::decode`], as far as the head goes.
pub fn head(blob: &[u8]) -> Result<Option<(&str, &str)>, DecodeError> {
    let (kind, mut cursor) = open(blob)?;
    if kind != 1 {
        return Ok(None);
    }
    let id = Cursor(cursor.bytes()?).text()?;
    Ok(Some((id, cursor.text()?)))
}

fn take_shape(cursor: &mut Cursor<'_>) -> Result<Stream, DecodeError> {
    let id = cursor.shared_text()?;
    let time_field = cursor.shared_text()?;
    let time_unit = match cursor.byte()? {
        0 => TimeUnit::Nanoseconds,
        1 => TimeUnit::Microseconds,
        2 => TimeUnit::Milliseconds,
        3 => TimeUnit::Seconds,
        _ => return Err(DecodeError::Invalid("an unknown unit of time")),
    };
    let time_missing = if cursor.byte()? == 0 { MissingTime::Reject } else { MissingTime::Arrival };
    let signals = cursor.count(COLUMNS_MAX)?;
    let signals = (0..signals)
        .map(|_| Ok(Signal { name: cursor.shared_text()?, unit: cursor.shared_text()? }))
        .collect::<Result<_, DecodeError>>()?;
    let tags = cursor.count(COLUMNS_MAX)?;
    let tags = (0..tags).map(|_| cursor.shared_text()).collect::<Result<_, _>>()?;
    Ok(Stream { id, signals, tags, time_field, time_unit, time_missing })
}

fn take_tags(cursor: &mut Cursor<'_>, rows: usize) -> Result<TagColumn, DecodeError> {
    let names = cursor.count(BATCH_ROWS_MAX)?;
    let names = (0..names).map(|_| cursor.shared_text()).collect::<Result<Vec<_>, _>>()?;
    let code = |code: i64| match usize::try_from(code) {
        Ok(0) => Ok(NO_TAG),
        Ok(place) if place <= names.len() => Ok(place as u32 - 1),
        _ => Err(DecodeError::Invalid("a tag's code has no text")),
    };
    Ok(TagColumn { codes: take_integers(cursor, rows)?.into_iter().map(code).collect::<Result<_, _>>()?, names })
}

fn take_narrow<T: TryFrom<i64>>(cursor: &mut Cursor<'_>, rows: usize, wrong: &'static str) -> Result<Vec<T>, DecodeError> {
    let values = take_integers(cursor, rows)?;
    values.into_iter().map(|value| T::try_from(value).map_err(|_| DecodeError::Invalid(wrong))).collect()
}

fn take_optional(cursor: &mut Cursor<'_>, rows: usize) -> Result<Vec<Option<i64>>, DecodeError> {
    match cursor.byte()? {
        0 => Ok(vec![None; rows]),
        1 => Ok(take_integers(cursor, rows)?.into_iter().map(Some).collect()),
        2 => {
            let there = take_integers(cursor, rows)?;
            let values = take_integers(cursor, rows)?;
            Ok(there.into_iter().zip(values).map(|(there, value)| (there != 0).then_some(value)).collect())
        }
        _ => Err(DecodeError::Invalid("an unknown encoding of optional integers")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Key, Order};

    fn full(rows: usize) -> Batch {
        let mut stream = Stream::new("melt", &["intensity", "power"], &["part"]);
        stream.signals[0].unit = "V".into();
        let mut batch = Batch::new(Arc::new(stream), "scan_head".into(), "/dev/tty0".into(), Timestamp(77));
        batch.first_seq = Seq(5);
        let n = 0..rows as i64;
        batch.time = n.clone().map(|i| 1_000 + i * 20 + i % 3).collect();
        batch.signals[0] = n.clone().map(|i| (i as f64 * 0.3).sin()).collect();
        batch.signals[1] = n.clone().map(|i| if i % 4 == 0 { f64::NAN } else { 200.0 + (i % 7) as f64 * 0.5 }).collect();
        for i in n.clone() {
            batch.tags[0].push([Some("a"), None, Some("b")][i as usize % 3]);
        }
        batch.positions =
            Some(Positions { x: n.clone().map(|i| i as f64 * 0.016).collect(), y: vec![1.0; rows], z: vec![0.03; rows] });
        batch.layer = Some(vec![1; rows]);
        batch.flags = Some(n.clone().map(|i| Flags((i % 2) as u8)).collect());
        batch.origin = Some(Origin {
            device: TagColumn::constant(Some("d1"), rows),
            boot: vec![None; rows],
            seq: n.map(|i| (i % 5 != 0).then_some(i)).collect(),
        });
        batch
    }

    /// `NaN` is not equal to itself; its text is.
    fn same(left: &Input, right: &Input) -> bool {
        format!("{left:?}") == format!("{right:?}")
    }

    fn check(input: &Input) {
        let blob = encode(input).unwrap();
        let seq = if let Input::Batch(batch) = input { batch.first_seq } else { Seq(0) };
        let back = Decoder::default().decode(&blob, seq).unwrap();
        assert!(same(input, &back), "{input:?}\n{back:?}");
    }

    #[test]
    fn every_kind_of_input_comes_back() {
        for rows in [0, 1, 2, 3, 64, 1000] {
            check(&Input::Batch(Arc::new(full(rows))));
        }
        check(&Input::Tick(Timestamp::MIN));
        check(&Input::Watermark { stream: "s".into(), partition: "p".into(), time: Timestamp(1), arrival: Timestamp::MAX });
        let key = Key::from([("part".into(), Some("A".into())), ("recipe".into(), None)]);
        let (chart, author, reason) = ("c".into(), "ada".into(), "new nozzle".into());
        let order = Order::Exclude { chart, key, indices: vec![3, 9], author, reason };
        check(&Input::Order { time: Timestamp(7), order });
        assert_eq!(encode(&Input::End), None);
    }

    #[test]
    fn the_bytes_of_version_1_never_change() {
        let hex = |bytes: &[u8]| -> String {
            bytes
                .iter()
                .flat_map(|byte| [byte >> 4, byte & 15])
                .map(|half| char::from(b"0123456789abcdef"[usize::from(half)]))
                .collect()
        };
        assert_eq!(hex(&encode(&Input::Tick(Timestamp(5))).unwrap()), GOLDEN_TICK);
        let watermark =
            Input::Watermark { stream: "melt".into(), partition: "p".into(), time: Timestamp(-1), arrival: Timestamp(300) };
        assert_eq!(hex(&encode(&watermark).unwrap()), GOLDEN_WATERMARK);
        assert_eq!(hex(&encode_batch(&full(4))), GOLDEN_BATCH);
        let order = Order::Acknowledge { alert: "a".into(), name: "n".into(), note: "".into() };
        assert_eq!(hex(&encode(&Input::Order { time: Timestamp(5), order }).unwrap()), GOLDEN_ORDER);
    }

    const GOLDEN_ORDER: &str = "5101040a387b226f72646572223a2261636b6e6f776c65646765222c22616c657274223a2261222c226e616d65223a226e222c226e6f7465223a22227da9b60684";
    const GOLDEN_TICK: &str = "5101030a3167cf98";
    const GOLDEN_WATERMARK: &str = "510102046d656c74017001d804dd34d9e1";
    const GOLDEN_BATCH: &str = "51010126046d656c740474696d6500000209696e74656e73697479015605706f77657200010470617274097363616e5f68656164092f6465762f747479309a01040f0201d00f24020f01000000000000000033baba95cde9d23f5941a5178d11e23f40a85d980311e93f05020000010e020101aa1f0a02016101620200000261020301002000000000000000f03f00b81e85eb51b89e3f0002020000010a0102643100020002020000010e0100020c11b6bb";

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let blob = encode_batch(&full(20));
        let mut decoder = Decoder::default();
        for len in 0..blob.len() {
            assert!(decoder.decode(&blob[..len], Seq(1)).is_err(), "cut at {len}");
        }
        for bit in 0..blob.len() * 8 {
            let mut blob = blob.clone();
            blob[bit / 8] ^= 1 << (bit % 8);
            assert!(decoder.decode(&blob, Seq(1)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut blob = encode(&Input::Tick(Timestamp(5))).unwrap();
        blob[1] = 9;
        let end = blob.len() - CRC_BYTES;
        let checksum = crc32fast::hash(&blob[..end]);
        blob[end..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Decoder::default().decode(&blob, Seq(1)).unwrap_err(), DecodeError::Version(9));
    }

    #[test]
    fn batches_of_a_stream_share_its_shape() {
        let blob = encode_batch(&full(3));
        let mut decoder = Decoder::default();
        let mut stream = || match decoder.decode(&blob, Seq(1)).unwrap() {
            Input::Batch(batch) => Arc::clone(&batch.stream),
            _ => unreachable!(),
        };
        assert!(Arc::ptr_eq(&stream(), &stream()));
        assert_eq!(head(&blob), Ok(Some(("melt", "scan_head"))));
    }

    proptest! {
        /// Bytes that pass the checksum but were never written by us.
        #[test]
        fn crafted_bytes_are_survived(at in 3usize..250, byte: u8, kind in 0u8..6, cut in 0usize..250) {
            let mut blob = encode_batch(&full(20));
            blob.truncate(blob.len() - CRC_BYTES);
            let at = at % blob.len();
            blob[at] = byte;
            if kind > 0 { blob[2] = kind; }
            if cut > 3 && cut < blob.len() { blob.truncate(cut); }
            let checksum = crc32fast::hash(&blob);
            blob.extend_from_slice(&checksum.to_le_bytes());
            if let Ok(Input::Batch(batch)) = Decoder::default().decode(&blob, Seq(1)) {
                prop_assert!(batch.is_consistent());
            }
        }
    }
}
