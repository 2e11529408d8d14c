//! `history`: recorded rows of a stream between two event times, also while the service runs.
//!
//! JSON Lines as in section 3 of the contract; CSV with a header of the same names; Parquet with one column a name, missing values
//! null. Both ends of the time range are included; rows come by event time, then in order of arrival.

use std::{
    io::{BufWriter, IsTerminal, Write},
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
};

use clap::ValueEnum;
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    errors::ParquetError,
    file::writer::SerializedFileWriter,
    schema::types::{Type, TypePtr},
};

use super::{Failure, load};
use crate::{
    appliance::{RecordedError, Wanted, recorded},
    ingest::decode::parse_time,
    model::{Row, Stream, Timestamp},
    store::Reader,
    voxel::export::{optional, required},
};

/// Rows of a row group of Parquet.
const GROUP_ROWS: usize = 1 << 16;

/// What `history` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration that the service runs with
    #[arg(short, long, default_value = "/etc/qadf-edge/appliance.toml")]
    config: PathBuf,
    /// The stream's id
    #[arg(long)]
    stream: String,
    /// Event time of the first row: RFC 3339, or nanoseconds since 1970
    #[arg(long, allow_negative_numbers = true)]
    from: Option<String>,
    /// Event time of the last row
    #[arg(long, allow_negative_numbers = true)]
    to: Option<String>,
    /// Only rows for which this expression holds, such as `intensity > 5.0 && part == "A3"`
    #[arg(long = "where")]
    condition: Option<String>,
    /// How rows are written
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Where to write; default is stdout
    #[arg(short, long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
    Parquet,
}

/// Runs it.
///
/// # Errors
/// No such stream, no store, a condition that is no expression, a file that cannot be written; damaged records, once the others are written.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(&arguments.config)?;
    let streams = config.streams();
    let stream = streams.iter().find(|stream| *stream.id == *arguments.stream).cloned().ok_or_else(|| {
        let known: Vec<&str> = streams.iter().map(|stream| &*stream.id).collect();
        Failure::Usage(format!("there is no stream `{}`; there are: {}", arguments.stream, known.join(", ")))
    })?;
    let wanted = Wanted {
        from: time("--from", arguments.from.as_deref())?.unwrap_or(Timestamp::MIN),
        to: time("--to", arguments.to.as_deref())?.unwrap_or(Timestamp::MAX),
        condition: arguments.condition.clone(),
        stream,
    };
    if wanted.from > wanted.to {
        return Err(Failure::Usage("--from is later than --to: exchange them".into()));
    }
    let mut reader = Reader::open(&config.appliance.data_dir).map_err(Failure::failed)?;
    let stdout = std::io::stdout();
    match &arguments.output {
        None if arguments.format == Format::Parquet && stdout.is_terminal() => {
            return Err(Failure::Usage("this is binary data: name a file with -o, or redirect it".into()));
        }
        None => write(&mut reader, &wanted, arguments.format, stdout)?,
        Some(path) => {
            let file = std::fs::File::create(path)
                .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
            write(&mut reader, &wanted, arguments.format, file)?;
        }
    }
    match reader.damaged().0 {
        0 => Ok(()),
        count => Err(Failure::Failed(format!(
            "{count} records are damaged, and their rows are missing from what was written: stop the service and run \
             `qadf-edge journal repair`, or restart it"
        ))),
    }
}

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(ns) => Ok(Some(Timestamp(ns))),
        Err(_) => match parse_time(text) {
            Some(ns) => Ok(Some(Timestamp(ns))),
            None => {
                Err(Failure::Usage(format!("{name}: `{text}` is no time; write 2026-01-31T12:00:00Z, or nanoseconds since 1970")))
            }
        },
    }
}

