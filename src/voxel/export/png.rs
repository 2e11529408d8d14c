//! `png`: a picture of one layer, with axes in millimetres and a colour bar.
//!
//! y points up. A voxel is a square of whole pixels, or where there are more voxels than pixels, a pixel the mean of the voxels below it. Voxels
//! without a value are light grey. The colours run from the layer's smallest to its largest value.

use std::io::Write;

use embedded_graphics::text::Alignment;

use super::{ExportError, Extent, Grid, GridError, Statistic};
use crate::picture::{CHARACTER_PIXELS, Canvas, color, round_step, shown};

/// The picture's map is at most this wide and high.
const MAP_PIXELS: usize = 800;
const LEFT: usize = 78;
const TOP: usize = 34;
const BOTTOM: usize = 46;
const BAR_GAP: usize = 24;
const BAR_WIDTH: usize = 18;
const BAR_LABELS: usize = 96;
const BAR_HEIGHT_MIN: usize = 120;
const BAR_STEPS: usize = 5;
const TICK: usize = 5;
const BLACK: [u8; 3] = [0, 0, 0];
const NOTHING: [u8; 3] = [225, 225, 225];

/// Voxels as pixels: `scale` pixels a voxel, or one pixel `stride` voxels.
struct Map {
    extent: Extent,
    scale: usize,
    stride: usize,
    /// By pixel group, from the lowest y; NaN = nothing.
    values: Vec<f64>,
    columns: usize,
    rows: usize,
}

/// Writes a picture of `statistic` of `signal` in `layer`.
///
/// # Errors
/// A layer without a value of the signal, or what `out` says.
pub fn png(grid: &Grid, signal: usize, statistic: Statistic, layer: i32, out: impl Write) -> Result<(), ExportError> {
    let empty = || GridError::EmptyLayer { layer, signal: grid.signals()[signal].to_string() };
    let map = Map::of(grid, signal, statistic, layer).ok_or_else(empty)?;
    let (low, high) = map.bounds().ok_or_else(empty)?;
    let height = map.height().max(BAR_HEIGHT_MIN);
    let title = title(grid, signal, statistic, layer);
    let width = (LEFT + map.width() + BAR_GAP + BAR_WIDTH + BAR_LABELS).max(LEFT + (title.chars().count() + 2) * CHARACTER_PIXELS);
    let mut canvas = Canvas::new(width, TOP + height + BOTTOM);
    canvas.text(&title, LEFT, TOP / 2, Alignment::Left);
    map.draw(&mut canvas, low, high);
    map.draw_axes(&mut canvas, grid);
    draw_bar(&mut canvas, LEFT + map.width() + BAR_GAP, height, low, high);
    Ok(canvas.write(out)?)
}

fn title(grid: &Grid, signal: usize, statistic: Statistic, layer: i32) -> String {
    let name = &grid.signals()[signal];
    let unit = grid.stream().signals.iter().find(|signal| signal.name == *name).map_or("", |signal| &signal.unit);
    let unit = if unit.is_empty() || statistic == Statistic::Count { String::new() } else { format!(" [{unit}]") };
    let z = grid.config().axes()[2].lower_mm(layer);
    format!("{} - {name} {}{unit} - layer {layer} - z {} mm", grid.config().settings().id, statistic.name(), shown(z))
}

impl Map {
    fn of(grid: &Grid, signal: usize, statistic: Statistic, layer: i32) -> Option<Self> {
        let extent = Extent::occupied(grid, Some(layer))?;
        let longest = extent.dims[0].max(extent.dims[1]);
        let (scale, stride) = ((MAP_PIXELS / longest).clamp(1, 64), longest.div_ceil(MAP_PIXELS));
        let (columns, rows) = (extent.dims[0].div_ceil(stride), extent.dims[1].div_ceil(stride));
        let mut sums = vec![(0.0, 0_u32); columns * rows];
        for ([i, j, _], stats) in grid.layer_voxels(layer, signal) {
            let value = statistic.of(&stats);
            let (column, row) = ((i - extent.first[0]) as usize / stride, (j - extent.first[1]) as usize / stride);
            if value.is_finite() {
                let (sum, count) = &mut sums[row * columns + column];
                *sum += value;
                *count += 1;
            }
        }
        let mean = |(sum, count): (f64, u32)| if count == 0 { f64::NAN } else { sum / f64::from(count) };
        Some(Self { extent, scale, stride, values: sums.into_iter().map(mean).collect(), columns, rows })
    }

