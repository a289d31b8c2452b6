//! Address prefixes. A prefix in hand has no host bits set: parsing and `new` refuse them, because
//! `10.0.0.1/8` is more often a slip than a wish.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Error;

macro_rules! prefix {
    ($name:ident, $address:ty, $bits:ty, $width:literal, $family:literal) => {
        /// A prefix: an address whose first `len` bits count.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            bits: $bits,
            len: u8,
        }

        impl $name {
            /// The prefix of all addresses of the family.
            pub const ALL: Self = Self { bits: 0, len: 0 };

            /// A prefix of `len` bits.
            ///
            /// # Errors
            /// [`Error::PrefixLength`] when `len` exceeds the address' width, and
            /// [`Error::HostBits`] when `address` has bits set beyond `len`.
            pub fn new(address: $address, len: u8) -> Result<Self, Error> {
                if len > $width {
                    return Err(Error::PrefixLength { len: len.into(), width: $width });
                }
                let prefix = Self { bits: address.to_bits(), len };
                if prefix.bits & !prefix.mask() != 0 {
                    return Err(Error::HostBits {
                        given: format!("{address}/{len}"),
                        meant: Self { bits: prefix.bits & prefix.mask(), len }.to_string(),
                    });
                }
                Ok(prefix)
            }

            /// The prefix of one address.
            #[must_use]
            pub fn host(address: $address) -> Self {
                Self { bits: address.to_bits(), len: $width }
            }

            /// The first address.
            #[must_use]
            pub fn address(self) -> $address {
                <$address>::from_bits(self.bits)
            }

            /// How many bits count.
            #[must_use]
            #[allow(clippy::len_without_is_empty)]
            pub fn len(self) -> u8 {
                self.len
            }

            /// Whether `address` lies in the prefix.
            #[inline]
            #[must_use]
            pub fn contains(self, address: $address) -> bool {
                (address.to_bits() ^ self.bits) & self.mask() == 0
            }

            /// The first address as a number.
            #[inline]
            #[allow(dead_code)]
            pub(crate) fn first(self) -> $bits {
                self.bits
            }

            /// The last address as a number.
            #[inline]
            #[allow(dead_code)]
            pub(crate) fn last(self) -> $bits {
                self.bits | !self.mask()
            }

            #[inline]
            fn mask(self) -> $bits {
                <$bits>::MAX.checked_shl($width - u32::from(self.len)).unwrap_or(0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.address(), self.len)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let malformed =
                    || Error::Malformed { what: concat!($family, " prefix"), given: text.into() };
                let (address, len) = text.split_once('/').ok_or_else(malformed)?;
                let address: $address = address.parse().map_err(|_| malformed())?;
                let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
                if !digits {
                    return Err(malformed());
                }
                let len: u32 = len.parse().map_err(|_| malformed())?;
                let short =
                    u8::try_from(len).map_err(|_| Error::PrefixLength { len, width: $width })?;
                Self::new(address, short)
            }
        }
    };
}

prefix!(Ipv4Prefix, Ipv4Addr, u32, 32, "IPv4");
prefix!(Ipv6Prefix, Ipv6Addr, u128, 128, "IPv6");

/// A condition on an address.
///
/// `0.0.0.0/0` matches every IPv4 address and no IPv6 one; [`AddressMatch::Any`] matches both.
///
/// ```
/// use portcullis_classifier::AddressMatch;
///
/// let lan: AddressMatch = "192.168.0.0/16".parse().unwrap();
/// assert!(lan.matches("192.168.7.1".parse().unwrap()));
/// assert!(!lan.matches("::1".parse().unwrap()));
/// assert!("192.168.7.1/16".parse::<AddressMatch>().is_err(), "host bits are refused");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressMatch {
    /// Every address of either family.
    #[default]
    Any,
    /// Addresses of an IPv4 prefix.
    V4(Ipv4Prefix),
    /// Addresses of an IPv6 prefix.
    V6(Ipv6Prefix),
}

impl AddressMatch {
    /// Whether `address` meets the condition.
    #[must_use]
    pub fn matches(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Any, _) => true,
            (Self::V4(prefix), IpAddr::V4(address)) => prefix.contains(address),
            (Self::V6(prefix), IpAddr::V6(address)) => prefix.contains(address),
            _ => false,
        }
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for AddressMatch {
    type Err = Error;

    /// `any`, or a prefix of either family.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "any" {
            Ok(Self::Any)
        } else if text.contains(':') {
            text.parse().map(Self::V6)
        } else {
            text.parse().map(Self::V4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        for (text, first, last) in [
            ("0.0.0.0/0", 0, u32::MAX),
            ("128.0.0.0/1", 1 << 31, u32::MAX),
            ("255.255.255.255/32", u32::MAX, u32::MAX),
        ] {
            let prefix: Ipv4Prefix = text.parse().unwrap();
            assert_eq!((prefix.first(), prefix.last()), (first, last), "{text}");
            assert_eq!(prefix.to_string(), text);
        }
        let all: Ipv6Prefix = "::/0".parse().unwrap();
        assert_eq!((all.first(), all.last()), (0, u128::MAX));
        let host: Ipv6Prefix = "::1/128".parse().unwrap();
        assert_eq!((host.first(), host.last()), (1, 1));
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/999999999999",
            "10.0.0.1/8",
            "::1/127",
            "::/129",
            "fe80::%eth0/64",
        ] {
            assert!(text.parse::<AddressMatch>().is_err(), "{text}");
        }
        let error = "10.0.0.1/8".parse::<Ipv4Prefix>().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/8"), "{error}");
    }
}
