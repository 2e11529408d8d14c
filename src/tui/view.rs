//! What is selected on the screen, and which key changes it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::api::Snapshot;

/// Something a key asks for that the view cannot do itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Leave.
    Quit,
    /// Take note of the alert with this id.
    Acknowledge(String),
}

/// Which list the arrow keys move in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// The control charts.
    Charts,
    /// The alerts.
    Alerts,
}

/// The state of the screen.
#[derive(Debug)]
pub struct View {
    /// The appliance's address.
    pub url: String,
    /// The last snapshot.
    pub snapshot: Option<Snapshot>,
    /// Why there is no newer one.
    pub trouble: Option<String>,
    /// What was last done, in words.
    pub said: Option<String>,
    /// Which list the arrow keys move in.
    pub focus: Focus,
    /// The chart on show.
    pub chart: usize,
    /// The alert on show.
    pub alert: usize,
    /// Whether the picture stands still.
    pub paused: bool,
}

impl View {
    /// An empty screen.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            snapshot: None,
            trouble: None,
            said: None,
            focus: Focus::Charts,
            chart: 0,
            alert: 0,
            paused: false,
        }
    }

    /// Takes in what the appliance answered.
    pub fn receive(&mut self, answer: Result<Snapshot, String>) {
        match answer {
            Ok(_) if self.paused => self.trouble = None,
            Ok(snapshot) => {
                self.chart = self.chart.min(snapshot.charts.len().saturating_sub(1));
                self.alert = self.alert.min(snapshot.alerts.len().saturating_sub(1));
                self.snapshot = Some(snapshot);
                self.trouble = None;
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    /// Shows a line about what was done.
    pub fn say(&mut self, what: String) {
        self.said = Some(what);
    }

    /// Reacts to a key.
    pub fn key(&mut self, key: KeyEvent) -> Option<Act> {
        self.said = None;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Act::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Some(Act::Quit),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Tab => {
                self.focus = match self.focus {
                    Focus::Charts => Focus::Alerts,
                    Focus::Alerts => Focus::Charts,
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.shift(1),
            KeyCode::Up | KeyCode::Char('k') => self.shift(-1),
            KeyCode::Char('a') => return self.selected_alert().map(Act::Acknowledge),
            _ => {}
        }
        None
    }

    fn shift(&mut self, by: isize) {
        let Some(snapshot) = &self.snapshot else { return };
        let (at, len) = match self.focus {
            Focus::Charts => (&mut self.chart, snapshot.charts.len()),
            Focus::Alerts => (&mut self.alert, snapshot.alerts.len()),
        };
        *at = at.saturating_add_signed(by).min(len.saturating_sub(1));
    }

    fn selected_alert(&self) -> Option<String> {
        self.snapshot.as_ref()?.alerts.get(self.alert).map(|alert| alert.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ChartStatus;

    #[test]
    fn selection_stays_inside_the_list() {
        let mut view = View::new("");
        view.receive(Ok(Snapshot { charts: vec![ChartStatus::default(); 2], ..Snapshot::default() }));
        for _ in 0..5 {
            view.key(KeyCode::Down.into());
        }
        assert_eq!(view.chart, 1);
        view.receive(Ok(Snapshot::default()));
        assert_eq!(view.chart, 0);
        assert_eq!(view.key(KeyCode::Char('a').into()), None);
        assert_eq!(view.key(KeyCode::Char('q').into()), Some(Act::Quit));
    }

    #[test]
    fn the_last_picture_stays_when_the_appliance_is_silent() {
        let mut view = View::new("");
        view.receive(Ok(Snapshot { appliance: "a".into(), ..Snapshot::default() }));
        view.receive(Err("no answer".into()));
        assert_eq!(view.snapshot.map(|snapshot| snapshot.appliance), Some("a".into()));
        assert_eq!(view.trouble.as_deref(), Some("no answer"));
    }
}
