//! Where a redirected connection meant to go.

use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// The destination before redirection (`SO_ORIGINAL_DST`); `None`: the connection was made to the listener itself, which would loop.
///
/// A listener for both families gives IPv4 connections as IPv6 sockets with mapped addresses (RFC 4291 §2.5.5.2): the kernel knows
/// their destination by its IPv4 form.
pub fn original_dst(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = tcp.local_addr()?;
    let local = canonical(local);
    let socket = SockRef::from(tcp);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    Ok(original.as_socket().filter(|address| *address != local))
}

/// A mapped address in its IPv4 form; every other as it is, with the scope of a link-local one.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}
