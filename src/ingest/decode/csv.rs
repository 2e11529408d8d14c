//! CSV: a header of the same names as in JSON, then a row a line.
//!
//! Cells are separated by commas; one in double quotes may hold commas, and quotes written twice (RFC 4180). A row is one line: a quoted
//! cell holds no line break, so that one stray quote costs one row and not the rest of the file. An empty cell without quotes is no value. A
//! header may come again in mid-stream, as after a device's restart.

use std::borrow::Cow;

use super::{
    Context, Decoded, Reason, Routes, clip,
    columns::{Field, RowWriter, time_from_integer, time_from_text, wrong_type},
    json::utf8,
    lines::{Line, Lines},
};
use crate::model::{MissingTime, Stream};

/// Most columns of a header.
const COLUMNS_MAX: usize = 4096;

/// Decodes an endless stream of CSV lines.
#[derive(Debug, Clone)]
pub struct Csv {
    lines: Lines,
    table: Table,
}

#[derive(Debug, Clone)]
struct Table {
    routes: Routes,
    /// The names of the columns, once known.
    header: Option<Header>,
}

#[derive(Debug, Clone)]
struct Header {
    names: Vec<String>,
    /// `[stream][column]`: what the column means in rows of that stream; `None` = nothing.
    fields: Vec<Vec<Option<Field>>>,
    /// The column that names the stream.
    stream: Option<usize>,
}

/// The cells of a line, and whether each was in quotes.
type Cells<'a> = Vec<(Cow<'a, str>, Quoted)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoted {
    Yes,
    No,
}

impl Csv {
    /// A decoder for rows of `routes`.
    pub fn new(routes: Routes) -> Self {
        Self { lines: Lines::default(), table: Table { routes, header: None } }
    }

    /// A decoder that takes `columns` for the header, for a device that sends none or a file read from its middle.
    ///
    /// # Errors
    /// If `columns` is no header: a name given twice, or no time where the stream wants one.
    pub fn with_columns(routes: Routes, columns: &[String]) -> Result<Self, String> {
        let header = Some(Header::new(columns.to_vec(), &routes)?);
        Ok(Self { lines: Lines::default(), table: Table { routes, header } })
    }

    /// Decodes the lines that end in `bytes`; the beginning of the next waits for its end.
    pub fn feed(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) {
        let Self { lines, table } = self;
        lines.feed(bytes, |line| table.each(line, context, out));
    }

    /// Decodes a last line that has no end.
    pub fn end(&mut self, context: &Context, out: &mut Decoded) {
        let Self { lines, table } = self;
        lines.end(|line| table.each(line, context, out));
    }

    /// The stream ended for good where it should not: the beginning of a line is refused.
    pub fn cut_off(&mut self, context: &Context, out: &mut Decoded) {
        self.lines.cut_off(|bytes| out.reject(context, "the line broke off".into(), bytes));
    }

    /// Bytes of the line whose end is not here yet.
    pub fn partial_bytes(&self) -> usize {
        self.lines.partial_bytes()
    }

    /// The names of the columns, once known.
    pub fn columns(&self) -> Option<&[String]> {
        self.table.header.as_ref().map(|header| header.names.as_slice())
    }
}

impl Table {
    fn each(&mut self, line: Line, context: &Context, out: &mut Decoded) {
        let bytes = match line {
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => return,
            Line::Whole(bytes) => bytes,
            Line::TooLong(bytes, length) => {
                return out.reject(
                    context,
                    format!("a line of {length} bytes is longer than {}", super::LINE_BYTES_MAX).into(),
                    bytes,
                );
            }
        };
        if let Err(reason) = self.line(bytes, context, out) {
            out.reject(context, reason, bytes);
        }
    }

    fn line(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) -> Result<(), Reason> {
        let cells = split(utf8(bytes)?)?;
        match &self.header {
            Some(header) if !self.is_header(&cells) => self.row(header, &cells, context, out),
            None if !self.is_header(&cells) => {
                Err("no CSV header yet: the first line names the columns, among them one of the stream's".into())
            }
            _ => {
                let names = cells.iter().map(|(name, _)| name.trim().to_owned()).collect();
                self.header = Some(Header::new(names, &self.routes)?);
                Ok(())
            }
        }
    }

    /// The first line that names a known column is a header; after that, only a line of nothing else, which no row can be because its time
    /// is not the name of a column.
    fn is_header(&self, cells: &Cells) -> bool {
        let known = |name: &str| (0..self.routes.len()).any(|stream| self.routes.get(stream).field(name).is_some());
        let mut names = cells.iter().map(|(name, _)| known(name.trim()));
        if self.header.is_some() { names.all(|known| known) } else { names.any(|known| known) }
    }

