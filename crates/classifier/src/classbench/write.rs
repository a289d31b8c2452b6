//! Rules to ClassBench text.

use std::fmt::Write;

use crate::rule::{AddressMatch, ClassMatch, IcmpMatch, ProtocolMatch, Rule, VlanMatch};

/// A rule that ClassBench has no words for.
///
/// ```
/// use portcullis_classifier::{Rule, VlanMatch, classbench};
///
/// let rules = [Rule { vlan: VlanMatch::Id(7), ..Rule::any(0) }];
/// assert!(classbench::write(&rules).is_err(), "ClassBench knows no VLAN");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {index} has no ClassBench form: {why}")]
pub struct Inexpressible {
    /// Its 0-based place.
    pub index: usize,
    /// What ClassBench cannot say.
    pub why: &'static str,
}

/// Writes rules as ClassBench text, a line each. Actions are not written.
///
/// # Errors
/// The first rule that uses a VLAN, a class, a set of protocols, an address of any family, or flags
/// on a protocol other than TCP: those would not read back the same.
///
/// ```
/// use portcullis_classifier::classbench;
///
/// let text = "@10.0.0.0/8\t0.0.0.0/0\t0 : 65535\t80 : 80\t0x06/0xFF\t0x0000/0x0000\n";
/// let rules = classbench::parse("acl", text).unwrap();
/// assert_eq!(classbench::write(&rules).unwrap(), text);
/// ```
pub fn write(rules: &[Rule]) -> Result<String, Inexpressible> {
    let mut text = String::new();
    for (index, rule) in rules.iter().enumerate() {
        line(&mut text, rule).map_err(|why| Inexpressible { index, why })?;
    }
    Ok(text)
}

fn line(text: &mut String, rule: &Rule) -> Result<(), &'static str> {
    if rule.vlan != VlanMatch::Any {
        return Err("a VLAN");
    }
    if rule.source_class != ClassMatch::Any || rule.destination_class != ClassMatch::Any {
        return Err("an identity class");
    }
    // A side that was left open takes the family of the other.
    let (source, destination) = match (rule.source, rule.destination) {
        (AddressMatch::Any, AddressMatch::Any) => return Err("addresses of any family"),
        (source, AddressMatch::Any) => (source, all_like(source)),
        (AddressMatch::Any, destination) => (all_like(destination), destination),
        both => both,
    };
    let (protocol, mask) = match rule.protocol {
        ProtocolMatch::Any => (0, 0),
        ProtocolMatch::Exact(protocol) => (protocol, 0xff),
        ProtocolMatch::Set(_) => return Err("a set of protocols"),
    };
    let is_icmp = mask == 0xff && matches!(protocol, 1 | 58);
    let flags = match rule.icmp {
        Some(_) if !is_icmp => return Err("an ICMP type without an ICMP protocol"),
        Some(IcmpMatch { icmp_type, code: None }) => (u16::from(icmp_type) << 8, 0xff00),
        Some(IcmpMatch { icmp_type, code: Some(code) }) => {
            (u16::from_be_bytes([icmp_type, code]), 0xffff)
        }
        None if is_icmp && rule.tcp_flags.mask() != 0 => return Err("TCP flags on ICMP"),
        None => (rule.tcp_flags.value(), rule.tcp_flags.mask()),
    };
    let [from, to] = [rule.source_ports, rule.destination_ports];
    writeln!(
        text,
        "@{source}\t{destination}\t{} : {}\t{} : {}\t{protocol:#04x}/0x{mask:02X}\t{:#06x}/{:#06x}",
        from.first(),
        from.last(),
        to.first(),
        to.last(),
        flags.0,
        flags.1,
    )
    .map_err(|_| "formatting failed")
}

fn all_like(side: AddressMatch) -> AddressMatch {
    match side {
        AddressMatch::V6(_) => AddressMatch::V6(crate::rule::Ipv6Prefix::ALL),
        _ => AddressMatch::V4(crate::rule::Ipv4Prefix::ALL),
    }
}
