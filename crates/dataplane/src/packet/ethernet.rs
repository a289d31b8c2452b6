//! Ethernet II and VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use super::be16;
use crate::reason::Reason;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Tag of 802.1Q.
pub const VLAN: u16 = 0x8100;
/// Outer tag of 802.1ad (QinQ).
pub const QINQ: u16 = 0x88a8;
/// Outer tag that some switches used before 802.1ad.
pub const QINQ_OLD: u16 = 0x9100;

/// Length of an untagged Ethernet header in bytes.
pub const HEADER: usize = 14;

/// What stands before the network header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkHeader {
    /// What follows.
    pub ether_type: u16,
    /// Bytes before the network header: 14, 18 or 22.
    pub l3: usize,
    /// VLAN identifiers from the outermost on; 0 where there is no tag (or a priority tag).
    pub vlans: [u16; 2],
}

/// Reads the Ethernet header and up to two VLAN tags.
///
/// # Errors
/// [`Reason::TruncatedEthernet`], or [`Reason::VlanDepth`] for a third tag.
#[inline]
pub fn parse_link(data: &[u8]) -> Result<LinkHeader, Reason> {
    let mut ether_type = be16(data, 12).ok_or(Reason::TruncatedEthernet)?;
    let mut l3 = HEADER;
    let mut vlans = [0; 2];
    for vlan in &mut vlans {
        if !is_tag(ether_type) {
            break;
        }
        *vlan = be16(data, l3).ok_or(Reason::TruncatedEthernet)? & 0x0fff;
        ether_type = be16(data, l3 + 2).ok_or(Reason::TruncatedEthernet)?;
        l3 += 4;
    }
    if is_tag(ether_type) {
        return Err(Reason::VlanDepth);
    }
    Ok(LinkHeader { ether_type, l3, vlans })
}

const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, VLAN | QINQ | QINQ_OLD)
}
