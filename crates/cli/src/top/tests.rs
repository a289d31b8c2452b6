//! The picture at 80 by 24, and what keys do to it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::{Focus, Front, Sort};
use super::*;
use crate::control::status::{
    self, Clients, Connections, Events, Packets, Policy, Port, Queue, Status,
};
use crate::control::top::Pair;

fn status(second: u64) -> Status {
    let port = |name: &str| Port {
        wire: "eth1:eth2".to_owned(),
        name: name.to_owned(),
        mode: "native copy".to_owned(),
        mtu: 1500,
        queues: vec![Queue { rx_ring_full: 7, ..Queue::default() }; 2],
        program: Vec::new(),
    };
    Status {
        version: "0.1.0".to_owned(),
        pid: 1,
        name: "eth1:eth2".to_owned(),
        fail: "closed".to_owned(),
        uptime_seconds: second as f64,
        policy: Policy { generation: 3, ..Policy::default() },
        ports: vec![port("eth1"), port("eth2")],
        machine: String::new(),
        lesser_mode: None,
        packets: Packets {
            received: 1_200_000 * second,
            received_bytes: 72_000_000 * second,
            forwarded: 1_199_000 * second,
            forwarded_bytes: 71_940_000 * second,
            dropped: 1000 * second,
            ..Packets::default()
        },
        drops: vec![
            status::Drop { reason: "tcp_state".to_owned(), packets: 10, bytes: 600 },
            status::Drop { reason: "policy_denied".to_owned(), packets: 990 * second, bytes: 0 },
        ],
        connections: Connections {
            now: 1000,
            capacity: 4000,
            half_open: 12,
            ..Connections::default()
        },
        events: Events::default(),
        control: Clients::default(),
        metrics: Clients::default(),
        flows: None,
        staged: None,
        state: None,
    }
}

fn pair(n: u64, denied: bool) -> Pair {
    Pair {
        source: format!("shop/web-{n}"),
        destination: "shop/db-0".to_owned(),
        flow: format!("tcp 10.0.0.{n}:1000 > 10.0.1.1:5432"),
        service: "tcp/5432".to_owned(),
        denied,
        reason: denied.then(|| "policy_denied".to_owned()),
        policy: "NetworkPolicy/shop/web-to-db".to_owned(),
        rule: Some("p.yaml:1:1".to_owned()),
        flows: n,
        bytes: 1000 - n,
        ..Pair::default()
    }
}

fn state(pairs: u64) -> State {
    let both = |n| [pair(n, false), pair(n, true)];
    let pairs: Vec<Pair> = (1..=pairs).flat_map(both).collect();
    let top = |second| Top {
        at: second as f64,
        status: status(second),
        pairs: pairs.clone(),
        forgotten: 0,
    };
    let mut state = State::new(top(10), Sort::Flows, String::new());
    state.update(top(12));
    state
}

fn press(state: &mut State, code: KeyCode) -> Step {
    state.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_text(state: &mut State, text: &str) {
    text.chars().for_each(|letter| drop(press(state, KeyCode::Char(letter))));
}

fn find<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines
        .iter()
        .find(|line| line.contains(text))
        .unwrap_or_else(|| panic!("{text:?} in {lines:#?}"))
}

#[test]
fn everything_is_in_80_by_24() {
    let lines = lines(&state(30), 80, 24);
    assert!(find(&lines, "portcullis eth1:eth2").contains("generation 3"));
    let rates = find(&lines, "packets/s");
    assert!(
        rates.contains("1.20M") && rates.contains("576 Mb/s") && rates.contains("1000"),
        "{rates}"
    );
    assert!(find(&lines, "connections").contains("1000 of 4000 (25.0 %), 12 half-open"));
    assert!(find(&lines, "eth1 native copy").contains("eth2 native copy, 2 queues, 14 lost"));
    let talker = find(&lines, "> shop/web-30");
    assert!(
        talker.contains("shop/db-0")
            && talker.contains("tcp/5432")
            && talker.contains("shop/web-to")
    );
    let denied = lines.iter().position(|line| line.starts_with("Denied: 30")).unwrap();
    assert!(
        lines[denied + 2].contains("shop/web-30") && lines[denied + 2].contains("shop/web-to-db")
    );
    assert!(
        find(&lines, "policy_denied").contains("11,880")
            && find(&lines, "policy_denied").contains("990")
    );
    assert!(find(&lines, "tcp_state").contains("10"));
    assert!(lines[23].starts_with("q quit"));
}

