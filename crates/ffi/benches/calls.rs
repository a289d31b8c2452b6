//! What judging through C costs over judging in Rust: the facade linked into this program, and
//! `libportcullis.so` opened at run time, judge the same packets by the same policies in turns.
//!
//! `cargo bench -p portcullis-ffi --bench calls`; one line of JSON for each batch size and packet size.
//! The thread's own CPU time, medians of paired rounds.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;

use portcullis_core::Engine;
use portcullis_core::dataplane::pipeline::{Input, Judgement};
use portcullis_core::policy::{Source, parse_cluster, parse_policies};

const CLUSTER: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, status: {podIP: 10.0.0.2}}
";
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
";

/// Connections that the packets belong to.
const CONNECTIONS: usize = 4096;
const ROUNDS: usize = 41;
/// Packets judged by each side in a round.
const A_ROUND: usize = 64 * CONNECTIONS;

fn main() {
    // Cargo says `--bench`; `cargo test --benches` does not, and only wants to know that it runs.
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, a_round) = if quick { (1, CONNECTIONS) } else { (ROUNDS, A_ROUND) };
    let library = Library::open();
    for size in [64, 1500] {
        let frames: Vec<Vec<u8>> = (0..CONNECTIONS).map(|n| frame(n, ACK, size)).collect();
        let mut rust = Rust::new();
        let mut c = library.judge();
        for flags in [SYN, SYN_ACK] {
            let opening: Vec<Vec<u8>> = (0..CONNECTIONS).map(|n| frame(n, flags, 54)).collect();
            rust.judge(&opening, 256);
            c.judge(&opening, 256);
        }
        for batch in [1, 32, 256] {
            let mut times = Vec::new();
            for round in 0..=rounds {
                let a = rust.time(&frames, batch, a_round);
                let b = c.time(&frames, batch, a_round);
                // The first warms up.
                if round > 0 {
                    times.push((a, b));
                }
            }
            let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
                let mut values: Vec<f64> = times.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            println!(
                "{{\"bytes\":{size},\"batch\":{batch},\"rust_ns\":{:.1},\"c_ns\":{:.1},\"ratio\":{:.3}}}",
                median(&|t| t.0),
                median(&|t| t.1),
                median(&|t| t.1 / t.0),
            );
        }
    }
}

trait Side {
    /// Judges all frames once; panics unless all pass.
    fn judge(&mut self, frames: &[Vec<u8>], batch: usize);

    /// Nanoseconds a packet.
    fn time(&mut self, frames: &[Vec<u8>], batch: usize, packets: usize) -> f64 {
        let start = cpu_time();
        for _ in 0..packets / frames.len() {
            self.judge(frames, batch);
        }
        (cpu_time() - start) / packets as f64
    }
}

struct Rust(portcullis_core::Judge);

impl Rust {
    fn new() -> Self {
        let engine = Engine::new(Default::default()).unwrap();
        let cluster = parse_cluster(&[Source::new("cluster", CLUSTER)]).unwrap().value;
        engine
            .apply(cluster, parse_policies(&[Source::new("policies", POLICIES)]).unwrap().value)
            .unwrap();
        Self(engine.judge())
    }
}

