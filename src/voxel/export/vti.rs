//! `vti`: VTK XML image data for ParaView, with the arrays appended as raw bytes.
//!
//! One float64 array of cell data a signal and statistic, named `{signal}_{statistic}`. The extent counts in voxel indices and the origin is the
//! grid's, so a cell's index in ParaView is the voxel's. Written here and not by a library because those hold the whole file in memory:
//!
//! ```text
//! XML up to <AppendedData encoding="raw"> _ │ u64 bytes, f64 … │ u64 bytes, f64 … │ </AppendedData></VTKFile>
//! ```

use std::{fmt::Write as _, io::Write};

use super::{ExportError, Extent, Grid, Statistic};

/// Writes the grid, or one layer of it.
///
/// # Errors
/// A grid without a voxel or one too large to be written as a box, or what `out` says.
pub fn vti(grid: &Grid, layer: Option<i32>, mut out: impl Write) -> Result<(), ExportError> {
    let extent = Extent::of(grid, layer)?;
    out.write_all(header(grid, extent).as_bytes())?;
    for signal in 0..grid.signals().len() {
        for statistic in Statistic::kept(grid) {
            out.write_all(&array_bytes(extent).to_le_bytes())?;
            for plane in extent.planes(grid, signal, statistic) {
                let bytes: Vec<u8> = plane.into_iter().flat_map(f64::to_le_bytes).collect();
                out.write_all(&bytes)?;
            }
        }
    }
    out.write_all(b"\n  </AppendedData>\n</VTKFile>\n")?;
    out.flush()?;
    Ok(())
}

fn array_bytes(extent: Extent) -> u64 {
    extent.cells() as u64 * 8
}

fn header(grid: &Grid, extent: Extent) -> String {
    let axes = grid.config().axes();
    let range = |axis: usize| format!("{} {}", extent.first[axis], i64::from(extent.first[axis]) + extent.dims[axis] as i64);
    let range = [0, 1, 2].map(range).join(" ");
    let three = |values: [f64; 3]| values.map(|value| value.to_string()).join(" ");
    let (origin, spacing) = (three(axes.map(|axis| axis.lower_mm(0))), three(axes.map(|axis| axis.voxel_mm())));
    let mut arrays = String::new();
    let kept = Statistic::kept(grid);
    let names = grid.signals().iter().flat_map(|signal| kept.iter().map(move |statistic| (signal, statistic)));
    for (place, (signal, statistic)) in names.enumerate() {
        let offset = place as u64 * (8 + array_bytes(extent));
        let name = format!("{}_{}", escaped(signal), statistic.name());
        let _ = writeln!(arrays, r#"        <DataArray type="Float64" Name="{name}" format="appended" offset="{offset}"/>"#);
    }
    format!(
        r#"<?xml version="1.0"?>
<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" header_type="UInt64">
  <ImageData WholeExtent="{range}" Origin="{origin}" Spacing="{spacing}">
    <Piece Extent="{range}">
      <CellData>
{arrays}      </CellData>
    </Piece>
  </ImageData>
  <AppendedData encoding="raw">
_"#
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
