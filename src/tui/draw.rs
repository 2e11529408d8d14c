//! A snapshot → a screen. Free functions, one a panel.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span, Text},
    widgets::{Block, Cell as TableCell, Paragraph, Row, Sparkline, Table, Wrap},
};

use super::{
    chart::{self, Cell},
    view::{Focus, View},
};
use crate::{
    api::Snapshot,
    model::{Severity, Timestamp},
    status::{ChartStatus, StreamStatus},
};

/// Draws the whole screen.
pub fn screen(frame: &mut Frame<'_>, view: &View) {
    let [head, signals, middle, foot, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(8),
        Constraint::Percentage(40),
        Constraint::Length(9),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    keys_line(frame, keys, view);
    let Some(snapshot) = &view.snapshot else {
        let words = view.trouble.clone().unwrap_or_else(|| format!("asking {} …", view.url));
        frame.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), frame.area());
        return;
    };
    header(frame, head, view, snapshot);
    signal_panel(frame, signals, snapshot);
    let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(middle);
    chart_panel(frame, left, view, snapshot);
    alert_panel(frame, right, view, snapshot);
    let [left, right] = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(foot);
    source_panel(frame, left, snapshot);
    sink_panel(frame, right, snapshot);
}

fn state_color(state: &str) -> Color {
    match state {
        "ok" | "up" => Color::Green,
        "connecting" | "degraded" => Color::Yellow,
        _ => Color::Red,
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, view: &View, snapshot: &Snapshot) {
    let rows: f64 = snapshot.streams.iter().map(|stream| stream.rows_per_second).sum();
    let process = &snapshot.process;
    let first = Line::from(vec![
        Span::from(format!(" qadf-edge {} ", snapshot.appliance)).bold().reversed(),
        Span::from(format!(" {} ", snapshot.state)).fg(state_color(&snapshot.state)).bold(),
        Span::from(format!(
            " {} rows/s   latency p50 {:.1} ms p99 {:.1} ms   cpu {:.0} %   memory {}   store {}",
            count(rows as u64),
            process.latency_ms_p50,
            process.latency_ms_p99,
            process.cpu_share * 100.0,
            bytes(process.rss_bytes),
            bytes(snapshot.store.bytes),
        )),
    ]);
    let second = match (&view.trouble, snapshot.problems.first()) {
        (Some(trouble), _) => Line::from(format!(" {trouble}")).fg(Color::Red),
        (None, Some(problem)) => Line::from(format!(" {problem}")).fg(Color::Yellow),
        (None, None) => {
            Line::from(format!(" {}", Timestamp(snapshot.time.0.div_euclid(1_000_000_000).saturating_mul(1_000_000_000))))
                .fg(Color::DarkGray)
        }
    };
    frame.render_widget(Paragraph::new(vec![first, second]), area);
}

fn signal_panel(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let block = Block::bordered().title(" signals ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines: Vec<(&StreamStatus, usize)> =
        snapshot.streams.iter().flat_map(|stream| (0..stream.signals.len()).map(move |at| (stream, at))).collect();
    for (at, (stream, signal)) in lines.iter().take(inner.height as usize).enumerate() {
        let line = Rect { y: inner.y + at as u16, height: 1, ..inner };
        signal_line(frame, line, stream, *signal);
    }
}

fn signal_line(frame: &mut Frame<'_>, area: Rect, stream: &StreamStatus, at: usize) {
    let signal = &stream.signals[at];
    let [name, value, spark, range] =
        Layout::horizontal([Constraint::Length(28), Constraint::Length(18), Constraint::Min(10), Constraint::Length(34)])
            .areas(area);
    let rate = if at == 0 { format!("{}/s", count(stream.rows_per_second as u64)) } else { String::new() };
    frame.render_widget(Paragraph::new(format!("{:<20} {rate}", format!("{}.{}", stream.id, signal.name))), name);
    let latest = signal.latest.map_or("–".to_owned(), figure);
    frame.render_widget(Paragraph::new(format!("{latest} {}", signal.unit)).bold(), value);
    let low = signal.recent.iter().copied().fold(f64::INFINITY, f64::min);
    let high = signal.recent.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = if high > low { high - low } else { 1.0 };
    let newest = &signal.recent[signal.recent.len().saturating_sub(spark.width as usize)..];
    let bars: Vec<u64> = newest.iter().map(|value| 1 + ((value - low) / span * 63.0) as u64).collect();
    frame.render_widget(Sparkline::default().data(&bars).max(64).style(Style::new().fg(Color::Cyan)), spark);
    if let (Some(min), Some(mean), Some(max)) = (signal.min, signal.mean, signal.max) {
        let words = format!(" {} ‥ {} ‥ {}", figure(min), figure(mean), figure(max));
        frame.render_widget(Paragraph::new(words).fg(Color::DarkGray), range);
    }
}

fn chart_panel(frame: &mut Frame<'_>, area: Rect, view: &View, snapshot: &Snapshot) {
    let Some(chart) = snapshot.charts.get(view.chart) else {
        frame.render_widget(Paragraph::new("no control chart has a point yet").block(Block::bordered().title(" chart ")), area);
        return;
    };
    let title = format!(" chart {}/{}: {} {} ", view.chart + 1, snapshot.charts.len(), chart.id, chart.key);
    let block = Block::bordered().title(title).title_bottom(chart_words(chart)).border_style(focused(view, Focus::Charts));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [scale, plot] = Layout::horizontal([Constraint::Length(11), Constraint::Min(4)]).areas(inner);
    let Some(picture) = chart::picture(chart, plot.width as usize, plot.height as usize) else { return };
    let rows: Vec<Line<'_>> =
        picture.cells.iter().map(|row| Line::from(row.iter().map(|cell| span(*cell)).collect::<Vec<_>>())).collect();
    frame.render_widget(Paragraph::new(Text::from(rows)), plot);
    let height = plot.height as usize;
    let marks: Vec<Line<'_>> = (0..height)
        .map(|row| {
            let value = picture.top - (picture.top - picture.bottom) * row as f64 / (height - 1).max(1) as f64;
            if row % 3 == 0 { Line::from(format!("{:>10}", figure(value))) } else { Line::default() }
        })
        .collect();
    frame.render_widget(Paragraph::new(Text::from(marks)).fg(Color::DarkGray), scale);
}

fn chart_words(chart: &ChartStatus) -> String {
    let limits = match (chart.lcl, chart.center, chart.ucl) {
        (Some(lcl), Some(center), Some(ucl)) => {
            format!("lcl {}  center {}  ucl {}", figure(lcl), figure(center), figure(ucl))
        }
        _ => chart.status.clone().unwrap_or_else(|| "Phase I: collecting the baseline".into()),
    };
    format!(" {} of {} · {limits} · {} points, {} violations ", chart.kind, chart.signal, chart.count, chart.violations)
}

fn span(cell: Cell) -> Span<'static> {
    let style = match cell {
        Cell::Empty | Cell::Point => Style::new(),
        Cell::Center => Style::new().fg(Color::Green),
        Cell::Limit => Style::new().fg(Color::Yellow),
        Cell::Violation => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    };
    Span::styled(chart::glyph(cell).to_string(), style)
}

fn focused(view: &View, focus: Focus) -> Style {
    if view.focus == focus { Style::new().fg(Color::Cyan) } else { Style::new() }
}

fn alert_panel(frame: &mut Frame<'_>, area: Rect, view: &View, snapshot: &Snapshot) {
    let open = snapshot.alerts.iter().filter(|alert| alert.acknowledged.is_none()).count();
    let title = format!(" alarms: {open} open ");
    let block = Block::bordered().title(title).border_style(focused(view, Focus::Alerts));
    let room = area.height.saturating_sub(2) as usize;
    let first = view.alert.saturating_sub(room.saturating_sub(1));
    let lines: Vec<Line<'_>> = snapshot
        .alerts
        .iter()
        .enumerate()
        .skip(first)
        .take(room)
        .map(|(at, alert)| {
            let color = match alert.severity {
                Severity::Critical | Severity::High => Color::Red,
                Severity::Medium => Color::Yellow,
                Severity::Low => Color::Blue,
            };
            let mark = if alert.acknowledged.is_some() { "✓" } else { "●" };
            let clock = alert.time.to_string().get(11..19).unwrap_or("").to_owned();
            let line = Line::from(vec![Span::from(format!("{mark} {clock} ")).fg(color), Span::from(alert.message.clone())]);
            if at == view.alert && view.focus == Focus::Alerts { line.reversed() } else { line }
        })
        .collect();
    frame.render_widget(Paragraph::new(Text::from(lines)).block(block), area);
}

fn source_panel(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let rows = snapshot.sources.iter().map(|source| {
        Row::new([
            TableCell::from(source.id.clone()),
            TableCell::from(source.state.clone()).fg(state_color(&source.state)),
            TableCell::from(count(source.rows.accepted)),
            TableCell::from(count(source.rows.rejected)),
            TableCell::from(count(source.rows.duplicate)),
            TableCell::from(source.detail.clone()),
        ])
    });
    let widths = [
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Min(10),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(["source", "state", "accepted", "rejected", "duplicate", ""]).fg(Color::DarkGray))
        .block(Block::bordered().title(" sources "));
    frame.render_widget(table, area);
}

fn sink_panel(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let rows = snapshot.sinks.iter().map(|sink| {
        let state = if sink.up { "up" } else { "down" };
        Row::new([
            TableCell::from(sink.id.clone()),
            TableCell::from(sink.kind.clone()),
            TableCell::from(state).fg(state_color(state)),
            TableCell::from(count(sink.rows.delivered)),
            TableCell::from(count(sink.rows.buffered)),
            TableCell::from(sink.detail.clone()),
        ])
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Min(10),
    ];
    let store = &snapshot.store;
    let autonomy = store.autonomy_seconds.map_or(String::new(), |seconds| format!(" · disk lasts {}", duration(seconds)));
    let title = format!(
        " sinks · {} rows, {} results, {} dead letters{autonomy} ",
        count(store.rows),
        count(store.results),
        store.dead_letters
    );
    let table = Table::new(rows, widths)
        .header(Row::new(["sink", "type", "", "delivered", "waiting", ""]).fg(Color::DarkGray))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn keys_line(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let words = view.said.clone().unwrap_or_else(|| {
        let pause = if view.paused { "p go on" } else { "p pause" };
        format!(" q quit   tab charts/alarms   ↑↓ select   a acknowledge   {pause}")
    });
    frame.render_widget(Paragraph::new(words).fg(Color::DarkGray), area);
}

/// A number in at most nine characters.
fn figure(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else if size >= 1000.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

fn count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{:.1} k", count as f64 / 1e3),
        _ => format!("{:.1} M", count as f64 / 1e6),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.0} h", seconds / 3600.0)
    } else {
        format!("{:.0} d", seconds / 86_400.0)
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::status::{SignalStatus, SinkStatus};

    fn drawn(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 36)).unwrap();
        terminal.draw(|frame| screen(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn signals_sinks_and_trouble_are_on_the_screen() {
        let mut view = View::new("http://x");
        assert!(drawn(&view).contains("asking http://x"));
        let signal = SignalStatus {
            name: "power".into(),
            unit: "W".into(),
            latest: Some(195.25),
            recent: vec![1.0, 2.0],
            ..SignalStatus::default()
        };
        view.receive(Ok(Snapshot {
            appliance: "lpbf".into(),
            state: "ok".into(),
            streams: vec![StreamStatus { id: "melt".into(), signals: vec![signal], ..StreamStatus::default() }],
            sinks: vec![SinkStatus { id: "plant".into(), detail: "refused".into(), ..SinkStatus::default() }],
            ..Snapshot::default()
        }));
        view.receive(Err("no answer from http://x".into()));
        let screen = drawn(&view);
        for words in ["melt.power", "195.250 W", "plant", "refused", "no answer from http://x"] {
            assert!(screen.contains(words), "{words} is missing in\n{screen}");
        }
    }

    #[test]
    fn a_narrow_terminal_does_not_panic() {
        let mut view = View::new("");
        view.receive(Ok(Snapshot { charts: vec![ChartStatus::default()], ..Snapshot::default() }));
        for (width, height) in [(1, 1), (10, 3), (40, 12), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| screen(frame, &view)).unwrap();
        }
    }
}