impl Side for Rust {
    fn judge(&mut self, frames: &[Vec<u8>], batch: usize) {
        let mut inputs = [Input::default(); 256];
        let mut out = [Judgement::default(); 256];
        for frames in frames.chunks(batch) {
            for (input, frame) in inputs.iter_mut().zip(frames) {
                *input = Input::new(frame);
            }
            assert_eq!(self.0.packets(&inputs[..frames.len()], &mut out), frames.len());
            assert!(out[..frames.len()].iter().all(|judgement| judgement.verdict as u8 == 0));
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Packet(*const u8, usize, usize);
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Out {
    verdict: u8,
    rest: [u8; 3],
    numbers: [u32; 3],
}
#[repr(C)]
struct Text(*const c_char, *const u8, usize);

type EngineNew = unsafe extern "C" fn(*const c_void, *mut *mut c_void) -> i32;
type Apply =
    unsafe extern "C" fn(*mut c_void, *const Text, usize, *const Text, usize, *mut c_void) -> i32;
type JudgePackets = unsafe extern "C" fn(*mut c_void, u64, *const Packet, usize, *mut Out) -> i32;

struct Library(*mut c_void);

struct C {
    judge: *mut c_void,
    packets: JudgePackets,
}

impl Library {
    fn open() -> Self {
        // Beside this program: target/release/deps/calls-... and target/release/libportcullis.so.
        let found =
            std::env::var_os("PORTCULLIS_LIBRARY").map(PathBuf::from).unwrap_or_else(|| {
                let mut path = std::env::current_exe().unwrap();
                path.pop();
                path.pop();
                path.join("libportcullis.so")
            });
        let mut path = found.into_os_string().into_encoded_bytes();
        path.push(0);
        // SAFETY: the path ends with NUL, and 2 is RTLD_NOW.
        let library = unsafe { dlopen(path.as_ptr().cast(), 2) };
        assert!(!library.is_null(), "cannot open {}", String::from_utf8_lossy(&path));
        Self(library)
    }

    /// # Safety
    /// `F` is the function's type.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: the library is open, the name ends with NUL.
        let address = unsafe { dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "no function {name:?}");
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: by this function's contract.
        unsafe { std::mem::transmute_copy(&address) }
    }

    fn judge(&self) -> C {
        // SAFETY: as the header has it.
        let engine_new: EngineNew = unsafe { self.function(c"portcullis_engine_new") };
        // SAFETY: as the header has it.
        let apply: Apply = unsafe { self.function(c"portcullis_engine_apply") };
        // SAFETY: as the header has it.
        let judge_new: EngineNew = unsafe { self.function(c"portcullis_judge_new") };
        // SAFETY: as the header has it.
        let packets = unsafe { self.function(c"portcullis_judge_packets") };
        let (mut engine, mut judge) = (std::ptr::null_mut(), std::ptr::null_mut());
        let text = |text: &'static str| Text(c"text".as_ptr(), text.as_ptr(), text.len());
        // SAFETY: NULL is all defaults, and there is room for a handle.
        assert_eq!(unsafe { engine_new(std::ptr::null(), &mut engine) }, 0);
        let (cluster, policies) = (text(CLUSTER), text(POLICIES));
        // SAFETY: one text each, which live long enough.
        let status = unsafe { apply(engine, &cluster, 1, &policies, 1, std::ptr::null_mut()) };
        assert_eq!(status, 0);
        // SAFETY: there is room for a handle.
        assert_eq!(unsafe { judge_new(engine, &mut judge) }, 0);
        C { judge, packets }
    }
}

impl Side for C {
    fn judge(&mut self, frames: &[Vec<u8>], batch: usize) {
        let mut packets = [Packet(std::ptr::null(), 0, 0); 256];
        let mut out = [Out::default(); 256];
        for frames in frames.chunks(batch) {
            for (packet, frame) in packets.iter_mut().zip(frames) {
                *packet = Packet(frame.as_ptr(), frame.len(), frame.len());
            }
            // SAFETY: so many packets, each with its bytes, and room for as many judgements.
            let status = unsafe {
                (self.packets)(self.judge, 0, packets.as_ptr(), frames.len(), out.as_mut_ptr())
            };
            assert_eq!(status, 0);
            assert!(out[..frames.len()].iter().all(|judgement| judgement.verdict == 0));
        }
    }
}

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

/// A TCP segment of connection `n`, `size` bytes with its Ethernet header. A SYN-ACK comes from the
/// other side.
fn frame(n: usize, flags: u8, size: usize) -> Vec<u8> {
    let mut frame = vec![0; size];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((size - 14) as u16).to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..36].copy_from_slice(&(1024 + n as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&5432_u16.to_be_bytes());
    frame[38..42].copy_from_slice(&(100 + u32::from(flags == ACK)).to_be_bytes());
    frame[42..46].copy_from_slice(&101_u32.to_be_bytes());
    frame[46..50].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    if flags == SYN_ACK {
        frame[26..34].rotate_left(4);
        frame[34..38].rotate_left(2);
    }
    frame
}

/// The thread's own time, in nanoseconds.
fn cpu_time() -> f64 {
    #[repr(C)]
    struct Time(i64, i64);
    unsafe extern "C" {
        fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
    }
    let mut time = Time(0, 0);
    // SAFETY: there is room for the time; 3 is CLOCK_THREAD_CPUTIME_ID.
    assert_eq!(unsafe { clock_gettime(3, &mut time) }, 0);
    time.0 as f64 * 1e9 + time.1 as f64
}

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