    fn row(&self, header: &Header, cells: &Cells, context: &Context, out: &mut Decoded) -> Result<(), Reason> {
        if cells.len() != header.names.len() {
            return Err(format!("{} cells, but the header names {} columns", cells.len(), header.names.len()).into());
        }
        let stream = match header.stream.map(|column| cells[column].0.trim()) {
            Some(name) if !name.is_empty() => self.routes.named(name)?,
            _ => self.routes.default()?,
        };
        let columns = self.routes.get(stream);
        let mut writer = RowWriter::new(out.batch(context, &columns.stream));
        let mut write = || {
            for (place, (cell, quoted)) in cells.iter().enumerate() {
                let given = (!cell.is_empty() || *quoted == Quoted::Yes).then_some(&**cell);
                match (header.fields[stream][place], given) {
                    (Some(field), given) => write_cell(field, given, &header.names[place], &columns.stream, &mut writer)?,
                    (None, Some(_)) => return Err(columns.unknown(&header.names[place])),
                    (None, None) => {}
                }
            }
            writer.finish(context)
        };
        let result = write();
        result.inspect_err(|_| writer.abandon())
    }
}

impl Header {
    fn new(names: Vec<String>, routes: &Routes) -> Result<Self, Reason> {
        if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
            return Err(format!("the CSV header names `{}` twice", clip(name)).into());
        }
        let timed = |stream: usize| {
            let columns = routes.get(stream);
            columns.stream.time_missing == MissingTime::Arrival || names.iter().any(|name| columns.field(name) == Some(Field::Time))
        };
        if !(0..routes.len()).any(timed) {
            return Err("the CSV header names no column for the time".into());
        }
        let fields = |stream: usize| names.iter().map(|name| routes.get(stream).field(name)).collect();
        Ok(Self {
            fields: (0..routes.len()).map(fields).collect(),
            stream: names.iter().position(|name| name == "stream" && routes.is_by_row()),
            names,
        })
    }
}

fn write_cell(field: Field, cell: Option<&str>, name: &str, stream: &Stream, writer: &mut RowWriter) -> Result<(), Reason> {
    // Blanks around a number mean nothing; in a text they stay.
    let word = cell.map(str::trim).filter(|word| !word.is_empty());
    let number = |word: Option<&str>| word.map(|word| word.parse::<f64>().map_err(|_| wrong_type(name, "a number"))).transpose();
    let integer = |word: Option<&str>| word.map(|word| word.parse::<i64>().map_err(|_| wrong_type(name, "an integer"))).transpose();
    match field {
        Field::Signal(column) => writer.signal(column, number(word)?),
        Field::Tag(column) => writer.tag(column, cell),
        Field::Time => writer.time(word.map(|word| time(word, stream)).transpose()?),
        Field::Axis(axis) => writer.axis(axis, number(word)?),
        Field::Layer => writer.layer(integer(word)?),
        Field::Device => writer.device(cell),
        Field::Boot => writer.boot(integer(word)?),
        Field::Seq => writer.seq(integer(word)?),
        Field::Stream => match word {
            Some(name) if name != &*stream.id => {
                Err(format!("the row names stream `{}`, but it is of `{}`", clip(name), stream.id).into())
            }
            _ => Ok(()),
        },
    }
}

/// An integer if it looks like one, else RFC 3339.
fn time(word: &str, stream: &Stream) -> Result<i64, Reason> {
    let digits = word.strip_prefix('-').unwrap_or(word);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { time_from_integer(word, stream) } else { time_from_text(word) }
}

/// The cells of a line.
fn split(line: &str) -> Result<Cells<'_>, Reason> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        if cells.len() == COLUMNS_MAX {
            return Err(format!("more than {COLUMNS_MAX} cells").into());
        }
        let (cell, quoted, after) = if let Some(inside) = rest.strip_prefix('"') {
            let (cell, after) = quoted_cell(inside)?;
            (cell, Quoted::Yes, after)
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (Cow::Borrowed(&rest[..end]), Quoted::No, &rest[end..])
        };
        cells.push((cell, quoted));
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(cells),
            None => return Err("a quoted cell does not end at a comma".into()),
        }
    }
}

/// A cell from behind its opening quote, and what follows its closing one.
fn quoted_cell(inside: &str) -> Result<(Cow<'_, str>, &str), Reason> {
    let mut text = Cow::Borrowed("");
    let mut rest = inside;
    loop {
        let (piece, after) = rest.split_once('"').ok_or("a quoted cell does not end on its line")?;
        text += piece;
        match after.strip_prefix('"') {
            Some(more) => {
                text += "\"";
                rest = more;
            }
            None => return Ok((text, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_follow_rfc_4180() {
        let check = |line: &str, expected: Option<&[&str]>| {
            let cells = split(line).ok();
            let texts = cells.as_ref().map(|cells| cells.iter().map(|(text, _)| &**text).collect::<Vec<_>>());
            assert_eq!(texts.as_deref(), expected, "{line}");
        };
        check("a,b", Some(&["a", "b"]));
        check(",", Some(&["", ""]));
        check("\"a,b\",\"c\"\"d\"", Some(&["a,b", "c\"d"]));
        check("\"a", None);
        check("\"a\"b", None);
        check("a\"b", Some(&["a\"b"]));
    }
}
