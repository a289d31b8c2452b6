//! Policies and clusters made in code: any numbers, any texts, expressions of any shape.

use std::ptr::{null, null_mut};

use portcullis_abi::apply::portcullis_applied;
use portcullis_abi::endpoint::portcullis_label;
use portcullis_abi::policies::expression::*;
use portcullis_abi::policies::policy::*;
use portcullis_abi::policies::values::*;
use portcullis_abi::policies::*;
use portcullis_abi::types::*;

use crate::Session;
use crate::apply::texts;
use crate::input::{Input, start};

impl Session<'_> {
    pub(crate) fn new_policies(&mut self) {
        if self.policies.full() {
            return;
        }
        let mut policies = null_mut();
        // SAFETY: there is room.
        let status = unsafe { portcullis_policies_new(&mut policies) };
        assert!(status == 0 && !policies.is_null());
        self.policies.add(policies);
    }

    /// A tier, a set, a policy, a rule, or documents.
    pub(crate) fn add_policy(&mut self) {
        let policies = self.policies.pick(&mut self.input);
        let documents = self.documents();
        let t = texts(&documents);
        let input = &mut self.input;
        let mut kept = Kept::default();
        let name = input.text();
        let (mut number, mut counts) = (u32::MAX, [0; 3]);
        let prefixes: [_; 2] = std::array::from_fn(|_| prefix(input));
        let mut buffer = input.room();
        let mut needed = 0;
        let what = input.byte() % 12;
        // SAFETY: pointers are NULL or point to what is described there.
        let status = unsafe {
            match what {
                0 => {
                    let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
                    portcullis_policies_error(policies.0, start, size, &mut needed)
                }
                1 => {
                    let [tiers, sets, count] = counts.each_mut().map(|count| &raw mut *count);
                    portcullis_policies_read(policies.0, t.as_ptr(), t.len(), tiers, sets, count)
                }
                2 | 3 => {
                    let end = input.byte() % 3;
                    portcullis_policies_add_tier(policies.0, start(&name), end, &mut number)
                }
                4 => portcullis_policies_add_set(
                    policies.0,
                    start(&name),
                    prefixes.as_ptr(),
                    usize::from(input.byte() % 3),
                    &mut number,
                ),
                5..=7 => {
                    let namespace = input.text();
                    let policy = portcullis_policy {
                        struct_size: size_of::<portcullis_policy>(),
                        tier: u32::from(input.byte() % 3),
                        kind: input.byte() % 10,
                        staged: input.byte() % 3,
                        directions: input.byte() % 5,
                        namespace_name: start(&namespace),
                        name: start(&name),
                        subject: kept.expression(input),
                        origin: origin(input, &name),
                    };
                    portcullis_policies_add_policy(policies.0, &policy, &mut number)
                }
                _ => {
                    let rule = portcullis_rule {
                        struct_size: size_of::<portcullis_rule>(),
                        policy: u32::from(input.byte() % 3),
                        direction: input.byte() % 4,
                        action: input.byte() % 6,
                        all_traffic: input.byte() % 3,
                        name: if input.byte() & 1 == 0 { null() } else { start(&name) },
                        source: kept.expression(input),
                        destination: kept.expression(input),
                        traffic: kept.traffic(input),
                        traffic_count: usize::from(input.byte() % 3),
                        origin: origin(input, &name),
                    };
                    portcullis_policies_add_rule(policies.0, &rule)
                }
            }
        };
        self.policies.check(policies, status);
    }

    pub(crate) fn put_in_force(&mut self) {
        let engine = self.engine();
        let policies = self.policies.pick(&mut self.input);
        let input = &mut self.input;
        let texts: [_; 4] = std::array::from_fn(|_| input.text());
        let p = texts.each_ref().map(start);
        let label = portcullis_label { key: p[0], value: p[1] };
        let address = input.address();
        let namespace = portcullis_namespace {
            name: p[2],
            labels: &label,
            label_count: usize::from(input.byte() % 2),
        };
        let account = portcullis_service_account {
            namespace_name: p[2],
            name: p[3],
            labels: &label,
            label_count: usize::from(input.byte() % 2),
        };
        let node = portcullis_node {
            name: p[3],
            labels: &label,
            label_count: usize::from(input.byte() % 2),
            addresses: &address,
            address_count: usize::from(input.byte() % 2),
        };
        let cluster = portcullis_cluster {
            struct_size: size_of::<portcullis_cluster>(),
            endpoint_size: input.size(88),
            endpoints: null(),
            endpoint_count: 0,
            namespaces: &namespace,
            namespace_count: usize::from(input.byte() % 2),
            service_accounts: &account,
            service_account_count: usize::from(input.byte() % 2),
            nodes: &node,
            node_count: usize::from(input.byte() % 2),
        };
        let cluster = if input.byte() & 1 == 0 { null() } else { &raw const cluster };
        let mut applied = portcullis_applied {
            struct_size: size_of::<portcullis_applied>(),
            generation: 0,
            policies: 0,
            endpoints: 0,
            identities: 0,
        };
        let mut buffer = input.room();
        let (mut needed, mut changes) = (0, 0);
        let zone = u16::from(input.byte() % 3);
        let what = input.byte() % 6;
        // SAFETY: pointers are NULL or point to what is described there.
        let status = unsafe {
            match what {
                0 => portcullis_engine_set_cluster_values(engine.0, cluster, &mut applied),
                1 => portcullis_engine_stage_policies(engine.0, policies.0),
                2 => portcullis_engine_diff_policies(
                    engine.0,
                    cluster,
                    policies.0,
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    &mut needed,
                    &mut changes,
                ),
                _ => portcullis_engine_apply_policies(
                    engine.0,
                    zone,
                    cluster,
                    policies.0,
                    &mut applied,
                ),
            }
        };
        // What is wrong may be wrong of either.
        if policies.1 {
            self.engines.check(engine, status);
        }
    }
}

