//! The C ABI, called in any order with any arguments that its documentation allows: pointers are NULL
//! or have behind them exactly what they are said to have, all else is arbitrary. No call may panic, a
//! handle is known from when it was made until it was freed, and the sanitizer watches the memory.
#![no_main]

use core::ffi::{CStr, c_char};
use std::ptr::{null, null_mut, without_provenance_mut};

use portcullis_abi::apply::*;
use portcullis_abi::capture::*;
use portcullis_abi::endpoint::*;
use portcullis_abi::engine::*;
use portcullis_abi::event::*;
use portcullis_abi::explain::*;
use portcullis_abi::firewall::port::*;
use portcullis_abi::firewall::wire::*;
use portcullis_abi::firewall::*;
use portcullis_abi::judge::*;
use portcullis_abi::observe::*;
use portcullis_abi::recorder::*;
use portcullis_abi::set::*;
use portcullis_abi::stage::*;
use portcullis_abi::status::*;
use portcullis_abi::totals::*;
use portcullis_abi::types::*;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut session = Session {
        input: Input(data),
        engines: Vec::new(),
        judges: Vec::new(),
        captures: Vec::new(),
        recorders: Vec::new(),
    };
    for _ in 0..64 {
        if session.input.0.is_empty() {
            break;
        }
        session.call();
    }
    session.end();
});

struct Input<'a>(&'a [u8]);

/// Handles that were made, and whether they live.
type Handles<T> = Vec<(*mut T, bool)>;

struct Session<'a> {
    input: Input<'a>,
    engines: Handles<portcullis_engine>,
    judges: Handles<portcullis_judge>,
    captures: Handles<portcullis_capture>,
    recorders: Handles<portcullis_recorder>,
}

const TEXTS: [&CStr; 8] = [
    c"{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.1}}",
    c"{apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, status: {podIP: 10.0.0.2}}",
    c"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}}",
    c"{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: threat}}, spec: {nets: [10.9.0.0/16]}}",
    c"{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: g}, spec: {selector: all(), types: [Ingress], ingress: [{action: Deny, source: {selector: \"kind == 'threat'\"}}, {action: Allow}]}}",
    c"{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
    c"GlobalNetworkSet//feed",
    c"",
];

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        match self.byte() {
            n @ 0..=250 => n.into(),
            251 => u64::MAX,
            252 => 1 << 63,
            253 => u64::from(u32::MAX) + 1,
            254 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            _ => i64::MAX as u64,
        }
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.byte()).min(most).min(self.0.len());
        let (here, rest) = self.0.split_at(len);
        self.0 = rest;
        here
    }

    /// Text with its NUL, in memory of exactly that size; `None` for NULL.
    fn text(&mut self) -> Option<Vec<u8>> {
        let mut text = match self.byte() {
            0 => return None,
            n @ 1..=8 => TEXTS[usize::from(n - 1)].to_bytes().to_vec(),
            n @ 9..=40 => format!("t{n}").into_bytes(),
            _ => self.bytes(40).to_vec(),
        };
        text.retain(|byte| *byte != 0);
        text.push(0);
        text.shrink_to_fit();
        Some(text)
    }

    fn address(&mut self) -> portcullis_address {
        let family = match self.byte() {
            n @ 0..=8 => n,
            n if n % 2 == 0 => 6,
            _ => 4,
        };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[10, 0, 0, self.byte()]);
        portcullis_address { family, bytes }
    }

    fn flow(&mut self) -> portcullis_flow {
        portcullis_flow {
            source: self.address(),
            destination: self.address(),
            protocol: self.byte(),
            source_port: self.number() as u16,
            destination_port: self.number() as u16,
        }
    }

    /// Room of a size of the fuzzer's choice, filled with what nobody should read as a value.
    fn room(&mut self) -> Vec<u8> {
        vec![0xa5; self.number().min(3000) as usize].into_boxed_slice().into_vec()
    }

    /// The size of a struct: mostly right.
    fn size(&mut self, right: usize) -> usize {
        match self.byte() {
            0 => self.number() as usize,
            1 => right + 8,
            _ => right,
        }
    }
}

