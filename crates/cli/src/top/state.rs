//! What is shown, and how keys change that.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::control::status::Status;
use crate::control::top::{Pair, Top};

/// What pairs are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    /// Connections opened, or denied
    Flows,
    /// Bits a second; of denied ones, attempts a second
    Rate,
    /// Bytes
    Bytes,
    /// The last seen first
    Recent,
    /// By name
    Name,
}

/// Which table the keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    Talkers,
    Denied,
    Drops,
}

/// What a key asks of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    Quit,
    Explain(String),
}

/// What is in front of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Front {
    Nothing,
    Help,
    /// A text, and its first line shown.
    Text(String, u16),
}

/// Numbers of now and of the interval before.
pub(super) struct State {
    before: Option<Top>,
    now: Top,
    /// What came last while paused.
    pub(super) paused: bool,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Letters go to the filter.
    pub(super) typing: bool,
    pub(super) focus: Focus,
    pub(super) selected: usize,
    pub(super) front: Front,
}

/// Changes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) received: f64,
    pub(super) received_bits: f64,
    pub(super) forwarded: f64,
    pub(super) forwarded_bits: f64,
    pub(super) dropped: f64,
    pub(super) opened: f64,
    pub(super) ended: f64,
}

impl State {
    pub(super) fn new(now: Top, sort: Sort, filter: String) -> Self {
        Self {
            before: None,
            now,
            paused: false,
            sort,
            filter,
            typing: false,
            focus: Focus::Talkers,
            selected: 0,
            front: Front::Nothing,
        }
    }

    /// Takes the next numbers, unless paused.
    pub(super) fn update(&mut self, top: Top) {
        if !self.paused {
            self.before = Some(std::mem::replace(&mut self.now, top));
            self.keep_selection();
        }
    }

    pub(super) fn explained(&mut self, text: String) {
        self.front = Front::Text(text, 0);
    }

    pub(super) fn status(&self) -> &Status {
        &self.now.status
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.now.forgotten
    }

    /// Changes a second since the numbers before.
    pub(super) fn rates(&self) -> Rates {
        let Some(before) = &self.before else { return Rates::default() };
        let (old, new) = (&before.status, &self.now.status);
        let seconds = self.seconds();
        let rate = |of: fn(&Status) -> u64| of(new).saturating_sub(of(old)) as f64 / seconds;
        Rates {
            received: rate(|s| s.packets.received),
            received_bits: 8.0 * rate(|s| s.packets.received_bytes),
            forwarded: rate(|s| s.packets.forwarded),
            forwarded_bits: 8.0 * rate(|s| s.packets.forwarded_bytes),
            dropped: rate(|s| s.packets.dropped),
            opened: rate(|s| s.connections.opened),
            ended: rate(|s| s.connections.ended),
        }
    }

    /// Drop reasons with packets and packets a second, most first.
    pub(super) fn drops(&self) -> Vec<(&str, u64, f64)> {
        let before = self.before.as_ref().map(|top| &top.status.drops);
        let rate = |reason: &str, packets: u64| {
            let Some(before) = before else { return 0.0 };
            let old = before.iter().find(|drop| drop.reason == reason);
            packets.saturating_sub(old.map_or(0, |drop| drop.packets)) as f64 / self.seconds()
        };
        let all = self.now.status.drops.iter();
        let mut drops: Vec<(&str, u64, f64)> = all
            .map(|drop| (drop.reason.as_str(), drop.packets, rate(&drop.reason, drop.packets)))
            .collect();
        drops.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        drops
    }

