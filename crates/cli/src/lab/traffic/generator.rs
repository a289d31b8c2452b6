//! Makes UDP packets of many flows and puts them on an interface, as if a NIC sent them: the kernel
//! runs a program on frames of its own that writes the headers and redirects them
//! (BPF_PROG_TEST_RUN with live frames, Linux 5.18).

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::PORT;
use super::assembler::{Assembler, If, LOOKUP, NOW, Op, R, REDIRECT, Width};
use super::bpf::{Numbers, Program};

/// Length of generated frames, without the checksum that Ethernet adds: 64 bytes on a cable.
const FRAME: usize = 60;
/// Length of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;
/// First source port.
const FIRST_PORT: i32 = 1024;
const DROP: i32 = 1;
/// How far a paced load may lag behind its time before it gives up catching up, in nanoseconds. What it
/// catches up it sends at once: 10 ms of 400,000 packets a second would fill a ring of 4,096 alone.
const LAG: i32 = 200_000;
/// No packet takes less, whatever the kernel says, in nanoseconds: a call must end some time.
const LEAST: u32 = 20;
/// Packets made by the first call, which tells how long they take.
const FIRST_CALL: u32 = 1024;
/// The time is noted with every so many packets, a power of two.
const NOTED: i32 = 32;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The first interface to send on, by index, and how many with the next indices take turns.
    pub(crate) interface: u32,
    /// See `interface`.
    pub(crate) interfaces: u32,
    /// Packets for one interface before the next has its turn: a power of two.
    pub(crate) turn: u32,
    /// Link-layer addresses: destination, source.
    pub(crate) link: [[u8; 6]; 2],
    /// The first source address, and how many with the next addresses follow (the last 16 bits must
    /// not wrap).
    pub(crate) source: Ipv4Addr,
    /// See `source`.
    pub(crate) sources: u32,
    /// The destination address.
    pub(crate) destination: Ipv4Addr,
    /// Flows, taken in turn: each source has as many, from source ports from 1024 on.
    pub(crate) flows: u32,
    /// Most packets a second, if there is a limit. The kernel makes frames as fast as it can all the
    /// same, and drops those whose time has not come: a core is busy.
    pub(crate) rate: Option<u32>,
    /// Added to [`PORT`] for the destination port.
    pub(crate) stream: u16,
    /// How many streams from that one on take turns, packet by packet.
    pub(crate) streams: u16,
}

/// What was sent, and what that took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
}

/// A load ready to be sent, in the namespace of the thread that sends it.
#[derive(Debug)]
pub(crate) struct Generator {
    /// Packets sent so far.
    counter: Numbers,
    /// When the first packet of the last call was sent and when the last (nanoseconds of
    /// CLOCK_MONOTONIC). The first is 0 before.
    first: Numbers,
    last: Numbers,
    _next: Numbers,
    program: Program,
    /// Nanoseconds a packet, of the last call.
    each: AtomicU32,
}

impl Generator {
    /// Prepares a load.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN.
    pub(crate) fn new(load: &Load) -> io::Result<Self> {
        let counter = Numbers::new(1)?;
        let (first, last, next) = (Numbers::new(1)?, Numbers::new(1)?, Numbers::new(1)?);
        let maps = [&counter, &first, &last, &next].map(Numbers::descriptor);
        let program = Program::load(&program(load, maps))?;
        Ok(Self { counter, first, last, _next: next, program, each: AtomicU32::new(0) })
    }

    /// Sends for about so long. The interface's peer must take redirected frames (it has a native XDP
    /// program, or GRO on).
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub(crate) fn send_for(&self, time: Duration) -> io::Result<Sent> {
        if self.each.load(Ordering::Relaxed) == 0 {
            self.call(FIRST_CALL)?;
        }
        let before = self.packets()?;
        let begin = Instant::now();
        let mut seconds = 0.0;
        loop {
            let left = time.saturating_sub(begin.elapsed()).as_nanos() as u64;
            let packets = left / u64::from(self.each.load(Ordering::Relaxed));
            if packets < FIRST_CALL.into() {
                break;
            }
            seconds += self.call(u32::try_from(packets).unwrap_or(u32::MAX))?;
        }
        Ok(Sent { packets: self.packets()? - before, seconds })
    }

    /// Makes so many packets; answers the seconds between the first and the last.
    fn call(&self, packets: u32) -> io::Result<f64> {
        self.first.write(0, 0)?;
        match self.program.run(&[0; FRAME], packets) {
            Ok(each) => self.each.store(each.max(LEAST), Ordering::Relaxed),
            // A signal ended it early: what was made is counted all the same.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                // Of the first call nothing is known: rather too few in the next than too many.
                self.each.fetch_max(1000, Ordering::Relaxed);
            }
            Err(e) => return Err(e),
        }
        let (first, last) = (self.first.read(0)?, self.last.read(0)?);
        Ok(if first == 0 { 0.0 } else { last.saturating_sub(first) as f64 * 1e-9 })
    }

    /// Packets made so far.
    pub(crate) fn packets(&self) -> io::Result<u64> {
        self.counter.read(0)
    }
}