fn start(text: &Option<Vec<u8>>) -> *const c_char {
    text.as_ref().map_or(null(), |text| text.as_ptr().cast())
}

/// One of the handles, living or not, or nonsense.
fn pick<T>(input: &mut Input<'_>, handles: &Handles<T>) -> (*mut T, bool) {
    match input.byte() {
        0 => (null_mut(), false),
        1 => (without_provenance_mut(input.number() as usize), false),
        2 => (without_provenance_mut(1 << 63 | 0x151 | (input.number() as usize) << 32), false),
        n => handles
            .get(usize::from(n) % handles.len().max(1))
            .copied()
            .unwrap_or((null_mut(), false)),
    }
}

/// What every answer must be: known, no mistake of the library, and about the handle if that is wrong.
fn check<T>((handle, living): (*mut T, bool), handles: &Handles<T>, status: i32) -> i32 {
    assert!(status != PORTCULLIS_INTERNAL && status != PORTCULLIS_POISONED, "{status}");
    // SAFETY: static text.
    let text = unsafe { CStr::from_ptr(portcullis_status_text(status)) };
    assert_ne!(text, c"unknown status", "{status}");
    if handle.is_null() {
        assert_eq!(status, PORTCULLIS_NULL);
    } else if !living && !handles.contains(&(handle, true)) {
        assert_eq!(status, PORTCULLIS_BAD_HANDLE);
    } else {
        assert_ne!(status, PORTCULLIS_BAD_HANDLE);
    }
    status
}

fn texts(named: &[(Option<Vec<u8>>, Vec<u8>)]) -> Vec<portcullis_text> {
    let one = |(name, data): &(Option<Vec<u8>>, Vec<u8>)| portcullis_text {
        name: start(name),
        data: data.as_ptr(),
        len: data.len(),
    };
    named.iter().map(one).collect()
}

