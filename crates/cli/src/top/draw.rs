//! The picture. At 80 by 24 everything is there; more room shows more rows and longer names.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Borders, Clear, HighlightSpacing, Paragraph, Row, Table, TableState, Wrap,
};

use super::state::{Focus, Front, State};
use crate::control::top::Pair;
use crate::status::{bytes, count};

const HELP: &str = "\
Tab, Shift-Tab  the next table, the one before
arrows, j, k    move
Enter           why the pair is allowed or denied; what a drop reason means
s               sort by flows, rate, bytes, recency, name
/               filter by text; Enter ends typing, Esc clears
p               pause, and go on
q               quit

flows are connections opened, or attempts denied; bytes are those of connections that ended
and of those that are open.";

/// Draws everything.
pub(super) fn whole(frame: &mut Frame<'_>, state: &State, colour: bool) {
    let Heights { ports, tables, drops } = Heights::of(state, frame.area().height);
    let [head, port_lines, talkers, denied, reasons, _, foot] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Length(ports),
        Constraint::Length(tables[0]),
        Constraint::Length(tables[1]),
        Constraint::Length(drops),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let paint = Paint(colour);
    frame.render_widget(Paragraph::new(header(state, &paint)), head);
    frame.render_widget(Paragraph::new(port_text(state)), port_lines);
    pairs(frame, talkers, state, &paint, Focus::Talkers);
    pairs(frame, denied, state, &paint, Focus::Denied);
    drop_reasons(frame, reasons, state, &paint);
    frame.render_widget(Paragraph::new(footer(state, &paint)), foot);
    match &state.front {
        Front::Nothing => {}
        Front::Help => front(frame, "Keys", HELP, 0),
        Front::Text(text, line) => front(frame, "Any key closes, arrows scroll", text, *line),
    }
}

/// Lines that the picture would fill, if it had them.
pub(super) fn wanted(state: &State) -> u16 {
    let Heights { ports, tables, drops } = Heights::of(state, u16::MAX);
    HEAD + ports + tables[0] + tables[1] + drops + 1
}

/// Lines of the header.
const HEAD: u16 = 4;

/// How many lines each part gets.
struct Heights {
    ports: u16,
    /// Talkers and denied.
    tables: [u16; 2],
    drops: u16,
}

impl Heights {
    /// All that they want, if there is room; else three parts in five to the talkers.
    fn of(state: &State, height: u16) -> Self {
        let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX / 4);
        let ports = rows(state.status().ports.len()).clamp(1, 4).div_ceil(2);
        let most = if height < 30 { 4 } else { 16 };
        let drops = (rows(state.drops().len()) + 1).clamp(2, most);
        // A rule with the title, and the names of the columns.
        let wanted = [false, true].map(|denied| rows(state.pairs(denied).len()).max(1) + 2);
        let room = height.saturating_sub(HEAD + ports + drops + 1);
        let tables = match wanted {
            [a, b] if a + b <= room => [a, b],
            [a, b] if a <= room * 3 / 5 => [a, b.min(room - a)],
            [a, b] if b <= room * 2 / 5 => [a.min(room - b), b],
            _ => [room - room * 2 / 5, room * 2 / 5],
        };
        Self { ports, tables, drops }
    }
}

/// Colours, or none.
struct Paint(bool);

impl Paint {
    fn colour(&self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    fn bold(&self) -> Style {
        if self.0 { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() }
    }

    fn selected(&self) -> Style {
        if self.0 { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() }
    }
}

fn header(state: &State, paint: &Paint) -> Vec<Line<'static>> {
    let status = state.status();
    let rates = state.rates();
    let connections = &status.connections;
    let full = 100.0 * connections.now as f64 / connections.capacity.max(1) as f64;
    let policy = match &status.policy.refused {
        None => Span::raw(format!("generation {}", status.policy.generation)),
        Some(_) => Span::styled(
            format!("generation {}, newer documents REFUSED", status.policy.generation),
            paint.colour(Color::Red),
        ),
    };
    let mut title = vec![
        Span::styled(format!("portcullis {}", status.name), paint.bold()),
        Span::raw(format!("  up {} s, fail {}, ", status.uptime_seconds as u64, status.fail)),
        policy,
    ];
    if state.paused {
        title.push(Span::styled("  PAUSED", paint.colour(Color::Yellow)));
    }
    let verdicts = vec![
        Span::raw(format!(
            "packets/s  in {:>8}  {:<9}",
            short(rates.received),
            bits(rates.received_bits)
        )),
        Span::styled(
            format!("pass {:>8}  {:<9}", short(rates.forwarded), bits(rates.forwarded_bits)),
            paint.colour(Color::Green),
        ),
        Span::styled(format!("drop {:>8}", short(rates.dropped)), paint.colour(Color::Red)),
    ];
    let totals = format!(
        "total      in {:>18}   pass {:>18}   drop {:>12}",
        count(status.packets.received),
        count(status.packets.forwarded),
        count(status.packets.dropped)
    );
    let table = format!(
        "connections {} of {} ({full:.1} %), {} half-open; {}/s opened, {}/s ended",
        short(connections.now as f64),
        short(connections.capacity as f64),
        short(connections.half_open as f64),
        short(rates.opened),
        short(rates.ended)
    );
    vec![Line::from(title), Line::from(verdicts), Line::from(totals), Line::from(table)]
}