/// Gives every row to `each` until that fails.
fn all(reader: &mut Reader, wanted: &Wanted, mut each: impl FnMut(Row) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut outcome = Ok(());
    let read = recorded(reader, wanted, |row| {
        outcome = each(row);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    outcome?;
    read.map_err(|error| match error {
        RecordedError::Condition(_) => Failure::Usage(error.to_string()),
        RecordedError::Store(_) => Failure::failed(error),
    })
}

fn write(reader: &mut Reader, wanted: &Wanted, format: Format, out: impl Write + Send) -> Result<(), Failure> {
    let mut out = BufWriter::new(out);
    match format {
        Format::Jsonl => all(reader, wanted, |row| {
            serde_json::to_writer(&mut out, &row).map_err(Failure::failed)?;
            out.write_all(b"\n").map_err(Failure::failed)
        })?,
        Format::Csv => csv(reader, wanted, &mut out)?,
        Format::Parquet => return parquet(reader, wanted, out),
    }
    out.flush().map_err(Failure::failed)
}

fn csv(reader: &mut Reader, wanted: &Wanted, out: impl Write) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(out);
    let stream = &wanted.stream;
    let names = ["time", "x", "y", "z", "layer"].into_iter();
    let signals = stream.signals.iter().map(|signal| &*signal.name);
    writer.write_record(names.chain(stream.tags.iter().map(|tag| &**tag)).chain(signals)).map_err(Failure::failed)?;
    all(reader, wanted, |row| {
        let mut fields = vec![row.time.to_string()];
        let position = row.position.map_or([None; 3], |position| position.map(Some));
        fields.extend(position.map(|mm| mm.map_or_else(String::new, |mm| mm.to_string())));
        fields.push(row.layer.map_or_else(String::new, |layer| layer.to_string()));
        fields.extend(stream.tags.iter().map(|name| tag(&row, name).unwrap_or_default().to_owned()));
        let text = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        fields.extend(stream.signals.iter().map(|signal| text(value(&row, &signal.name))));
        writer.write_record(fields).map_err(Failure::failed)
    })?;
    writer.flush().map_err(Failure::failed)
}

/// The row's shape may be older than the stream's.
fn tag<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.stream.tag(name).and_then(|at| row.tags[at].as_deref())
}

fn value(row: &Row, name: &str) -> Option<f64> {
    row.stream.signal(name).and_then(|at| row.values[at])
}

fn parquet(reader: &mut Reader, wanted: &Wanted, out: impl Write + Send) -> Result<(), Failure> {
    let schema = schema(&wanted.stream).map_err(Failure::failed)?;
    let mut file = SerializedFileWriter::new(out, schema, Arc::default()).map_err(Failure::failed)?;
    let mut rows = Vec::new();
    all(reader, wanted, |row| {
        rows.push(row);
        if rows.len() < GROUP_ROWS {
            return Ok(());
        }
        group(&mut file, &wanted.stream, &rows).map_err(Failure::failed)?;
        rows.clear();
        Ok(())
    })?;
    if !rows.is_empty() {
        group(&mut file, &wanted.stream, &rows).map_err(Failure::failed)?;
    }
    file.close().map_err(Failure::failed)?;
    Ok(())
}

fn schema(stream: &Stream) -> Result<TypePtr, ParquetError> {
    use parquet::basic::{LogicalType, Repetition, Type as Physical};
    let column = |name: &str, of: Physical, means: Option<LogicalType>| {
        let repetition = if name == "time" { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        let built = Type::primitive_type_builder(name, of).with_repetition(repetition).with_logical_type(means).build();
        built.map(Arc::new)
    };
    let time = LogicalType::timestamp(true, parquet::basic::TimeUnit::NANOS);
    let mut columns = vec![column("time", Physical::INT64, Some(time))?];
    for axis in ["x", "y", "z"] {
        columns.push(column(axis, Physical::DOUBLE, None)?);
    }
    columns.push(column("layer", Physical::INT32, None)?);
    for tag in &stream.tags {
        columns.push(column(tag, Physical::BYTE_ARRAY, Some(LogicalType::String))?);
    }
    for signal in &stream.signals {
        columns.push(column(&signal.name, Physical::DOUBLE, None)?);
    }
    Type::group_type_builder("rows").with_fields(columns).build().map(Arc::new)
}

fn group(file: &mut SerializedFileWriter<impl Write + Send>, stream: &Stream, rows: &[Row]) -> Result<(), ParquetError> {
    let mut group = file.next_row_group()?;
    required::<Int64Type, _>(&mut group, rows.iter().map(|row| row.time.0))?;
    for axis in 0..3 {
        optional::<DoubleType, _>(&mut group, rows.iter().map(|row| row.position.map(|position| position[axis])))?;
    }
    optional::<Int32Type, _>(&mut group, rows.iter().map(|row| row.layer))?;
    for name in &stream.tags {
        optional::<ByteArrayType, _>(&mut group, rows.iter().map(|row| tag(row, name).map(ByteArray::from)))?;
    }
    for signal in &stream.signals {
        optional::<DoubleType, _>(&mut group, rows.iter().map(|row| value(row, &signal.name)))?;
    }
    group.close()?;
    Ok(())
}