#[test]
fn no_size_breaks_it() {
    for (width, height) in [(1, 1), (10, 3), (40, 10), (79, 23), (300, 100)] {
        for pairs in [0, 1, 200] {
            let mut state = state(pairs);
            lines(&state, width, height);
            press(&mut state, KeyCode::Char('?'));
            lines(&state, width, height);
        }
    }
}

#[test]
fn keys_sort_filter_pause_and_select() {
    let mut state = state(30);
    let first = |state: &State| state.pairs(false)[0].0.source.clone();
    assert_eq!(first(&state), "shop/web-30");
    press(&mut state, KeyCode::Char('s'));
    press(&mut state, KeyCode::Char('s'));
    assert_eq!((state.sort, first(&state)), (Sort::Bytes, "shop/web-1".to_owned()));

    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "WEB-7q");
    assert_eq!(state.pairs(false).len(), 0, "letters are not commands while typing");
    press(&mut state, KeyCode::Backspace);
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.pairs(true).len(), 1);
    assert!(find(&lines(&state, 80, 24), "Talkers: 1").contains("with \"WEB-7\""));
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.pairs(true).len(), 30);

    press(&mut state, KeyCode::Char('p'));
    let before = lines(&state, 80, 24);
    state.update(Top { at: 20.0, status: status(20), pairs: Vec::new(), forgotten: 0 });
    assert_eq!(lines(&state, 80, 24), before);
    press(&mut state, KeyCode::Char('p'));
    press(&mut state, KeyCode::End);
    for _ in 0..100 {
        press(&mut state, KeyCode::Down);
    }
    assert_eq!(state.selected, 29, "selection ends at the last row");
    state.update(Top { at: 20.0, status: status(20), pairs: vec![pair(1, false)], forgotten: 0 });
    assert_eq!(state.selected, 0, "and goes with the rows");
}

#[test]
fn enter_explains_the_selected_pair() {
    let mut state = state(3);
    press(&mut state, KeyCode::Tab);
    press(&mut state, KeyCode::Down);
    let step = press(&mut state, KeyCode::Enter);
    assert_eq!(step, Step::Explain("tcp 10.0.0.2:1000 > 10.0.1.1:5432".to_owned()));
    state.explained("deny: because\n  of this".to_owned());
    let shown = lines(&state, 80, 24);
    find(&shown, "deny: because");
    press(&mut state, KeyCode::Char('x'));
    assert_eq!(state.front, Front::Nothing);

    press(&mut state, KeyCode::Tab);
    assert_eq!(state.focus, Focus::Drops);
    press(&mut state, KeyCode::Enter);
    find(&lines(&state, 80, 24), "The policy denies the flow.");
    press(&mut state, KeyCode::Char('q'));
    assert_eq!(press(&mut state, KeyCode::Char('q')), Step::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    state.typing = true;
    assert_eq!(state.key(control_c), Step::Quit, "whatever else is open");
}

#[test]
fn once_prints_as_many_lines_as_there_are() {
    let text = once(&state(2), 100);
    let count = text.lines().count();
    assert_eq!(count, 4 + 1 + (2 + 2) * 2 + 3, "{text}");
    assert!(!text.contains("q quit") && !text.contains('\x1b'));
    assert!(once(&state(100), 80).lines().any(|line| line.contains("shop/web-57 ")));
}
