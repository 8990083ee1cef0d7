//! HTTP/1 connections: which message ends where, and what becomes of the connection after it.

use heddle_tests::http1::{self, ADDED, answer, exchange, without};
use heddle_tests::{App, Mesh, Wire, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// What a client does on one connection.
const EXCHANGES: [&str; 6] = [
    "GET /first?a=b&c=%20 HTTP/1.1\r\nHost: echo\r\nAccept: */*\r\n\r\n",
    "POST /second HTTP/1.1\r\nHost: echo\r\nContent-Length: 5\r\n\r\nhello",
    "PUT /third HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "M-SEARCH * HTTP/1.1\r\nHost: echo\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: echo\r\n\r\n",
    "DELETE /with-a-body HTTP/1.1\r\nHost: echo\r\nContent-Length: 2\r\n\r\n{}",
];

fn echo(request: &http1::Message) -> Vec<u8> {
    answer(200, "X-Server: a, b\r\nDate: never\r\n", request.start.as_bytes())
}

#[tokio::test]
async fn a_connection_carries_requests_as_it_does_without_the_mesh() {
    let app = App::http1(echo).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let (mut meshed, mut direct) = (mesh.connect().await, Wire::connect(app.address()).await);
    for request in EXCHANGES {
        let (through, without_mesh) = (exchange(&mut meshed, request).await, exchange(&mut direct, request).await);
        assert_eq!(String::from_utf8_lossy(&through.raw()), String::from_utf8_lossy(&without_mesh.raw()));
    }
    let received = app.received();
    assert_eq!(received.len(), 2, "one connection from the sidecar, and the direct one");
    // Which of them came first depends on the system.
    let of_mesh = received.iter().position(|bytes| String::from_utf8_lossy(bytes).contains(ADDED[1])).unwrap();
    let (through, without_mesh) = (&received[of_mesh], &received[1 - of_mesh]);
    assert_eq!(String::from_utf8_lossy(without_mesh), EXCHANGES.concat());
    let mut rest = through.as_slice();
    for request in EXCHANGES {
        let body = request.split_once("\r\n\r\n").unwrap().1.len();
        let end = rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4 + body;
        assert_eq!(String::from_utf8_lossy(&without(&rest[..end], &ADDED)), request);
        rest = &rest[end..];
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let app = App::http1(echo).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let requests: String = (0..20)
        .map(|n| match n % 3 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: echo\r\n\r\n"),
            1 => format!("POST /{n} HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\n\r\nabc"),
            _ => format!("\r\nPOST /{n} HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
        })
        .collect();
    wire.send(requests).await;
    for n in 0..20 {
        let method = if n % 3 == 0 { "GET" } else { "POST" };
        assert_eq!(http1::response(&mut wire, method).await.text(), format!("{method} /{n} HTTP/1.1"));
    }
}

#[tokio::test]
async fn http10_ends_the_connection_unless_asked_to_keep_it() {
    let app = App::http1(echo).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("GET /old HTTP/1.0\r\n\r\n").await;
    let response = http1::response(&mut wire, "GET").await;
    assert_eq!((response.status(), response.text().as_str()), (200, "GET /old HTTP/1.0"));
    assert!(wire.to_end().await.is_empty(), "an HTTP/1.0 client waits for the end");

    let mut wire = mesh.connect().await;
    for _ in 0..3 {
        let response = exchange(&mut wire, "GET /kept HTTP/1.0\r\nHost: echo\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(response.text(), "GET /kept HTTP/1.0");
        assert!(response.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")), "{:?}", response.headers);
    }
}

#[tokio::test]
async fn connection_close_ends_the_connection_of_the_side_that_says_it() {
    let app =
        App::http1(|request| if request.target() == "/closing" { answer(200, "Connection: close\r\n", "bye") } else { echo(request) })
            .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, "GET /closing HTTP/1.1\r\nHost: echo\r\n\r\n").await.text(), "bye");
    assert_eq!(exchange(&mut wire, "GET /2 HTTP/1.1\r\nHost: echo\r\n\r\n").await.status(), 200, "the client's connection goes on");
    assert_eq!(app.connections(), 2, "the application's does not");
    let last = exchange(&mut wire, "GET /3 HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n").await;
    assert!(last.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")), "{:?}", last.headers);
    assert!(wire.to_end().await.is_empty());
    assert_eq!(app.connections(), 2, "and that the client ends is no reason to end the application's");
}

#[tokio::test]
async fn absolute_targets_pass_as_they_are() {
    let app = App::http1(echo).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for target in ["http://echo/a/b?c=d", "http://echo:80/", "http://echo?q", "http://other.example.com/x"] {
        let response = exchange(&mut wire, format!("GET {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
        assert_eq!(response.text(), format!("GET {target} HTTP/1.1"));
    }
}

#[tokio::test]
async fn responses_without_a_body_do_not_wait_for_one() {
    let app = App::http1(|request| match request.target() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n".to_vec(),
        "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec(),
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for (method, target, status) in
        [("GET", "/204", 204), ("HEAD", "/chunked", 200), ("GET", "/304", 304), ("HEAD", "/", 200), ("PUT", "/204", 204)]
    {
        let response = exchange(&mut wire, format!("{method} {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
        assert_eq!(response.status(), status);
        assert_eq!(
            response.header("content-length").is_some(),
            target == "/" || target == "/304",
            "{method} {target}: {:?}",
            response.headers
        );
        assert!(wire.pending().is_empty());
    }
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn a_client_that_ends_its_side_after_the_request_gets_its_answer() {
    let release = Arc::new(Notify::new());
    let held = release.clone();
    let app = App::serve(move |mut wire, _| {
        let held = held.clone();
        async move {
            let Some(request) = http1::request(&mut wire).await else { return };
            held.notified().await;
            wire.send(answer(200, "", format!("{} {}", request.method(), request.text()))).await;
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: echo\r\n\r\n", "GET "),
        ("POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 5\r\n\r\nhello", "POST hello"),
        ("GET / HTTP/1.0\r\n\r\n", "GET "),
    ] {
        let mut wire = mesh.connect().await;
        wire.send(request).await;
        wire.finish().await;
        release.notify_one();
        assert_eq!(http1::response(&mut wire, "GET").await.text(), expected);
        assert!(wire.to_end().await.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_is_told_to_the_application() {
    let (begun, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_begun, tell_gone) = (begun.clone(), gone.clone());
    let app = App::serve(move |mut wire, _| {
        let (begun, gone) = (tell_begun.clone(), tell_gone.clone());
        async move {
            if http1::request(&mut wire).await.is_none() {
                return;
            }
            begun.notify_one();
            // A long poll: nothing to say until the client gives up.
            wire.to_any_end().await;
            gone.notify_one();
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for by_reset in [true, false] {
        let mut wire = mesh.connect().await;
        wire.send("GET /poll HTTP/1.1\r\nHost: echo\r\n\r\n").await;
        wait::soon("the request", begun.notified()).await;
        if by_reset {
            wire.reset();
        } else {
            drop(wire);
        }
        wait::soon("the end of the application's connection", gone.notified()).await;
    }
}

#[tokio::test]
async fn keep_alive_race_never_reaches_the_client() {
    const REQUESTS: usize = 1000;
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    // Answers one request, and ends the connection just when the next one comes: with it in its hands, or a moment before.
    let app = App::serve(move |mut wire, number| {
        let count = count.clone();
        async move {
            let Some(request) = http1::request(&mut wire).await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            wire.send(answer(200, "", request.body)).await;
            if number % 2 == 0 {
                // Some of the next request, or the sidecar's own end.
                let _raced = wire.try_fill().await;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for n in 0..REQUESTS {
        let body = format!("request {n}");
        let method = if n % 3 == 0 { "POST" } else { "PUT" };
        let request = format!("{method} / HTTP/1.1\r\nHost: echo\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let response = exchange(&mut wire, request).await;
        assert_eq!((response.status(), response.text()), (200, body), "request {n}");
    }
    assert_eq!(answered.load(Ordering::Relaxed), REQUESTS, "no request was processed twice");
    let replayed = mesh.metrics("echo").await.sum("heddle_reuse_race_replayed_total", &[]);
    assert!(replayed >= 1.0, "the race took place");
    mesh.counts("client", "heddle_http_requests_total", &[], REQUESTS as f64).await;
    mesh.counts("client", "heddle_http_requests_total", &[("code_class", "2xx"), ("cause", "none")], REQUESTS as f64).await;
}

#[tokio::test]
async fn requests_of_many_clients_share_connections_and_are_not_mixed_up() {
    let app = App::http1(|request| answer(200, "", request.target())).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let address = mesh.outbound("client", "echo:80");
    let clients = (0..50).map(|client| async move {
        let mut wire = Wire::connect(address).await;
        for n in 0..20 {
            let response = exchange(&mut wire, format!("GET /{client}/{n} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
            assert_eq!(response.text(), format!("/{client}/{n}"));
        }
    });
    let mut all = tokio::task::JoinSet::new();
    clients.for_each(|client| drop(all.spawn(client)));
    wait::soon("all clients", all.join_all()).await;
    let labels = [("direction", "outbound"), ("code_class", "2xx"), ("mtls", "true")];
    mesh.counts("client", "heddle_http_requests_total", &labels, 1000.0).await;
}