/// Two ports a line.
fn port_text(state: &State) -> Vec<Line<'static>> {
    let ports = &state.status().ports;
    let one = |port: &crate::control::status::Port| {
        let full: u64 = port.queues.iter().map(|queue| queue.rx_ring_full + queue.rx_dropped).sum();
        format!(
            "{} {}, {} queues, {} lost",
            port.name,
            port.mode,
            port.queues.len(),
            short(full as f64)
        )
    };
    let shown = ports.chunks(2).take(2);
    shown.map(|two| Line::from(two.iter().map(one).collect::<Vec<_>>().join(" | "))).collect()
}

fn pairs(frame: &mut Frame<'_>, area: Rect, state: &State, paint: &Paint, focus: Focus) {
    let denied = focus == Focus::Denied;
    let all = state.pairs(denied);
    let name = if denied { "Denied" } else { "Talkers" };
    let filter = match state.filter.as_str() {
        "" => String::new(),
        filter => format!(", with {filter:?}"),
    };
    let title = format!("{name}: {}{filter}, by {}", all.len(), state.sort.name());
    // Denied pairs carry no bytes: their rate is of attempts.
    let (sum, rate) = if denied { ("", "/s") } else { ("bytes", "rate") };
    let widths = [
        Constraint::Fill(4),
        Constraint::Fill(4),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(if denied { 0 } else { 9 }),
        Constraint::Length(if denied { 5 } else { 8 }),
        Constraint::Fill(if denied { 6 } else { 5 }),
    ];
    let head = ["from", "to", "service", "flows", sum, rate, "decided by"];
    let row = |(pair, rate): &(&Pair, f64)| {
        Row::new([
            pair.source.clone(),
            pair.destination.clone(),
            pair.service.clone(),
            short(pair.flows as f64),
            if denied { String::new() } else { bytes(pair.bytes) },
            if denied { short(*rate) } else { bits(*rate) },
            by(pair),
        ])
    };
    let table = Table::new(all.iter().map(row), widths)
        .header(Row::new(head).style(paint.bold()))
        .column_spacing(1);
    table_in(frame, area, table, &title, state, paint, focus);
}

/// The policy without its kind, or the reason if no policy denied it.
fn by(pair: &Pair) -> String {
    match (&pair.reason, &pair.rule) {
        (Some(reason), _) if pair.denied && reason != "policy_denied" => reason.clone(),
        (_, Some(_)) => {
            let name = pair.policy.split_once('/').map_or(&*pair.policy, |(_, name)| name);
            name.to_owned()
        }
        _ => "default".to_owned(),
    }
}

fn drop_reasons(frame: &mut Frame<'_>, area: Rect, state: &State, paint: &Paint) {
    let drops = state.drops();
    let row = |(reason, packets, rate): &(&str, u64, f64)| {
        Row::new([(*reason).to_owned(), count(*packets), short(*rate)])
    };
    let widths = [Constraint::Length(24), Constraint::Length(16), Constraint::Length(8)];
    let table = Table::new(drops.iter().map(row), widths);
    let title = format!("Dropped by reason: {} (packets, /s)", drops.len());
    table_in(frame, area, table, &title, state, paint, Focus::Drops);
}

fn table_in(
    frame: &mut Frame<'_>,
    area: Rect,
    table: Table<'_>,
    title: &str,
    state: &State,
    paint: &Paint,
    focus: Focus,
) {
    let focused = state.focus == focus;
    let style = if focused { paint.colour(Color::Cyan) } else { Style::new() };
    let title = Span::styled(format!("{title} "), style);
    let block = Block::new().borders(Borders::TOP).title(title).border_style(style);
    let table = table
        .block(block)
        .row_highlight_style(paint.selected())
        .highlight_symbol("> ")
        .highlight_spacing(HighlightSpacing::Always);
    let mut selection = TableState::new().with_selected(focused.then_some(state.selected));
    frame.render_stateful_widget(table, area, &mut selection);
}

fn footer(state: &State, paint: &Paint) -> Line<'static> {
    if state.typing {
        return Line::styled(format!("filter: {}_", state.filter), paint.colour(Color::Yellow));
    }
    let status = state.status();
    let mut text = "q quit  Tab table  Enter explain  s sort  / filter  p pause  ? help".to_owned();
    for (number, what) in
        [(status.events.lost, "events lost"), (state.forgotten(), "pairs forgotten")]
    {
        if number > 0 {
            text.push_str(&format!("  {} {what}", short(number as f64)));
        }
    }
    Line::raw(text)
}

fn front(frame: &mut Frame<'_>, title: &str, text: &str, line: u16) {
    let area = frame.area();
    let (width, height) = (area.width.saturating_sub(4), area.height.saturating_sub(4));
    let inner = Rect::new(area.x + 2, area.y + 2, width, height);
    let block = Block::new().borders(Borders::ALL).title(format!(" {title} "));
    let text = Paragraph::new(text).wrap(Wrap { trim: false }).scroll((line, 0)).block(block);
    frame.render_widget(Clear, inner);
    frame.render_widget(text, inner);
}

/// A number in at most six characters: `999`, `12.3k`, `4.56M`.
fn short(number: f64) -> String {
    match number {
        n if n < 10.0 && n.fract() > 0.05 => format!("{n:.1}"),
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1}k", n / 1e3),
        n if n < 1e9 => format!("{:.2}M", n / 1e6),
        n => format!("{:.2}G", n / 1e9),
    }
}

fn bits(number: f64) -> String {
    match number {
        n if n < 1e3 => format!("{n:.0} b/s"),
        n if n < 1e6 => format!("{:.0} kb/s", n / 1e3),
        n if n < 1e9 => format!("{:.0} Mb/s", n / 1e6),
        n => format!("{:.1} Gb/s", n / 1e9),
    }
}
