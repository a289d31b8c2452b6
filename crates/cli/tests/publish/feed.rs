//! A threat feed in versions.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::documents::{SOMETIMES_THREAT, THREAT, source};

/// The set that the feed fills.
pub(crate) const NAME: &str = "GlobalNetworkSet//threats";

/// A version of the feed: so many prefixes, half of them of this version only.
pub(crate) fn prefixes(version: usize, count: usize) -> Vec<IpNet> {
    let host = |stream| IpNet::from(IpAddr::from(source(stream)));
    let mut feed = vec![host(THREAT)];
    if version.is_multiple_of(2) {
        feed.push(host(SOMETIMES_THREAT));
    }
    let begin = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    feed.extend((0..count as u32).map(|n| {
        let shift = if n % 2 == 0 { 0 } else { version as u32 % 64 };
        let address = Ipv4Addr::from(begin + (n << 6) + (shift << 1));
        IpNet::new(address.into(), 31).unwrap()
    }));
    feed
}
