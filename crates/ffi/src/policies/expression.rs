//! One end of a flow, and its traffic, as rules made in code describe them.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::identity_table::Selector;
use portcullis_core::identity_table::selector::calico;
use portcullis_core::policy::model::{
    Icmp, IpVersion, Match, PortMatch, PortSpec, ProtocolMatch, Traffic,
};

use crate::endpoint::{portcullis_label, read_labels};
use crate::raw;
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::portcullis_prefix;

/// Anything.
pub const PORTCULLIS_MATCH_ANY: u8 = 1;
/// Any live pod.
pub const PORTCULLIS_MATCH_POD: u8 = 2;
/// A pod whose own labels satisfy `selector`.
pub const PORTCULLIS_MATCH_POD_LABELS: u8 = 3;
/// A pod in the namespace `name`.
pub const PORTCULLIS_MATCH_NAMESPACE: u8 = 4;
/// A pod whose namespace's labels satisfy `selector` (`kubernetes.io/metadata.name` included).
pub const PORTCULLIS_MATCH_NAMESPACE_LABELS: u8 = 5;
/// A pod that runs under the service account `name`.
pub const PORTCULLIS_MATCH_SERVICE_ACCOUNT: u8 = 6;
/// A pod whose service account's labels satisfy `selector`.
pub const PORTCULLIS_MATCH_SERVICE_ACCOUNT_LABELS: u8 = 7;
/// An address of a node whose labels satisfy `selector`.
pub const PORTCULLIS_MATCH_NODE_LABELS: u8 = 8;
/// An address within `prefix`, whoever owns it.
pub const PORTCULLIS_MATCH_CIDR: u8 = 9;
/// An address within a prefix of the set `set`.
pub const PORTCULLIS_MATCH_SET: u8 = 10;
/// Whatever the address: the labels of the cluster's namespace `name` satisfy `selector`.
pub const PORTCULLIS_MATCH_NAMESPACE_HAS: u8 = 11;
/// The one of `parts` does not hold.
pub const PORTCULLIS_MATCH_NOT: u8 = 12;
/// All of `parts` hold.
pub const PORTCULLIS_MATCH_ALL: u8 = 13;
/// At least one of `parts` holds; with no part: nothing.
pub const PORTCULLIS_MATCH_ONE_OF: u8 = 14;

/// An expression over one end of a flow: who or where it is. "Pod" is a live pod with its own address;
/// host-networked pods are their node's address. Set all of it to zero first: fields that its kind does
/// not use must stay zero. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_match {
    /// `PORTCULLIS_MATCH_...`; 0 is refused.
    pub kind: u8,
    /// Over labels, in Calico's language, such as `app == 'web' && tier in {'a', 'b'}`, or `all()`.
    /// NUL-terminated UTF-8. Or NULL, and `labels`.
    pub selector: *const c_char,
    /// Instead of `selector`: all of these labels with these values, whatever is in them.
    pub labels: *const portcullis_label,
    /// How many.
    pub label_count: usize,
    /// NUL-terminated UTF-8.
    pub name: *const c_char,
    /// Of `PORTCULLIS_MATCH_CIDR`.
    pub prefix: portcullis_prefix,
    /// Of `PORTCULLIS_MATCH_SET`: the number that `portcullis_policies_add_set` answered.
    pub set: u32,
    /// Expressions that this one is made of, at most 64 levels.
    pub parts: *const portcullis_match,
    /// How many.
    pub part_count: usize,
}

/// Ports from the first to the last, or a port by name. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_port_range {
    /// NULL, or the name of a container port (of the rule's protocol) on the pod at that end;
    /// NUL-terminated UTF-8.
    pub name: *const c_char,
    /// The first port; 0 with a name.
    pub first: u16,
    /// The last port, itself included; 0 with a name.
    pub last: u16,
}

/// The expression is about ICMP or ICMPv6 messages.
pub const PORTCULLIS_ICMP_ANY: u8 = 1;
/// `icmp_type` counts.
pub const PORTCULLIS_ICMP_TYPE: u8 = 2;
/// `icmp_code` counts.
pub const PORTCULLIS_ICMP_CODE: u8 = 4;