/// The headers as far as they are the same for all packets of a load.
fn headers(load: &Load) -> [u8; HEADERS] {
    let mut h = [0; HEADERS];
    h[..6].copy_from_slice(&load.link[0]);
    h[6..12].copy_from_slice(&load.link[1]);
    h[12..14].copy_from_slice(&[0x08, 0x00]);
    h[14..16].copy_from_slice(&[0x45, 0]);
    h[16..18].copy_from_slice(&((FRAME - 14) as u16).to_be_bytes());
    // TTL 64, UDP.
    h[22..24].copy_from_slice(&[64, 17]);
    h[26..28].copy_from_slice(&load.source.octets()[..2]);
    h[30..34].copy_from_slice(&load.destination.octets());
    h[36..38].copy_from_slice(&(PORT + load.stream).to_be_bytes());
    h[38..40].copy_from_slice(&((FRAME - 34) as u16).to_be_bytes());
    h
}

/// Headers are written anew into every frame: frames come back, changed by whoever had them.
fn program(load: &Load, [counter, first, last, next]: [i32; 4]) -> Vec<u64> {
    let (context, packet, end, number, flow, low) = (R(6), R(7), R(8), R(9), R(1), R(2));
    let h = headers(load);
    // Of the IPv4 header with the varying half of the source address still zero.
    let sum: u32 = h[14..34].chunks_exact(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let [.., c, d] = load.source.octets();
    let sources = load.sources.max(1) as i32;

    let mut a = Assembler::default();
    a.register(Op::Move, context, R(1)).store_value(Width::B4, R(10), -4, 0);
    if let Some(rate) = load.rate {
        pace(&mut a, next, 1_000_000_000 / rate.max(1));
    }
    find(&mut a, counter);
    a.load(Width::B8, number, R(0), 0)
        .register(Op::Move, R(1), number)
        .value(Op::Add, R(1), 1)
        .store(Width::B8, R(0), 0, R(1));
    note(&mut a, number, first, last);
    a.load(Width::B4, packet, context, 0)
        .load(Width::B4, end, context, 4)
        .register(Op::Move, R(1), packet)
        .value(Op::Add, R(1), HEADERS as i32)
        .out_if_register(If::Greater, R(1), end);
    for (at, word) in (0..).step_by(4).zip(h.chunks_exact(4)) {
        let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        a.store_value(Width::B4, packet, at, word);
    }
    a.store_value(Width::B2, packet, 40, 0)
        .register(Op::Move, flow, number)
        .value(Op::Remainder, flow, load.flows.max(1) as i32)
        .register(Op::Move, low, flow)
        .value(Op::Remainder, low, sources)
        .value(Op::Divide, flow, sources)
        .value(Op::Add, flow, FIRST_PORT)
        .network16(flow)
        .store(Width::B2, packet, 34, flow);
    if load.streams > 1 {
        a.register(Op::Move, R(3), number)
            .value(Op::Remainder, R(3), load.streams.into())
            .value(Op::Add, R(3), (PORT + load.stream).into())
            .network16(R(3))
            .store(Width::B2, packet, 36, R(3));
    }
    a.value(Op::Add, low, i32::from(u16::from_be_bytes([c, d])))
        .register(Op::Move, R(3), low)
        .network16(R(3))
        .store(Width::B2, packet, 28, R(3))
        .value(Op::Add, low, sum as i32);
    for _ in 0..2 {
        a.register(Op::Move, R(3), low)
            .value(Op::ShiftRight, R(3), 16)
            .value(Op::And, low, 0xffff)
            .register(Op::Add, low, R(3));
    }
    a.value(Op::Xor, low, 0xffff)
        .network16(low)
        .store(Width::B2, packet, 24, low)
        .register(Op::Move, R(1), number)
        .value(Op::ShiftRight, R(1), load.turn.max(1).ilog2() as i32)
        .value(Op::Remainder, R(1), load.interfaces.max(1) as i32)
        .value(Op::Add, R(1), load.interface as i32)
        .value(Op::Move, R(2), 0)
        .call(REDIRECT)
        .exit()
        .out(DROP)
}

/// Writes down the time of every [`NOTED`]th packet. Expects a zero at R10 - 4.
fn note(a: &mut Assembler, number: R, first: i32, last: i32) {
    a.register(Op::Move, R(1), number).value(Op::And, R(1), NOTED - 1);
    a.skip_if(If::NotEqual, R(1), 0, |a| {
        let (now, slot) = (R(7), R(0));
        a.call(NOW).register(Op::Move, now, R(0));
        find(a, last);
        a.store(Width::B8, slot, 0, now);
        find(a, first);
        a.load(Width::B8, R(1), slot, 0);
        a.skip_if(If::NotEqual, R(1), 0, |a| {
            a.store(Width::B8, slot, 0, now);
        });
    });
}

/// The place of the number in a map, to R0. Expects a zero at R10 - 4.
fn find(a: &mut Assembler, map: i32) {
    a.register(Op::Move, R(2), R(10)).value(Op::Add, R(2), -4).map(R(1), map).call(LOOKUP).out_if(
        If::Equal,
        R(0),
        0,
    );
}

/// Goes on only when the next packet's time has come, and then sets the time of the one after it.
/// Expects a zero at R10 - 4.
fn pace(a: &mut Assembler, next: i32, interval: u32) {
    let (now, due) = (R(9), R(2));
    a.call(NOW).register(Op::Move, now, R(0));
    find(a, next);
    a.load(Width::B8, due, R(0), 0)
        .out_if_register(If::Greater, due, now)
        // The later of: one interval on, or now but for the lag.
        .value(Op::Add, due, interval as i32)
        .register(Op::Move, R(3), now)
        .value(Op::Sub, R(3), LAG)
        .skip_if_register(If::GreaterOrEqual, due, R(3), |a| {
            a.register(Op::Move, due, R(3));
        })
        .store(Width::B8, R(0), 0, due);
}