/// What expressions point to.
#[derive(Default)]
struct Kept {
    texts: Vec<Option<Vec<u8>>>,
    parts: Vec<Box<[portcullis_match]>>,
    labels: Vec<Box<[portcullis_label]>>,
    ports: Vec<Box<[portcullis_port_range]>>,
    traffic: Vec<Box<[portcullis_traffic]>>,
}

impl Kept {
    fn text(&mut self, text: Option<Vec<u8>>) -> *const core::ffi::c_char {
        // The text itself does not move with the list.
        let at = start(&text);
        self.texts.push(text);
        at
    }

    fn expression(&mut self, input: &mut Input<'_>) -> *const portcullis_match {
        if input.byte() == 0 {
            return null();
        }
        let part = self.part(input, 3);
        self.parts.push(Box::new([part]));
        self.parts.last().map_or(null(), |parts| parts.as_ptr())
    }

    fn part(&mut self, input: &mut Input<'_>, levels: usize) -> portcullis_match {
        const SELECTORS: [&[u8]; 4] =
            [b"app == 'db'\0", b"app == 'web' || has(x)\0", b"all()\0", b"!(app in {'a', 'b'})\0"];
        let mut part = portcullis_match {
            kind: input.byte() % 15,
            selector: null(),
            labels: null(),
            label_count: 0,
            name: null(),
            prefix: portcullis_prefix::default(),
            set: 0,
            parts: null(),
            part_count: 0,
        };
        // What the kind wants, or anything.
        let wanted = match (input.byte(), part.kind) {
            (0, _) => input.byte(),
            (_, 3 | 5 | 7 | 8) => 1,
            (_, 4 | 6) => 2,
            (_, 11) => 3,
            (_, 9) => 4,
            (_, 10) => 8,
            (_, 12..) => 16,
            _ => 0,
        };
        if wanted & 1 != 0 {
            let text = match input.byte() {
                0 => input.text(),
                n => Some(SELECTORS[usize::from(n) % SELECTORS.len()].to_vec()),
            };
            part.selector = self.text(text);
            if input.byte() % 4 == 0 {
                let [key, value] = [input.text(), input.text()].map(|text| self.text(text));
                self.labels.push(Box::new([portcullis_label { key, value }]));
                part.labels = self.labels.last().map_or(null(), |labels| labels.as_ptr());
                part.label_count = 1;
                part.selector = if input.byte() == 0 { part.selector } else { null() };
            }
        }
        if wanted & 2 != 0 {
            let text = input.text();
            part.name = self.text(text);
        }
        if wanted & 4 != 0 {
            part.prefix = prefix(input);
        }
        if wanted & 8 != 0 {
            part.set = u32::from(input.byte() % 3);
        }
        if wanted & 16 != 0 && levels > 0 {
            let count = if part.kind == 12 { 1 } else { usize::from(input.byte() % 4) };
            let parts: Box<[_]> = (0..count).map(|_| self.part(input, levels - 1)).collect();
            (part.parts, part.part_count) = (parts.as_ptr(), parts.len());
            self.parts.push(parts);
        }
        part
    }

    /// Two.
    fn traffic(&mut self, input: &mut Input<'_>) -> *const portcullis_traffic {
        let traffic: Box<[_]> = (0..2).map(|_| self.one(input)).collect();
        self.traffic.push(traffic);
        self.traffic.last().map_or(null(), |traffic| traffic.as_ptr())
    }

    fn one(&mut self, input: &mut Input<'_>) -> portcullis_traffic {
        let lists: [_; 4] = std::array::from_fn(|_| {
            let count = input.byte() % 3;
            let one = |input: &mut Input<'_>| portcullis_port_range {
                name: if input.byte() % 4 == 0 { c"dns".as_ptr() } else { null() },
                first: input.number() as u16,
                last: input.number() as u16,
            };
            let ports: Box<[_]> = (0..count).map(|_| one(input)).collect();
            let list = (ports.as_ptr(), ports.len());
            self.ports.push(ports);
            list
        });
        let icmp = |input: &mut Input<'_>| portcullis_icmp {
            given: input.byte() % 9,
            icmp_type: input.byte(),
            icmp_code: input.byte() % 2,
        };
        let icmp = [icmp(input), icmp(input)];
        portcullis_traffic {
            ip_version: [0, 0, 4, 6, 5][usize::from(input.byte() % 5)],
            protocol_match: input.byte() % 4,
            protocol: [0, 6, 17, 1, 58, 132][usize::from(input.byte() % 6)],
            icmp: icmp[0],
            not_icmp: icmp[1],
            source_ports: lists[0].0,
            source_port_count: lists[0].1,
            not_source_ports: lists[1].0,
            not_source_port_count: lists[1].1,
            destination_ports: lists[2].0,
            destination_port_count: lists[2].1,
            not_destination_ports: lists[3].0,
            not_destination_port_count: lists[3].1,
        }
    }
}

fn prefix(input: &mut Input<'_>) -> portcullis_prefix {
    portcullis_prefix { address: input.address(), length: input.byte() % 40 }
}

fn origin(input: &mut Input<'_>, file: &Option<Vec<u8>>) -> portcullis_origin {
    portcullis_origin {
        file: if input.byte() & 1 == 0 { null() } else { start(file) },
        line: input.number() as u32,
        column: input.number() as u32,
    }
}
