//! `replay`: recorded rows through the configured pipelines, in event time, deterministically; results as JSON Lines on stdout.
//!
//! Each input is one source partition. Inputs merge by time, ties in the order given; within an input, rows keep their order.
//! Rejected rows go to stderr as JSON Lines and leave the exit code 0. The store is never opened, but with `--journal`, which
//! feeds the recorded inputs of a store, arrivals and ticks included.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufWriter, Read, StdoutLock, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Failure, load};
use crate::{
    config::Config,
    engine::{Clock, Emit, Engine, Step},
    ingest::decode::{Context, Csv, Decoded, JsonLines, Reject, Routes},
    model::{Batch, Input, MissingTime, Seq, Stream, Timestamp},
    store::{Admitted, Duplicates, Reader, RecordNo},
};

/// What `replay` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration
    #[arg(short, long)]
    config: PathBuf,
    /// Recorded rows, CSV or JSON Lines; `-` is stdin. Each is one source partition
    #[arg(long, conflicts_with = "journal")]
    input: Vec<PathBuf>,
    /// A store whose recorded inputs are replayed, with their arrivals and ticks
    #[arg(long)]
    journal: Option<PathBuf>,
    /// Leave windows open at the end of input
    #[arg(long)]
    no_flush: bool,
    /// Print every touched voxel at the end
    #[arg(long)]
    voxels: bool,
}

/// Bytes read from an input at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// Recorded rows read from a journal at a time.
const JOURNAL_ROWS: usize = 65_536;

/// Runs it.
///
/// # Errors
/// A wrong configuration, an input that cannot be read, or a stdout that is gone.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut config = load(&arguments.config)?;
    if arguments.input.is_empty() && arguments.journal.is_none() {
        return Err(Failure::Usage("name an --input (`-` is stdin) or a --journal".into()));
    }
    let clock = if arguments.journal.is_some() { Clock::Arrivals } else { Clock::EventTime };
    if clock == Clock::EventTime {
        times_are_needed(&mut config);
    }
    let engine = Engine::new(&config.engine, Emit::All, clock).map_err(|error| Failure::Configuration(error.to_string()))?;
    let mut replay = Replay { engine, step: Step::default(), out: BufWriter::with_capacity(1 << 16, std::io::stdout().lock()) };
    match &arguments.journal {
        Some(folder) => replay.journal(folder)?,
        None => replay.inputs(&arguments.input, &config)?,
    }
    replay.end(!arguments.no_flush, arguments.voxels)
}

/// A replay has no arrivals, so that a row without a time is refused whatever its stream says.
fn times_are_needed(config: &mut Config) {
    for lane in &mut config.engine.streams {
        let mut stream = Stream::clone(&lane.stream);
        stream.time_missing = MissingTime::Reject;
        lane.stream = Arc::new(stream);
    }
}

struct Replay {
    engine: Engine,
    step: Step,
    out: BufWriter<StdoutLock<'static>>,
}

impl Replay {
    fn feed(&mut self, input: &Input) -> Result<(), Failure> {
        self.engine.step(input, &mut self.step);
        self.print()
    }

    fn print(&mut self) -> Result<(), Failure> {
        for output in &self.step.outputs {
            serde_json::to_writer(&mut self.out, output).map_err(|error| stdout_gone(&error.into()))?;
            self.out.write_all(b"\n").map_err(|error| stdout_gone(&error))?;
        }
        for rejected in &self.step.rejected {
            let line = serde_json::json!({
                "source": format!("checkpoint {}", rejected.checkpoint),
                "reason": format!("checkpoint `{}` of pipeline `{}` failed", rejected.checkpoint, rejected.pipeline),
                "row": &rejected.row,
            });
            eprintln!("{line}");
        }
        self.step.clear();
        Ok(())
    }

