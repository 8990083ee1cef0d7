//! Opaque TCP: bytes both ways, ends and resets as without the mesh.

use heddle_tests::{App, Mesh, Wire, pki, wait};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::test]
async fn either_side_may_end_first_and_the_other_goes_on() {
    let app = App::serve(|mut wire, _| async move {
        match wire.until(b"\n").await.as_slice() {
            b"client ends\n" => {
                assert_eq!(wire.to_end().await, b"and says this");
                wire.send("after the client's end").await;
            }
            _ => {
                wire.send("before the server's end").await;
                wire.finish().await;
                assert_eq!(wire.to_end().await, b"after the server's end");
            }
        }
    })
    .await;
    for protocol in ["tcp", ""] {
        let mesh = Mesh::pair(app.address(), protocol).await;
        let mut wire = mesh.connect().await;
        wire.send("client ends\n").await;
        wire.send("and says this").await;
        wire.finish().await;
        assert_eq!(wire.to_end().await, b"after the client's end");
        let mut wire = mesh.connect().await;
        wire.send("server ends\n").await;
        assert_eq!(wire.to_end().await, b"before the server's end");
        wire.send("after the server's end").await;
        wire.finish().await;
        // Between sidecars it is mTLS.
        mesh.counts("echo", "heddle_tcp_connections_total", &[], 2.0).await;
        mesh.counts("echo", "heddle_tcp_connections_total", &[("mtls", "true"), ("cause", "none")], 2.0).await;
    }
}

