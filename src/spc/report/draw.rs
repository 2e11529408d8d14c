//! The picture: a header, the panel of the statistic, that of the spread, the rules that fired, the capability.
//!
//! The horizontal axis is the point's index, so that a missing point leaves a gap. Limits are drawn at each point, so that varying
//! sizes, new versions and the first points of an EWMA show. Phase I points are grey and have no limits.

use std::{collections::BTreeMap, sync::Arc};

use super::ChartReport;
use crate::{
    model::{Capability, SpcPoint, Spread},
    picture::{Align, BLACK, CHARACTER_PIXELS, Color, Scene, Shape, round_step, shown},
    spc::rules::Rule,
};

const WIDTH: usize = 1000;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 128.0;
const ROW: f64 = 17.0;
const STATISTIC_HEIGHT: f64 = 240.0;
const SPREAD_HEIGHT: f64 = 120.0;
const BETWEEN: f64 = 18.0;
/// Lines closer than this are one, pixels.
const LEVEL: f64 = 0.3;
/// Free space above and below the lines of a panel, as a share of its height.
const PAD: f64 = 0.1;
/// Larger values are not drawn: differences of them are no numbers any more.
const VALUE_MAX: f64 = 1e300;
/// Runs of points named for a rule: the newest.
const NAMED_MAX: usize = 6;
/// Violating points of a multivariate chart whose contributions are written out: the newest.
const CONTRIBUTIONS_MAX: usize = 5;

const GRID: Color = [232, 232, 232];
const AXIS: Color = [120, 120, 120];
const CENTER: Color = [0, 125, 65];
const LIMIT: Color = [190, 60, 20];
const VIOLATION: Color = [214, 0, 30];
const POINT: Color = [25, 75, 135];
const PATH: Color = [140, 170, 205];
const BASELINE: Color = [135, 135, 135];

/// One curve of a panel with its lines.
struct Curve {
    /// By index; none where the point has no value.
    values: Vec<Option<f64>>,
    /// Labels of violated rules.
    marks: Vec<String>,
}

