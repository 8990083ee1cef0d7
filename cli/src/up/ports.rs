//! Free ports of 127.0.0.1, and who holds one that is not free.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::Path;

/// No port was free in the whole range.
#[derive(Debug, thiserror::Error)]
#[error("no free port of 127.0.0.1 between {} and {}: end some of the programs that listen there", .0.start, .0.end - 1)]
pub(crate) struct NoFreePort(Range<u16>);

/// Gives out ports that nobody listens on.
///
/// They lie below the range that the kernel takes for outgoing connections: a port of that range would be free now, and taken by any
/// connection before the process that it was given to has bound it, or while that process is being restarted.
#[derive(Debug)]
pub(crate) struct Ports {
    range: Range<u16>,
    next: u16,
    given: BTreeSet<u16>,
}

/// Below this lie the ports that people choose for their servers.
const LOWEST: u16 = 20_000;
/// Where Linux begins to take ports for outgoing connections unless it was told otherwise (ip(7), `ip_local_port_range`).
const OUTGOING_DEFAULT: u16 = 32_768;

impl Ports {
    /// Begins somewhere in the range, so that two meshes started together seldom ask for the same port.
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Self {
        let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
        let outgoing = outgoing.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(OUTGOING_DEFAULT);
        // A machine that takes nearly every port for outgoing connections leaves no safe range; then the usual one is as good as any.
        let end = if outgoing >= LOWEST + 1000 { outgoing } else { OUTGOING_DEFAULT };
        Self { range: LOWEST..end, next: rng.u16(LOWEST..end), given: BTreeSet::new() }
    }

    /// A port that is free now and was not given out.
    ///
    /// # Errors
    ///
    /// When every port of the range is taken.
    pub(crate) fn free(&mut self) -> Result<u16, NoFreePort> {
        for _ in self.range.clone() {
            let port = self.next;
            self.next = if port + 1 < self.range.end { port + 1 } else { self.range.start };
            if !self.given.contains(&port) && bindable(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
                self.given.insert(port);
                return Ok(port);
            }
        }
        Err(NoFreePort(self.range.clone()))
    }

    /// Takes a port back whose process is gone.
    pub(crate) fn give_back(&mut self, port: u16) {
        self.given.remove(&port);
    }

    /// Keeps a port that a manifest names from being given out.
    pub(crate) fn reserve(&mut self, port: u16) {
        self.given.insert(port);
    }
}

/// Whether a server could listen there now.
///
/// # Errors
///
/// What the system says when it could not; `AddrInUse` when somebody else does.
pub(crate) fn bindable(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// The process that listens on a port, as `nginx (pid 12)`; `None` where this system or our rights do not tell.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inode =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(&std::fs::read_to_string(table).ok()?, port))?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = process.path();
        let Ok(descriptors) = std::fs::read_dir(path.join("fd")) else { continue };
        let holds = descriptors.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == Path::new(&wanted)));
        if holds {
            let command = std::fs::read_to_string(path.join("comm")).ok()?;
            return Some(format!("{} (pid {})", command.trim(), name.to_string_lossy()));
        }
    }
    None
}

/// The inode of the socket that listens on a port, from a table as in proc_net_tcp(5): state 0A is LISTEN.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
        if listens { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let mut ports = Ports::new(&mut fastrand::Rng::with_seed(7));
        let given: BTreeSet<_> = (0..50).map(|_| ports.free().unwrap()).collect();
        assert_eq!(given.len(), 50);
        assert!(given.iter().all(|port| ports.range.contains(port)));
    }

    #[test]
    fn a_taken_port_is_never_given() {
        let mut ports = Ports::new(&mut fastrand::Rng::with_seed(8));
        let first = ports.free().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        ports.give_back(first);
        ports.next = first;
        assert_ne!(ports.free().unwrap(), first);
    }

    #[test]
    fn a_full_range_says_so() {
        let mut ports = Ports { range: 20_000..20_002, next: 20_000, given: BTreeSet::from([20_000, 20_001]) };
        let error = ports.free().unwrap_err().to_string();
        assert!(error.contains("between 20000 and 20001"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(bindable(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let holder = holder(address.port()).unwrap();
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
    }
}
