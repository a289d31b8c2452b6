//! Frames for the benches of the packet path.

use portcullis::dataplane::packet::protocol;

/// An IPv4 frame of 64 bytes between two hosts of 10/8, TCP (ACK) or UDP.
pub(crate) fn frame(number: u8, hosts: [u32; 2], ports: [u16; 2]) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, number]);
    for (host, at) in hosts.into_iter().zip([26, 30]) {
        frame[at..at + 4].copy_from_slice(&(0x0a00_0000 | host).to_be_bytes());
    }
    for (port, at) in ports.into_iter().zip([34, 36]) {
        frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
    }
    match number {
        protocol::TCP => frame[46..50].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]),
        _ => frame[38..40].copy_from_slice(&30u16.to_be_bytes()),
    }
    frame
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
