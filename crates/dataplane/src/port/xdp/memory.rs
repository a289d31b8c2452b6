//! Where packet memory lies: on which node of the machine, in pages of which size.

use std::ffi::{c_int, c_long, c_ulong};
use std::fmt;
use std::fs;
use std::io;
use std::ptr;

use portcullis_bpf::Interface;

use super::Error;

/// Whether the UMEM is to lie in huge pages, which must be reserved (`vm.nr_hugepages`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HugePages {
    /// Ordinary pages.
    #[default]
    Never,
    /// Huge pages if there are enough, else ordinary ones; [`Memory`] says which it was.
    Prefer,
    /// Huge pages or an error.
    Require,
}

/// On which NUMA node the UMEM is to lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Numa {
    /// On the node of the interfaces' device, if all of them have one and it is the same; else
    /// wherever the kernel puts it.
    #[default]
    Interfaces,
    /// Wherever the kernel puts it: on the node where `open` is called.
    Anywhere,
    /// On this node, or an error.
    Node(u32),
}

/// The memory that was obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// Size in bytes.
    pub bytes: u64,
    /// It lies in huge pages.
    pub huge_pages: bool,
    /// Why not, if they were preferred.
    pub huge_pages_refused: Option<String>,
    /// The node on which it begins, as the kernel says; `None` if the kernel cannot tell.
    pub node: Option<u32>,
    /// Nodes that the machine has.
    pub nodes: u32,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = if self.huge_pages { "huge" } else { "ordinary" };
        write!(f, "{} KiB in {pages} pages", self.bytes / 1024)?;
        match (self.nodes, self.node) {
            (..=1, _) => f.write_str(", the machine has one NUMA node"),
            (_, Some(node)) => write!(f, ", NUMA node {node}"),
            (_, None) => f.write_str(", NUMA node unknown"),
        }
    }
}

/// The node that memory for these interfaces is to be taken from; `None` if from any.
pub(super) fn wanted_node(numa: Numa, interfaces: &[Interface]) -> Result<Option<u32>, Error> {
    let node = match numa {
        Numa::Anywhere => None,
        Numa::Interfaces => common(interfaces.iter().map(Interface::numa_node)),
        Numa::Node(node) => Some(node),
    };
    match node {
        Some(node) if !online().contains(&node) => Err(Error::Config(format!(
            "NUMA node {node}: this machine has {}",
            online().iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ))),
        node => Ok(node),
    }
}

/// The one value that all have.
fn common(mut nodes: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    let first = nodes.next()??;
    nodes.all(|node| node == Some(first)).then_some(first)
}

/// The nodes of this machine; node 0 where the kernel knows none.
pub(super) fn online() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    let nodes = ranges(&text);
    if nodes.is_empty() { vec![0] } else { nodes }
}

/// Numbers as the kernel lists them: `0-3,8`.
fn ranges(text: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            all.extend(first..=last.min(first.saturating_add(1024)));
        }
    }
    all
}

/// `MPOL_BIND` of linux/mempolicy.h.
const BIND: c_int = 2;
/// `MPOL_F_NODE | MPOL_F_ADDR`: the node of the page at an address.
const NODE_OF_ADDRESS: c_ulong = 3;
/// Bits of the masks passed to the kernel: nodes that there may be.
const MASK_BITS: usize = 1024;

type Mask = [c_ulong; MASK_BITS / c_ulong::BITS as usize];

/// Runs `work` with the calling thread's new memory taken from `node`, so that what it maps and
/// populates lies there.
pub(super) fn on_node<T>(node: Option<u32>, work: impl FnOnce() -> T) -> io::Result<T> {
    let Some(node) = node else { return Ok(work()) };
    let before = Policy::current()?;
    let mut mask: Mask = [0; _];
    let (word, bit) = (node / c_ulong::BITS, node % c_ulong::BITS);
    *mask.get_mut(word as usize).ok_or(io::ErrorKind::InvalidInput)? = 1 << bit;
    Policy { mode: BIND, mask }.set()?;
    let answer = work();
    before.set()?;
    Ok(answer)
}

/// A thread's memory policy.
struct Policy {
    mode: c_int,
    mask: Mask,
}

impl Policy {
    fn current() -> io::Result<Self> {
        let mut policy = Self { mode: 0, mask: [0; _] };
        // SAFETY: the kernel writes one int and at most as many bits as the mask has.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                ptr::from_mut(&mut policy.mode),
                policy.mask.as_mut_ptr(),
                MASK_BITS as c_ulong,
                ptr::null::<c_ulong>(),
                0 as c_ulong,
            )
        };
        done(answer).map(|()| policy)
    }

    fn set(&self) -> io::Result<()> {
        // SAFETY: the kernel reads at most as many bits as the mask has.
        done(unsafe {
            libc::syscall(
                libc::SYS_set_mempolicy,
                self.mode,
                self.mask.as_ptr(),
                MASK_BITS as c_ulong,
            )
        })
    }
}

/// The node of the page at an address that is mapped and populated; `None` if the kernel does not say.
pub(super) fn node_of(address: *const u8) -> Option<u32> {
    let mut node: c_int = -1;
    // SAFETY: the kernel writes one int; it does not write to the address, and answers an error if
    // nothing is mapped there.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            ptr::from_mut(&mut node),
            ptr::null::<c_ulong>(),
            0 as c_ulong,
            address,
            NODE_OF_ADDRESS,
        )
    };
    done(answer).ok()?;
    u32::try_from(node).ok()
}

fn done(answer: c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(ranges("0\n"), [0]);
        assert_eq!(ranges("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(ranges(""), [] as [u32; 0]);
        assert_eq!(ranges("x,3-,4"), [4]);
    }

    #[test]
    fn a_node_is_wanted_only_if_all_interfaces_are_there() {
        assert_eq!(common([Some(1), Some(1)].into_iter()), Some(1));
        assert_eq!(common([Some(1), Some(0)].into_iter()), None);
        assert_eq!(common([Some(1), None].into_iter()), None);
        assert_eq!(common([None].into_iter()), None);
        let lo = Interface::by_name("lo").unwrap();
        assert_eq!(wanted_node(Numa::Interfaces, &[lo]).unwrap(), None, "lo has no device");
        let error = wanted_node(Numa::Node(1000), &[]).unwrap_err().to_string();
        assert!(error.contains("NUMA node 1000: this machine has 0"), "{error}");
    }

    #[test]
    fn memory_is_taken_from_the_node_and_the_thread_is_as_before() {
        let node = *online().last().unwrap();
        let mut memory = Vec::new();
        let placed = on_node(Some(node), || {
            memory = vec![1u8; 1 << 20];
            Policy::current().unwrap().mode
        });
        match placed {
            Ok(mode) => {
                assert_eq!(mode, BIND);
                assert_eq!(node_of(&memory[1 << 19]), Some(node));
                assert_ne!(Policy::current().unwrap().mode, BIND);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                println!("skipped: this kernel has no NUMA");
            }
            Err(error) => panic!("{error}"),
        }
        assert!(on_node(Some(1 << 20), || ()).is_err());
    }

    #[test]
    fn what_was_obtained_is_said() {
        let memory = Memory {
            bytes: 8 << 20,
            huge_pages: false,
            huge_pages_refused: None,
            node: Some(1),
            nodes: 2,
        };
        assert_eq!(memory.to_string(), "8192 KiB in ordinary pages, NUMA node 1");
        let memory = Memory { huge_pages: true, nodes: 1, ..memory };
        assert_eq!(memory.to_string(), "8192 KiB in huge pages, the machine has one NUMA node");
    }
}
