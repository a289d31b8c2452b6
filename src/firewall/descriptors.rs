//! Room for descriptors.

use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};

/// Enough for 400 wires of one queue, ten each, and 32 KiB.
const ROOM: u64 = 4096;

/// Makes the process's table of descriptors large enough for a full node's wires. A process of several
/// threads waits for all CPUs, 10 to 30 ms, whenever its table doubles: once, here, rather than at the
/// wire that gets the 64th descriptor, the 128th, the 256th and so on. `any` is one of them.
pub(super) fn make_room(any: BorrowedFd<'_>) {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(most, _)| most);
    let last = ROOM.min(most).saturating_sub(1);
    // The table stays as large when the descriptor goes. Where there is no room, wires wait.
    if let Ok(last) = i32::try_from(last)
        && let Ok(far) = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(last))
    {
        let _ = nix::unistd::close(far);
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_table_grows_as_far_as_it_may_and_stays() {
        let (reader, _writer) = pipe().unwrap();
        let size = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            size.trim().parse().unwrap()
        };
        let most = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0;
        make_room(reader.as_fd());
        assert!(size() >= ROOM.min(most), "{} of {most}", size());
        make_room(reader.as_fd());
    }
}
