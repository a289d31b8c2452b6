//! Prefixes: what one row of the table speaks of.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use ipnet::IpNet;

/// An IPv4 or IPv6 prefix in its one true spelling: no bit is set beyond the length.
///
/// Parsing is strict, because a prefix that someone mistyped must not become another prefix:
/// host bits, lengths beyond the family's and IPv4-mapped IPv6 addresses are errors that say what
/// to write instead. An address alone is the prefix of that one address, as feeds have it.
///
/// A mapped address (`::ffff:192.0.2.1`) is refused since no packet on a wire carries one: a rule
/// written that way would never match, and its author believes that it does. The prefixes that
/// contain the mapped range among others (`::/0` to `::/80`) are fine and mean IPv6 only.
///
/// Order: IPv4 before IPv6, then by first address, then the shorter first, so that a prefix sorts
/// before everything inside it. Cost: 20 bytes, `Copy`.
///
/// ```
/// use portcullis_identity_table::Prefix;
/// let pods: Prefix = "10.244.0.0/16".parse()?;
/// assert!(pods.contains("10.244.7.9".parse().unwrap()));
/// assert_eq!("2001:db8::1".parse::<Prefix>()?.to_string(), "2001:db8::1/128");
/// assert!("10.0.0.1/24".parse::<Prefix>().unwrap_err().to_string().contains("10.0.0.0/24"));
/// # Ok::<(), portcullis_identity_table::PrefixError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    v6: bool,
    /// Left-aligned, most significant word first; an IPv4 prefix uses the first word.
    bits: [u32; 4],
    len: u8,
}

/// Why a prefix was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Neither `address/length` nor an address.
    #[error("`{0}` is not a prefix: write address/length, as 10.0.0.0/8 or 2001:db8::/32")]
    Syntax(String),
    /// The length is beyond the family's.
    #[error("/{len} is too long for {address}: at most /{}", if .address.is_ipv4() { 32 } else { 128 })]
    Length {
        /// The address before the slash.
        address: IpAddr,
        /// The length after it.
        len: u32,
    },
    /// Bits beyond the length are set.
    #[error(
        "{address}/{len} has bits set beyond its length: write {network} (or {address} alone for one address)"
    )]
    HostBits {
        /// The address before the slash.
        address: IpAddr,
        /// The length after it.
        len: u8,
        /// The prefix that contains the address.
        network: Prefix,
    },
    /// An IPv4-mapped IPv6 prefix.
    #[error("{address}/{len} is an IPv4-mapped IPv6 prefix, which no packet carries: write the IPv4 prefix {}",
        .address.to_ipv4_mapped().map_or_else(String::new, |a| format!("{a}/{}", .len - 96)))]
    Mapped {
        /// The mapped address.
        address: Ipv6Addr,
        /// Its length, 96 to 128.
        len: u8,
    },
}

impl Prefix {
    /// All of IPv4: `0.0.0.0/0`.
    pub const ALL_V4: Self = Self { v6: false, bits: [0; 4], len: 0 };
    /// All of IPv6: `::/0`.
    pub const ALL_V6: Self = Self { v6: true, bits: [0; 4], len: 0 };

