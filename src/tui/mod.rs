//! The terminal UI: a client of the API, in its own process.
//!
//! It asks `GET /status` a few times a second and draws what it got; nothing is kept but what is selected. When the appliance does
//! not answer, the last picture stays, with the reason on top. Every screen has a scriptable twin: `top --once` prints the
//! same snapshot as JSON.
//!
//! - [`client`]: the requests.
//! - [`view`]: what is selected, and which key changes it.
//! - [`draw`]: a snapshot → a screen.
//! - [`chart`]: a control chart in characters.

pub mod chart;
pub mod client;
pub mod draw;
pub mod view;

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use client::Client;
use view::{Act, View};

/// How often the screen asks for news.
const REFRESH: Duration = Duration::from_millis(500);

/// Runs the terminal UI until `q`, or until `over` says so.
///
/// # Errors
/// The terminal cannot be used.
pub fn run(url: &str, client: &Client, over: impl Fn() -> bool) -> std::io::Result<()> {
    let mut view = View::new(url);
    let mut terminal = ratatui::try_init()?;
    let ended = drive(client, &mut view, &mut terminal, over);
    ratatui::restore();
    ended
}

fn drive(
    client: &Client,
    view: &mut View,
    terminal: &mut ratatui::DefaultTerminal,
    over: impl Fn() -> bool,
) -> std::io::Result<()> {
    let mut asked: Option<Instant> = None;
    while !over() {
        if asked.is_none_or(|at| at.elapsed() >= REFRESH) {
            view.receive(client.status());
            asked = Some(Instant::now());
        }
        terminal.draw(|frame| draw::screen(frame, view))?;
        let wait = asked.map_or(REFRESH, |at| REFRESH.saturating_sub(at.elapsed()));
        if !event::poll(wait)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match view.key(key) {
            Some(Act::Quit) => return Ok(()),
            Some(Act::Acknowledge(id)) => {
                let name = std::env::var("USER").unwrap_or_else(|_| "operator".into());
                view.say(client.acknowledge(&id, &name));
                asked = None;
            }
            None => {}
        }
    }
    Ok(())
}