/// ICMP or ICMPv6 messages. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_icmp {
    /// 0: says nothing; else the sum of `PORTCULLIS_ICMP_ANY` and of what counts.
    pub given: u8,
    /// Type.
    pub icmp_type: u8,
    /// Code.
    pub icmp_code: u8,
}

/// Any IP protocol.
pub const PORTCULLIS_PROTOCOL_ANY: u8 = 0;
/// This one.
pub const PORTCULLIS_PROTOCOL_IS: u8 = 1;
/// Every other.
pub const PORTCULLIS_PROTOCOL_NOT: u8 = 2;

/// Which traffic a rule means; all parts must hold. Set all of it to zero first: that is all traffic.
/// This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_traffic {
    /// 4, 6, or 0 for both.
    pub ip_version: u8,
    /// `PORTCULLIS_PROTOCOL_...`: what `protocol` means.
    pub protocol_match: u8,
    /// IP protocol number; 0 with `PORTCULLIS_PROTOCOL_ANY`.
    pub protocol: u8,
    /// Messages that match.
    pub icmp: portcullis_icmp,
    /// Messages that do not match.
    pub not_icmp: portcullis_icmp,
    /// Source ports that match; none: all, and protocols without ports.
    pub source_ports: *const portcullis_port_range,
    /// How many.
    pub source_port_count: usize,
    /// Source ports that do not match.
    pub not_source_ports: *const portcullis_port_range,
    /// How many.
    pub not_source_port_count: usize,
    /// Destination ports that match; none: all, and protocols without ports.
    pub destination_ports: *const portcullis_port_range,
    /// How many.
    pub destination_port_count: usize,
    /// Destination ports that do not match.
    pub not_destination_ports: *const portcullis_port_range,
    /// How many.
    pub not_destination_port_count: usize,
}

/// Expressions within one another, and in all: what points to itself must end.
const MOST_LEVELS: usize = 64;
const MOST_PARTS: usize = 1 << 20;

