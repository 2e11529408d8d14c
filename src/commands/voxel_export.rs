//! `voxel export`: a grid as the last checkpoint holds it, for NumPy, ParaView or tables, or a picture of one layer.

use std::{
    fs::File,
    io::{BufWriter, Cursor, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;

use super::{
    Failure,
    checkpointed::{self, Checkpointed, Place},
    spc_report::put,
};
use crate::voxel::{
    Grid,
    export::{self, ExportError, Statistic},
};

/// What `voxel export` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// The grid's id
    #[arg(long)]
    grid: String,
    /// `npz` for NumPy, `vti` for ParaView, `parquet` for tables, `png` for a picture of one layer
    #[arg(long, value_enum)]
    format: Format,
    /// Only this layer; a picture needs one (default: the highest with a value)
    #[arg(long, allow_negative_numbers = true)]
    layer: Option<i32>,
    /// The picture's signal; default is the grid's first
    #[arg(long)]
    signal: Option<String>,
    /// What the picture shows of it
    #[arg(long, value_enum, default_value = "mean")]
    statistic: Figure,
    /// Where to write; default is stdout
    #[arg(short, long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Npz,
    Vti,
    Png,
    Parquet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Figure {
    Count,
    Mean,
    Variance,
    Min,
    Max,
    Last,
}

impl From<Figure> for Statistic {
    fn from(figure: Figure) -> Self {
        match figure {
            Figure::Count => Self::Count,
            Figure::Mean => Self::Mean,
            Figure::Variance => Self::Variance,
            Figure::Min => Self::Min,
            Figure::Max => Self::Max,
            Figure::Last => Self::Last,
        }
    }
}

/// Runs it.
///
/// # Errors
/// No such grid, no store, an empty grid or layer, a file that cannot be written.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let part = format!("grid/{}", arguments.grid);
    let tiles = format!("{part}/");
    let Checkpointed { engine, .. } = checkpointed::read(&arguments.place, |name| name == part || name.starts_with(&tiles))?;
    let lane = engine.grid(&arguments.grid).ok_or_else(|| {
        let known: Vec<&str> = engine.grids().map(|lane| &*lane.id).collect();
        Failure::Usage(format!("there is no grid `{}`; there are: {}", arguments.grid, known.join(", ")))
    })?;
    match &arguments.output {
        Some(path) => to_file(arguments, &lane.grid, path),
        None => {
            let mut bytes = Cursor::new(Vec::new());
            match arguments.format {
                Format::Npz => export::npz(&lane.grid, arguments.layer, &mut bytes),
                Format::Vti => export::vti(&lane.grid, arguments.layer, &mut bytes),
                Format::Parquet => export::parquet(&lane.grid, arguments.layer, &mut bytes),
                Format::Png => return put(None, true, &picture(arguments, &lane.grid)?),
            }
            .map_err(Failure::failed)?;
            put(None, true, bytes.get_ref())
        }
    }
}

/// Writes a file beside `path` and renames it there, so that no reader meets half of one.
fn to_file(arguments: &Arguments, grid: &Grid, path: &Path) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let refused = |error: ExportError| Failure::Failed(format!("{}: {error}", path.display()));
    let outcome = File::create(&part).map_err(ExportError::from).map_err(refused).and_then(|file| {
        let mut file = BufWriter::new(file);
        match arguments.format {
            Format::Npz => export::npz(grid, arguments.layer, &mut file).map_err(refused)?,
            Format::Vti => export::vti(grid, arguments.layer, &mut file).map_err(refused)?,
            Format::Parquet => export::parquet(grid, arguments.layer, &mut file).map_err(refused)?,
            Format::Png => file.write_all(&picture(arguments, grid)?).map_err(ExportError::from).map_err(refused)?,
        }
        file.flush().map_err(ExportError::from).map_err(refused)
    });
    let renamed = outcome.and_then(|()| std::fs::rename(&part, path).map_err(ExportError::from).map_err(refused));
    if renamed.is_err() {
        // It may never have been made.
        let _ = std::fs::remove_file(&part);
    }
    renamed
}

fn picture(arguments: &Arguments, grid: &Grid) -> Result<Vec<u8>, Failure> {
    let signal = match &arguments.signal {
        None => 0,
        Some(name) => grid
            .signal(name)
            .ok_or_else(|| Failure::Usage(format!("the grid has no signal `{name}`; it has: {}", grid.signals().join(", "))))?,
    };
    let layer = match arguments.layer {
        Some(layer) => layer,
        None => {
            let highest = grid.voxels(signal).map(|([_, _, layer], _)| layer).max();
            highest.ok_or_else(|| Failure::Failed(format!("grid `{}` has no value of this signal yet", arguments.grid)))?
        }
    };
    let mut png = Vec::new();
    export::png(grid, signal, arguments.statistic.into(), layer, &mut png).map_err(Failure::failed)?;
    Ok(png)
}
