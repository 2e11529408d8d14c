//! A scene as SVG 1.1: one element a shape, no style sheet, no script, fonts by family only.

use std::fmt::Write;

use super::scene::{Align, Color, Scene, Shape};

impl Scene {
    /// The picture as SVG.
    pub fn svg(&self) -> String {
        let mut out = String::with_capacity(1024 + 96 * self.shapes.len());
        let (width, height) = (self.width, self.height);
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="DejaVu Sans Mono, Consolas, Menlo, monospace" font-size="11.6">"#
        );
        let _ = writeln!(out, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##);
        for shape in &self.shapes {
            element(&mut out, shape);
        }
        out.push_str("</svg>\n");
        out
    }
}

fn element(out: &mut String, shape: &Shape) {
    let _ = match shape {
        Shape::Line { from, to, color, dashed } => {
            let dashes = if *dashed { r#" stroke-dasharray="6 4""# } else { "" };
            let (from, to, color) = (from.map(number), to.map(number), hex(*color));
            let ([x1, y1], [x2, y2]) = (from, to);
            writeln!(out, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}"{dashes}/>"#)
        }
        Shape::Path { points, color } => {
            let places: Vec<String> = points.iter().map(|at| format!("{},{}", number(at[0]), number(at[1]))).collect();
            writeln!(out, r#"<polyline points="{}" fill="none" stroke="{}"/>"#, places.join(" "), hex(*color))
        }
        Shape::Dot { at: [x, y], radius, color } => {
            writeln!(out, r#"<circle cx="{}" cy="{}" r="{}" fill="{}"/>"#, number(*x), number(*y), number(*radius), hex(*color))
        }
        Shape::Box { at: [x, y], size: [width, height], color } => {
            let [x, y, width, height] = [*x, *y, *width, *height].map(number);
            writeln!(out, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{}"/>"#, hex(*color))
        }
        Shape::Text { text, at: [x, y], align, color } => {
            let anchor = match align {
                Align::Left => "start",
                Align::Center => "middle",
                Align::Right => "end",
            };
            // The place is that of the middle line; SVG wants the base line.
            let (x, y) = (number(*x), number(y + 4.0));
            writeln!(out, r#"<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{}">{}</text>"#, hex(*color), escape(text))
        }
    };
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// At most two decimals.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text as XML has it; characters that XML does not allow become the replacement character.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(character),
            _ => out.push('\u{fffd}'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::BLACK;

    #[test]
    fn text_cannot_break_out_of_its_element() {
        let mut scene = Scene::new(10, 10);
        scene.text("<a&b>\u{0}\u{1b}", [1.0, 2.0], Align::Left, BLACK);
        let svg = scene.svg();
        assert!(svg.contains(">&lt;a&amp;b&gt;\u{fffd}\u{fffd}</text>"), "{svg}");
    }

    #[test]
    fn numbers_have_no_more_decimals_than_they_need() {
        for (value, want) in [(1.0, "1"), (0.1 + 0.2, "0.3"), (-12.345, "-12.35"), (100.0, "100"), (0.0, "0")] {
            assert_eq!(number(value), want);
        }
    }
}
