//! Listeners and accept loops: one socket per worker on the same address, so that the kernel spreads connections over workers.

use crate::metrics::Direction;
use crate::original_dst;
use crate::worker::{Open, Worker};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Connections that the kernel keeps for us between two turns of the accept loop.
const BACKLOG: i32 = 4096;
/// A pause when the process is out of descriptors: accepting again at once would fail again at once.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A connection that is silent for so long is probed.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// A probe that is not answered is followed by the next after this time.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// So many without an answer end the connection.
const PROBES: u32 = 3;

/// An address on which both families are heard, where `address` is any address of either: `[::]`, or `0.0.0.0` on a host without IPv6.
pub fn of_both_families(address: SocketAddr) -> SocketAddr {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    let has_ipv6 = || Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).and_then(|socket| socket.set_only_v6(false)).is_ok();
    if !address.ip().is_unspecified() {
        address
    } else if has_ipv6() {
        both
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))
    }
}

/// Hears both families on `[::]`, whatever the host's default is (`net.ipv6.bindv6only`).
fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())
}

/// Opens a listener that others of this process may open as well.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    open(address, true)
}

/// Opens a listener that nobody else has.
pub fn listen_alone(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    open(address, false)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    bind(&socket, address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether another process listens on `address` already: with `SO_REUSEPORT` ours would join it and take half of its connections.
pub fn is_taken(address: SocketAddr) -> bool {
    let probe = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        bind(&socket, address)?;
        // Only listening tells: a bound socket without it may share the address with sockets in TIME_WAIT.
        socket.listen(1)
    };
    probe().is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// Accepts until the drain ends connections of this direction; each connection is served in a task of its own, which `connections` owns.
///
/// Cancel safe: connections that were accepted go on.
pub async fn run<F: Future<Output = ()> + 'static>(
    worker: Rc<Worker>,
    listener: TcpListener,
    direction: Direction,
    mut serve: impl FnMut(TcpStream, SocketAddr, Open) -> F,
) {
    let mut connections = JoinSet::new();
    let listening = worker.drain.listening(direction);
    let ending = worker.drain.ending(direction);
    tokio::pin!(ending);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut ending => break,
        };
        take(&worker, accepted, direction, &mut connections, &mut serve).await;
        while connections.try_join_next().is_some() {}
    }
    // What the kernel has accepted for us must not be reset by closing the listener. The kernel is asked itself, because the runtime
    // knows only of what came before its last look.
    if let Ok(listener) = listener.into_std() {
        while let Ok((tcp, address)) = listener.accept() {
            let accepted = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp)).map(|tcp| (tcp, address));
            take(&worker, accepted, direction, &mut connections, &mut serve).await;
        }
    }
    drop(listening);
    while connections.join_next().await.is_some() {}
}

/// Sets what every connection of ours has: no delay of small writes, and probes by which the system notices a peer that vanished
/// without a word (a node that died, a firewall that forgot), which else would hold streams and memory for ever. On this host nobody does.
pub fn prepare(tcp: &TcpStream, peer: SocketAddr) {
    // A refusal of these options costs latency or memory, never correctness.
    let _ = tcp.set_nodelay(true);
    if !peer.ip().is_loopback() {
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
        let _ = SockRef::from(tcp).set_tcp_keepalive(&probes);
    }
}

async fn take<F: Future<Output = ()> + 'static>(
    worker: &Rc<Worker>,
    accepted: io::Result<(TcpStream, SocketAddr)>,
    direction: Direction,
    connections: &mut JoinSet<()>,
    serve: &mut impl FnMut(TcpStream, SocketAddr, Open) -> F,
) {
    match accepted {
        Ok((tcp, address)) => {
            let address = original_dst::canonical(address);
            worker.metrics.accepted();
            let Some(open) = worker.admit(direction) else {
                worker.metrics.limit_hit("connections");
                crate::forward::reset(&tcp);
                return;
            };
            prepare(&tcp, address);
            connections.spawn_local(serve(tcp, address, open));
        }
        Err(error) => {
            worker.metrics.limit_hit("accept");
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
    }
}