#[tokio::test]
async fn resets_are_passed_on_in_both_directions() {
    let reset = Arc::new(Notify::new());
    let told = reset.clone();
    let app = App::serve(move |mut wire, _| {
        let reset = told.clone();
        async move {
            match wire.exactly(1).await[0] {
                b'c' => {
                    let (_, orderly) = wire.to_any_end().await;
                    assert!(!orderly, "a client's reset is no orderly end");
                    reset.notify_one();
                }
                _ => wire.reset(),
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "tcp").await;
    let mut wire = mesh.connect().await;
    wire.send("s").await;
    let (_, orderly) = wire.to_any_end().await;
    assert!(!orderly, "a server's reset is no orderly end");
    let mut wire = mesh.connect().await;
    wire.send("c").await;
    wait::until(
        "the byte at the application",
        async || {
            if app.received().concat().ends_with(b"c") { Ok(()) } else { Err("not yet".to_owned()) }
        },
    )
    .await;
    wire.reset();
    wait::soon("the reset at the application", reset.notified()).await;
}

#[tokio::test]
async fn an_application_that_is_not_there_is_an_end_without_delay() {
    let gone = heddle_tests::free_port();
    let mesh = Mesh::pair(gone, "tcp").await;
    for _ in 0..20 {
        // Its end may be faster than the client, or the other way round.
        let connected = wait::soon("a connection or its end", TcpStream::connect(mesh.outbound("client", "echo:80"))).await;
        if let Ok(stream) = connected {
            let mut wire = Wire::new(stream);
            let _late = wire.try_send("anybody?").await;
            assert!(wire.to_any_end().await.0.is_empty());
        }
    }
    mesh.counts("echo", "heddle_tcp_connections_total", &[("cause", "connect_failed")], 20.0).await;
}

/// Bytes that depend on where they are.
fn pattern(at: u64, chunk: &mut [u8]) {
    chunk.iter_mut().zip(at..).for_each(|(byte, at)| *byte = (at.wrapping_mul(0x9e37_79b9) >> 13) as u8);
}

async fn send_pattern(mut to: impl tokio::io::AsyncWrite + Unpin, len: u64) {
    let mut chunk = vec![0; 64 * 1024];
    let mut at = 0;
    while at < len {
        pattern(at, &mut chunk);
        to.write_all(&chunk).await.unwrap();
        at += chunk.len() as u64;
    }
    to.shutdown().await.unwrap();
}

async fn expect_pattern(mut from: impl tokio::io::AsyncRead + Unpin, len: u64) {
    let (mut chunk, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    while at < len {
        from.read_exact(&mut chunk).await.unwrap();
        pattern(at, &mut expected);
        assert!(chunk == expected, "bytes differ after {at}");
        at += chunk.len() as u64;
    }
    assert_eq!(from.read(&mut chunk).await.unwrap(), 0, "more than was sent");
}

#[tokio::test]
async fn much_at_once_in_both_directions_arrives_unchanged() {
    const LEN: u64 = 64 * 1024 * 1024;
    let app = App::streams(|stream| async move {
        let (read, write) = stream.into_split();
        tokio::join!(send_pattern(write, LEN), expect_pattern(read, LEN));
    })
    .await;
    let mesh = Mesh::pair(app.address(), "tcp").await;
    let before = ["client", "echo"].map(|name| mesh.sidecar(name).memory());
    let (read, write) = mesh.connect().await.into_stream().into_split();
    wait::soon("all bytes", async { tokio::join!(send_pattern(write, LEN), expect_pattern(read, LEN)) }).await;
    for (name, before) in ["client", "echo"].into_iter().zip(before) {
        let growth = mesh.sidecar(name).memory().saturating_sub(before);
        assert!(growth < 24 * 1024 * 1024, "the sidecar of {name} has grown by {growth} bytes");
    }
}

#[tokio::test]
async fn tls_of_the_applications_passes_untouched() {
    let (server, client) = pki::application("echo.example.com", b"its-own");
    let app = App::streams(move |stream| {
        let acceptor = TlsAcceptor::from(server.clone());
        async move {
            let mut tls = acceptor.accept(stream).await.unwrap();
            let mut line = [0; 5];
            tls.read_exact(&mut line).await.unwrap();
            tls.write_all(&line).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    })
    .await;
    for protocol in ["", "tls", "tcp", "https"] {
        let mesh = Mesh::pair(app.address(), protocol).await;
        let stream = mesh.connect().await.into_stream();
        let name = ServerName::try_from("echo.example.com").unwrap();
        // The client trusts the application's certificate alone: nobody can have been in between.
        let connected = wait::soon("a handshake", TlsConnector::from(client.clone()).connect(name, stream)).await;
        let mut tls = connected.unwrap_or_else(|e| panic!("{protocol:?}: {e}"));
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"its-own"[..]));
        tls.write_all(b"hello").await.unwrap();
        let mut all = Vec::new();
        wait::soon("the answer", tls.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"hello", "{protocol:?}");
    }
}

#[tokio::test]
async fn many_connections_are_not_mixed_up() {
    let app = App::serve(|mut wire, _| async move {
        while let Some(line) = wire.until_or_end(b"\n").await {
            wire.send(line).await;
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "tcp").await;
    let mut wires = Vec::new();
    for _ in 0..200 {
        wires.push(mesh.connect().await);
    }
    for round in 0..5 {
        for (n, wire) in wires.iter_mut().enumerate() {
            wire.send(format!("{n} in round {round}\n")).await;
        }
        for (n, wire) in wires.iter_mut().enumerate() {
            wire.expect(format!("{n} in round {round}\n")).await;
        }
    }
    mesh.counts("client", "heddle_tcp_connections_open", &[], 200.0).await;
    drop(wires);
    mesh.counts("client", "heddle_tcp_connections_open", &[], 0.0).await;
}

#[tokio::test]
async fn redis_works_declared_and_undeclared() {
    let program = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|program| program.is_file()))
        .expect("redis-server is installed: `tests/run mesh` does it");
    let address = heddle_tests::free_port();
    let args = ["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"].map(str::to_owned);
    let log = std::env::temp_dir().join(format!("heddle-test-redis-{}.log", std::process::id()));
    let _redis = heddle_tests::process::Process::start("redis", &program, args.to_vec(), Default::default(), log.clone());
    wait::until("redis to listen", async || TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string())).await;
    for protocol in ["tcp", ""] {
        let mesh = Mesh::pair(address, protocol).await;
        let mut wire = mesh.connect().await;
        wire.send("SET mesh heddle\r\nGET mesh\r\nSUBSCRIBE news\r\n").await;
        wire.expect("+OK\r\n$6\r\nheddle\r\n*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n").await;
        let mut other = Wire::connect(mesh.outbound("client", "echo:80")).await;
        other.send("PUBLISH news hello\r\n").await;
        wire.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n").await;
    }
    let _left = std::fs::remove_file(log);
}
