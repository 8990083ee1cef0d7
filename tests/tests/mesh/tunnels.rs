//! Connections that turn from HTTP/1 into something else: Upgrade and CONNECT.

use heddle_tests::http1::{self, exchange};
use heddle_tests::{App, Mesh};

/// One masked text frame of a client (RFC 6455 §5.2).
fn masked(text: &str) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let len = u8::try_from(text.len()).ok().filter(|len| *len < 126).expect("a short text");
    let mut frame = vec![0x81, 0x80 | len];
    frame.extend(mask);
    frame.extend(text.bytes().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// One frame of a server.
fn unmasked(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).ok().filter(|len| *len < 126).expect("a short text");
    [&[0x81, len], text.as_bytes()].concat()
}

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: echo\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: Chat, superChat\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: superChat\r\n\r\n";

#[tokio::test]
async fn websocket_frames_pass_both_ways() {
    let app = App::serve(|mut wire, _| async move {
        let Some(request) = http1::request(&mut wire).await else { return };
        assert_eq!(request.header("upgrade"), Some("websocket"));
        assert!(request.header("connection").is_some_and(|c| c.to_ascii_lowercase().contains("upgrade")), "{request:?}");
        assert_eq!(request.header("sec-websocket-protocol"), Some("Chat, superChat"));
        // The first frame comes with the answer, as servers may send it.
        wire.send([ACCEPTED.as_bytes(), &unmasked("welcome")].concat()).await;
        for n in 0..50 {
            wire.expect(masked(&format!("message {n}"))).await;
            wire.send(unmasked(&format!("answer {n}"))).await;
        }
        assert!(wire.to_end().await.is_empty());
        wire.send(unmasked("last words")).await;
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send(WEBSOCKET).await;
    let response = http1::response_head(&mut wire).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert!(response.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")), "{response:?}");
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    wire.expect(unmasked("welcome")).await;
    for n in 0..50 {
        wire.send(masked(&format!("message {n}"))).await;
        wire.expect(unmasked(&format!("answer {n}"))).await;
    }
    wire.finish().await;
    assert_eq!(wire.to_end().await, unmasked("last words"));
}

#[tokio::test]
async fn an_unknown_protocol_is_upgraded_to_as_well() {
    let app = App::serve(|mut wire, _| async move {
        let Some(request) = http1::request(&mut wire).await else { return };
        assert_eq!(request.header("upgrade"), Some("made-up/2.7"));
        wire.send("HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: made-up/2.7\r\n\r\nserver first\n").await;
        let line = wire.until(b"\n").await;
        wire.send(line).await;
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    // The client does not wait for the answer.
    wire.send("OPTIONS / HTTP/1.1\r\nHost: echo\r\nConnection: upgrade\r\nUpgrade: made-up/2.7\r\n\r\nclient first\n").await;
    assert_eq!(http1::response_head(&mut wire).await.header("upgrade"), Some("made-up/2.7"));
    wire.expect("server first\nclient first\n").await;
    assert!(wire.to_end().await.is_empty());
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for _ in 0..2 {
        // As Apache's HTTP client offers it by itself (istio/istio#53239).
        let request = "GET / HTTP/1.1\r\nHost: echo\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\n";
        let response = exchange(&mut wire, request).await;
        assert_eq!((response.status(), response.header("x-app")), (200, Some("echo")));
        assert!(response.text().contains("Upgrade: TLS/1.2"), "{}", response.text());
    }
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let app = App::http1(|_| b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for _ in 0..2 {
        let mut wire = mesh.connect().await;
        let response = exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
        assert_eq!((response.status(), response.header("x-heddle-cause")), (502, Some("upstream_protocol")));
    }
    assert_eq!(app.connections(), 2, "nobody knows what such a connection speaks now");
}

#[tokio::test]
async fn connect_is_a_tunnel_when_the_application_says_so() {
    let app = App::serve(|mut wire, _| async move {
        let Some(request) = http1::request(&mut wire).await else { return };
        assert_eq!((request.method(), request.target()), ("CONNECT", "db.example.com:5432"));
        if request.header("proxy-authorization").is_none() {
            return wire.send(http1::answer(407, "Proxy-Authenticate: Basic\r\n", "who?")).await;
        }
        wire.send("HTTP/1.1 200 Connection established\r\n\r\n").await;
        wire.expect("\0\u{1}any bytes").await;
        wire.send("\u{2}\0back").await;
        assert!(wire.to_end().await.is_empty());
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let connect = "CONNECT db.example.com:5432 HTTP/1.1\r\nHost: db.example.com:5432\r\n";
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, format!("{connect}\r\n")).await.status(), 407);
    let mut wire = mesh.connect().await;
    wire.send(format!("{connect}Proxy-Authorization: Basic eA==\r\n\r\n")).await;
    wire.expect("HTTP/1.1 200 Connection established\r\n\r\n").await;
    wire.send("\0\u{1}any bytes").await;
    wire.expect("\u{2}\0back").await;
    wire.finish().await;
    assert!(wire.to_end().await.is_empty());
}
