//! Address spaces of their own.

use std::ptr::null_mut;

use portcullis_abi::apply::portcullis_applied;
use portcullis_abi::endpoint::*;
use portcullis_abi::zone::*;

use crate::Session;
use crate::apply::texts;
use crate::input::start;

impl Session<'_> {
    pub(crate) fn zone(&mut self) {
        let engine = self.engine();
        let zone = u16::from(self.input.byte() % 4);
        let (cluster, policies) = (self.documents(), self.documents());
        let (c, p) = (texts(&cluster), texts(&policies));
        let (namespace, name) = (self.input.text(), self.input.text());
        let names =
            [portcullis_endpoint_name { namespace_name: start(&namespace), name: start(&name) }];
        let mut applied = portcullis_applied {
            struct_size: size_of::<portcullis_applied>(),
            generation: 0,
            policies: 0,
            endpoints: 0,
            identities: 0,
        };
        let flow = self.input.flow();
        let mut buffer = self.input.room();
        let (mut numbers, mut count, mut verdict, mut needed) = ([0; 2], 0, 9, 0);
        let what = self.input.byte() % 8;
        // SAFETY: so many texts, each with its bytes; room for what is written.
        let status = unsafe {
            match what {
                0 => portcullis_zone_remove(engine.0, zone, null_mut()),
                1 => {
                    portcullis_zone_remove_endpoints(engine.0, zone, names.as_ptr(), 1, &mut count)
                }
                2 => portcullis_zone_applied(engine.0, zone, &mut applied),
                3 => portcullis_zone_evaluate(
                    engine.0,
                    zone,
                    &flow,
                    &mut verdict,
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    &mut needed,
                ),
                4 => portcullis_engine_zones(engine.0, numbers.as_mut_ptr(), 2, &mut count),
                _ => portcullis_zone_apply(
                    engine.0,
                    zone,
                    c.as_ptr(),
                    c.len(),
                    p.as_ptr(),
                    p.len(),
                    if what == 5 { null_mut() } else { &mut applied },
                ),
            }
        };
        let written = self.engines.check(engine, status) == 0 && what == 3;
        assert_eq!(verdict < 9, written, "written only on success");
    }
}
