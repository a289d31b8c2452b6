//! Tunnels through the whole pipeline: what they carry is judged, in its zone.

mod common;

use std::num::NonZeroU16;
use std::sync::Arc;

use common::{A, Always, B, LastByte, Table, at, judge, passes, udp};
use portcullis_dataplane::packet::{Encapsulation, Tunnel, protocol};
use portcullis_dataplane::pipeline::{Config, Engine, Input, Judgement, Lane, Snapshot, reject};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::{Policy, Verdict};

/// Where tenants' networks are told apart.
const PORT: u16 = 4789;

fn in_vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner);
    // Between nodes that no policy allows to talk.
    udp([192, 0, 2, 250], 55_555, [192, 0, 2, 251], PORT, &payload)
}

fn config() -> Config {
    let mut config = Config::default();
    let network = |vni| Tunnel::Network { encapsulation: Encapsulation::Vxlan, port: PORT, vni };
    config.tunnels.open(network(10), 0).unwrap();
    config.tunnels.open(network(11), 1).unwrap();
    config.tunnels.open(network(12), 2).unwrap();
    config
}

fn snapshot(policy: impl Policy + 'static) -> Snapshot {
    Snapshot { identities: Arc::new(LastByte), policy: Arc::new(policy) }
}

fn zone(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// A to B on one UDP port.
fn allow(port: u16) -> Table {
    Table::allow(&[(1, 2, protocol::UDP, port)])
}

fn lane() -> Lane {
    let engine = Arc::new(Engine::new(config()).unwrap());
    engine.publish(snapshot(allow(1000)));
    engine.publish_zone(zone(1), Some(snapshot(allow(1001))));
    Lane::new(engine)
}

#[test]
fn each_zone_has_its_own_policy() {
    let mut lane = lane();
    for (vni, port) in [(10, 1000), (11, 1001)] {
        for asked in [1000, 1001] {
            let packet = in_vxlan(vni, &udp(A, 40_000, B, asked, b"x"));
            assert_eq!(passes(&mut lane, 0, &packet), asked == port, "VNI {vni}, port {asked}");
        }
    }
    // Zone 2 has no policy: denied. Its network exists, so the packet is judged, and told of.
    let judgement = judge(&mut lane, 0, &in_vxlan(12, &udp(A, 40_000, B, 1000, b"x")));
    assert_eq!(judgement.reason, Some(Reason::PolicyDenied));
    let judgement = judge(&mut lane, 0, &in_vxlan(13, &udp(A, 40_000, B, 1000, b"x")));
    assert_eq!(judgement.reason, Some(Reason::TunnelNetwork));
}

#[test]
fn the_same_addresses_in_two_zones_are_two_connections() {
    let mut lane = lane();
    let request = udp(A, 40_000, B, 1000, b"ask");
    let answer = udp(B, 1000, A, 40_000, b"answer");
    assert!(passes(&mut lane, 0, &in_vxlan(10, &request)));
    assert!(passes(&mut lane, 1, &in_vxlan(10, &answer)));
    assert!(!passes(&mut lane, 1, &in_vxlan(11, &answer)), "nobody asked in this zone");
    // Zone 0 is also where packets outside of tunnels are.
    assert!(passes(&mut lane, 1, &answer));
}

#[test]
fn a_zone_comes_changes_and_goes() {
    let mut lane = lane();
    let packet = in_vxlan(11, &udp(A, 40_000, B, 1001, b"x"));
    assert!(passes(&mut lane, 0, &packet));
    let engine = Arc::clone(lane.engine());
    engine.publish_zone(zone(1), Some(snapshot(Always(Verdict::Deny))));
    assert!(!passes(&mut lane, 1, &packet), "a known connection is judged again");
    engine.publish_zone(zone(1), Some(snapshot(allow(1001))));
    assert!(passes(&mut lane, 2, &packet));
    engine.publish(snapshot(Always(Verdict::Deny)));
    assert!(passes(&mut lane, 3, &packet), "zone 0 is another matter");
    engine.publish_zone(zone(1), None);
    assert!(!passes(&mut lane, 4, &packet));
}

#[test]
fn pieces_of_inner_packets_follow_their_first() {
    let mut lane = lane();
    let whole = udp(A, 40_000, B, 1000, &[7; 64]);
    let piece = |from: usize, to: usize, more: u8| {
        let mut piece = whole[..34].to_vec();
        piece.extend(&whole[34 + from..34 + to]);
        let len = (piece.len() - 14) as u16;
        piece[16..18].copy_from_slice(&len.to_be_bytes());
        piece[20] = more << 5;
        piece[21] = (from / 8) as u8;
        piece
    };
    let (first, last) = (piece(0, 40, 1), piece(40, 72, 0));
    assert!(passes(&mut lane, 0, &in_vxlan(10, &first)));
    assert!(passes(&mut lane, 0, &in_vxlan(10, &last)));
    // The same pieces in another zone are another packet, whose first piece is denied.
    assert!(!passes(&mut lane, 0, &in_vxlan(11, &first)));
    assert!(!passes(&mut lane, 0, &in_vxlan(11, &last)));
}

#[test]
fn the_sender_of_a_tunnelled_packet_is_not_told() {
    let engine = Arc::new(Engine::new(config()).unwrap());
    engine.publish(snapshot(Always(Verdict::Reject)));
    let mut lane = Lane::new(engine);
    let inner = udp(A, 40_000, B, 1000, b"x");
    for (packet, told) in [(in_vxlan(10, &inner), false), (inner.clone(), true)] {
        let mut out = [Judgement::default()];
        lane.judge(at(0), &[Input::new(&packet)], &mut out);
        assert_eq!(out[0].verdict, Verdict::Reject);
        let answer = lane.answer(at(0), 0, &packet, &mut [0; reject::LONGEST]);
        assert_eq!(answer.is_some(), told);
    }
}
