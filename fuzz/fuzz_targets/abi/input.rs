//! Arguments, taken from the fuzzer's bytes.

use core::ffi::{CStr, c_char};
use std::ptr::null;

use portcullis_abi::types::*;

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

/// What is worth more than arbitrary bytes: documents, and the name of the set among them.
pub(crate) const TEXTS: [&CStr; 8] = [
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
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            n @ 0..=250 => n.into(),
            251 => u64::MAX,
            252 => 1 << 63,
            253 => u64::from(u32::MAX) + 1,
            254 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            _ => i64::MAX as u64,
        }
    }

    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.byte()).min(most).min(self.0.len());
        let (here, rest) = self.0.split_at(len);
        self.0 = rest;
        here
    }

    /// Text with its NUL, in memory of exactly that size; `None` for NULL.
    pub(crate) fn text(&mut self) -> Option<Vec<u8>> {
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

    pub(crate) fn address(&mut self) -> portcullis_address {
        let family = match self.byte() {
            n @ 0..=8 => n,
            n if n % 2 == 0 => 6,
            _ => 4,
        };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[10, 0, 0, self.byte()]);
        portcullis_address { family, bytes }
    }

    pub(crate) fn flow(&mut self) -> portcullis_flow {
        portcullis_flow {
            source: self.address(),
            destination: self.address(),
            protocol: self.byte(),
            source_port: self.number() as u16,
            destination_port: self.number() as u16,
        }
    }

    /// Room of a size of the fuzzer's choice, filled with what nobody should read as a value.
    pub(crate) fn room(&mut self) -> Vec<u8> {
        vec![0xa5; self.number().min(3000) as usize].into_boxed_slice().into_vec()
    }

    /// The size of a struct: mostly right.
    pub(crate) fn size(&mut self, right: usize) -> usize {
        match self.byte() {
            0 => self.number() as usize,
            1 => right + 8,
            _ => right,
        }
    }
}

pub(crate) fn start(text: &Option<Vec<u8>>) -> *const c_char {
    text.as_ref().map_or(null(), |text| text.as_ptr().cast())
}
