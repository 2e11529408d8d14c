//! Pictures: shapes placed once, written as SVG or drawn into pixels for PNG. Voxel layers and control charts use it.
//!
//! - `scene`: shapes in a plane, y downwards, in pixels.
//! - `svg`: a scene as text.
//! - `canvas`: pixels, and colours for values.
//! - `scale`: round steps and short numbers for axes.

mod canvas;
mod scale;
mod scene;
mod svg;

pub use canvas::{CHARACTER_PIXELS, Canvas, color};
pub use scale::{round_step, shown};
pub use scene::{Align, BLACK, Color, Scene, Shape};
