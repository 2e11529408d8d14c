//! `voxel export`: a grid as the last checkpoint holds it, for NumPy, ParaView or tables, or a picture of one layer. Layers that left memory
//! are in it; so is, instead of the grid's own values, a coarser level or a map derived from them.

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
use crate::{
    appliance::layers::bring_back,
    voxel::{
        Grid, Quantity,
        export::{self, ExportError, Statistic},
    },
};

/// What a grid may take in memory to be exported.
const BYTES_MAX: u64 = 16 << 30;

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
    /// Voxels 2^level times as long; `layer` then counts those
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    level: u32,
    /// A map derived from `signal` instead of the grid's own values
    #[arg(long, value_enum)]
    map: Option<Map>,
    /// For `per-energy-density`: a signal of the grid in W, or a number
    #[arg(long, default_value = "laser_power")]
    power: String,
    /// For `per-energy-density`: a signal of the grid in mm/s, or a number
    #[arg(long, default_value = "scan_speed")]
    speed: String,
    /// For `per-energy-density`: distance of the scan lines, mm
    #[arg(long)]
    hatch: Option<f64>,
    /// For `z-score`: the configuration of the appliance that holds the reference build, with a grid of the same name
    #[arg(long)]
    reference: Option<PathBuf>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Map {
    /// Mean by power / (speed · hatch): what the laser does not explain
    PerEnergyDensity,
    /// Standard deviations of the reference build that the mean lies from its mean
    ZScore,
    /// Mean less that of the layers below and above
    NeighbourDeviation,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Figure {
    Count,
    Mean,
    Variance,
    Min,
    Max,
    Last,
    Sum,
    First,
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
            Figure::Sum => Self::Sum,
            Figure::First => Self::First,
        }
    }
}

/// Runs it.
///
/// # Errors
/// No such grid, no store, an empty grid or layer, a file that cannot be written.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let grid = chosen(arguments)?;
    match &arguments.output {
        Some(path) => to_file(arguments, &grid, path),
        None => {
            let mut bytes = Cursor::new(Vec::new());
            match arguments.format {
                Format::Npz => export::npz(&grid, arguments.layer, &mut bytes),
                Format::Vti => export::vti(&grid, arguments.layer, &mut bytes),
                Format::Parquet => export::parquet(&grid, arguments.layer, &mut bytes),
                Format::Png => return put(None, true, &picture(arguments, &grid)?),
            }
            .map_err(Failure::failed)?;
            put(None, true, bytes.get_ref())
        }
    }
}

/// The grid that is written: as it is, coarser, or a map of it.
fn chosen(arguments: &Arguments) -> Result<Grid, Failure> {
    let ratio = 1_i32 << arguments.level;
    // A map may need the layers beside the wanted one.
    let margin = u32::from(arguments.map == Some(Map::NeighbourDeviation));
    let wanted = |layer: i32| arguments.layer.is_none_or(|wanted| layer.div_euclid(ratio).abs_diff(wanted) <= margin);
    let grid = read(&arguments.place, &arguments.grid, wanted)?;
    let grid = if ratio > 1 { grid.coarser(ratio).map_err(Failure::failed)? } else { grid };
    let Some(map) = arguments.map else { return Ok(grid) };
    let signal = signal(arguments, &grid)?;
    let map = match map {
        Map::NeighbourDeviation => grid.neighbour_deviation(signal),
        Map::PerEnergyDensity => {
            let hatch = arguments.hatch.filter(|hatch| *hatch > 0.0);
            let hatch = hatch.ok_or_else(|| Failure::Usage("give the distance of the scan lines: --hatch MM, above 0".into()))?;
            let quantity = |text: &str| quantity(&grid, text);
            grid.per_energy_density(signal, quantity(&arguments.power)?, quantity(&arguments.speed)?, hatch)
        }
        Map::ZScore => {
            let config = arguments.reference.as_ref();
            let config =
                config.ok_or_else(|| Failure::Usage("name the reference build's configuration: --reference FILE".into()))?;
            let reference = read(&Place::of(config), &arguments.grid, wanted)?;
            let reference = if ratio > 1 { reference.coarser(ratio).map_err(Failure::failed)? } else { reference };
            grid.z_scores(signal, &reference).map_err(Failure::failed)?
        }
    };
    grid.of_map(&map).map_err(Failure::failed)
}

/// The grid with the layers for which `wanted` holds, wherever they are.
fn read(place: &Place, id: &str, wanted: impl Fn(i32) -> bool) -> Result<Grid, Failure> {
    let part = format!("grid/{id}");
    let tiles = format!("{part}/");
    let Checkpointed { engine, reader } = checkpointed::read(place, |name| name == part || name.starts_with(&tiles))?;
    let lane = engine.grid(id).ok_or_else(|| {
        let known: Vec<&str> = engine.grids().map(|lane| &*lane.id).collect();
        Failure::Usage(format!("there is no grid `{id}`; there are: {}", known.join(", ")))
    })?;
    let mut grid = lane.grid.clone();
    let stored: Vec<i32> =
        grid.layers().iter().filter(|one| one.generations > 0 && !one.is_forgotten).map(|one| one.layer).collect();
    for layer in stored.into_iter().filter(|layer| wanted(*layer)) {
        bring_back(&reader, &mut grid, layer, |_| true).map_err(Failure::failed)?;
        if grid.bytes() > BYTES_MAX {
            return Err(Failure::Failed(format!("grid `{id}` takes more than {BYTES_MAX} bytes: name a --layer")));
        }
    }
    Ok(grid)
}

fn signal(arguments: &Arguments, grid: &Grid) -> Result<usize, Failure> {
    let Some(name) = &arguments.signal else { return Ok(0) };
    let known = || Failure::Usage(format!("the grid has no signal `{name}`; it has: {}", grid.signals().join(", ")));
    grid.signal(name).ok_or_else(known)
}

fn quantity(grid: &Grid, text: &str) -> Result<Quantity, Failure> {
    let constant = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(Quantity::Constant);
    let wrong = || Failure::Usage(format!("`{text}` is neither a signal of the grid ({}) nor a number", grid.signals().join(", ")));
    grid.signal(text).map(Quantity::Signal).or_else(constant).ok_or_else(wrong)
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
    // A map is the only signal of its grid.
    let signal = if arguments.map.is_some() { 0 } else { signal(arguments, grid)? };
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
