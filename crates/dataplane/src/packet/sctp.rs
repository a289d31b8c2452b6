//! What an SCTP packet says to connection tracking (RFC 9260 section 3): its verification tag and
//! which of the chunks that open and close associations it carries.

use super::be32;

/// Chunks looked at in one packet; what stands behind them is not.
const CHUNKS: usize = 32;

/// The part of an SCTP packet that connection tracking reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SctpHeader {
    /// Verification tag: the one that the receiver chose; 0 with INIT.
    pub tag: u32,
    /// The initiate tag of INIT or INIT ACK; 0 without.
    pub initiate: u32,
    /// The chunks.
    pub chunks: SctpChunks,
}

/// A set of chunk types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct SctpChunks(pub u16);

impl SctpChunks {
    #![allow(missing_docs)]
    pub const INIT: u16 = 1;
    pub const INIT_ACK: u16 = 1 << 1;
    pub const ABORT: u16 = 1 << 2;
    pub const SHUTDOWN: u16 = 1 << 3;
    pub const SHUTDOWN_ACK: u16 = 1 << 4;
    pub const COOKIE_ECHO: u16 = 1 << 5;
    pub const COOKIE_ACK: u16 = 1 << 6;
    pub const SHUTDOWN_COMPLETE: u16 = 1 << 7;
    /// Anything else: data, acknowledgements, heartbeats, errors.
    pub const OTHER: u16 = 1 << 8;
    /// An ABORT or SHUTDOWN COMPLETE carries its sender's tag, not its receiver's (the T bit).
    pub const REFLECTED: u16 = 1 << 9;
    /// A chunk that must stand alone (INIT, INIT ACK, SHUTDOWN COMPLETE) does not, or one has a length
    /// that cannot be.
    pub const MALFORMED: u16 = 1 << 10;

    /// Whether one of these is there.
    pub const fn any(self, of: u16) -> bool {
        self.0 & of != 0
    }
}

impl SctpHeader {
    /// Reads a packet from its common header on, as much of it as is at hand. Never fails: what is not
    /// there is not seen. At most 32 chunks are looked at.
    #[cold]
    pub fn read(data: &[u8]) -> Self {
        let mut header = Self { tag: be32(data, 4).unwrap_or(0), ..Self::default() };
        let mut chunks = data.get(12..).unwrap_or_default();
        let mut count = 0;
        while let [kind, flags, high, low, ..] = *chunks {
            let len = usize::from(u16::from_be_bytes([high, low]));
            let seen = match kind {
                1 => SctpChunks::INIT,
                2 => SctpChunks::INIT_ACK,
                6 => SctpChunks::ABORT,
                7 => SctpChunks::SHUTDOWN,
                8 => SctpChunks::SHUTDOWN_ACK,
                10 => SctpChunks::COOKIE_ECHO,
                11 => SctpChunks::COOKIE_ACK,
                14 => SctpChunks::SHUTDOWN_COMPLETE,
                _ => SctpChunks::OTHER,
            };
            header.chunks.0 |= seen;
            if matches!(kind, 6 | 14) && flags & 1 != 0 {
                header.chunks.0 |= SctpChunks::REFLECTED;
            }
            if matches!(kind, 1 | 2) {
                header.initiate = be32(chunks, 4).unwrap_or(0);
            }
            count += 1;
            let next = len.div_ceil(4) * 4;
            if len < 4 {
                header.chunks.0 |= SctpChunks::MALFORMED;
                break;
            }
            if count == CHUNKS || next >= chunks.len() {
                break;
            }
            chunks = &chunks[next..];
        }
        const ALONE: u16 = SctpChunks::INIT | SctpChunks::INIT_ACK | SctpChunks::SHUTDOWN_COMPLETE;
        // Bytes after the last chunk that are no chunk count as none: link layers pad.
        if header.chunks.any(ALONE) && count > 1 {
            header.chunks.0 |= SctpChunks::MALFORMED;
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(tag: u32, chunks: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut packet = [&[0, 1, 0, 2][..], &tag.to_be_bytes(), &[0; 4]].concat();
        for (kind, flags, value) in chunks {
            packet.extend([*kind, *flags]);
            packet.extend((value.len() as u16 + 4).to_be_bytes());
            packet.extend(*value);
            packet.resize(packet.len().div_ceil(4) * 4, 0);
        }
        packet
    }

    #[test]
    fn chunks_are_found_behind_others_of_any_length() {
        let read = |chunks: &[(u8, u8, &[u8])]| SctpHeader::read(&packet(7, chunks));
        let init = read(&[(1, 0, &[0, 0, 0, 9, 1, 2, 3])]);
        assert_eq!((init.tag, init.initiate, init.chunks.0), (7, 9, SctpChunks::INIT));
        let data = read(&[(3, 0, &[0; 5]), (0, 3, &[1; 13]), (7, 0, &[0; 4])]);
        assert_eq!(data.chunks.0, SctpChunks::OTHER | SctpChunks::SHUTDOWN);
        let abort = read(&[(9, 0, &[0; 6]), (6, 1, &[])]);
        let both = SctpChunks::OTHER | SctpChunks::ABORT | SctpChunks::REFLECTED;
        assert_eq!(abort.chunks.0, both);
        assert!(read(&[(1, 0, &[0; 16]), (0, 0, &[])]).chunks.any(SctpChunks::MALFORMED));
        // The T bit means something in two chunks only.
        assert_eq!(read(&[(0, 1, &[])]).chunks.0, SctpChunks::OTHER);
    }

    #[test]
    fn any_bytes_end_and_lengths_that_cannot_be_are_told() {
        let mut short = packet(1, &[(0, 0, &[])]);
        short[15] = 3;
        assert!(SctpHeader::read(&short).chunks.any(SctpChunks::MALFORMED));
        short[15] = 200;
        assert_eq!(SctpHeader::read(&short).chunks.0, SctpChunks::OTHER);
        for len in 0..short.len() {
            SctpHeader::read(&short[..len]);
        }
        // Thousands of empty chunks: bounded.
        let many = packet(1, &vec![(0, 0, &[][..]); 5000]);
        assert_eq!(SctpHeader::read(&many).chunks.0, SctpChunks::OTHER);
    }
}