    /// The prefix of `len` bits at `address`, which must have no bit set beyond them.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let network = Self::truncated(address, len)?;
        match address {
            IpAddr::V6(v6) if len >= 96 && v6.to_ipv4_mapped().is_some() => {
                Err(PrefixError::Mapped { address: v6, len })
            }
            _ if network.address() != address => {
                Err(PrefixError::HostBits { address, len, network })
            }
            _ => Ok(network),
        }
    }

    /// The prefix of `len` bits that contains `address`: host bits are cleared, silently.
    /// The only error is a length beyond the family's.
    pub fn truncated(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let (v6, key, width) = match address {
            IpAddr::V4(a) => (false, u128::from(u32::from(a)) << 96, 32),
            IpAddr::V6(a) => (true, u128::from(a), 128),
        };
        if len > width {
            return Err(PrefixError::Length { address, len: len.into() });
        }
        Ok(Self::from_key(v6, key & mask(len), len))
    }

    /// The prefix that contains one address only.
    pub fn host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::from_key(false, u128::from(u32::from(a)) << 96, 32),
            IpAddr::V6(a) => Self::from_key(true, a.into(), 128),
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        if self.v6 {
            Ipv6Addr::from(self.key()).into()
        } else {
            Ipv4Addr::from(self.bits[0]).into()
        }
    }

    /// Length in bits: 0 to 32, or to 128.
    #[allow(clippy::len_without_is_empty, reason = "the length of a prefix is not that of a list")]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether the prefix is of IPv6.
    pub const fn is_v6(&self) -> bool {
        self.v6
    }

    /// Whether `address` is of the same family and inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        let host = Self::host(address);
        host.v6 == self.v6 && (host.key() ^ self.key()) & mask(self.len) == 0
    }

    /// The bits, left-aligned in 128 (IPv4 in the top 32).
    pub(crate) const fn key(&self) -> u128 {
        let [a, b, c, d] = self.bits;
        (a as u128) << 96 | (b as u128) << 64 | (c as u128) << 32 | d as u128
    }

    /// The first address as a number: up to 2^32 for IPv4.
    pub(crate) const fn number(&self) -> u128 {
        if self.v6 { self.key() } else { self.bits[0] as u128 }
    }

    /// The prefix whose [`Prefix::number`] and length these are.
    pub(crate) const fn from_number(v6: bool, number: u128, len: u8) -> Self {
        Self::from_key(v6, if v6 { number } else { number << 96 }, len)
    }

    /// From left-aligned bits that are already masked.
    pub(crate) const fn from_key(v6: bool, key: u128, len: u8) -> Self {
        let bits = [(key >> 96) as u32, (key >> 64) as u32, (key >> 32) as u32, key as u32];
        Self { v6, bits, len }
    }
}

/// `len` ones at the top of 128 bits.
pub(crate) const fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len as u32) }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.chars().take(80).collect());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let len = match len {
            None if address.is_ipv4() => 32,
            None => 128,
            // `+8` and `08` are no lengths, though Rust reads them as numbers.
            Some(len) if len.len() > 1 && len.starts_with('0') || len.starts_with('+') => {
                return Err(syntax());
            }
            Some(len) => len.parse::<u32>().map_err(|_| syntax())?,
        };
        let len = u8::try_from(len).map_err(|_| PrefixError::Length { address, len })?;
        Self::new(address, len)
    }
}

impl TryFrom<IpNet> for Prefix {
    type Error = PrefixError;

    fn try_from(net: IpNet) -> Result<Self, PrefixError> {
        Self::new(net.addr(), net.prefix_len())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Prefix>().expect_err(text).to_string()
    }

    #[test]
    fn what_is_refused_and_what_to_write_instead() {
        assert!(refusal("10.0.0.0/33").contains("at most /32"));
        assert!(refusal("2001:db8::/129").contains("at most /128"));
        assert!(refusal("10.0.0.0/4294967295").contains("at most /32"));
        assert!(refusal("10.1.2.3/8").contains("write 10.0.0.0/8"));
        assert!(refusal("2001:db8::1/64").contains("write 2001:db8::/64"));
        assert!(refusal("::ffff:10.0.0.0/104").contains("write the IPv4 prefix 10.0.0.0/8"));
        assert!(refusal("::ffff:192.0.2.1").contains("write the IPv4 prefix 192.0.2.1/32"));
        for bad in ["", "/", "10/8", "10.0.0.0/", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/-1"] {
            assert!(refusal(bad).contains("is not a prefix"), "{bad}");
        }
        for bad in ["10.0.0.0/99999999999", "010.0.0.1", "1.2.3.4.5", "::1%eth0", " 10.0.0.1"] {
            assert!(refusal(bad).contains("is not a prefix"), "{bad}");
        }
    }

    #[test]
    fn prefixes_that_only_contain_the_mapped_range_are_fine() {
        for good in ["::/0", "::/80", "::/95"] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn a_prefix_sorts_before_what_is_inside() {
        let mut all: Vec<Prefix> = ["::/0", "10.0.0.0/9", "10.0.0.0/8", "10.0.0.0/32", "9.0.0.0/8"]
            .map(|p| p.parse().unwrap())
            .into();
        all.sort();
        let text: Vec<String> = all.iter().map(Prefix::to_string).collect();
        assert_eq!(text, ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/32", "::/0"]);
    }
}
