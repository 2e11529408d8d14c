//! Shapes in a plane: x to the right, y downwards, in pixels of the PNG.

use embedded_graphics::{
    Drawable,
    pixelcolor::Rgb888,
    prelude::{Point, Primitive},
    primitives::{Circle, Line, PrimitiveStyle},
    text::Alignment,
};

use super::canvas::Canvas;

/// Red, green, blue.
pub type Color = [u8; 3];
/// What text is written in.
pub const BLACK: Color = [0, 0, 0];
/// Length of a dash and of the gap after it.
const DASH: [f64; 2] = [6.0, 4.0];
/// Nothing is drawn further out than this, so that coordinates stay far from the ends of `i32`.
const FAR: f64 = 100_000.0;

/// Which part of a text is at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Align {
    Left,
    Center,
    Right,
}

/// What can be drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A straight line.
    Line {
        /// One end.
        from: [f64; 2],
        /// The other end.
        to: [f64; 2],
        /// Its colour.
        color: Color,
        /// Whether it has gaps.
        dashed: bool,
    },
    /// Lines from point to point.
    Path {
        /// In order.
        points: Vec<[f64; 2]>,
        /// Their colour.
        color: Color,
    },
    /// A filled circle.
    Dot {
        /// Its middle.
        at: [f64; 2],
        /// Pixels.
        radius: f64,
        /// Its colour.
        color: Color,
    },
    /// A filled rectangle.
    Box {
        /// The corner at the top left.
        at: [f64; 2],
        /// Width and height.
        size: [f64; 2],
        /// Its colour.
        color: Color,
    },
    /// A line of text, its middle line at the place.
    Text {
        /// What it says.
        text: String,
        /// Its place.
        at: [f64; 2],
        /// Which part of it is there.
        align: Align,
        /// Its colour.
        color: Color,
    },
}

/// A picture of shapes, later ones over earlier ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// In the order of drawing.
    pub shapes: Vec<Shape>,
}

impl Scene {
    /// A white picture.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height, shapes: Vec::new() }
    }

    /// Adds a line.
    pub fn line(&mut self, from: [f64; 2], to: [f64; 2], color: Color, dashed: bool) {
        self.shapes.push(Shape::Line { from, to, color, dashed });
    }

    /// Adds text.
    pub fn text(&mut self, text: impl Into<String>, at: [f64; 2], align: Align, color: Color) {
        self.shapes.push(Shape::Text { text: text.into(), at, align, color });
    }

    /// The picture in pixels.
    pub fn draw(&self) -> Canvas {
        let mut canvas = Canvas::new(self.width, self.height);
        for shape in &self.shapes {
            draw(&mut canvas, shape);
        }
        canvas
    }
}

fn draw(canvas: &mut Canvas, shape: &Shape) {
    match shape {
        Shape::Line { from, to, color, dashed: false } => line(canvas, *from, *to, *color),
        Shape::Line { from, to, color, dashed: true } => {
            for [from, to] in dashes(*from, *to) {
                line(canvas, from, to, *color);
            }
        }
        Shape::Path { points, color } => {
            for two in points.windows(2) {
                line(canvas, two[0], two[1], *color);
            }
        }
        Shape::Dot { at: [x, y], radius, color } => {
            let corner = pixel([x - radius, y - radius]);
            let style = PrimitiveStyle::with_fill(rgb(*color));
            // Drawing into memory cannot fail.
            let _ = Circle::new(corner, (2.0 * radius).round().max(1.0) as u32 + 1).into_styled(style).draw(canvas);
        }
        Shape::Box { at, size, color } => {
            let (at, size) = (at.map(whole), size.map(whole));
            canvas.fill(at[0], at[1], size[0], size[1], *color);
        }
        Shape::Text { text, at: [x, y], align, color } => {
            let alignment = match align {
                Align::Left => Alignment::Left,
                Align::Center => Alignment::Center,
                Align::Right => Alignment::Right,
            };
            canvas.colored_text(text, whole(*x), whole(*y), alignment, *color);
        }
    }
}

fn line(canvas: &mut Canvas, from: [f64; 2], to: [f64; 2], color: Color) {
    let style = PrimitiveStyle::with_stroke(rgb(color), 1);
    // Drawing into memory cannot fail.
    let _ = Line::new(pixel(from), pixel(to)).into_styled(style).draw(canvas);
}

/// The dashes of a line.
fn dashes(from: [f64; 2], to: [f64; 2]) -> Vec<[[f64; 2]; 2]> {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let length = dx.hypot(dy).min(FAR);
    let along = |distance: f64| [from[0] + dx * distance / length, from[1] + dy * distance / length];
    let count = (length / (DASH[0] + DASH[1])).ceil() as usize;
    let starts = (0..count).map(|dash| dash as f64 * (DASH[0] + DASH[1]));
    starts.map(|start| [along(start), along((start + DASH[0]).min(length))]).collect()
}

fn rgb([red, green, blue]: Color) -> Rgb888 {
    Rgb888::new(red, green, blue)
}

fn pixel(at: [f64; 2]) -> Point {
    let [x, y] = at.map(|value| value.clamp(-FAR, FAR).round() as i32);
    Point::new(x, y)
}

fn whole(value: f64) -> usize {
    value.clamp(0.0, FAR).round() as usize
}