    /// Pairs that the filter lets through, sorted, each with its bits a second, or if denied its
    /// flows a second.
    pub(super) fn pairs(&self, denied: bool) -> Vec<(&Pair, f64)> {
        let filter = self.filter.to_lowercase();
        let fits = |pair: &&Pair| {
            let texts = [&pair.source, &pair.destination, &pair.service, &pair.policy];
            pair.denied == denied
                && (filter.is_empty() || texts.iter().any(|t| t.to_lowercase().contains(&filter)))
        };
        let with_rate = |pair| (pair, self.rate(pair));
        let mut pairs: Vec<(&Pair, f64)> =
            self.now.pairs.iter().filter(fits).map(with_rate).collect();
        let name = |pair: &Pair| format!("{} {} {}", pair.source, pair.destination, pair.service);
        pairs.sort_by(|(a, a_rate), (b, b_rate)| {
            let order = match self.sort {
                Sort::Flows => b.flows.cmp(&a.flows),
                Sort::Rate => b_rate.total_cmp(a_rate),
                Sort::Bytes => b.bytes.cmp(&a.bytes),
                Sort::Recent => b.last_seen.total_cmp(&a.last_seen),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            order.then_with(|| name(a).cmp(&name(b)))
        });
        pairs
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Step::Quit;
        }
        if self.typing {
            self.type_key(key.code);
            return Step::Stay;
        }
        if self.front != Front::Nothing {
            self.front_key(key.code);
            return Step::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('?' | 'h') => self.front = Front::Help,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab | KeyCode::Right => self.turn(self.focus.next()),
            KeyCode::BackTab | KeyCode::Left => self.turn(self.focus.next().next()),
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected += 10,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::Home => self.selected = 0,
            KeyCode::Enter => return self.drill(),
            _ => {}
        }
        self.keep_selection();
        Step::Stay
    }

    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.len() < 60 => self.filter.push(letter),
            _ => {}
        }
        self.keep_selection();
    }

    fn front_key(&mut self, code: KeyCode) {
        match (&mut self.front, code) {
            (Front::Text(_, line), KeyCode::Down | KeyCode::Char('j')) => *line += 1,
            (Front::Text(_, line), KeyCode::Up | KeyCode::Char('k')) => {
                *line = line.saturating_sub(1);
            }
            (Front::Text(_, line), KeyCode::PageDown | KeyCode::Char(' ')) => *line += 10,
            (Front::Text(_, line), KeyCode::PageUp) => *line = line.saturating_sub(10),
            _ => self.front = Front::Nothing,
        }
        if let Front::Text(text, line) = &mut self.front {
            *line = (*line).min(text.lines().count().saturating_sub(1) as u16);
        }
    }

    /// Looks into the selected row.
    fn drill(&mut self) -> Step {
        let flow = match self.focus {
            Focus::Drops => {
                let reasons = portcullis::dataplane::reason::Reason::ALL;
                let selected =
                    self.drops().get(self.selected).map(|(reason, ..)| (*reason).to_owned());
                let known = reasons.iter().find(|r| Some(r.as_str()) == selected.as_deref());
                if let Some(reason) = known {
                    self.front = Front::Text(format!("{reason}\n\n{}", reason.description()), 0);
                }
                return Step::Stay;
            }
            focus => {
                let pairs = self.pairs(focus == Focus::Denied);
                pairs.get(self.selected).map(|(pair, _)| pair.flow.clone())
            }
        };
        match flow {
            Some(flow) if !flow.is_empty() => Step::Explain(flow),
            _ => Step::Stay,
        }
    }

    fn turn(&mut self, focus: Focus) {
        self.focus = focus;
        self.selected = 0;
    }

    fn keep_selection(&mut self) {
        let rows = match self.focus {
            Focus::Talkers => self.pairs(false).len(),
            Focus::Denied => self.pairs(true).len(),
            Focus::Drops => self.drops().len(),
        };
        self.selected = self.selected.min(rows.saturating_sub(1));
    }

    /// Bits of a pair a second, or flows if it is denied.
    fn rate(&self, pair: &Pair) -> f64 {
        let Some(before) = &self.before else { return 0.0 };
        let same = |old: &&Pair| {
            (&old.source, &old.destination, &old.service, old.denied)
                == (&pair.source, &pair.destination, &pair.service, pair.denied)
        };
        let Some(old) = before.pairs.iter().find(same) else { return 0.0 };
        let change = match pair.denied {
            true => pair.flows.saturating_sub(old.flows),
            false => 8 * pair.bytes.saturating_sub(old.bytes),
        };
        change as f64 / self.seconds()
    }

    fn seconds(&self) -> f64 {
        let before = self.before.as_ref().map_or(self.now.at, |before| before.at);
        (self.now.at - before).max(0.001)
    }
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Flows => Self::Rate,
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::Recent,
            Self::Recent => Self::Name,
            Self::Name => Self::Flows,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Recent => "recent",
            Self::Name => "name",
        }
    }
}

impl Focus {
    fn next(self) -> Self {
        match self {
            Self::Talkers => Self::Denied,
            Self::Denied => Self::Drops,
            Self::Drops => Self::Talkers,
        }
    }
}
