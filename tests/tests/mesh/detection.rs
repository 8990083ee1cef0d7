//! What a connection speaks: declared, or found out without a stall.

use heddle_tests::http1::{answer, exchange};
use heddle_tests::http2::{self, Client};
use heddle_tests::{App, Mesh, wait};
use std::time::Duration;
use tokio::time::Instant;

/// What a server that speaks first may be kept waiting: far above what it takes, far below any detection timeout that users complain of.
const STALL_MAX: Duration = Duration::from_secs(1);

async fn greeter() -> App {
    App::serve(|mut wire, _| async move {
        wire.send("220 mail.example.com ESMTP\r\n").await;
        while let Some(line) = wire.until_or_end(b"\r\n").await {
            wire.send([b"250 ", line.as_slice()].concat()).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_kept_waiting() {
    let app = greeter().await;
    for protocol in ["", "tcp"] {
        let mesh = Mesh::pair(app.address(), protocol).await;
        for n in 0..5 {
            let begun = Instant::now();
            let mut wire = mesh.connect().await;
            wire.expect("220 mail.example.com ESMTP\r\n").await;
            let waited = begun.elapsed();
            // The first one waits for the control plane's answer and for a certificate's first use, too.
            assert!(waited < STALL_MAX, "{protocol:?}: greeting {n} took {waited:?}");
            wire.send("EHLO me\r\n").await;
            wire.expect("250 EHLO me\r\n").await;
        }
    }
}

#[tokio::test]
async fn both_versions_of_http_are_found_on_an_undeclared_port() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "").await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    assert!(response.text().contains("traceparent: "), "treated as HTTP: {}", response.text());
    let app = http2::serve(|request, mut respond| async move {
        let traced = if request.headers().contains_key("traceparent") { "yes" } else { "no" };
        respond.send_response(http2::response(200, &[("x-traced", traced)]), true).unwrap();
    })
    .await;
    let mesh = Mesh::pair(app.address(), "").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let response = client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap();
    assert_eq!(response.header("x-traced"), Some("yes"));
}

#[tokio::test]
async fn a_client_that_takes_its_time_is_still_understood() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "").await;
    let mut wire = mesh.connect().await;
    // Until the sidecar, tired of the client's silence, has connected to the application itself.
    wait::until("a connection to the application", async || if app.connections() > 0 { Ok(()) } else { Err("none".to_owned()) }).await;
    for part in ["GE", "T / HT", "TP/1.1\r\nHo", "st: echo\r\n\r\n"] {
        wire.send(part).await;
        tokio::task::yield_now().await;
    }
    let response = heddle_tests::http1::response(&mut wire, "GET").await;
    assert!(response.text().contains("traceparent: "), "treated as HTTP: {}", response.text());
}

#[tokio::test]
async fn bytes_that_only_begin_like_http_pass_as_bytes() {
    let app = App::serve(|mut wire, _| async move {
        while let Some(line) = wire.until_or_end(b"\n").await {
            wire.send([b"got ", line.as_slice()].concat()).await;
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "").await;
    for line in [
        "CONNECT {\"verbose\":false}\r\n",
        "GET a key of memcached\r\n",
        "PUT 1\n",
        "PRI nt this\n",
        "*1\r\n",
        "\u{16}\u{9} no TLS\n",
        "\0\u{1}\n",
    ] {
        let mut wire = mesh.connect().await;
        wire.send(line).await;
        wire.expect(format!("got {}", line.split_inclusive('\n').next().unwrap())).await;
    }
}

#[tokio::test]
async fn what_is_no_http_on_a_port_that_is_declared_http_is_told_so() {
    let app = App::http1(|_| answer(200, "", "")).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for bytes in ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "*1\r\n$4\r\nPING\r\n\r\n", "\u{1}\u{2}\u{3}\r\n\r\n"] {
        let mut wire = mesh.connect().await;
        wire.send(bytes).await;
        let (answered, _) = wire.to_any_end().await;
        let text = String::from_utf8_lossy(&answered);
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("outbound sidecar of"), "{bytes:?}: {text}");
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn both_versions_of_http_work_on_a_port_that_is_declared_http() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.status(), 200);
    let app = http2::serve(|_, mut respond| async move {
        respond.send_response(http2::response(200, &[]), true).unwrap();
    })
    .await;
    for protocol in ["http", "http2", "grpc", "kubernetes.io/h2c"] {
        let mesh = Mesh::pair(app.address(), protocol).await;
        let client = Client::connect(mesh.outbound("client", "echo:80")).await;
        assert_eq!(client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200, "{protocol}");
    }
}