/// Reads expressions of one rule or policy.
pub(super) struct Reader<'a> {
    /// Sets that there are.
    pub(super) sets: usize,
    /// What the expression is of, for people.
    pub(super) of: &'a str,
    parts: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sets: usize, of: &'a str) -> Self {
        Self { sets, of, parts: 0 }
    }

    /// # Safety
    /// `expression` is NULL or points to one whose pointers are NULL or point to what is described there.
    pub(super) unsafe fn read(
        &mut self,
        field: &str,
        expression: *const portcullis_match,
    ) -> Result<Match, Failure> {
        if expression.is_null() {
            return self.wrong(field, "NULL: PORTCULLIS_MATCH_ANY is anything");
        }
        // SAFETY: by this function's contract.
        let expression = unsafe { raw::slice(expression, 1) }?;
        // SAFETY: by this function's contract.
        unsafe { self.part(field, &expression[0], MOST_LEVELS) }
    }

    /// # Safety
    /// Its pointers are NULL or point to what is described there.
    unsafe fn part(
        &mut self,
        field: &str,
        part: &portcullis_match,
        levels: usize,
    ) -> Result<Match, Failure> {
        self.parts += 1;
        if levels == 0 || self.parts > MOST_PARTS {
            return self.wrong(field, "more than 64 levels, or than a million parts");
        }
        let portcullis_match { kind, name, prefix, set, parts, part_count, .. } = *part;
        // What the kind does not use is a mistake if it is there.
        let given = [
            !part.selector.is_null() || !part.labels.is_null() || part.label_count != 0,
            !name.is_null(),
            prefix != portcullis_prefix::default(),
            set != 0,
            !parts.is_null() || part_count != 0,
        ];
        let used = match kind {
            PORTCULLIS_MATCH_ANY | PORTCULLIS_MATCH_POD => [false; 5],
            PORTCULLIS_MATCH_POD_LABELS
            | PORTCULLIS_MATCH_NAMESPACE_LABELS
            | PORTCULLIS_MATCH_SERVICE_ACCOUNT_LABELS
            | PORTCULLIS_MATCH_NODE_LABELS => [true, false, false, false, false],
            PORTCULLIS_MATCH_NAMESPACE | PORTCULLIS_MATCH_SERVICE_ACCOUNT => {
                [false, true, false, false, false]
            }
            PORTCULLIS_MATCH_NAMESPACE_HAS => [true, true, false, false, false],
            PORTCULLIS_MATCH_CIDR => [false, false, true, false, false],
            PORTCULLIS_MATCH_SET => [false, false, false, true, false],
            PORTCULLIS_MATCH_NOT | PORTCULLIS_MATCH_ALL | PORTCULLIS_MATCH_ONE_OF => {
                [false, false, false, false, true]
            }
            _ => return self.wrong(field, format_args!("kind {kind} is none")),
        };
        let names = ["selector", "name", "prefix", "set", "parts"];
        for ((given, used), name) in given.into_iter().zip(used).zip(names) {
            if given && !used {
                return self.wrong(field, format_args!("kind {kind} has no {name}"));
            }
        }
        // SAFETY: by this function's contract.
        let labels = |this: &Self| unsafe { this.selector(field, part) };
        // SAFETY: by this function's contract.
        let text = || unsafe { raw::text(name) }.map(Into::into);
        Ok(match kind {
            PORTCULLIS_MATCH_ANY => Match::Any,
            PORTCULLIS_MATCH_POD => Match::Pod,
            PORTCULLIS_MATCH_POD_LABELS => Match::PodLabels(labels(self)?),
            PORTCULLIS_MATCH_NAMESPACE => Match::Namespace(text()?),
            PORTCULLIS_MATCH_NAMESPACE_LABELS => Match::NamespaceLabels(labels(self)?),
            PORTCULLIS_MATCH_SERVICE_ACCOUNT => Match::ServiceAccount(text()?),
            PORTCULLIS_MATCH_SERVICE_ACCOUNT_LABELS => Match::ServiceAccountLabels(labels(self)?),
            PORTCULLIS_MATCH_NODE_LABELS => Match::NodeLabels(labels(self)?),
            PORTCULLIS_MATCH_CIDR => Match::Cidr(prefix.read().or_else(|error| {
                self.wrong(field, error.text.strip_prefix("error: ").unwrap_or_default())
            })?),
            PORTCULLIS_MATCH_SET if set as usize >= self.sets => {
                return self.wrong(field, format_args!("set {set}: there are {}", self.sets));
            }
            PORTCULLIS_MATCH_SET => Match::InSet(set),
            PORTCULLIS_MATCH_NAMESPACE_HAS => Match::NamespaceHas(text()?, labels(self)?),
            PORTCULLIS_MATCH_NOT if part_count != 1 => {
                return self.wrong(field, format_args!("{part_count} parts of a negation"));
            }
            _ => {
                let mut read = Vec::new();
                // SAFETY: by this function's contract.
                for part in unsafe { raw::slice(parts, part_count) }? {
                    // SAFETY: by this function's contract.
                    read.push(unsafe { self.part(field, part, levels - 1) }?);
                }
                match kind {
                    PORTCULLIS_MATCH_NOT => Match::Not(Box::new(read.swap_remove(0))),
                    PORTCULLIS_MATCH_ALL if read.is_empty() => {
                        return self
                            .wrong(field, "all of no parts: PORTCULLIS_MATCH_ANY is anything");
                    }
                    PORTCULLIS_MATCH_ALL => Match::All(read),
                    _ => Match::OneOf(read),
                }
            }
        })
    }

    /// # Safety
    /// Its pointers are NULL or point to what is described there.
    unsafe fn selector(&self, field: &str, part: &portcullis_match) -> Result<Selector, Failure> {
        if part.label_count > 0 {
            if !part.selector.is_null() {
                return self.wrong(field, "either selector or labels");
            }
            // SAFETY: by this function's contract.
            let labels = unsafe { read_labels(part.labels, part.label_count) }?;
            let equal = |(key, value): (&str, &str)| Selector::Equals(key.into(), value.into());
            return Ok(Selector::And(labels.iter().map(equal).collect()));
        }
        // SAFETY: by this function's contract.
        let text = unsafe { raw::text(part.selector) }?;
        match calico::parse(text) {
            Ok(selector) if !is_global(&selector) => Ok(selector),
            Ok(_) => self.wrong(field, "global() says nothing of labels"),
            Err(error) => self.wrong(field, format_args!("selector `{text}`: {error}")),
        }
    }

    /// # Safety
    /// The pointers are NULL or point to what is described there.
    pub(super) unsafe fn traffic(
        &self,
        number: usize,
        traffic: &portcullis_traffic,
    ) -> Result<Traffic, Failure> {
        let field = format!("traffic {number}");
        let ip_version = match traffic.ip_version {
            0 => None,
            4 => Some(IpVersion::V4),
            6 => Some(IpVersion::V6),
            other => return self.wrong(&field, format_args!("ip_version {other}: 4, 6 or 0")),
        };
        let protocol = match (traffic.protocol_match, traffic.protocol) {
            (PORTCULLIS_PROTOCOL_ANY, 0) => ProtocolMatch::Any,
            (PORTCULLIS_PROTOCOL_IS, protocol) => ProtocolMatch::Is(protocol),
            (PORTCULLIS_PROTOCOL_NOT, protocol) => ProtocolMatch::Not(protocol),
            (PORTCULLIS_PROTOCOL_ANY, _) => {
                return self.wrong(&field, "protocol without protocol_match");
            }
            (other, _) => return self.wrong(&field, format_args!("protocol_match {other}")),
        };
        let lists = [
            (traffic.source_ports, traffic.source_port_count),
            (traffic.not_source_ports, traffic.not_source_port_count),
            (traffic.destination_ports, traffic.destination_port_count),
            (traffic.not_destination_ports, traffic.not_destination_port_count),
        ];
        let mut read = [const { Vec::new() }; 4];
        for (read, (ports, count)) in read.iter_mut().zip(lists) {
            // SAFETY: by this function's contract.
            for port in unsafe { raw::slice(ports, count) }? {
                // SAFETY: by this function's contract.
                read.push(unsafe { self.port(&field, port) }?);
            }
        }
        let [source, not_source, destination, not_destination] = read;
        Ok(Traffic {
            ip_version,
            protocol,
            source_ports: PortMatch { any_of: source, none_of: not_source },
            destination_ports: PortMatch { any_of: destination, none_of: not_destination },
            icmp: self.icmp(&field, &traffic.icmp)?,
            not_icmp: self.icmp(&field, &traffic.not_icmp)?,
        })
    }

    /// # Safety
    /// The name is NULL or NUL-terminated.
    unsafe fn port(&self, field: &str, port: &portcullis_port_range) -> Result<PortSpec, Failure> {
        let portcullis_port_range { first, last, .. } = *port;
        // SAFETY: by this function's contract.
        match unsafe { raw::optional_text(port.name) }? {
            Some("") => self.wrong(field, "a port with an empty name"),
            Some(name) if first == 0 && last == 0 => Ok(PortSpec::Named(name.into())),
            Some(name) => self.wrong(field, format_args!("port {name} has numbers too")),
            None if first <= last => Ok(PortSpec::Range(first, last)),
            None => self.wrong(field, format_args!("ports {first} to {last}")),
        }
    }

    fn icmp(&self, field: &str, icmp: &portcullis_icmp) -> Result<Option<Icmp>, Failure> {
        const ALL: u8 = PORTCULLIS_ICMP_ANY | PORTCULLIS_ICMP_TYPE | PORTCULLIS_ICMP_CODE;
        let portcullis_icmp { given, icmp_type, icmp_code } = *icmp;
        let part = |bit: u8, value: u8| match given & bit {
            0 if value != 0 => Err(()),
            0 => Ok(None),
            _ => Ok(Some(value)),
        };
        let kind = part(PORTCULLIS_ICMP_TYPE, icmp_type);
        let code = part(PORTCULLIS_ICMP_CODE, icmp_code);
        match (kind, code) {
            (Ok(kind), Ok(code)) if given & !ALL == 0 => {
                Ok((given != 0).then_some(Icmp { kind, code }))
            }
            _ => self.wrong(field, format_args!("icmp: given {given} does not say what counts")),
        }
    }

    pub(super) fn wrong<T>(&self, field: &str, what: impl std::fmt::Display) -> Result<T, Failure> {
        let text = format_args!("error: {}: {field}: {what}", self.of);
        Err(Failure::new(PORTCULLIS_BAD_VALUE, text))
    }
}

/// Whether `global()` is part of it.
fn is_global(selector: &Selector) -> bool {
    match selector {
        Selector::Global => true,
        Selector::Not(part) => is_global(part),
        Selector::And(parts) | Selector::Or(parts) => parts.iter().any(is_global),
        _ => false,
    }
}
