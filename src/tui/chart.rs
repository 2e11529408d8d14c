//! A control chart in characters: one column a point, limits as lines, violations marked.

use crate::status::ChartStatus;

/// What a cell of the chart shows, so that the screen can colour it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Nothing.
    Empty,
    /// The center line.
    Center,
    /// A control limit.
    Limit,
    /// A point.
    Point,
    /// A point with a violation.
    Violation,
}

/// The grid of cells, top row first, and the values at the top and bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// `[row][column]`
    pub cells: Vec<Vec<Cell>>,
    /// The value of the top row.
    pub top: f64,
    /// The value of the bottom row.
    pub bottom: f64,
}

/// Draws the newest points of `chart` into `width` × `height` cells; none without points or room.
pub fn picture(chart: &ChartStatus, width: usize, height: usize) -> Option<Picture> {
    let points = &chart.points[chart.points.len().saturating_sub(width)..];
    let (bottom, top) = scale(chart, points)?;
    if width == 0 || height < 3 {
        return None;
    }
    let row = |value: f64| {
        let share = ((top - value) / (top - bottom)).clamp(0.0, 1.0);
        (share * (height - 1) as f64).round() as usize
    };
    let mut cells = vec![vec![Cell::Empty; width]; height];
    let lines = [(chart.center, Cell::Center), (chart.lcl, Cell::Limit), (chart.ucl, Cell::Limit)];
    for (value, cell) in lines.into_iter().filter_map(|(value, cell)| Some((value?, cell))) {
        cells[row(value)].fill(cell);
    }
    for (column, point) in points.iter().enumerate() {
        if let Some(value) = point.value {
            cells[row(value)][column] = if point.violations.is_empty() { Cell::Point } else { Cell::Violation };
        }
    }
    Some(Picture { cells, top, bottom })
}

fn scale(chart: &ChartStatus, points: &[crate::status::ChartPoint]) -> Option<(f64, f64)> {
    let values = points.iter().filter_map(|point| point.value);
    let limits = [chart.center, chart.lcl, chart.ucl].into_iter().flatten();
    let (low, high) = values
        .chain(limits)
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return None;
    }
    let room = if high > low { (high - low) * 0.05 } else { low.abs().max(1.0) * 0.05 };
    Some((low - room, high + room))
}

/// The character of a cell.
pub const fn glyph(cell: Cell) -> char {
    match cell {
        Cell::Empty => ' ',
        Cell::Center => '─',
        Cell::Limit => '╌',
        Cell::Point => '•',
        Cell::Violation => '✖',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ChartPoint;

    #[test]
    fn a_violation_stands_above_the_limit() {
        let point = |index, value, violations: &[&str]| ChartPoint {
            index,
            value: Some(value),
            violations: violations.iter().map(ToString::to_string).collect(),
        };
        let chart = ChartStatus {
            center: Some(0.0),
            lcl: Some(-3.0),
            ucl: Some(3.0),
            points: vec![point(0, 0.5, &[]), point(1, 5.0, &["nelson_1"])],
            ..ChartStatus::default()
        };
        let picture = picture(&chart, 10, 9).unwrap();
        let rows_of = |cell| picture.cells.iter().position(|row| row.contains(&cell)).unwrap();
        assert!(rows_of(Cell::Violation) < rows_of(Cell::Limit));
        assert_eq!(picture.cells[rows_of(Cell::Violation)][1], Cell::Violation);
    }

    #[test]
    fn a_chart_without_points_has_no_picture() {
        assert_eq!(picture(&ChartStatus::default(), 10, 9), None);
    }
}
