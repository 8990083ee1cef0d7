//! Where a redirected connection meant to go.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// The destination before redirection (`SO_ORIGINAL_DST`); `None`: the connection was made to the listener itself, which would loop.
pub fn original_dst(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = tcp.local_addr()?;
    let socket = SockRef::from(tcp);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    Ok(original.as_socket().filter(|address| *address != local))
}
