//! JSON messages: one row, or an array of rows, straight into columns.
//!
//! The keys of a stream's rows come in the same order row after row, so each key is first compared with the one that stood in its place
//! before, and looked up only when it differs.

use std::borrow::Cow;

use super::{
    Context, Decoded, MESSAGE_BYTES_MAX, MESSAGE_ROWS_MAX, Reason, Routes, clip,
    columns::{Columns, Field, RowWriter, time_from_integer, time_from_text, wrong_type},
    json_text::{Cursor, Value},
};

/// Most keys remembered in order; rows with more are decoded all the same.
const ORDER_KEYS_MAX: usize = 1024;

/// Decodes JSON messages; see the module's page.
#[derive(Debug, Clone)]
pub struct Json {
    routes: Routes,
    /// By stream: the keys of the last row.
    orders: Vec<KeyOrder>,
}

/// The keys of a row in their order, and what they mean.
#[derive(Debug, Clone, Default)]
struct KeyOrder(Vec<(Box<str>, Field)>);

impl Json {
    /// A decoder for rows of `routes`.
    pub fn new(routes: Routes) -> Self {
        let orders = vec![KeyOrder::default(); routes.len()];
        Self { routes, orders }
    }

    /// Decodes a message: an object, or an array of objects.
    pub fn message(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return out.reject(
                context,
                format!("a message of {} bytes is longer than {MESSAGE_BYTES_MAX}", bytes.len()).into(),
                bytes,
            );
        }
        let text = match utf8(bytes) {
            Ok(text) => text,
            Err(reason) => return out.reject(context, reason, bytes),
        };
        let mut cursor = Cursor::new(text);
        match cursor.peek_token() {
            Some(b'{') => self.object(text, context, out),
            Some(b'[') => self.array(cursor, text, context, out),
            Some(_) => out.reject(context, cursor.unexpected("an object or an array"), bytes),
            None => out.reject(context, "the message is empty".into(), bytes),
        }
    }

    /// Decodes a text that is one object and nothing else.
    pub(super) fn object(&mut self, text: &str, context: &Context, out: &mut Decoded) {
        if let Err(reason) = self.row(&mut Cursor::new(text), Ending::Text, context, out) {
            out.reject(context, reason, text.as_bytes());
        }
    }

    fn array(&mut self, mut cursor: Cursor, text: &str, context: &Context, out: &mut Decoded) {
        cursor.eat(b'[');
        if cursor.eat(b']') {
            return reject_rest(&mut cursor, text, context, out);
        }
        for _ in 0..MESSAGE_ROWS_MAX {
            cursor.peek_token();
            let start = cursor.at();
            if let Err(reason) = self.row(&mut cursor, Ending::Element, context, out) {
                cursor.move_to(start);
                let ended = cursor.skip_element();
                let raw = text[start..cursor.at()].trim_ascii_end();
                out.reject(context, reason, if raw.is_empty() { text } else { raw }.as_bytes());
                if !ended {
                    return;
                }
            }
            if cursor.eat(b']') {
                return reject_rest(&mut cursor, text, context, out);
            }
            if !cursor.eat(b',') {
                let reason = cursor.unexpected("`,` or `]`");
                return out.reject(context, reason, &text.as_bytes()[cursor.at()..]);
            }
        }
        let reason = format!("an array of more than {MESSAGE_ROWS_MAX} rows: what follows is refused");
        out.reject(context, reason.into(), &text.as_bytes()[cursor.at()..]);
    }

    /// Decodes the object under the cursor into its batch, wholly or not at all.
    fn row(&mut self, cursor: &mut Cursor, ending: Ending, context: &Context, out: &mut Decoded) -> Result<(), Reason> {
        let stream = if self.routes.is_by_row() { self.stream_of(cursor.clone())? } else { self.routes.default()? };
        let columns = self.routes.get(stream);
        let mut writer = RowWriter::new(out.batch(context, &columns.stream));
        let object = Object { columns, routes: &self.routes, stream };
        let result = object
            .read(cursor, &mut self.orders[stream], &mut writer)
            .and_then(|()| ending.check(cursor))
            .and_then(|()| writer.finish(context));
        result.inspect_err(|_| writer.abandon())
    }

    /// The stream that an object names in `stream`.
    fn stream_of(&self, mut cursor: Cursor) -> Result<usize, Reason> {
        match top_level(&mut cursor, "stream")? {
            Some(Value::Text(name)) => self.routes.named(&name),
            None | Some(Value::Null) => self.routes.default(),
            Some(_) => Err(wrong_type("stream", "text")),
        }
    }
}

/// What must follow a row.
#[derive(Clone, Copy)]
enum Ending {
    /// The end of the text.
    Text,
    /// Whatever the array brings.
    Element,
}

impl Ending {
    fn check(self, cursor: &mut Cursor) -> Result<(), Reason> {
        match (self, cursor.peek_token()) {
            (Self::Text, Some(_)) => Err(cursor.unexpected("the end")),
            _ => Ok(()),
        }
    }
}

