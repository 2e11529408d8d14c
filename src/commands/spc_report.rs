//! `spc report`: a control chart with its limits and violations, and the capability figures.
//!
//! From the store: the last checkpoint holds the newest points of each key, the outbox the older violations and every version of the
//! limits. From `--input`: results as `replay` prints them, which hold every point.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;

use super::{
    Failure,
    checkpointed::{self, Checkpointed, Place},
};
use crate::{
    model::Seq,
    spc::report::{ChartReport, Collector, scene, terminal},
};

/// Results that are read at a time.
const PAGE_RESULTS: usize = 4096;
/// Keys that one picture shows.
const PICTURED_MAX: usize = 8;
/// Columns of the text, where the terminal does not say.
const COLUMNS: usize = 110;
/// Longest result line of an input, bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What `spc report` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// The chart's id
    #[arg(long)]
    chart: String,
    /// Its pipeline, where several have a chart of that name
    #[arg(long)]
    pipeline: Option<String>,
    /// Only keys with this tag: `part=A3`, or `part` alone for rows without one
    #[arg(long = "key", value_name = "TAG=VALUE")]
    keys: Vec<String>,
    /// A picture, the figures, or the chart as text
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Newest points of each key
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    points: u32,
    /// Results to read instead of the store's, as `replay` prints them; `-` is stdin
    #[arg(long, conflicts_with = "config")]
    input: Option<PathBuf>,
    /// Where to write; default is stdout
    #[arg(short, long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Png,
    Svg,
    Json,
    Text,
}

/// Runs it.
///
/// # Errors
/// No such chart, no store, a file that cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut collector = Collector::new(&arguments.chart, arguments.pipeline.as_deref(), arguments.points as usize);
    match &arguments.input {
        Some(path) => from_results(&mut collector, path)?,
        None => from_store(&mut collector, arguments)?,
    }
    let (mut reports, left_out) = collector.finish();
    reports.retain(|report| arguments.keys.iter().all(|wanted| has_tag(report, wanted)));
    if left_out > 0 {
        eprintln!("{left_out} results of further keys were left out: name one with --key");
    }
    if reports.is_empty() {
        return Err(Failure::Failed(format!("nothing is known of chart `{}`{}", arguments.chart, among(&arguments.keys))));
    }
    write(arguments, reports)
}

fn among(keys: &[String]) -> String {
    if keys.is_empty() { String::new() } else { format!(" with {}", keys.join(", ")) }
}

fn has_tag(report: &ChartReport, wanted: &str) -> bool {
    let (tag, value) = wanted.split_once('=').map_or((wanted, None), |(tag, value)| (tag, Some(value)));
    report.key.iter().any(|(name, text)| **name == *tag && text.as_deref() == value)
}

fn from_store(collector: &mut Collector, arguments: &Arguments) -> Result<(), Failure> {
    let Checkpointed { engine, reader, .. } = checkpointed::read(&arguments.place, |part| part.starts_with("pipeline/"))?;
    let wanted = |id: &str| arguments.pipeline.as_deref().is_none_or(|pipeline| pipeline == id);
    let pipelines: Vec<_> = engine.pipelines().iter().filter(|pipeline| wanted(&pipeline.id)).collect();
    let charted: Vec<_> = pipelines.iter().filter(|one| one.charts.iter().any(|chart| **chart.id() == *arguments.chart)).collect();
    if charted.is_empty() {
        let known: Vec<&str> = pipelines.iter().flat_map(|pipeline| &pipeline.charts).map(|chart| &**chart.id()).collect();
        return Err(Failure::Usage(format!("there is no chart `{}`; there are: {}", arguments.chart, known.join(", "))));
    }
    let only: Vec<_> = charted.iter().map(|pipeline| pipeline.id.clone()).collect();
    let mut after = Seq(0);
    loop {
        let (results, through) = reader.results_after(after, PAGE_RESULTS, Some(&only)).map_err(Failure::failed)?;
        for result in results.iter().filter(|result| ["spc", "limits", "capability"].contains(&&*result.kind)) {
            collector.result(&result.json).map_err(|error| Failure::Failed(format!("result {}: {error}", result.id)))?;
        }
        if through == after {
            break;
        }
        after = through;
    }
    for pipeline in charted {
        for chart in pipeline.charts.iter().filter(|chart| **chart.id() == *arguments.chart) {
            chart.views().for_each(|view| collector.view(&pipeline.id, &view));
        }
    }
    Ok(())
}

fn from_results(collector: &mut Collector, path: &Path) -> Result<(), Failure> {
    let unreadable = |error: io::Error| Failure::Failed(format!("cannot read {}: {error}", path.display()));
    let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
    };
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        let read = io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            return Ok(());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        collector
            .result(&line)
            .map_err(|error| Failure::Failed(format!("{}, line {number} is no result: {error}", path.display())))?;
    }
}

fn write(arguments: &Arguments, mut reports: Vec<ChartReport>) -> Result<(), Failure> {
    let bytes = match arguments.format {
        Format::Json => serde_json::to_vec(&reports).map(|mut json| {
            json.push(b'\n');
            json
        }),
        Format::Text => Ok(terminal(&reports, columns()).into_bytes()),
        Format::Svg | Format::Png => {
            if reports.len() > PICTURED_MAX {
                eprintln!("{} keys: the picture shows the first {PICTURED_MAX}; name others with --key", reports.len());
                reports.truncate(PICTURED_MAX);
            }
            let scene = scene(&reports);
            if arguments.format == Format::Svg {
                Ok(scene.svg().into_bytes())
            } else {
                let mut png = Vec::new();
                scene.draw().write(&mut png).map_err(Failure::failed)?;
                Ok(png)
            }
        }
    };
    put(arguments.output.as_deref(), arguments.format == Format::Png, &bytes.map_err(Failure::failed)?)
}

fn columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).map_or(COLUMNS, |columns: usize| columns.clamp(40, 400))
}

/// Writes to a file or to stdout; binary data is not written to a terminal.
pub(super) fn put(output: Option<&Path>, binary: bool, bytes: &[u8]) -> Result<(), Failure> {
    let Some(path) = output else {
        let mut stdout = io::stdout().lock();
        if binary && stdout.is_terminal() {
            return Err(Failure::Usage("this is binary data: name a file with -o, or redirect it".into()));
        }
        return stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::failed);
    };
    let refused = |error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    let mut file = BufWriter::new(File::create(path).map_err(refused)?);
    file.write_all(bytes).and_then(|()| file.flush()).map_err(refused)
}