    fn journal(&mut self, folder: &Path) -> Result<(), Failure> {
        let mut reader = Reader::open(folder).map_err(Failure::failed)?;
        let mut after = RecordNo(0);
        loop {
            let inputs = reader.inputs_after(after, JOURNAL_ROWS).map_err(Failure::failed)?;
            let Some(last) = inputs.last() else { return Ok(()) };
            after = last.record;
            inputs.iter().for_each(|recorded| self.engine.begin(&recorded.input, &mut self.step));
            self.engine.settle(&mut self.step);
            self.print()?;
        }
    }

    fn inputs(&mut self, paths: &[PathBuf], config: &Config) -> Result<(), Failure> {
        let streams = config.streams();
        let default = (streams.len() == 1).then(|| Arc::clone(&streams[0].id));
        let routes = Routes::by_row(&streams, default.as_deref()).map_err(|error| Failure::Configuration(error.to_string()))?;
        let mut tapes = paths.iter().map(|path| Tape::open(path, &routes)).collect::<Result<Vec<_>, _>>()?;
        let mut next_seq = 1;
        let mut duplicates = Duplicates::default();
        while let Some(at) = earliest(&mut tapes)? {
            let until = tapes
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != at)
                .filter_map(|(other, tape)| Some((tape.head()?, other)))
                .min();
            let Some(input) = tapes[at].take(until.map(|(time, other)| if other < at { time } else { time.saturating_add(1) }))
            else {
                continue;
            };
            let input = match input {
                Input::Batch(batch) => {
                    let Some(mut batch) = unknown(&mut duplicates, batch) else { continue };
                    batch.first_seq = Seq(next_seq);
                    batch.seqs = None;
                    next_seq += batch.rows() as u64;
                    Input::Batch(Arc::new(batch))
                }
                other => other,
            };
            self.feed(&input)?;
        }
        Ok(())
    }

    fn end(mut self, flush: bool, voxels: bool) -> Result<(), Failure> {
        self.engine.end(flush, &mut self.step);
        self.print()?;
        if voxels {
            let mut lines = Vec::new();
            for pipeline in self.engine.pipelines() {
                for lane in &pipeline.grids {
                    lines.extend(lane.whole().map_err(Failure::failed)?.states().into_iter().map(|state| (&*pipeline.id, state)));
                }
            }
            for (pipeline, state) in lines {
                let line = serde_json::to_string(&VoxelLine::of(pipeline, &state)).map_err(Failure::failed)?;
                writeln!(self.out, "{line}").map_err(|error| stdout_gone(&error))?;
            }
        }
        self.out.flush().map_err(|error| stdout_gone(&error))
    }
}

/// A voxel as a result line.
#[derive(serde::Serialize)]
struct VoxelLine<'a> {
    id: String,
    pipeline: &'a str,
    kind: &'static str,
    #[serde(flatten)]
    state: &'a crate::model::VoxelState,
}

impl<'a> VoxelLine<'a> {
    fn of(pipeline: &'a str, state: &'a crate::model::VoxelState) -> Self {
        let [i, j, k] = state.index;
        let id = format!("voxel:{}:{i},{j},{k}:{}", state.grid, state.signal);
        Self { id, pipeline, kind: "voxel", state }
    }
}

fn stdout_gone(error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write results: {error}"))
}

/// `batch` without the rows that were there before; none if nothing is left.
fn unknown(duplicates: &mut Duplicates, batch: Arc<Batch>) -> Option<Batch> {
    let batch = Arc::unwrap_or_clone(batch);
    if batch.origin.is_none() {
        return Some(batch);
    }
    match duplicates.admit(&batch) {
        Admitted::All => Some(batch),
        Admitted::Some(rows) if rows.is_empty() => None,
        Admitted::Some(rows) => Some(batch.take(&rows)),
    }
}

/// One input, read piece by piece.
struct Tape {
    path: PathBuf,
    source: Box<dyn Read>,
    decoder: Decoder,
    context: Context,
    queue: VecDeque<Input>,
    /// Rows of the first queued batch that are gone already.
    taken: usize,
    ended: bool,
}

enum Decoder {
    Json(JsonLines),
    Csv(Csv),
}

