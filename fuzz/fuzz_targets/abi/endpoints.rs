//! Endpoints and their labels, ports and addresses.

use std::ptr::null;

use portcullis_abi::endpoint::*;

use crate::Session;
use crate::input::start;

impl Session<'_> {
    pub(crate) fn upsert(&mut self) {
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
        self.engines.check(engine, status);
    }

    pub(crate) fn remove(&mut self) {
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
        self.engines.check(engine, status);
    }
}