/// What a panel shows.
struct Panel {
    name: &'static str,
    height: f64,
    curves: Vec<Curve>,
    /// Name, values by point, colour, dashed.
    lines: Vec<(&'static str, Vec<Option<f64>>, Color)>,
}

/// Draws the reports below each other.
pub fn scene(reports: &[ChartReport]) -> Scene {
    let mut scene = Scene::new(WIDTH, 0);
    let mut y = 10.0;
    for report in reports {
        y = chart(&mut scene, report, y) + 14.0;
    }
    scene.height = y.ceil() as usize;
    scene
}

fn chart(scene: &mut Scene, report: &ChartReport, top: f64) -> f64 {
    let mut y = header(scene, report, top);
    let panels = panels(report);
    if panels.is_empty() {
        scene.text("no points", [LEFT, y + 8.0], Align::Left, BLACK);
        y += ROW;
    }
    let across = Across::of(&report.points);
    for panel in &panels {
        y = draw_panel(scene, panel, &across, &report.points, y) + BETWEEN;
    }
    if !panels.is_empty() {
        y = axis(scene, &across, &report.points, y - BETWEEN);
    }
    y = rules(scene, report, y);
    if let Some(capability) = &report.capability {
        y = draw_capability(scene, capability, y);
    }
    y
}

fn header(scene: &mut Scene, report: &ChartReport, top: f64) -> f64 {
    let mut words = vec![report.chart.to_string()];
    if !report.key.is_empty() {
        words.push(report.key_text());
    }
    if let Some(kind) = report.kind {
        words.push(format!("{kind} of {}", report.signals.join(", ")));
    }
    words.push(format!("pipeline {}", report.pipeline));
    let mut y = top + 8.0;
    scene.text(words.join("  |  "), [10.0, y], Align::Left, BLACK);
    let violating = report.points.iter().filter(|point| violates(point)).count();
    let mut facts = vec![format!("{} points shown, {violating} violate a rule", report.points.len())];
    if let Some(limits) = report.limits.last() {
        let asked = limits
            .author
            .as_ref()
            .map_or(String::new(), |author| format!(" set by {author}: {}", limits.reason.as_deref().unwrap_or("no reason given")));
        facts.push(format!("limits version {}{asked}", limits.version));
    }
    if let (Some(from), Some(first)) = (report.complete_from, report.points.first())
        && first.index < from
    {
        facts.push(format!("before point {from} only violations are kept"));
    }
    y += ROW;
    scene.text(facts.join("  |  "), [10.0, y], Align::Left, AXIS);
    for warning in report.status.iter().chain(&report.warnings) {
        y += ROW;
        scene.text(warning, [10.0, y], Align::Left, VIOLATION);
    }
    y + ROW + 10.0
}

fn violates(point: &SpcPoint) -> bool {
    !point.violations.is_empty() || point.spread.as_ref().is_some_and(|spread| !spread.violations.is_empty())
}

fn panels(report: &ChartReport) -> Vec<Panel> {
    let points = &report.points;
    if points.is_empty() {
        return Vec::new();
    }
    if points.iter().any(|point| point.upper.is_some()) {
        return vec![sums(points)];
    }
    let mut panels = vec![Panel {
        name: statistic_name(report.kind),
        height: STATISTIC_HEIGHT,
        curves: vec![Curve {
            values: column(points, |point| point.statistic),
            marks: marks(points, |point| &point.violations, |_| true),
        }],
        lines: vec![
            ("UCL", column(points, |point| point.ucl), LIMIT),
            ("CL", column(points, |point| point.center), CENTER),
            ("LCL", column(points, |point| point.lcl), LIMIT),
        ],
    }];
    let spread = |of: fn(&Spread) -> Option<f64>| column(points, |point| point.spread.as_ref().and_then(of));
    let values = spread(|spread| spread.statistic);
    if values.iter().any(Option::is_some) {
        panels.push(Panel {
            name: spread_name(report.kind),
            height: SPREAD_HEIGHT,
            curves: vec![Curve { values, marks: marks(points, spread_violations, |_| true) }],
            lines: vec![
                ("UCL", spread(|spread| spread.ucl), LIMIT),
                ("CL", spread(|spread| spread.center), CENTER),
                ("LCL", spread(|spread| spread.lcl), LIMIT),
            ],
        });
    }
    panels
}

fn spread_violations(point: &SpcPoint) -> &[Arc<str>] {
    point.spread.as_ref().map_or(&[], |spread| &spread.violations)
}

/// The one panel of a CUSUM: the lower sum hangs below zero.
fn sums(points: &[SpcPoint]) -> Panel {
    let curve = |values, rule: Rule| Curve { values, marks: marks(points, |point| &point.violations, |name| name == rule.name()) };
    Panel {
        name: "sums",
        height: STATISTIC_HEIGHT,
        curves: vec![
            curve(column(points, |point| point.upper), Rule::CusumUpper),
            curve(column(points, |point| point.lower.map(|sum| -sum)), Rule::CusumLower),
        ],
        lines: vec![
            ("H", column(points, |point| point.h), LIMIT),
            ("0", column(points, |point| point.h.map(|_| 0.0)), CENTER),
            ("-H", column(points, |point| point.h.map(|h| -h)), LIMIT),
        ],
    }
}

fn column(points: &[SpcPoint], of: impl Fn(&SpcPoint) -> Option<f64>) -> Vec<Option<f64>> {
    points.iter().map(|point| of(point).filter(|value| value.abs() < VALUE_MAX)).collect()
}

/// `N1,W2` for the violated rules whose name is `wanted`.
fn marks(points: &[SpcPoint], of: impl Fn(&SpcPoint) -> &[Arc<str>], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let code =
        |name: &str| Rule::ALL.iter().find(|rule| rule.name() == name).map_or(name.to_owned(), |rule| rule.code().to_owned());
    let label = |point| of(point).iter().filter(|name| wanted(name)).map(|name| code(name)).collect::<Vec<_>>().join(",");
    points.iter().map(label).collect()
}

fn statistic_name(kind: Option<&str>) -> &'static str {
    match kind {
        Some("xbar_r" | "xbar_s") => "mean",
        Some("t2" | "mewma") => "T2",
        Some("ewma") => "EWMA",
        Some("moving_average") => "average",
        Some("ewma_residual") => "residual",
        Some("short_run") => "deviation",
        Some("p" | "laney_p") => "fraction",
        Some("np" | "c") => "count",
        Some("u" | "laney_u") => "rate",
        Some("i_mr") => "value",
        _ => "statistic",
    }
}

