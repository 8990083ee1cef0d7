//! Free ports of 127.0.0.1 for processes that are told theirs.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below lie the ports that people choose for their servers, and those that `heddle up` gives out.
const LOWEST: u16 = 10_000;
/// From 20,000 on `heddle up` gives out ports, and further up the kernel does for outgoing connections: a port from there would be free
/// now and taken when the process that it was given to binds it.
const HIGHEST: u16 = 20_000;

/// A port that nobody listens on, and that no other call in this process has given or will give for long.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> SocketAddr {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Processes begin at random places: test binaries may run at the same time.
    let next = NEXT.get_or_init(|| AtomicU16::new(fastrand::u16(..HIGHEST - LOWEST)));
    for _ in LOWEST..HIGHEST {
        let port = LOWEST + next.fetch_add(1, Ordering::Relaxed) % (HIGHEST - LOWEST);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port of 127.0.0.1 between {LOWEST} and {HIGHEST}")
}