    fn width(&self) -> usize {
        self.columns * self.scale
    }

    fn height(&self) -> usize {
        self.rows * self.scale
    }

    fn bounds(&self) -> Option<(f64, f64)> {
        let values = self.values.iter().copied().filter(|value| !value.is_nan());
        values.map(|value| (value, value)).reduce(|all, next| (all.0.min(next.0), all.1.max(next.1)))
    }

    fn draw(&self, canvas: &mut Canvas, low: f64, high: f64) {
        for (place, value) in self.values.iter().enumerate() {
            let (column, row) = (place % self.columns, place / self.columns);
            let fraction = if high > low { (value - low) / (high - low) } else { 0.5 };
            let color = if value.is_nan() { NOTHING } else { color(fraction) };
            let y = TOP + (self.rows - 1 - row) * self.scale;
            canvas.fill(LEFT + column * self.scale, y, self.scale, self.scale, color);
        }
        canvas.frame(LEFT, TOP, self.width(), self.height(), BLACK);
    }

    fn draw_axes(&self, canvas: &mut Canvas, grid: &Grid) {
        let bottom = TOP + self.height();
        for (mm, pixel) in self.ticks(grid, 0) {
            canvas.fill(LEFT + pixel, bottom, 1, TICK, BLACK);
            canvas.text(&shown(mm), LEFT + pixel, bottom + 14, Alignment::Center);
        }
        for (mm, pixel) in self.ticks(grid, 1) {
            let y = bottom - pixel;
            canvas.fill(LEFT - TICK, y, TICK, 1, BLACK);
            canvas.text(&shown(mm), LEFT - 8, y, Alignment::Right);
        }
        canvas.text("x [mm]", LEFT + self.width() / 2, bottom + 32, Alignment::Center);
        canvas.text("y [mm]", 4, TOP / 2, Alignment::Left);
    }

    /// Round millimetres along an axis and their distance from its lower end in pixels.
    fn ticks(&self, grid: &Grid, axis: usize) -> Vec<(f64, usize)> {
        let along = grid.config().axes()[axis];
        let pixels = if axis == 0 { self.width() } else { self.height() };
        let lower = along.lower_mm(self.extent.first[axis]);
        let pixels_per_mm = self.scale as f64 / (along.voxel_mm() * self.stride as f64);
        let span = pixels as f64 / pixels_per_mm;
        let step = round_step(span, pixels / 70);
        let first = (lower / step - 1e-9).ceil() as i64;
        let ticks = (0..=64).map(|tick| (first + tick) as f64 * step);
        let placed = ticks.map(|mm| (mm, ((mm - lower) * pixels_per_mm).round().max(0.0) as usize));
        placed.take_while(|(_, pixel)| *pixel <= pixels).collect()
    }
}

fn draw_bar(canvas: &mut Canvas, x: usize, height: usize, low: f64, high: f64) {
    for y in 0..height {
        let fraction = (height - 1 - y) as f64 / (height - 1) as f64;
        canvas.fill(x, TOP + y, BAR_WIDTH, 1, color(if high > low { fraction } else { 0.5 }));
    }
    canvas.frame(x, TOP, BAR_WIDTH, height, BLACK);
    let steps = if high > low { BAR_STEPS } else { 1 };
    for step in 0..steps {
        let fraction = if steps == 1 { 0.5 } else { step as f64 / (steps - 1) as f64 };
        let y = TOP + ((height - 1) as f64 * (1.0 - fraction)).round() as usize;
        canvas.fill(x + BAR_WIDTH, y, TICK, 1, BLACK);
        canvas.text(&shown(low + (high - low) * fraction), x + BAR_WIDTH + 8, y, Alignment::Left);
    }
}
