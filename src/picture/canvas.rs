//! A picture in memory: pixels, rectangles and text, and its colours for values.

use std::{convert::Infallible, io};

use embedded_graphics::{
    mono_font::{MonoTextStyle, iso_8859_1::FONT_7X13},
    pixelcolor::Rgb888,
    prelude::{Dimensions, DrawTarget, Drawable, OriginDimensions, Pixel, Point, RgbColor, Size},
    text::{Alignment, Baseline, Text, TextStyleBuilder},
};

/// Width of a character of the font.
pub const CHARACTER_PIXELS: usize = 7;

/// A picture, white at first.
#[derive(Debug)]
pub struct Canvas {
    width: usize,
    height: usize,
    /// Red, green, blue of each pixel, by row.
    bytes: Vec<u8>,
}

impl Canvas {
    /// A white picture.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, bytes: vec![255; width * height * 3] }
    }

    /// Fills a rectangle; what lies outside the picture is left out.
    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: [u8; 3]) {
        for row in y..(y + height).min(self.height) {
            for column in x..(x + width).min(self.width) {
                let at = (row * self.width + column) * 3;
                self.bytes[at..at + 3].copy_from_slice(&color);
            }
        }
    }

    /// A frame one pixel wide around a rectangle.
    pub fn frame(&mut self, x: usize, y: usize, width: usize, height: usize, color: [u8; 3]) {
        let (left, top) = (x.saturating_sub(1), y.saturating_sub(1));
        self.fill(left, top, width + 2, 1, color);
        self.fill(left, y + height, width + 2, 1, color);
        self.fill(left, top, 1, height + 2, color);
        self.fill(x + width, top, 1, height + 2, color);
    }

    /// Writes text with its middle line at `y`, and its left end, middle or right end at `x`.
    pub fn text(&mut self, text: &str, x: usize, y: usize, alignment: Alignment) {
        self.colored_text(text, x, y, alignment, [0, 0, 0]);
    }

    /// The same in another colour than black.
    pub fn colored_text(&mut self, text: &str, x: usize, y: usize, alignment: Alignment, [red, green, blue]: [u8; 3]) {
        let style = MonoTextStyle::new(&FONT_7X13, Rgb888::new(red, green, blue));
        let layout = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let at = Point::new(x as i32, y as i32);
        // Drawing into memory cannot fail.
        let _ = Text::with_text_style(text, at, style, layout).draw(self);
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: impl io::Write) -> io::Result<()> {
        let refused = |error: png::EncodingError| match error {
            png::EncodingError::IoError(error) => error,
            other => io::Error::other(other),
        };
        let mut encoder = png::Encoder::new(out, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(refused)?;
        writer.write_image_data(&self.bytes).map_err(refused)?;
        writer.finish().map_err(refused)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let bounds = self.bounding_box();
        for Pixel(at, color) in pixels {
            if bounds.contains(at) {
                self.fill(at.x as usize, at.y as usize, 1, 1, [color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

/// Nine of the colours of viridis (van der Walt and Smith 2015, CC0), evenly spaced; readable in grey and by the colour-blind.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// The colour of a fraction from 0 to 1.
pub fn color(fraction: f64) -> [u8; 3] {
    let at = fraction.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let below = (at as usize).min(VIRIDIS.len() - 2);
    let share = at - below as f64;
    std::array::from_fn(|part| {
        let (low, high) = (f64::from(VIRIDIS[below][part]), f64::from(VIRIDIS[below + 1][part]));
        (low + (high - low) * share).round() as u8
    })
}
