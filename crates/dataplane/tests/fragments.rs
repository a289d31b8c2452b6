//! Packets in pieces.

mod common;

use std::net::IpAddr;

use common::*;
use etherparse::PacketBuilder;
use portcullis_dataplane::pipeline::{Config, Input, Judgement, Lane};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::Verdict;
use proptest::prelude::*;

fn only_port(port: u16) -> Table {
    Table::allow(&[(1, 2, 17, port), (257, 258, 17, port)])
}

fn ends(v6: bool) -> (IpAddr, IpAddr) {
    match v6 {
        false => (A.into(), B.into()),
        true => (std::net::Ipv6Addr::from_bits(1).into(), std::net::Ipv6Addr::from_bits(2).into()),
    }
}

/// Bytes `start..end` of the payload of a UDP packet, as a fragment; more follow unless `last`.
fn piece(v6: bool, id: u16, port: u16, range: (usize, usize), last: bool) -> Vec<u8> {
    let (source, destination) = ends(v6);
    let whole = udp(source, 999, destination, port, &[0x42; 4000]);
    let (ip, l4) = if v6 { (14, 54) } else { (14, 34) };
    let part = &whole[l4 + range.0..l4 + range.1];
    let mut frame = whole[..l4].to_vec();
    if v6 {
        frame[ip + 4..ip + 6].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
        frame[ip + 6] = 44;
        let bits = range.0 as u16 | u16::from(!last);
        frame.extend([17, 0]);
        frame.extend(bits.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(id.to_be_bytes());
    } else {
        frame[ip + 2..ip + 4].copy_from_slice(&(part.len() as u16 + 20).to_be_bytes());
        frame[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
        let bits = (range.0 as u16 / 8) | (u16::from(!last) << 13);
        frame[ip + 6..ip + 8].copy_from_slice(&bits.to_be_bytes());
    }
    frame.extend(part);
    frame
}

/// What comes out of the lane for packets that go in, at once or one by one.
fn run(lane: &mut Lane, millis: u64, packets: &[Vec<u8>], together: bool) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let inputs: Vec<_> = packets.iter().map(|packet| Input::new(packet)).collect();
    for inputs in inputs.chunks(if together { 64 } else { 1 }) {
        let mut judgements = vec![Judgement::default(); inputs.len()];
        lane.judge(at(millis), inputs, &mut judgements);
        for (input, judgement) in inputs.iter().zip(judgements) {
            if judgement.verdict == Verdict::Allow {
                out.push(input.data.to_vec());
            }
        }
        out.extend(lane.released().map(Vec::from));
    }
    out
}

fn pieces(v6: bool, id: u16, port: u16) -> Vec<Vec<u8>> {
    [(0, 1480), (1480, 2960), (2960, 4008)]
        .map(|range| piece(v6, id, port, range, range.1 == 4008))
        .into()
}

proptest! {
    /// All pieces of an allowed packet come out, none of a denied one, in whatever order they and
    /// those of other packets come and however they are cut into batches.
    #[test]
    fn every_order_works(
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        together: bool,
        v6: bool,
    ) {
        let mut lane = lane(Config::default(), only_port(53));
        let all: Vec<_> = (0..4u16)
            .flat_map(|id| pieces(v6, id, if id % 2 == 0 { 53 } else { 54 }))
            .collect();
        let shuffled: Vec<_> = order.iter().map(|n| all[*n].clone()).collect();
        let mut out = run(&mut lane, 0, &shuffled, together);
        let mut expected = [pieces(v6, 0, 53), pieces(v6, 2, 53)].concat();
        out.sort();
        expected.sort();
        prop_assert_eq!(out, expected);
        prop_assert_eq!(lane.counters().dropped_total(), 6);
        prop_assert_eq!(lane.counters().dropped(Reason::PolicyDenied).get(), 6);
        prop_assert_eq!(lane.expire(at(15_000), 0), 0);
        prop_assert_eq!(lane.counters().dropped_total(), 6, "nothing was left");
    }
}

#[test]
fn overlaps_spoil_the_packet() {
    for v6 in [false, true] {
        let good = pieces(v6, 1, 53);
        for (bad, last) in
            [((1472, 2960), false), ((8, 16), false), ((2952, 2968), false), ((1480, 1488), true)]
        {
            let mut lane = lane(Config::default(), only_port(53));
            let evil = piece(v6, 1, 53, bad, last);
            assert_eq!(run(&mut lane, 0, &good[..2], true).len(), 2);
            assert!(run(&mut lane, 0, &[evil.clone(), good[2].clone()], true).is_empty());
            assert_eq!(lane.counters().dropped(Reason::FragmentOverlap).get(), 2, "{bad:?}");
            // Those that were held go too.
            let mut lane = common::lane(Config::default(), only_port(53));
            assert!(run(&mut lane, 0, &[good[1].clone(), evil, good[0].clone()], false).is_empty());
            assert_eq!(lane.counters().dropped_total(), 3);
        }
        // An exact repetition goes alone.
        let mut lane = lane(Config::default(), only_port(53));
        let twice = [good[0].clone(), good[1].clone(), good[1].clone(), good[2].clone()];
        assert_eq!(run(&mut lane, 0, &twice, false).len(), 3);
    }
}

#[test]
fn what_waits_is_bounded_in_number_bytes_and_time() {
    let mut config = Config::default();
    config.fragments.packets = 10;
    config.fragments.packets_per_source = 8;
    config.fragments.held_bytes = 10_000;
    let mut lane = lane(config, only_port(53));
    let orphans: Vec<_> = (0..100).map(|id| piece(false, id, 53, (1480, 2960), false)).collect();
    assert!(run(&mut lane, 0, &orphans, true).is_empty());
    // Six of 1514 bytes fit; eight packets are remembered; the rest is refused.
    assert_eq!(lane.counters().dropped(Reason::FragmentLimit).get(), 94);
    assert_eq!(run(&mut lane, 0, &pieces(true, 1, 53), true).len(), 3, "another source");
    lane.expire(at(14_999), 0);
    assert_eq!(lane.counters().dropped(Reason::FragmentTimeout).get(), 0);
    lane.expire(at(15_000), 0);
    assert_eq!(lane.counters().dropped(Reason::FragmentTimeout).get(), 6);
    assert_eq!(run(&mut lane, 15_000, &pieces(false, 7, 53), true).len(), 3);
    // Many pieces of eight bytes.
    let crumbs: Vec<_> = (0..200).map(|n| piece(false, 9, 53, (n * 8, n * 8 + 8), false)).collect();
    assert_eq!(run(&mut lane, 15_000, &crumbs, true).len(), 64);
}

#[test]
fn a_first_piece_without_all_headers_is_refused() {
    let mut lane = lane(Config::default(), Always(Verdict::Allow));
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(1, 2, 3, 4)
        .write(&mut out, &[0; 60])
        .unwrap();
    out.truncate(14 + 20 + 16);
    out[16..18].copy_from_slice(&36u16.to_be_bytes());
    out[20] = 0x20;
    assert_eq!(judge(&mut lane, 0, &out).reason, Some(Reason::FragmentTiny));
}
