//! Where a redirected connection meant to go.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// The destination before redirection (`SO_ORIGINAL_DST`); `None`: the connection was made to the listener itself, which would loop.
///
/// A listener for both families gives IPv4 connections as IPv6 sockets with mapped addresses (RFC 4291 §2.5.5.2): the kernel knows
/// their destination by its IPv4 form.
pub fn original_dst(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = tcp.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let socket = SockRef::from(tcp);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    let original = original.as_socket().map(|to| SocketAddr::new(to.ip().to_canonical(), to.port()));
    Ok(original.filter(|address| *address != local))
}
