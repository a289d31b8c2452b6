//! Network namespaces with links in them, and frames that are counted.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use portcullis_bpf::{Attach, Error, Interface, Kind, Program, Programs, Settings, Verdict};

/// Runs a test in a network namespace of its own; says so aloud where that is not permitted.
pub(crate) fn in_a_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: no pointers are passed; the thread ends with the test.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                eprintln!("skipped: {}", std::io::Error::last_os_error());
                return;
            }
            let lo = Interface::by_name("lo").unwrap();
            match Programs::default().load(&lo, &Settings::default()) {
                Err(Error::NotPermitted { .. }) => eprintln!("skipped: needs CAP_BPF"),
                answer => {
                    answer.unwrap();
                    test();
                }
            }
        });
    });
}

pub(crate) fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A link between two interfaces, up.
pub(crate) fn link(one: &str, other: &str) {
    ip(&format!("link add name {one} type veth peer name {other}"));
    for end in [one, other] {
        ip(&format!("link set {end} up"));
    }
}

/// The program on an interface, in native mode.
pub(crate) fn load(programs: &Programs, interface: &str, settings: &Settings) -> Program {
    load_in(Attach::Native, programs, interface, settings)
}

/// As [`load`], in this mode.
pub(crate) fn load_in(
    mode: Attach,
    programs: &Programs,
    interface: &str,
    settings: &Settings,
) -> Program {
    let interface = Interface::by_name(interface).unwrap();
    let mut program = programs.load(&interface, settings).unwrap();
    // What another thread starts meanwhile has a predecessor's link open for a moment.
    for _ in 0..100 {
        match program.attach(&interface, mode, None) {
            Err(Error::Occupied { .. }) => thread::sleep(Duration::from_millis(10)),
            answer => {
                answer.unwrap();
                return program;
            }
        }
    }
    panic!("port {} stays occupied", interface.name());
}

thread_local! {
    /// One for all frames that a thread sends: closing it takes the kernel a while.
    static SOCKET: OwnedFd = {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: opened above, owned by nobody else.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
}

/// Sends frames that no network stack makes by itself.
pub(crate) fn send(interface: &str, count: usize) {
    let name = CString::new(interface).unwrap();
    // SAFETY: all zeroes is a valid address.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    // SAFETY: the name is NUL-terminated.
    to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    let mut frame = [0u8; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for _ in 0..count {
        // SAFETY: frame and address live through the call and their sizes are given.
        let sent = SOCKET.with(|socket| unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        });
        assert_eq!(sent, 60, "{}", std::io::Error::last_os_error());
    }
}

/// Such frames by where they went, once there are `sum` of them.
pub(crate) fn counts(program: &Program, sum: u64) -> Vec<(Verdict, u64)> {
    let mut all = Vec::new();
    for _ in 0..200 {
        let counters = program.counters().unwrap();
        let count = |verdict| (verdict, counters.of(verdict, Kind::Other).packets);
        all = Verdict::ALL.map(count).into_iter().filter(|(_, packets)| *packets > 0).collect();
        if all.iter().map(|(_, packets)| packets).sum::<u64>() >= sum {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    all
}
