use proptest::prelude::*;

use super::*;

const DATA: u16 = SctpChunks::OTHER;

fn header(tag: u32, initiate: u32, chunks: u16) -> SctpHeader {
    SctpHeader { tag, initiate, chunks: SctpChunks(chunks) }
}

/// Tags of opener and responder.
const A: u32 = 0xaaaa;
const B: u32 = 0xbbbb;

fn init() -> SctpHeader {
    header(0, A, SctpChunks::INIT)
}

fn established() -> Sctp {
    let mut state = Sctp::open(&init(), false).unwrap();
    for (from, packet) in [
        (1, header(A, B, SctpChunks::INIT_ACK)),
        (0, header(B, 0, SctpChunks::COOKIE_ECHO | DATA)),
        (1, header(A, 0, SctpChunks::COOKIE_ACK)),
    ] {
        assert_eq!(state.step(from, &packet), Step::Pass);
    }
    assert_eq!((state.phase, state.tags), (SctpPhase::Established, [A, B]));
    state
}

/// Each packet of a story with what becomes of it.
fn tell(state: &mut Sctp, story: &[(usize, SctpHeader, Step)]) {
    for (n, (from, packet, expected)) in story.iter().enumerate() {
        let before = *state;
        assert_eq!(state.step(*from, packet), *expected, "packet {n}: {packet:x?}");
        assert!(*expected == Step::Pass || *state == before, "packet {n} changed the state");
    }
}

const TAG: Step = Step::Invalid(Reason::SctpTag);
const STATE: Step = Step::Invalid(Reason::SctpState);

#[test]
fn an_association_opens_carries_data_and_shuts_down() {
    let mut state = established();
    tell(
        &mut state,
        &[
            (0, header(B, 0, DATA), Step::Pass),
            (1, header(A, 0, DATA), Step::Pass),
            (0, header(A, 0, DATA), TAG),
            (1, header(0, 0, DATA), TAG),
            (0, header(B, 0, SctpChunks::SHUTDOWN | DATA), Step::Pass),
            (1, header(A, 0, SctpChunks::SHUTDOWN_ACK), Step::Pass),
        ],
    );
    assert_eq!(state.phase, SctpPhase::Closing);
    tell(&mut state, &[(0, header(B, 0, SctpChunks::SHUTDOWN_COMPLETE), Step::Pass)]);
    assert_eq!(state.phase, SctpPhase::Closed);
    tell(&mut state, &[(0, header(0, 7, SctpChunks::INIT), Step::Reopen)]);
}

#[test]
fn only_an_init_opens_unless_picked_up() {
    let all = (0..11).map(|bit| 1u16 << bit).filter(|chunk| *chunk != SctpChunks::INIT);
    for chunk in all.chain([0]) {
        assert!(Sctp::open(&header(B, 5, chunk), false).is_err(), "{chunk:x}");
    }
    for wrong in [header(1, A, 1), header(0, 0, 1), header(0, A, 1 | DATA)] {
        assert_eq!(Sctp::open(&wrong, true), Err(Reason::SctpState), "{wrong:x?}");
    }
    assert!(Sctp::open(&header(0, 0, DATA), true).is_err());
    let mut state = Sctp::open(&header(B, 0, DATA), true).unwrap();
    // The other tag is learnt from the first answer, and holds from then on.
    tell(
        &mut state,
        &[
            (0, header(B + 1, 0, DATA), TAG),
            (1, header(A, 0, DATA), Step::Pass),
            (1, header(A + 1, 0, DATA), TAG),
        ],
    );
}

#[test]
fn an_abort_needs_the_right_tag() {
    for (from, packet, ends) in [
        (0, header(B, 0, SctpChunks::ABORT), true),
        (1, header(A, 0, SctpChunks::ABORT | DATA), true),
        // Reflected: from one that knows nothing of the association.
        (1, header(B, 0, SctpChunks::ABORT | SctpChunks::REFLECTED), true),
        (1, header(B, 0, SctpChunks::ABORT), false),
        (0, header(B + 1, 0, SctpChunks::ABORT), false),
        (0, header(0, 0, SctpChunks::ABORT), false),
        (1, header(A + 1, 0, SctpChunks::ABORT | SctpChunks::REFLECTED), false),
    ] {
        let mut state = established();
        tell(&mut state, &[(from, packet, if ends { Step::Pass } else { TAG })]);
        assert_eq!(state.phase == SctpPhase::Aborted, ends, "{packet:x?}");
    }
    // An INIT that is refused; and one refused by somebody who has not seen it.
    let mut state = Sctp::open(&init(), false).unwrap();
    let refused = |tag| header(tag, 0, SctpChunks::ABORT | SctpChunks::REFLECTED);
    tell(&mut state, &[(1, refused(A + 1), TAG), (1, refused(A), Step::Pass)]);
    assert_eq!(state.phase, SctpPhase::Aborted);
}

#[test]
fn a_handshake_cannot_be_forged_by_who_does_not_see_its_packets() {
    let mut state = Sctp::open(&init(), false).unwrap();
    tell(
        &mut state,
        &[
            (1, header(A + 1, 0x666, SctpChunks::INIT_ACK), TAG),
            (1, header(A, 0, SctpChunks::INIT_ACK), TAG),
            (1, header(A, 0, DATA), TAG),
            (0, header(B, 0, SctpChunks::COOKIE_ECHO), TAG),
            (1, header(A, B, SctpChunks::INIT_ACK), Step::Pass),
            (0, header(B + 1, 0, SctpChunks::COOKIE_ECHO), TAG),
            (0, header(B, 0, DATA), TAG),
            (0, header(B, 0, SctpChunks::COOKIE_ECHO), Step::Pass),
            // Sent again, because its answer was lost.
            (0, header(B, 0, SctpChunks::COOKIE_ECHO), Step::Pass),
            (1, header(A, 0, SctpChunks::COOKIE_ACK), Step::Pass),
        ],
    );
    assert_eq!(state.phase, SctpPhase::Established);
}

