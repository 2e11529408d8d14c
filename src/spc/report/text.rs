//! The chart for a terminal: one column a point, the newest ones, as many as fit.

use super::{
    ChartReport,
    draw::{capability_lines, fired, runs},
};
use crate::{model::SpcPoint, picture::shown};

const ROWS: usize = 17;
/// Columns left of the plot.
const MARGIN: usize = 11;

/// The reports as text, no line longer than `columns`.
pub fn terminal(reports: &[ChartReport], columns: usize) -> String {
    let mut lines = Vec::new();
    for report in reports {
        let key = if report.key.is_empty() { String::new() } else { format!(" {}", report.key_text()) };
        lines.push(format!("{}{key} (pipeline {})", report.chart, report.pipeline));
        lines.extend(report.status.iter().chain(&report.warnings).map(|warning| format!("! {warning}")));
        plot(&mut lines, &report.points, columns.saturating_sub(MARGIN));
        for ((rule, half), indices) in fired(report) {
            lines.push(format!("{}{half} at {}: {}", rule.name(), runs(&indices, 4), rule.meaning()));
        }
        lines.extend(report.capability.iter().flat_map(capability_lines));
        lines.push(String::new());
    }
    let mut text = String::new();
    for line in lines {
        text.extend(line.chars().filter(|character| !character.is_control()).take(columns));
        text.push('\n');
    }
    text
}

fn value(point: &SpcPoint) -> Option<f64> {
    point.statistic.or(point.upper).filter(|value| value.abs() < 1e300)
}

fn plot(lines: &mut Vec<String>, points: &[SpcPoint], columns: usize) {
    let last = points.last().map_or(0, |point| point.index);
    let first = last.saturating_sub(columns.saturating_sub(1) as u64).max(points.first().map_or(0, |point| point.index));
    let shown_points: Vec<&SpcPoint> = points.iter().filter(|point| point.index >= first).collect();
    let Some(newest) = shown_points.last() else {
        lines.push("no points".to_owned());
        return;
    };
    let [lcl, center, ucl] = match newest.h {
        Some(h) => [None, Some(0.0), Some(h)],
        None => [newest.lcl, newest.center, newest.ucl],
    };
    let all = shown_points.iter().filter_map(|point| value(point)).chain([lcl, center, ucl].into_iter().flatten());
    let (mut low, mut high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    if high <= low {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let row = |value: f64| (((high - value) / (high - low)) * (ROWS - 1) as f64).round().clamp(0.0, (ROWS - 1) as f64) as usize;
    let width = (last - first + 1) as usize;
    let mut cells = vec![vec![' '; width]; ROWS];
    let mut names: Vec<String> = vec![String::new(); ROWS];
    for (line, mark) in [(lcl, '-'), (ucl, '-'), (center, '·')] {
        if let Some(line) = line {
            cells[row(line)].fill(mark);
            names[row(line)] = shown(line);
        }
    }
    for point in shown_points {
        if let Some(value) = value(point) {
            let mark = match (point.violations.is_empty(), point.phase) {
                (false, _) => 'X',
                (true, 1) => 'o',
                (true, _) => '*',
            };
            cells[row(value)][(point.index - first) as usize] = mark;
        }
    }
    for (name, cells) in names.iter().zip(&cells) {
        lines.push(format!("{name:>9} |{}", cells.iter().collect::<String>().trim_end()));
    }
    lines.push(format!("{:>9}  {first} to {last}; X violates a rule, o baseline", "point"));
}