fn spread_name(kind: Option<&str>) -> &'static str {
    match kind {
        Some("xbar_r") => "range",
        Some("xbar_s") => "S",
        Some("i_mr" | "ewma_residual") => "moving range",
        _ => "spread",
    }
}

/// Index → pixel.
struct Across {
    first: f64,
    step: f64,
    last: u64,
}

impl Across {
    fn of(points: &[SpcPoint]) -> Self {
        let (first, last) = (points.first().map_or(0, |point| point.index), points.last().map_or(0, |point| point.index));
        let count = (last - first) as f64 + 1.0;
        Self { first: first as f64, step: (WIDTH as f64 - LEFT - RIGHT) / count, last }
    }

    /// The middle of point `index`.
    fn x(&self, index: f64) -> f64 {
        LEFT + (index - self.first + 0.5) * self.step
    }
}

/// Value → pixel.
struct Up {
    low: f64,
    high: f64,
    top: f64,
    height: f64,
}

impl Up {
    fn of(panel: &Panel, top: f64) -> Self {
        let values =
            panel.curves.iter().flat_map(|curve| &curve.values).chain(panel.lines.iter().flat_map(|(_, values, _)| values));
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.flatten() {
            (low, high) = (low.min(*value), high.max(*value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let room = PAD * (high - low);
        let room = if room > 0.0 { room } else { (0.1 * low.abs()).max(0.5) };
        Self { low: low - room, high: high + room, top, height: panel.height }
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height * (self.high - value) / (self.high - self.low)
    }
}

fn draw_panel(scene: &mut Scene, panel: &Panel, across: &Across, points: &[SpcPoint], top: f64) -> f64 {
    let up = Up::of(panel, top);
    let (right, bottom) = (WIDTH as f64 - RIGHT, top + panel.height);
    let step = round_step(up.high - up.low, (panel.height / 40.0) as usize);
    for tick in 0..64 {
        let value = ((up.low / step).ceil() + f64::from(tick)) * step;
        if value > up.high {
            break;
        }
        let y = up.y(value);
        scene.line([LEFT, y], [right, y], GRID, false);
        scene.text(shown(value), [LEFT - 7.0, y], Align::Right, AXIS);
    }
    scene.text(panel.name, [LEFT, top - 7.0], Align::Left, BLACK);
    for (_, values, color) in &panel.lines {
        let mut before = [f64::NAN; 2];
        for [from, to, y] in steps(values, points, across, &up) {
            if (from - before[0]).abs() < 0.5 {
                scene.line([from, before[1]], [from, y], *color, false);
            }
            scene.line([from, y], [to, y], *color, *color == LIMIT);
            before = [to, y];
        }
    }
    for [from, to] in [[[LEFT, top], [LEFT, bottom]], [[LEFT, bottom], [right, bottom]]] {
        scene.line(from, to, AXIS, false);
    }
    phases(scene, points, across, top, bottom);
    for curve in &panel.curves {
        draw_curve(scene, curve, across, &up, points, panel);
    }
    labels(scene, panel, &up, right);
    bottom
}

/// Level pieces of a line, in pixels: from, to, height.
fn steps(values: &[Option<f64>], points: &[SpcPoint], across: &Across, up: &Up) -> Vec<[f64; 3]> {
    let mut pieces: Vec<[f64; 3]> = Vec::new();
    for (value, point) in values.iter().zip(points) {
        let Some(y) = value.map(|value| up.y(value)) else { continue };
        let (from, to) = (across.x(point.index as f64 - 0.5), across.x(point.index as f64 + 0.5));
        match pieces.last_mut() {
            Some(last) if (last[2] - y).abs() < LEVEL && from - last[1] < 0.5 => last[1] = to,
            _ => pieces.push([from, to, y]),
        }
    }
    pieces
}

/// A line where Phase I ends.
fn phases(scene: &mut Scene, points: &[SpcPoint], across: &Across, top: f64, bottom: f64) {
    for two in points.windows(2).filter(|two| two[0].phase != two[1].phase) {
        let x = across.x(two[1].index as f64 - 0.5);
        scene.line([x, top], [x, bottom], AXIS, true);
        let name = if two[1].phase == 1 { "baseline" } else { "Phase II" };
        scene.text(name, [x + 4.0, top + 7.0], Align::Left, AXIS);
    }
}

fn draw_curve(scene: &mut Scene, curve: &Curve, across: &Across, up: &Up, points: &[SpcPoint], panel: &Panel) {
    let at = |place: usize| Some([across.x(points[place].index as f64), up.y(curve.values[place]?)]);
    let mut path: Vec<[f64; 2]> = Vec::new();
    let mut paths = Vec::new();
    for place in 0..points.len() {
        let follows = place > 0 && points[place].index == points[place - 1].index + 1;
        if !follows || curve.values[place].is_none() {
            paths.push(std::mem::take(&mut path));
        }
        path.extend(at(place));
    }
    paths.push(path);
    scene.shapes.extend(paths.into_iter().filter(|path| path.len() > 1).map(|points| Shape::Path { points, color: PATH }));
    let radius = (across.step * 0.3).clamp(1.0, 3.0);
    for (place, point) in points.iter().enumerate() {
        let Some(at) = at(place) else { continue };
        let color = match (curve.marks[place].is_empty(), point.phase) {
            (false, _) => VIOLATION,
            (true, 1) => BASELINE,
            (true, _) => POINT,
        };
        let radius = if curve.marks[place].is_empty() { radius } else { radius + 1.0 };
        scene.shapes.push(Shape::Dot { at, radius, color });
    }
    mark(scene, curve, &at, up, points, panel);
}

/// Rule names at violating points: the first of equal ones in a row, none over another.
fn mark(scene: &mut Scene, curve: &Curve, at: &impl Fn(usize) -> Option<[f64; 2]>, up: &Up, points: &[SpcPoint], panel: &Panel) {
    let middle = panel.lines.iter().find(|(.., color)| *color == CENTER).map(|(_, values, _)| values);
    // Where the last label ended, above and below.
    let mut taken = [f64::NEG_INFINITY; 2];
    for place in 0..points.len() {
        let label = &curve.marks[place];
        let again = place > 0 && *label == curve.marks[place - 1] && points[place].index == points[place - 1].index + 1;
        let Some([x, y]) = at(place).filter(|_| !label.is_empty() && !again) else { continue };
        let above = middle.and_then(|values| values[place]).is_none_or(|center| y <= up.y(center));
        let half = 0.5 * (label.chars().count() * CHARACTER_PIXELS) as f64;
        let side = usize::from(!above);
        if x - half < taken[side] {
            continue;
        }
        taken[side] = x + half + 4.0;
        // Clear of the points beside it.
        let beside = (0..points.len()).filter_map(at).filter(|[other, _]| (other - x).abs() < half + 4.0).map(|[_, y]| y);
        let y = if above { beside.fold(y, f64::min) - 11.0 } else { beside.fold(y, f64::max) + 12.0 };
        scene.text(label, [x, y], Align::Center, VIOLATION);
    }
}

/// The newest values of the lines, at the right.
fn labels(scene: &mut Scene, panel: &Panel, up: &Up, right: f64) {
    let newest = |values: &[Option<f64>]| values.iter().rev().find_map(|value| *value);
    let mut labels: Vec<(f64, String, Color)> = Vec::new();
    for (name, values, color) in &panel.lines {
        if let Some(value) = newest(values) {
            let text = if *name == "0" { "0".to_owned() } else { format!("{name} {}", shown(value)) };
            labels.push((up.y(value), text, *color));
        }
    }
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::NEG_INFINITY;
    for (y, text, color) in labels {
        let y = y.max(free);
        free = y + 14.0;
        scene.text(text, [right + 8.0, y], Align::Left, color);
    }
}

fn axis(scene: &mut Scene, across: &Across, points: &[SpcPoint], bottom: f64) -> f64 {
    let step = round_step(across.last as f64 - across.first + 1.0, 10).max(1.0);
    let mut index = (across.first / step).ceil() * step;
    while index <= across.last as f64 {
        let x = across.x(index);
        scene.line([x, bottom], [x, bottom + 4.0], AXIS, false);
        scene.text(format!("{index}"), [x, bottom + 12.0], Align::Center, AXIS);
        index += step;
    }
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        scene.text(first.time.to_string(), [LEFT, bottom + 28.0], Align::Left, AXIS);
        scene.text(last.time.to_string(), [WIDTH as f64 - RIGHT, bottom + 28.0], Align::Right, AXIS);
    }
    bottom + 28.0 + ROW
}

/// What each rule that fired means, and where it fired.
fn rules(scene: &mut Scene, report: &ChartReport, top: f64) -> f64 {
    let mut y = top;
    for ((rule, half), indices) in fired(report) {
        let text = format!("{} {}{half}: {} - points {}", rule.code(), rule.name(), rule.meaning(), runs(&indices, NAMED_MAX));
        scene.text(text, [10.0, y + 8.0], Align::Left, VIOLATION);
        y += ROW;
    }
    for point in
        report.points.iter().rev().filter(|point| !point.contributions.is_empty() && violates(point)).take(CONTRIBUTIONS_MAX)
    {
        let mut shares: Vec<_> = point.contributions.iter().collect();
        shares.sort_by(|a, b| b.1.total_cmp(a.1));
        let shares: Vec<String> = shares.iter().map(|(signal, share)| format!("{signal} {}", shown(**share))).collect();
        scene.text(format!("point {}: contributions {}", point.index, shares.join(", ")), [10.0, y + 8.0], Align::Left, BLACK);
        y += ROW;
    }
    y
}

/// The rules that fired on either half, and what to say of the half, with the points.
pub(super) fn fired(report: &ChartReport) -> BTreeMap<(Rule, &'static str), Vec<u64>> {
    let mut fired: BTreeMap<(Rule, &'static str), Vec<u64>> = BTreeMap::new();
    for point in &report.points {
        for (names, half) in [(&point.violations[..], ""), (spread_violations(point), " on the spread")] {
            for rule in names.iter().filter_map(|name| Rule::ALL.into_iter().find(|rule| rule.name() == &**name)) {
                fired.entry((rule, half)).or_default().push(point.index);
            }
        }
    }
    fired
}

/// `3, 5-9` for rising indices; of more than `max` runs the newest.
pub(super) fn runs(indices: &[u64], max: usize) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for index in indices {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let more = if runs.len() > max { "..., " } else { "" };
    let newest = &runs[runs.len().saturating_sub(max)..];
    let named: Vec<String> =
        newest.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect();
    format!("{more}{}", named.join(", "))
}

fn draw_capability(scene: &mut Scene, capability: &Capability, top: f64) -> f64 {
    let mut y = top + 4.0;
    for line in capability_lines(capability) {
        scene.text(line, [10.0, y + 8.0], Align::Left, BLACK);
        y += ROW;
    }
    y
}

/// The capability in three lines.
pub(super) fn capability_lines(capability: &Capability) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), shown);
    let index = |name: &str, value: Option<f64>| {
        let interval = capability.intervals.get(&*name.to_lowercase());
        let interval = interval.map_or(String::new(), |[low, high]| format!(" [{low:.2}, {high:.2}]"));
        format!("{name} {}{interval}", value.map_or("-".to_owned(), |value| format!("{value:.3}")))
    };
    let indices = [
        index("Cp", capability.cp),
        index("Cpk", capability.cpk),
        index("Pp", capability.pp),
        index("Ppk", capability.ppk),
        index("Cpm", capability.cpm),
    ];
    vec![
        format!(
            "capability of {} rows: mean {}, sigma within {}, overall {}",
            capability.n,
            number(capability.mean),
            number(capability.sigma_within),
            number(capability.sigma_overall)
        ),
        indices.join("  "),
        format!(
            "parts per million outside: {} observed, {} expected",
            number(capability.ppm_observed),
            number(capability.ppm_expected)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_named_as_runs_the_newest_last() {
        for (indices, max, want) in
            [(&[1_u64, 2, 3, 7, 9, 10][..], 9, "1-3, 7, 9-10"), (&[1, 3, 5, 7], 2, "..., 5, 7"), (&[], 3, ""), (&[0], 1, "0")]
        {
            assert_eq!(runs(indices, max), want);
        }
    }
}