impl Session<'_> {
    fn documents(&mut self) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
        let count = self.input.byte() % 5;
        let one = |input: &mut Input<'_>| {
            let name = if input.byte() == 0 { None } else { Some(b"file\0".to_vec()) };
            let mut data = input.text().unwrap_or_default();
            data.pop();
            data.shrink_to_fit();
            (name, data)
        };
        (0..count).map(|_| one(&mut self.input)).collect()
    }

    fn engine(&mut self) -> (*mut portcullis_engine, bool) {
        pick(&mut self.input, &self.engines)
    }

    fn checked(&self, engine: (*mut portcullis_engine, bool), status: i32) -> i32 {
        check(engine, &self.engines, status)
    }

    fn call(&mut self) {
        match self.input.byte() % 34 {
            0 => self.new_engine(),
            1 => {
                let engine = self.engine();
                let status = portcullis_engine_free(engine.0);
                if !engine.0.is_null() {
                    self.checked(engine, status);
                }
                self.engines.retain(|(handle, _)| *handle != engine.0);
                self.engines.extend((status == 0 && engine.1).then_some((engine.0, false)));
            }
            2 => self.new_judge(),
            3 => {
                let judge = pick(&mut self.input, &self.judges);
                let status = portcullis_judge_free(judge.0);
                if !judge.0.is_null() {
                    check(judge, &self.judges, status);
                }
                self.judges.retain(|(handle, _)| *handle != judge.0);
                self.judges.extend((status == 0 && judge.1).then_some((judge.0, false)));
            }
            4..=6 => self.apply(),
            7 | 8 => self.upsert(),
            9 => self.remove(),
            10 | 11 => self.replace_set(),
            12 | 13 => self.packets(),
            14 => self.flows(),
            15 => self.frames(),
            16 | 17 => self.events(),
            18 => self.totals(),
            19..=21 => self.words(),
            22 => self.firewall(),
            23 => self.new_capture(),
            24 => {
                let capture = pick(&mut self.input, &self.captures);
                let status = portcullis_capture_free(capture.0);
                if !capture.0.is_null() {
                    check(capture, &self.captures, status);
                }
                self.captures.retain(|(handle, _)| *handle != capture.0);
                self.captures.extend((status == 0 && capture.1).then_some((capture.0, false)));
            }
            25 | 26 => self.capture(),
            29 => self.new_recorder(),
            30 => {
                let recorder = pick(&mut self.input, &self.recorders);
                let status = portcullis_recorder_free(recorder.0);
                if !recorder.0.is_null() {
                    check(recorder, &self.recorders, status);
                }
                self.recorders.retain(|(handle, _)| *handle != recorder.0);
                self.recorders.extend((status == 0 && recorder.1).then_some((recorder.0, false)));
            }
            31 | 32 => self.record(),
            27 => self.connections(),
            28 => self.owners(),
            _ => {
                let engine = self.engine();
                let mut fd = -1;
                // SAFETY: there is room.
                let status = unsafe { portcullis_engine_event_fd(engine.0, &mut fd) };
                assert_eq!(self.checked(engine, status) == 0, fd >= 0);
            }
        }
    }

    fn new_engine(&mut self) {
        if self.engines.len() > 6 {
            return;
        }
        let input = &mut self.input;
        let config = portcullis_engine_config {
            struct_size: size_of::<portcullis_engine_config>(),
            connections: match input.number() as usize {
                n @ 1..4096 => n,
                0 => 64,
                n => n | 1 << 40,
            },
            event_capacity: match input.number() as usize {
                n @ 1..4096 => n,
                0 => 64,
                n => n | 1 << 40,
            },
            on_policy_change: input.byte() % 5,
            drop_arp: input.byte() & 1,
            judge_neighbour_discovery: input.byte() & 1,
            pass_non_ip: input.byte() % 3,
            pick_up: input.byte() & 1,
            prove: input.byte() & 1,
            evict_when_full: input.byte() % 3,
            leave_checksums: input.byte() & 1,
            identity_connections: input.number() as u32,
            identity_half_open: input.number() as u32,
            identity_new_per_second: input.number() as u32,
            identity_new_burst: input.number() as u32,
            rejects_per_second: input.number() as u32,
            reject_burst: input.number() as u32,
            tcp_timeout_ms: input.number() as u32,
            udp_timeout_ms: input.number() as u32,
            retention_ms: input.number(),
            denied_burst: input.number() as u32,
        };
        let mut engine = null_mut();
        // SAFETY: the config has the size that it says, and there is room for a handle.
        let status = unsafe { portcullis_engine_new(&config, &mut engine) };
        assert_eq!(status == 0, !engine.is_null());
        assert!(status == 0 || status == PORTCULLIS_BAD_VALUE, "{status}");
        if status == 0 {
            self.engines.push((engine, true));
        }
    }

    fn new_judge(&mut self) {
        if self.judges.len() > 6 {
            return;
        }
        let engine = self.engine();
        let mut judge = null_mut();
        // SAFETY: there is room for a handle.
        let status = unsafe { portcullis_judge_new(engine.0, &mut judge) };
        if self.checked(engine, status) == 0 {
            self.judges.push((judge, true));
        }
    }

    fn apply(&mut self) {
        let engine = self.engine();
        let (cluster, policies) = (self.documents(), self.documents());
        let (c, p) = (texts(&cluster), texts(&policies));
        let mut applied = portcullis_applied {
            struct_size: size_of::<portcullis_applied>(),
            generation: 0,
            policies: 0,
            endpoints: 0,
            identities: 0,
        };
        let mut buffer = self.input.room();
        let (mut needed, mut changes) = (0, 0);
        let what = self.input.byte() % 10;
        let (c_start, c_count) = (c.as_ptr(), c.len());
        // SAFETY: so many texts, each with its bytes; room for what is written.
        let status = unsafe {
            match what {
                8 => portcullis_engine_stage(engine.0, p.as_ptr(), p.len()),
                9 => portcullis_engine_unstage(engine.0)
                    .max(portcullis_engine_staged(engine.0, &mut needed)),
                0 => portcullis_engine_set_cluster(engine.0, c_start, c_count, &mut applied),
                1 => portcullis_engine_diff(
                    engine.0,
                    if c.is_empty() { null() } else { c_start },
                    c_count,
                    p.as_ptr(),
                    p.len(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    &mut needed,
                    &mut changes,
                ),
                _ => portcullis_engine_apply(
                    engine.0,
                    c_start,
                    c_count,
                    p.as_ptr(),
                    p.len(),
                    if what == 2 { null_mut() } else { &mut applied },
                ),
            }
        };
        self.checked(engine, status);
    }

    fn upsert(&mut self) {
        let engine = self.engine();
        let input = &mut self.input;
        let count = usize::from(input.byte() % 4);
        let size = size_of::<portcullis_endpoint>() + 8 * usize::from(input.byte() % 3);
        let mut kept = Vec::new();
        let mut bytes = vec![0u8; size * count];
        let mut addresses = Vec::new();
        let mut labels = Vec::new();
        let mut ports = Vec::new();
        for at in 0..count {
            let texts: [_; 8] = std::array::from_fn(|_| input.text());
            let p = texts.each_ref().map(start);
            let label = [
                portcullis_label { key: p[4], value: p[5] },
                portcullis_label { key: p[6], value: p[5] },
            ];
            labels.push(label.to_vec());
            let port = portcullis_named_port { name: p[7], protocol: input.byte(), port: 80 };
            ports.push(vec![port]);
            addresses.push(vec![input.address(), input.address()]);
            let endpoint = portcullis_endpoint {
                namespace_name: p[0],
                name: p[1],
                service_account: p[2],
                node: p[3],
                labels: labels[at].as_ptr(),
                label_count: usize::from(input.byte() % 3),
                named_ports: ports[at].as_ptr(),
                named_port_count: usize::from(input.byte() % 2),
                addresses: addresses[at].as_ptr(),
                address_count: usize::from(input.byte() % 3),
                host_network: input.byte() % 3,
            };
            kept.push(texts);
            // SAFETY: there is room for one at this place.
            unsafe {
                bytes
                    .as_mut_ptr()
                    .add(at * size)
                    .cast::<portcullis_endpoint>()
                    .write_unaligned(endpoint);
            }
        }
        let endpoints = if count == 0 { null() } else { bytes.as_ptr().cast() };
        let mut done = usize::MAX;
        // SAFETY: so many endpoints of that size, whose pointers are NULL or point to what is said.
        let status = unsafe {
            match input.byte() % 4 {
                0 => portcullis_engine_replace_endpoints(engine.0, endpoints, size, count),
                _ => {
                    portcullis_engine_upsert_endpoints(engine.0, endpoints, size, count, &mut done)
                }
            }
        };
        self.checked(engine, status);
    }

    fn remove(&mut self) {
        let engine = self.engine();
        let texts: [_; 4] = std::array::from_fn(|_| self.input.text());
        let p = texts.each_ref().map(start);
        let names = [
            portcullis_endpoint_name { namespace_name: p[0], name: p[1] },
            portcullis_endpoint_name { namespace_name: p[2], name: p[3] },
        ];
        let count = usize::from(self.input.byte() % 3);
        let mut removed = 0;
        // SAFETY: so many names.
        let status = unsafe {
            portcullis_engine_remove_endpoints(engine.0, names.as_ptr(), count, &mut removed)
        };
        self.checked(engine, status);
    }

    fn replace_set(&mut self) {
        let engine = self.engine();
        let input = &mut self.input;
        let name = match input.byte() {
            0 => input.text(),
            _ => Some(TEXTS[6].to_bytes_with_nul().to_vec()),
        };
        let mut prefixes = Vec::new();
        for _ in 0..input.byte() % 8 {
            let (address, length) = (input.address(), input.byte() % 40);
            prefixes.push(portcullis_prefix { address, length });
        }
        let mut forgotten = 7;
        // SAFETY: so many prefixes; the name ends with NUL or is NULL.
        let status = unsafe {
            match input.byte() % 8 {
                0 => portcullis_engine_forget_set(engine.0, start(&name), &mut forgotten),
                _ => portcullis_engine_replace_set(
                    engine.0,
                    start(&name),
                    prefixes.as_ptr(),
                    prefixes.len(),
                ),
            }
        };
        self.checked(engine, status);
    }

    fn packets(&mut self) {
        let judge = pick(&mut self.input, &self.judges);
        let input = &mut self.input;
        let mut data = Vec::new();
        for _ in 0..input.byte() % 80 {
            let packet = match input.byte() {
                0..=100 => {
                    let mut frame = vec![0; 54];
                    frame[12] = 8;
                    frame[14..24].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
                    frame[20] = input.byte() & 0x20;
                    frame[21] = input.byte() & 0x03;
                    frame[26..34].copy_from_slice(&[
                        10,
                        0,
                        0,
                        input.byte(),
                        10,
                        0,
                        0,
                        input.byte(),
                    ]);
                    frame[36..38].copy_from_slice(&5432_u16.to_be_bytes());
                    frame[46..48].copy_from_slice(&[0x50, input.byte()]);
                    frame
                }
                _ => input.bytes(200).to_vec(),
            };
            data.push(packet.into_boxed_slice());
        }
        let packet = |data: &Box<[u8]>| portcullis_packet {
            data: data.as_ptr(),
            len: data.len(),
            wire_len: 0,
        };
        let mut packets: Vec<_> = data.iter().map(packet).collect();
        if let Some(first) = packets.first_mut() {
            first.wire_len = input.number() as usize;
            if input.byte() == 0 {
                first.data = null();
            }
        }
        let mut out =
            vec![portcullis_judgement { verdict: 77, ..Default::default() }; packets.len()];
        let now = input.number();
        // SAFETY: so many packets, each NULL or with its bytes; room for as many judgements.
        let status = unsafe {
            portcullis_judge_packets(
                judge.0,
                now,
                packets.as_ptr(),
                packets.len(),
                out.as_mut_ptr(),
            )
        };
        let judged = check(judge, &self.judges, status) == 0;
        assert!(out.iter().all(|out| (out.verdict != 77) == judged), "written only on success");
    }

    fn flows(&mut self) {
        let judge = pick(&mut self.input, &self.judges);
        let count = self.input.byte() % 80;
        let flows: Vec<_> = (0..count).map(|_| self.input.flow()).collect();
        let mut out = vec![portcullis_judgement { verdict: 77, ..Default::default() }; flows.len()];
        // SAFETY: so many flows, and room for as many judgements.
        let status = unsafe {
            portcullis_judge_flows(judge.0, flows.as_ptr(), flows.len(), out.as_mut_ptr())
        };
        let judged = check(judge, &self.judges, status) == 0;
        assert!(out.iter().all(|out| (out.verdict != 77) == judged), "written only on success");
    }

    fn frames(&mut self) {
        let judge = pick(&mut self.input, &self.judges);
        let size = self.input.size(size_of::<portcullis_frame>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut frames = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let mut bytes = self.input.room();
        let (mut count, mut waiting) = (99, 0);
        // SAFETY: room for so many frames and bytes; a size beyond 4096 is refused.
        let status = unsafe {
            portcullis_judge_frames(
                judge.0,
                frames.as_mut_ptr().cast(),
                size,
                if size > 4096 { 1 } else { capacity },
                bytes.as_mut_ptr(),
                bytes.len(),
                &mut count,
                &mut waiting,
            )
        };
        if check(judge, &self.judges, status) == 0 {
            assert!(count <= capacity);
        }
    }

    fn events(&mut self) {
        let engine = self.engine();
        let size = self.input.size(size_of::<portcullis_event>());
        let capacity = usize::from(self.input.byte() % 40);
        let mut events = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let mut text = self.input.room();
        let mut count = 99;
        // SAFETY: room for so many events and bytes; a size beyond 4096 is refused.
        let status = unsafe {
            portcullis_engine_events(
                engine.0,
                events.as_mut_ptr().cast(),
                size,
                if size > 4096 { 1 } else { capacity },
                text.as_mut_ptr().cast(),
                text.len(),
                &mut count,
            )
        };
        if self.checked(engine, status) != 0 {
            return;
        }
        assert!(count <= capacity);
        for at in 0..count {
            let event = events.as_ptr().cast::<u8>().wrapping_add(at * size);
            // SAFETY: an event was written there.
            let event = unsafe { event.cast::<portcullis_event>().read_unaligned() };
            for start in [event.policy, event.origin, event.source_name, event.destination_labels] {
                if !start.is_null() {
                    // SAFETY: it points to text with a NUL in the buffer.
                    assert!(unsafe { CStr::from_ptr(start) }.to_str().is_ok());
                }
            }
        }
    }

    fn totals(&mut self) {
        let engine = self.engine();
        let mut totals = vec![0u64; 64];
        let size = self.input.size(size_of::<portcullis_totals>());
        // A size that is too large for the room would be a lie.
        totals[0] = if size > 512 && size <= 4096 { 512 } else { size as u64 };
        let mut counts = vec![0u64; usize::from(self.input.byte())];
        let mut count = 0;
        let applied = self.input.byte() % 3 == 0;
        // SAFETY: room for what is said.
        let status = unsafe {
            match applied {
                true => portcullis_engine_applied(engine.0, totals.as_mut_ptr().cast()),
                false => portcullis_engine_totals(engine.0, totals.as_mut_ptr().cast()),
            }
        };
        self.checked(engine, status);
        // SAFETY: room for what is said.
        let status = unsafe {
            portcullis_engine_drops(engine.0, counts.as_mut_ptr(), counts.len(), &mut count)
        };
        self.checked(engine, status);
        let size = self.input.size(size_of::<portcullis_rule_totals>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut rules = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let capacity = if size > 4096 { 1 } else { capacity };
        let start = rules.as_mut_ptr().cast();
        // SAFETY: room for so many rules; a size beyond 4096 is refused.
        let status =
            unsafe { portcullis_engine_rule_totals(engine.0, start, size, capacity, &mut count) };
        self.checked(engine, status);
    }

    fn words(&mut self) {
        let engine = self.engine();
        let mut buffer = self.input.room();
        let (start, size) = (buffer.as_mut_ptr().cast::<c_char>(), buffer.len());
        let mut needed = 0;
        let flow = self.input.flow();
        let rule = self.input.number() as u32;
        let what = self.input.byte() % 6;
        // SAFETY: so much room.
        let status = unsafe {
            match what {
                0 => portcullis_engine_error(engine.0, start, size, &mut needed),
                1 => portcullis_engine_warnings(engine.0, start, size, &mut needed),
                2 => portcullis_engine_sets(engine.0, start, size, &mut needed),
                3 => portcullis_engine_rule(engine.0, rule, start, size, &mut needed),
                _ => portcullis_engine_explain(engine.0, &flow, start, size, &mut needed),
            }
        };
        if self.checked(engine, status) == 0 && size > 0 {
            let text = &buffer[..needed];
            assert!(CStr::from_bytes_with_nul(text).is_ok_and(|text| text.to_str().is_ok()));
        } else {
            assert!(buffer.iter().all(|byte| *byte == 0xa5), "written only on success");
        }
    }

    fn new_recorder(&mut self) {
        if self.recorders.len() > 6 {
            return;
        }
        let engine = self.engine();
        let keep = self.input.text();
        let config = portcullis_recorder_config {
            struct_size: size_of::<portcullis_recorder_config>(),
            keep: match self.input.byte() % 3 {
                0 => start(&keep),
                1 => null(),
                _ => c"1/3".as_ptr(),
            },
            update_ms: self.input.number() as u32,
            denied_ms: self.input.number() as u32,
            denied_kinds: self.input.number().min(5000) as u32,
            capacity: self.input.number() as u32,
        };
        let mut recorder = null_mut();
        // SAFETY: the settings have the size that they say, and there is room for a handle.
        let status = unsafe { portcullis_recorder_new(engine.0, &config, &mut recorder) };
        assert_eq!(status == 0, !recorder.is_null());
        if self.checked(engine, status) == 0 {
            self.recorders.push((recorder, true));
        }
    }

    fn record(&mut self) {
        let recorder = pick(&mut self.input, &self.recorders);
        if self.input.byte() % 4 == 0 {
            let status = portcullis_recorder_finish(recorder.0);
            check(recorder, &self.recorders, status);
        }
        let mut room = self.input.room();
        let (mut written, mut lost) = (0, 0);
        // SAFETY: so much room.
        let status = unsafe {
            portcullis_recorder_read(
                recorder.0,
                room.as_mut_ptr().cast(),
                room.len(),
                &mut written,
                &mut lost,
            )
        };
        if check(recorder, &self.recorders, status) == 0 && written > 0 {
            let text = std::str::from_utf8(&room[..written]).expect("text");
            assert!(text.ends_with('\n') && text.lines().all(|line| line.starts_with('{')));
        }
    }

    fn new_capture(&mut self) {
        let engine = self.engine();
        let input = &mut self.input;
        let reasons = input.bytes(3);
        let addresses = [input.address(), input.address()];
        let filter = portcullis_capture_filter {
            struct_size: size_of::<portcullis_capture_filter>(),
            reasons: if reasons.is_empty() { null() } else { reasons.as_ptr() },
            reason_count: reasons.len(),
            addresses: addresses.as_ptr(),
            address_count: usize::from(input.byte() % 3),
            snap: input.number() as u32,
            verdicts: input.byte() % 10,
        };
        let filter: *const _ = if input.byte() == 0 { null() } else { &filter };
        let old = pick(input, &self.captures);
        // SAFETY: NULL, or a filter of the size that it says, with so many values.
        let status = unsafe { portcullis_capture_set_filter(old.0, filter) };
        check(old, &self.captures, status);
        let mut capture = null_mut();
        // SAFETY: as above, and there is room for a handle.
        let status = unsafe { portcullis_capture_new(engine.0, filter, &mut capture) };
        assert_eq!(status == 0, !capture.is_null());
        if self.checked(engine, status) == 0 {
            self.captures.push((capture, true));
        }
    }

    fn capture(&mut self) {
        let capture = pick(&mut self.input, &self.captures);
        let status = portcullis_capture_allow(capture.0, self.input.number() as u32);
        check(capture, &self.captures, status);
        let (mut lost, mut over) = (0, 0);
        // SAFETY: there is room.
        let status = unsafe { portcullis_capture_lost(capture.0, &mut lost, &mut over) };
        check(capture, &self.captures, status);
        let size = self.input.size(size_of::<portcullis_captured>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut packets = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let mut bytes = self.input.room();
        let (mut count, mut waiting) = (99, 0);
        // SAFETY: room for so many packets and bytes; a size beyond 4096 is refused.
        let status = unsafe {
            portcullis_capture_packets(
                capture.0,
                packets.as_mut_ptr().cast(),
                size,
                if size > 4096 { 1 } else { capacity },
                bytes.as_mut_ptr(),
                bytes.len(),
                &mut count,
                &mut waiting,
            )
        };
        if check(capture, &self.captures, status) == 0 {
            // There is no worker that copies.
            assert!(count == 0 && waiting == 0 && lost == 0);
        }
    }

    fn connections(&mut self) {
        let engine = self.engine();
        let size = self.input.size(size_of::<portcullis_connection>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut room = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let (start, mut count) = (room.as_mut_ptr().cast(), 0);
        let capacity = if size > 4096 { 1 } else { capacity };
        // SAFETY: room for so many; a size beyond 4096 is refused.
        let status =
            unsafe { portcullis_engine_connections(engine.0, start, size, capacity, &mut count) };
        self.checked(engine, status);
        let mut bounds = vec![0; usize::from(self.input.byte() % 20)];
        let mut counts = bounds.clone();
        let (mut count, mut sum) = (0, 9);
        // SAFETY: room for so many numbers.
        let status = unsafe {
            portcullis_engine_rounds(
                engine.0,
                bounds.as_mut_ptr(),
                counts.as_mut_ptr(),
                bounds.len(),
                &mut count,
                &mut sum,
            )
        };
        if self.checked(engine, status) == 0 {
            let bounds = &bounds[..count.min(bounds.len())];
            assert!(sum == 0 && bounds.is_sorted() && counts.iter().all(|count| *count == 0));
        }
        let mut regions = 0;
        // SAFETY: there is room.
        let status = unsafe { portcullis_engine_prove(engine.0, &mut regions) };
        assert_ne!(self.checked(engine, status), PORTCULLIS_PROOF, "compiled wrongly");
    }

    fn owners(&mut self) {
        let engine = self.engine();
        let mut buffer = self.input.room();
        let (start_of, size) = (buffer.as_mut_ptr().cast::<c_char>(), buffer.len());
        let (address, mut needed) = (self.input.address(), 0);
        // SAFETY: an address, and so much room.
        let status =
            unsafe { portcullis_engine_owner(engine.0, &address, start_of, size, &mut needed) };
        if self.checked(engine, status) == 0 && size > 0 {
            assert!(CStr::from_bytes_with_nul(&buffer[..needed]).is_ok());
        } else {
            assert!(buffer.iter().all(|byte| *byte == 0xa5), "written only on success");
        }
        let (namespace, name) = (self.input.text(), self.input.text());
        let mut room = vec![portcullis_address::default(); usize::from(self.input.byte() % 4)];
        let mut count = 0;
        // SAFETY: the names end with NUL or are NULL, and there is so much room.
        let status = unsafe {
            portcullis_engine_addresses(
                engine.0,
                start(&namespace),
                start(&name),
                room.as_mut_ptr(),
                room.len(),
                &mut count,
            )
        };
        if self.checked(engine, status) == 0 {
            let written = &room[..count.min(room.len())];
            assert!(written.iter().all(|address| matches!(address.family, 4 | 6)));
        }
    }

    fn firewall(&mut self) {
        let firewall = without_provenance_mut(self.input.number() as usize);
        let mut buffer = [0; 8];
        let mut needed = 0;
        let status = portcullis_firewall_stop(firewall);
        assert_eq!(status == 0, firewall.is_null());
        // SAFETY: there is room.
        let status = unsafe {
            portcullis_firewall_lesser_mode(firewall, buffer.as_mut_ptr(), 8, &mut needed)
        };
        assert!(status == PORTCULLIS_NULL || status == PORTCULLIS_BAD_HANDLE);
        let mut room = [0u64; 32];
        let (room, mut count) = (room.as_mut_ptr(), 0);
        let size = self.input.size(64);
        let text = self.input.text();
        let wire = portcullis_wire {
            struct_size: size_of::<portcullis_wire>(),
            a: start(&text),
            b: null(),
            name: start(&text),
            small_rings: self.input.byte(),
            others: null(),
            other_count: 0,
        };
        // SAFETY: the texts end with NUL or are NULL.
        let (status, other) = unsafe {
            (
                portcullis_firewall_add_wire(firewall, &wire),
                portcullis_firewall_remove_wire(firewall, wire.name),
            )
        };
        assert_eq!(status, other);
        // SAFETY: no handle of a firewall is ever good, so that nothing is written.
        let status = unsafe {
            match size % 4 {
                0 => portcullis_firewall_sockets(firewall, room.cast(), size, 1, &mut count),
                1 => portcullis_firewall_programs(firewall, room.cast(), size, 1, &mut count),
                _ => portcullis_firewall_port_changes(firewall, room.cast(), size, 1, &mut count),
            }
        };
        assert!(status == PORTCULLIS_NULL || status == PORTCULLIS_BAD_HANDLE);
    }

    fn end(self) {
        for (recorder, living) in self.recorders {
            assert_eq!(portcullis_recorder_free(recorder) == 0, living);
        }
        for (capture, living) in self.captures {
            assert_eq!(portcullis_capture_free(capture) == 0, living);
        }
        for (judge, living) in self.judges {
            assert_eq!(portcullis_judge_free(judge) == 0, living);
        }
        for (engine, living) in self.engines {
            assert_eq!(portcullis_engine_free(engine) == 0, living);
        }
    }
}