/// The scalar of `key` in the object under the cursor; an escaped spelling of the key is not looked for.
pub(super) fn top_level<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Option<Value<'a>>, Reason> {
    if !cursor.eat(b'{') {
        return Err(cursor.unexpected("an object"));
    }
    while cursor.peek_token() == Some(b'"') {
        let found = cursor.eat_key(key);
        if !found {
            cursor.string()?;
        }
        if !cursor.eat(b':') {
            return Err(cursor.unexpected("`:`"));
        }
        cursor.peek_token();
        if found {
            return cursor.value().map(Some);
        }
        if !cursor.skip_element() {
            return Err(cursor.unexpected("`}`"));
        }
        cursor.eat(b',');
    }
    Ok(None)
}

/// An object being read as a row of one stream.
struct Object<'r> {
    columns: &'r Columns,
    routes: &'r Routes,
    stream: usize,
}

impl Object<'_> {
    fn read(&self, cursor: &mut Cursor, order: &mut KeyOrder, writer: &mut RowWriter) -> Result<(), Reason> {
        if !cursor.eat(b'{') {
            return Err(cursor.unexpected("an object"));
        }
        if cursor.eat(b'}') {
            return Ok(());
        }
        let mut place = 0;
        loop {
            cursor.peek_token();
            let field = order.field(place, cursor, self.columns)?;
            if !cursor.eat(b':') {
                return Err(cursor.unexpected("`:`"));
            }
            self.value(field, cursor, writer)?;
            if cursor.eat(b'}') {
                return Ok(());
            }
            if !cursor.eat(b',') {
                return Err(cursor.unexpected("`,` or `}`"));
            }
            place += 1;
        }
    }

    fn value(&self, field: Field, cursor: &mut Cursor, writer: &mut RowWriter) -> Result<(), Reason> {
        let stream = &self.columns.stream;
        let value = cursor.value()?;
        match field {
            Field::Signal(column) => writer.signal(column, number(&value, || &stream.signals[column].name)?),
            Field::Tag(column) => writer.tag(column, text(&value, || &stream.tags[column])?),
            Field::Time => writer.time(match value {
                Value::Text(text) => Some(time_from_text(&text)?),
                Value::Number(digits) => Some(time_from_integer(digits, stream)?),
                Value::Null => None,
                _ => return Err(wrong_type(&stream.time_field, "RFC 3339 text or an integer")),
            }),
            Field::Axis(axis) => writer.axis(axis, number(&value, || ["x", "y", "z"][axis])?),
            Field::Layer => writer.layer(integer(&value, "layer")?),
            Field::Device => writer.device(text(&value, || "device")?),
            Field::Boot => writer.boot(integer(&value, "boot")?),
            Field::Seq => writer.seq(integer(&value, "seq")?),
            Field::Stream => match text(&value, || "stream")? {
                Some(name) if self.routes.named(name)? != self.stream => Err("`stream` is given twice".into()),
                _ => writer.stream(),
            },
        }
    }
}

impl KeyOrder {
    /// What the key under the cursor means; moves over it.
    fn field(&mut self, place: usize, cursor: &mut Cursor, columns: &Columns) -> Result<Field, Reason> {
        if let Some((name, field)) = self.0.get(place)
            && cursor.eat_key(name)
        {
            return Ok(*field);
        }
        let name = cursor.string()?;
        let field = columns.field(&name).ok_or_else(|| columns.unknown(&name))?;
        if place < ORDER_KEYS_MAX {
            self.0.truncate(place);
            self.0.push((name.into(), field));
        }
        Ok(field)
    }
}

fn number<'n>(value: &Value, name: impl Fn() -> &'n str) -> Result<Option<f64>, Reason> {
    match value {
        // Infinite where the digits leave the range: the writer refuses that.
        Value::Number(digits) => Ok(digits.parse().ok()),
        Value::Null => Ok(None),
        _ => Err(wrong_type(name(), "a number")),
    }
}

fn text<'v, 'n>(value: &'v Value, name: impl Fn() -> &'n str) -> Result<Option<&'v str>, Reason> {
    match value {
        Value::Text(text) => Ok(Some(text)),
        Value::Null => Ok(None),
        _ => Err(wrong_type(name(), "text")),
    }
}

fn integer(value: &Value, name: &str) -> Result<Option<i64>, Reason> {
    match value {
        Value::Number(digits) => {
            digits.parse().map(Some).map_err(|_| format!("`{name}` must be a 64-bit integer, not `{}`", clip(digits)).into())
        }
        Value::Null => Ok(None),
        _ => Err(wrong_type(name, "an integer")),
    }
}

/// Whatever stands after the end of the message is refused.
fn reject_rest(cursor: &mut Cursor, text: &str, context: &Context, out: &mut Decoded) {
    if cursor.peek_token().is_some() {
        let reason = cursor.unexpected("the end");
        out.reject(context, reason, &text.as_bytes()[cursor.at()..]);
    }
}

/// The text of a message, without a byte-order mark.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Reason> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => Err(Cow::Owned(format!("not UTF-8 at byte {}", error.valid_up_to()))),
    }
}
