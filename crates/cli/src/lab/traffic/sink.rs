//! Counts generated packets where they arrive, and drops them before the network stack.

use std::io;

use super::assembler::{Assembler, If, LOOKUP, Op, R, Width};
use super::bpf::{Link, Numbers, Program};
use super::{PORT, STREAMS};

const DROP: i32 = 1;
const PASS: i32 = 2;

/// Takes IPv4 UDP packets to [`PORT`] and the next [`STREAMS`] - 1 ports off an interface's way;
/// lets everything else pass.
#[derive(Debug)]
pub(crate) struct Sink {
    counts: Numbers,
    program: Program,
    links: Vec<Link>,
}

impl Sink {
    /// A sink on no interface yet.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN.
    pub(crate) fn new() -> io::Result<Self> {
        let counts = Numbers::new(STREAMS.into())?;
        let program = Program::load(&program(counts.descriptor()))?;
        Ok(Self { counts, program, links: Vec::new() })
    }

    /// Puts it on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// The interface has no native XDP, or another program.
    pub(crate) fn attach(&mut self, interface: u32) -> io::Result<()> {
        self.links.push(self.program.attach(interface)?);
        Ok(())
    }

    /// Packets that came to port [`PORT`] + `stream` so far.
    ///
    /// # Errors
    /// A failed system call.
    pub(crate) fn received(&self, stream: u16) -> io::Result<u64> {
        self.counts.read(stream.into())
    }
}

fn program(counts: i32) -> Vec<u64> {
    let (context, packet, end, stream) = (R(6), R(7), R(8), R(2));
    let mut a = Assembler::default();
    a.register(Op::Move, context, R(1))
        .load(Width::B4, packet, context, 0)
        .load(Width::B4, end, context, 4)
        .register(Op::Move, R(1), packet)
        .value(Op::Add, R(1), 42)
        .out_if_register(If::Greater, R(1), end)
        .load(Width::B2, R(1), packet, 12)
        .out_if(If::NotEqual, R(1), i32::from(0x0800u16.to_be()))
        .load(Width::B1, R(1), packet, 23)
        .out_if(If::NotEqual, R(1), 17)
        .load(Width::B2, stream, packet, 36)
        .network16(stream)
        .value(Op::Sub, stream, PORT.into())
        // Unsigned: ports below have wrapped around.
        .out_if(If::GreaterOrEqual, stream, STREAMS.into())
        .store(Width::B4, R(10), -4, stream)
        .register(Op::Move, R(2), R(10))
        .value(Op::Add, R(2), -4)
        .map(R(1), counts)
        .call(LOOKUP)
        .out_if(If::Equal, R(0), 0)
        .value(Op::Move, R(1), 1)
        .atomic_add(R(0), 0, R(1))
        .value(Op::Move, R(0), DROP)
        .exit()
        .out(PASS)
}
