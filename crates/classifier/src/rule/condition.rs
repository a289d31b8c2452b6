//! Conditions on the fields that are not addresses.

use std::fmt;
use std::sync::Arc;

use crate::Error;

/// An inclusive range of ports, never empty.
///
/// ```
/// use portcullis_classifier::PortRange;
///
/// let high = PortRange::new(1024, 65535).unwrap();
/// assert!(high.contains(65535) && !high.contains(80));
/// assert!(PortRange::new(2, 1).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port, 0 included.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// The ports from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`Error::EmptyRange`] when `first > last`.
    pub fn new(first: u16, last: u16) -> Result<Self, Error> {
        if first > last {
            return Err(Error::EmptyRange { first: first.into(), last: last.into() });
        }
        Ok(Self { first, last })
    }

    /// One port.
    #[must_use]
    pub const fn exact(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    #[inline]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self::ANY
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A set of protocol numbers.
///
/// ```
/// use portcullis_classifier::ProtocolSet;
///
/// let set: ProtocolSet = [6, 17].into_iter().collect();
/// assert!(set.contains(17) && !set.contains(1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProtocolSet([u64; 4]);

impl ProtocolSet {
    /// Every protocol.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// Adds a protocol.
    pub fn insert(&mut self, protocol: u8) {
        self.0[usize::from(protocol >> 6)] |= 1 << (protocol & 63);
    }

    /// Whether `protocol` is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, protocol: u8) -> bool {
        self.0[usize::from(protocol >> 6)] >> (protocol & 63) & 1 == 1
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|&protocol| self.contains(protocol))
    }
}

impl FromIterator<u8> for ProtocolSet {
    fn from_iter<I: IntoIterator<Item = u8>>(protocols: I) -> Self {
        let mut set = Self::default();
        protocols.into_iter().for_each(|protocol| set.insert(protocol));
        set
    }
}

/// A condition on the IP protocol number.
///
/// ```
/// use portcullis_classifier::{ProtocolMatch, ProtocolSet};
///
/// let ports: ProtocolSet = [6, 17, 132].into_iter().collect();
/// assert!(ProtocolMatch::Set(ports).matches(17));
/// assert!(!ProtocolMatch::Exact(6).matches(17));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolMatch {
    /// Every protocol.
    #[default]
    Any,
    /// One protocol.
    Exact(u8),
    /// Any of a set. The empty set matches nothing.
    Set(ProtocolSet),
}

impl ProtocolMatch {
    /// Whether `protocol` meets the condition.
    #[inline]
    #[must_use]
    pub fn matches(&self, protocol: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(one) => *one == protocol,
            Self::Set(set) => set.contains(protocol),
        }
    }
}

/// A condition on the TCP flags: those under `mask` must read as in `value`.
///
/// The low nine bits are CWR to FIN as RFC 9293 numbers them, with AE (RFC 9768) above; the bits
/// beyond are free for the caller, and ClassBench files use them.
///
/// ```
/// use portcullis_classifier::TcpFlagsMatch;
///
/// let syn_without_ack = TcpFlagsMatch::new(0x02, 0x12).unwrap();
/// assert!(syn_without_ack.matches(0x02) && !syn_without_ack.matches(0x12));
/// assert!(TcpFlagsMatch::new(0x02, 0x10).is_err(), "a value outside its mask is a slip");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpFlagsMatch {
    value: u16,
    mask: u16,
}

impl TcpFlagsMatch {
    /// Every combination of flags.
    pub const ANY: Self = Self { value: 0, mask: 0 };

    /// Flags under `mask` equal to `value`.
    ///
    /// # Errors
    /// [`Error::FlagsOutsideMask`] when `value` has bits that `mask` lacks.
    pub fn new(value: u16, mask: u16) -> Result<Self, Error> {
        if value & !mask != 0 {
            return Err(Error::FlagsOutsideMask { value, mask });
        }
        Ok(Self { value, mask })
    }

    /// What the flags under the mask must be.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.value
    }

    /// Which flags count.
    #[must_use]
    pub const fn mask(self) -> u16 {
        self.mask
    }

    /// Whether `flags` meet the condition.
    #[inline]
    #[must_use]
    pub const fn matches(self, flags: u16) -> bool {
        flags & self.mask == self.value
    }
}

/// A condition on ICMP and ICMPv6 headers.
///
/// ```
/// use portcullis_classifier::IcmpMatch;
///
/// let unreachable = IcmpMatch { icmp_type: 3, code: None };
/// assert!(unreachable.matches(3, 1) && !unreachable.matches(8, 0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub icmp_type: u8,
    /// The code, or any.
    pub code: Option<u8>,
}

impl IcmpMatch {
    /// Whether a type and code meet the condition.
    #[inline]
    #[must_use]
    pub fn matches(self, icmp_type: u8, code: u8) -> bool {
        self.icmp_type == icmp_type && self.code.is_none_or(|wanted| wanted == code)
    }
}

/// A condition on the VLAN tag.
///
/// ```
/// use portcullis_classifier::VlanMatch;
///
/// assert!(VlanMatch::Untagged.matches(None));
/// assert!(VlanMatch::Id(12).matches(Some(12)) && !VlanMatch::Id(12).matches(None));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VlanMatch {
    /// Tagged or not.
    #[default]
    Any,
    /// No tag.
    Untagged,
    /// This VLAN identifier, 0 to 4095.
    Id(u16),
}

impl VlanMatch {
    /// Whether a header's tag meets the condition.
    #[inline]
    #[must_use]
    pub fn matches(self, vlan: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Untagged => vlan.is_none(),
            Self::Id(id) => vlan == Some(id),
        }
    }
}

/// A condition on an identity class.
///
/// ```
/// use portcullis_classifier::ClassMatch;
///
/// let some = ClassMatch::set([9, 3, 3]);
/// assert!(some.matches(3) && !some.matches(4));
/// assert!(ClassMatch::range(2, 1).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ClassMatch {
    /// Every class.
    #[default]
    Any,
    /// One class.
    Exact(u32),
    /// The classes from the first to the second, both included. Made by [`ClassMatch::range`].
    Range(u32, u32),
    /// Any of a set, ascending and without repeats. Made by [`ClassMatch::set`]; the empty set
    /// matches nothing.
    Set(Arc<[u32]>),
}

impl ClassMatch {
    /// The classes from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`Error::EmptyRange`] when `first > last`.
    pub fn range(first: u32, last: u32) -> Result<Self, Error> {
        if first > last {
            return Err(Error::EmptyRange { first, last });
        }
        Ok(Self::Range(first, last))
    }

    /// Any of `classes`, in any order, repeats allowed.
    #[must_use]
    pub fn set(classes: impl IntoIterator<Item = u32>) -> Self {
        let mut classes: Vec<u32> = classes.into_iter().collect();
        classes.sort_unstable();
        classes.dedup();
        Self::Set(classes.into())
    }

    /// Whether `class` meets the condition.
    #[inline]
    #[must_use]
    pub fn matches(&self, class: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(one) => *one == class,
            Self::Range(first, last) => *first <= class && class <= *last,
            Self::Set(set) => set.binary_search(&class).is_ok(),
        }
    }
}