#[test]
fn a_restart_goes_through_and_a_forged_one_changes_nothing() {
    for restarter in [0, 1] {
        let mut state = established();
        let other = 1 - restarter;
        let tags = state.tags;
        let (mine, theirs) = (0xcccc, 0xdddd);
        tell(
            &mut state,
            &[
                (restarter, header(0, 0x666, SctpChunks::INIT), Step::Pass),
                // What was open goes on.
                (other, header(tags[restarter], 0, DATA), Step::Pass),
                (restarter, header(0x777, 0, SctpChunks::COOKIE_ECHO), TAG),
                (restarter, header(0, mine, SctpChunks::INIT), Step::Pass),
                (other, header(mine, theirs, SctpChunks::INIT_ACK), Step::Pass),
                (restarter, header(theirs, 0, SctpChunks::COOKIE_ECHO | DATA), Step::Pass),
                (other, header(mine, 0, SctpChunks::COOKIE_ACK), Step::Pass),
                (other, header(tags[restarter], 0, DATA), TAG),
                (restarter, header(theirs, 0, DATA), Step::Pass),
            ],
        );
        assert_eq!(state.phase, SctpPhase::Established);
    }
}

#[test]
fn both_may_begin_at_once() {
    let mut state = Sctp::open(&init(), false).unwrap();
    tell(
        &mut state,
        &[
            (1, header(0, B, SctpChunks::INIT), Step::Pass),
            (1, header(A, B, SctpChunks::INIT_ACK), Step::Pass),
            (0, header(B, A, SctpChunks::INIT_ACK), Step::Pass),
            (1, header(A, 0, SctpChunks::COOKIE_ECHO), Step::Pass),
            (0, header(B, 0, SctpChunks::COOKIE_ECHO), Step::Pass),
            (0, header(B, 0, SctpChunks::COOKIE_ACK), Step::Pass),
            (1, header(A, 0, SctpChunks::COOKIE_ACK), Step::Pass),
            (0, header(B, 0, DATA), Step::Pass),
        ],
    );
    assert_eq!(state.phase, SctpPhase::Established);
}

#[test]
fn nonsense_is_no_packet_of_it() {
    let mut state = established();
    tell(
        &mut state,
        &[
            (0, header(B, 0, 0), STATE),
            (0, header(B, 0, DATA | SctpChunks::MALFORMED), STATE),
            (0, header(B, 9, SctpChunks::INIT), STATE),
        ],
    );
}

#[test]
fn errors_quote_what_was_sent() {
    let state = established();
    assert!(state.sent(0, B) && state.sent(1, A));
    assert!(!state.sent(0, A) && !state.sent(1, B) && !state.sent(0, 0));
    assert!(Sctp::open(&init(), false).unwrap().sent(0, 0));
}

/// The slow model: it keeps every tag that either end ever offered, with who saw what, and asks of each
/// packet whether somebody who saw only what was sent to him could have sent it.
#[derive(Clone, Debug, Default)]
struct Model {
    /// The tag that each end's peer uses, by side that chose it.
    agreed: Option<[u32; 2]>,
    offered: [Option<u32>; 2],
    closed: bool,
}

impl Model {
    fn passes(&mut self, from: usize, packet: &SctpHeader) -> bool {
        let to = 1 - from;
        let has = |chunk| packet.chunks.any(chunk);
        if has(SctpChunks::MALFORMED) || packet.chunks.0 == 0 {
            return false;
        }
        if has(SctpChunks::INIT) {
            let right = packet.chunks.0 == 1 && packet.tag == 0 && packet.initiate != 0;
            if right {
                self.offered[from] = Some(packet.initiate);
            }
            return right;
        }
        let knows_offer = packet.tag != 0 && self.offered[to] == Some(packet.tag);
        if has(SctpChunks::INIT_ACK) {
            if knows_offer && packet.initiate != 0 {
                self.offered[from] = Some(packet.initiate);
                return true;
            }
            return false;
        }
        if let ([Some(a), Some(b)], true, true) =
            (self.offered, knows_offer, has(SctpChunks::COOKIE_ECHO))
        {
            (self.agreed, self.offered) = (Some([a, b]), [None; 2]);
            return true;
        }
        let Some(agreed) = self.agreed else {
            self.closed |= knows_offer && has(SctpChunks::ABORT);
            return knows_offer && has(SctpChunks::ABORT);
        };
        let right =
            packet.tag == agreed[to] || (has(SctpChunks::REFLECTED) && packet.tag == agreed[from]);
        self.closed |= right && has(SctpChunks::ABORT | SctpChunks::SHUTDOWN_COMPLETE);
        right
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn any_packets_pass_as_the_model_says(
        packets in proptest::collection::vec(
            (0..2usize, 0..4u32, 0..4u32, prop_oneof![
                3 => (0..9u16).prop_map(|bit| 1 << bit),
                1 => 0..0x800u16,
            ]),
            1..40,
        ),
    ) {
        let mut state = Sctp::open(&header(0, 1, SctpChunks::INIT), false).unwrap();
        let mut model = Model { offered: [Some(1), None], ..Model::default() };
        for (from, tag, initiate, chunks) in packets {
            // The closing chunks' bit alone means nothing.
            let packet = header(tag, initiate, chunks);
            let expected = model.passes(from, &packet);
            let step = state.step(from, &packet);
            prop_assert_eq!(step == Step::Pass, expected, "{:x?} {:?}", packet, step);
            prop_assert_eq!(state.phase.over(), model.closed);
            if model.closed {
                break;
            }
        }
    }
}
