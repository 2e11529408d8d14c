//! JSON Lines: a row a line, or `{"stream": S, "watermark": T}`.

use super::{
    Context, Decoded, Reason, Routes,
    columns::{time_from_integer, time_from_text, wrong_type},
    json::{Json, top_level, utf8},
    json_text::{Cursor, Value},
    lines::{Line, Lines},
};
use crate::model::Timestamp;

/// Decodes an endless stream of lines; empty lines mean nothing.
#[derive(Debug, Clone)]
pub struct JsonLines {
    lines: Lines,
    rows: Json,
    routes: Routes,
}

impl JsonLines {
    /// A decoder for rows of `routes`.
    pub fn new(routes: Routes) -> Self {
        Self { lines: Lines::default(), rows: Json::new(routes.clone()), routes }
    }

    /// Decodes the lines that end in `bytes`; the beginning of the next waits for its end.
    pub fn feed(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) {
        let Self { lines, rows, routes } = self;
        lines.feed(bytes, |line| each(line, rows, routes, context, out));
    }

    /// Decodes a last line that has no end.
    pub fn end(&mut self, context: &Context, out: &mut Decoded) {
        let Self { lines, rows, routes } = self;
        lines.end(|line| each(line, rows, routes, context, out));
    }

    /// The stream ended for good where it should not: the beginning of a line is refused.
    pub fn cut_off(&mut self, context: &Context, out: &mut Decoded) {
        self.lines.cut_off(|bytes| out.reject(context, "the line broke off".into(), bytes));
    }

    /// Bytes of the line whose end is not here yet.
    pub fn partial_bytes(&self) -> usize {
        self.lines.partial_bytes()
    }
}

fn each(line: Line, rows: &mut Json, routes: &Routes, context: &Context, out: &mut Decoded) {
    let bytes = match line {
        Line::Whole(bytes) if bytes.trim_ascii().is_empty() => return,
        Line::Whole(bytes) => bytes,
        Line::TooLong(bytes, length) => {
            return out.reject(context, format!("a line of {length} bytes is longer than {}", super::LINE_BYTES_MAX).into(), bytes);
        }
    };
    let text = match utf8(bytes) {
        Ok(text) => text,
        Err(reason) => return out.reject(context, reason, bytes),
    };
    // A stream may declare a signal or tag of that name: then it is no watermark line.
    let declared = (0..routes.len()).any(|stream| routes.get(stream).field("watermark").is_some());
    if declared || !text.contains("\"watermark\"") {
        return rows.message(bytes, context, out);
    }
    match watermark(text, routes, context, out) {
        Ok(true) => {}
        Ok(false) => rows.message(bytes, context, out),
        Err(reason) => out.reject(context, reason, bytes),
    }
}

/// Reads a watermark line; `false` = it is none.
fn watermark(text: &str, routes: &Routes, context: &Context, out: &mut Decoded) -> Result<bool, Reason> {
    if !matches!(Cursor::new(text).peek_token(), Some(b'{')) {
        return Ok(false);
    }
    let Some(time) = top_level(&mut Cursor::new(text), "watermark")? else { return Ok(false) };
    let index = match top_level(&mut Cursor::new(text), "stream")? {
        Some(Value::Text(name)) => routes.named(&name)?,
        None => routes.default()?,
        Some(_) => return Err(wrong_type("stream", "text")),
    };
    only_watermark_keys(text)?;
    let stream = &routes.get(index).stream;
    let ns = match time {
        Value::Text(text) => time_from_text(&text)?,
        Value::Number(digits) => time_from_integer(digits, stream)?,
        _ => return Err(wrong_type("watermark", "RFC 3339 text or an integer")),
    };
    out.watermark(context, stream, Timestamp(ns));
    Ok(true)
}

/// A watermark line holds nothing else, each once.
fn only_watermark_keys(text: &str) -> Result<(), Reason> {
    let mut cursor = Cursor::new(text);
    let mut seen = (false, false);
    let mut first = true;
    cursor.eat(b'{');
    while !cursor.eat(b'}') {
        if !first && !cursor.eat(b',') {
            return Err(cursor.unexpected("`,` or `}`"));
        }
        first = false;
        cursor.peek_token();
        let seen = match &*cursor.string()? {
            "stream" => &mut seen.0,
            "watermark" => &mut seen.1,
            _ => return Err("a watermark line holds only `stream` and `watermark`".into()),
        };
        if std::mem::replace(seen, true) {
            return Err("a key of a watermark line is given twice".into());
        }
        if !cursor.eat(b':') {
            return Err(cursor.unexpected("`:`"));
        }
        if cursor.value()? == Value::Nested {
            return Err("a watermark line holds only `stream` and `watermark`".into());
        }
    }
    if cursor.peek_token().is_some() { Err(cursor.unexpected("the end")) } else { Ok(()) }
}
