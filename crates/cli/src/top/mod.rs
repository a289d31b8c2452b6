//! `portcullis top`: a live view of a running firewall.

mod draw;
mod state;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::control::top::Top;
use crate::control::{Client, Request, Which};
use crate::output::{self, Outcome, Refused};
use state::{State, Step};

/// Flags of `portcullis top`.
#[derive(clap::Args)]
#[command(
    after_help = "Keys: Tab next table, arrows or j and k move, Enter explains the pair, s sorts by
something else, / filters (Enter ends, Esc clears), p pauses, ? says this, q quits.

Bytes of a pair are those of its connections, open or ended. Rates are of the last interval.

Examples:
  portcullis top
  portcullis top --once | less        # the same as text
  portcullis top --sort bytes --filter shop/

Exit code: 0, or 2 if no firewall answers."
)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print one picture as text and end
    #[arg(long)]
    once: bool,
    /// Seconds between pictures
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
    /// What pairs are sorted by
    #[arg(long, value_enum, default_value_t = state::Sort::Flows)]
    sort: state::Sort,
    /// Only pairs in which this text occurs
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

/// Most lines of a picture that is printed, and its width where there is no terminal to ask.
const ONCE_LINES: u16 = 200;
const ONCE_WIDTH: u16 = 120;

/// Shows until told to quit.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    if !(0.1..=3600.0).contains(&args.interval) {
        return Err("error: --interval: from 0.1 to 3600".into());
    }
    let interval = Duration::from_secs_f64(args.interval);
    let mut client = args.which.connect()?;
    let first: Top = client.ask(&Request::Top {})?;
    let mut state = State::new(first, args.sort, args.filter);
    if args.once {
        std::thread::sleep(interval);
        state.update(client.ask(&Request::Top {})?);
        let width = match std::io::stdout().is_terminal() {
            true => ratatui::crossterm::terminal::size().map_or(ONCE_WIDTH, |(width, _)| width),
            false => ONCE_WIDTH,
        };
        output::text(&once(&state, width.max(80)))?;
        return Ok(Outcome::Done);
    }
    if !std::io::stdout().is_terminal() {
        return Err("error: top needs a terminal; --once prints a picture as text".into());
    }
    let colour = std::env::var_os("NO_COLOR").is_none();
    let mut terminal = ratatui::try_init().map_err(|e| format!("error: the terminal: {e}"))?;
    let result = show(&mut terminal, &mut client, &mut state, interval, colour);
    ratatui::restore();
    result.map(|()| Outcome::Done)
}

/// Draws, takes keys and asks again when it is time.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    client: &mut Client,
    state: &mut State,
    interval: Duration,
    colour: bool,
) -> Result<(), Refused> {
    let mut asked = Instant::now();
    loop {
        terminal.draw(|frame| draw::whole(frame, state, colour))?;
        let left = interval.saturating_sub(asked.elapsed());
        if event::poll(left)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match state.key(key) {
                    Step::Quit => return Ok(()),
                    Step::Explain(flow) => {
                        let asked = client.ask::<String>(&Request::Explain { flow });
                        state.explained(asked.unwrap_or_else(|e| e.message().to_owned()));
                    }
                    Step::Stay => {}
                },
                // Another size is drawn at once.
                _ => {}
            }
        }
        if asked.elapsed() >= interval {
            asked = Instant::now();
            // Asked while paused too: the firewall would take us for asleep.
            let top = client.ask(&Request::Top {})?;
            state.update(top);
        }
    }
}

/// The picture as text.
fn once(state: &State, width: u16) -> String {
    let lines = lines(state, width, draw::wanted(state).min(ONCE_LINES));
    // The last line is about keys.
    lines[..lines.len() - 1].iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What a terminal of this size would show.
fn lines(state: &State, width: u16, height: u16) -> Vec<String> {
    // Drawing into memory cannot fail.
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw::whole(frame, state, false));
    let buffer = terminal.backend().buffer();
    (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect()).collect()
}

#[cfg(test)]
mod tests;