impl Tape {
    fn open(path: &Path, routes: &Routes) -> Result<Self, Failure> {
        let source: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(File::open(path).map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))?)
        };
        let name: Arc<str> = path.to_string_lossy().into();
        let context = Context::new(Arc::clone(&name), name, Timestamp(0));
        let mut tape = Self {
            path: path.to_owned(),
            source,
            decoder: Decoder::Json(JsonLines::new(routes.clone())),
            context,
            queue: VecDeque::new(),
            taken: 0,
            ended: false,
        };
        let first = tape.read()?;
        let starts_json = first.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| b"{[".contains(byte));
        let named_csv = path.extension().is_some_and(|extension| extension == "csv");
        if named_csv || !starts_json && path.extension().is_none_or(|extension| extension != "jsonl") {
            tape.decoder = Decoder::Csv(Csv::new(routes.clone()));
        }
        tape.decode(&first);
        Ok(tape)
    }

    fn read(&mut self) -> Result<Vec<u8>, Failure> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        // Pieces of the same size whatever the pipe hands out, so that the same bytes give the same batches.
        while filled < chunk.len() {
            match self.source.read(&mut chunk[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", self.path.display()))),
            }
        }
        chunk.truncate(filled);
        Ok(chunk)
    }

    fn decode(&mut self, bytes: &[u8]) {
        let mut decoded = Decoded::in_order();
        match &mut self.decoder {
            Decoder::Json(decoder) => {
                decoder.feed(bytes, &self.context, &mut decoded);
                if self.ended {
                    decoder.end(&self.context, &mut decoded);
                }
            }
            Decoder::Csv(decoder) => {
                decoder.feed(bytes, &self.context, &mut decoded);
                if self.ended {
                    decoder.end(&self.context, &mut decoded);
                }
            }
        }
        let (inputs, rejects) = decoded.into_inputs();
        self.queue.extend(inputs);
        rejects.iter().for_each(report);
    }

    fn fill(&mut self) -> Result<(), Failure> {
        while self.queue.is_empty() && !self.ended {
            let bytes = self.read()?;
            self.decode(&bytes);
        }
        Ok(())
    }

    /// Where the next input belongs; a watermark belongs right after what came before it.
    fn head(&self) -> Option<i64> {
        match self.queue.front()? {
            Input::Batch(batch) => Some(batch.time[self.taken]),
            _ => Some(i64::MIN),
        }
    }

    /// The next input, but only rows as long as they come before `until`.
    fn take(&mut self, until: Option<i64>) -> Option<Input> {
        let batch = match self.queue.pop_front()? {
            Input::Batch(batch) => batch,
            other => return Some(other),
        };
        let rows = batch.rows();
        let end = until.map_or(rows, |until| (self.taken + 1..rows).find(|row| batch.time[*row] >= until).unwrap_or(rows));
        let whole = self.taken == 0 && end == rows;
        let input = if whole { Input::Batch(Arc::clone(&batch)) } else { Input::Batch(Arc::new(part(&batch, self.taken, end))) };
        self.taken = 0;
        if end < rows {
            self.queue.push_front(Input::Batch(batch));
            self.taken = end;
        }
        Some(input)
    }
}

fn part(batch: &Batch, from: usize, to: usize) -> Batch {
    batch.take(&(from..to).collect::<Vec<_>>())
}

/// The input whose next row is the earliest, the first given if several are.
fn earliest(tapes: &mut [Tape]) -> Result<Option<usize>, Failure> {
    let mut first: Option<(i64, usize)> = None;
    for (at, tape) in tapes.iter_mut().enumerate() {
        tape.fill()?;
        if let Some(time) = tape.head()
            && first.is_none_or(|(best, _)| time < best)
        {
            first = Some((time, at));
        }
    }
    Ok(first.map(|(_, at)| at))
}

fn report(reject: &Reject) {
    let raw = String::from_utf8_lossy(&reject.raw);
    eprintln!("{}", serde_json::json!({"source": &*reject.source, "reason": &reject.reason, "raw": raw}));
}
