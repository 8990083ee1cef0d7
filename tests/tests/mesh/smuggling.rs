//! Requests that two readers could read differently: refused, the connection ended, and not a byte of them at the application.

use heddle_tests::http1::{self, answer};
use heddle_tests::{App, Mesh, Wire};

/// What an attacker wants to have smuggled.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: echo\r\n\r\n";

/// Each is refused with this status. `\n` is a line feed alone; `^` stands for CR LF.
const REFUSED: &[(u16, &str, &str)] = &[
    (400, "both lengths", "POST / HTTP/1.1^Host: a^Content-Length: 4^Transfer-Encoding: chunked^^0^^"),
    (400, "both lengths, the other order", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^Content-Length: 4^^0^^"),
    (400, "two lengths that differ", "POST / HTTP/1.1^Host: a^Content-Length: 4^Content-Length: 5^^abcde"),
    (400, "two lengths that agree", "POST / HTTP/1.1^Host: a^Content-Length: 4^Content-Length: 4^^abcd"),
    (400, "a list of lengths", "POST / HTTP/1.1^Host: a^Content-Length: 4, 4^^abcd"),
    (400, "a signed length", "POST / HTTP/1.1^Host: a^Content-Length: +4^^abcd"),
    (400, "a negative length", "POST / HTTP/1.1^Host: a^Content-Length: -1^^"),
    (400, "a hexadecimal length", "POST / HTTP/1.1^Host: a^Content-Length: 0x4^^abcd"),
    (400, "a length with a blank in it", "POST / HTTP/1.1^Host: a^Content-Length: 1 0^^0123456789"),
    (400, "an empty length", "POST / HTTP/1.1^Host: a^Content-Length: ^^"),
    (400, "a length beyond all bounds", "POST / HTTP/1.1^Host: a^Content-Length: 99999999999999999999^^"),
    (400, "chunked twice", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^Transfer-Encoding: chunked^^0^^"),
    (400, "chunked twice in one field", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked, chunked^^0^^"),
    (400, "chunked not last", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked, gzip^^0^^"),
    (400, "not chunked at all", "POST / HTTP/1.1^Host: a^Transfer-Encoding: gzip^^"),
    (400, "an empty coding", "POST / HTTP/1.1^Host: a^Transfer-Encoding: ^^0^^"),
    (400, "chunked in HTTP/1.0", "POST / HTTP/1.0^Host: a^Transfer-Encoding: chunked^^0^^"),
    (501, "an unknown coding", "POST / HTTP/1.1^Host: a^Transfer-Encoding: xchunked^^0^^"),
    (501, "identity", "POST / HTTP/1.1^Host: a^Transfer-Encoding: identity^^0^^"),
    (400, "a tab before the coding's colon", "POST / HTTP/1.1^Host: a^Transfer-Encoding\t: chunked^^0^^"),
    (400, "a space before a colon", "POST / HTTP/1.1^Host: a^Content-Length : 4^^abcd"),
    (400, "a folded field", "POST / HTTP/1.1^Host: a^Transfer-Encoding:^ chunked^^0^^"),
    (400, "a folded field of no importance", "GET / HTTP/1.1^Host: a^X: b^ c^^"),
    (400, "a field before the first", "GET / HTTP/1.1^ X: b^Host: a^^"),
    (400, "two hosts", "GET / HTTP/1.1^Host: a^Host: b^^"),
    (400, "two equal hosts", "GET / HTTP/1.1^Host: a^Host: a^^"),
    (400, "no host", "GET / HTTP/1.1^X: b^^"),
    (400, "a host with a path", "GET / HTTP/1.1^Host: a/b^^"),
    (400, "a host with a user", "GET / HTTP/1.1^Host: a@b^^"),
    (400, "a host with a blank", "GET / HTTP/1.1^Host: a b^^"),
    (400, "a null in a value", "GET / HTTP/1.1^Host: a^X: a\0b^^"),
    (400, "a carriage return in a value", "GET / HTTP/1.1^Host: a^X: a\rb^^"),
    (400, "a field without a name", "GET / HTTP/1.1^Host: a^: b^^"),
    (400, "a field without a colon", "GET / HTTP/1.1^Host: a^Transfer-Encoding^^"),
    (400, "a blank in a name", "GET / HTTP/1.1^Host: a^Foo Bar: b^^"),
    (400, "a blank in the target", "GET /a b HTTP/1.1^Host: a^^"),
    (400, "a fragment", "GET /a#b HTTP/1.1^Host: a^^"),
    (400, "a target that is neither path nor URI", "GET a HTTP/1.1^Host: a^^"),
    (400, "no version", "GET /^Host: a^^"),
    (400, "a chunk size with a sign", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^+4^abcd^0^^"),
    (400, "a chunk size of no digits", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^;x^abcd^0^^"),
    (400, "a hexadecimal prefix", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^0x4^abcd^0^^"),
    (400, "a chunk size beyond all bounds", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^fffffffffffffffff^abcd^0^^"),
    (400, "a chunk size that overflows to 4", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^10000000000000004^abcd^0^^"),
    (400, "a line feed after a chunk size", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^4\nabcd^0^^"),
    (400, "a line feed in an extension", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^4;x\nabcd^0^^"),
    (400, "a line feed after a chunk", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^4^abcd\n0^^"),
    (400, "a carriage return after a chunk size", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^4\rabcd^0^^"),
    (400, "a chunk longer than its size", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^4^abcdX^0^^"),
    (400, "a blank before a chunk size", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^ 4^abcd^0^^"),
    (400, "a trailer without a colon", "POST / HTTP/1.1^Host: a^Transfer-Encoding: chunked^^0^Content-Length^^"),
];

#[tokio::test]
async fn ambiguous_requests_are_refused_and_never_reach_the_application() {
    let app = App::http1(|_| answer(200, "", "the application's own")).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wrong = Vec::new();
    // At the client's sidecar; and at the application's, by somebody outside of the mesh.
    let doors = [mesh.outbound("client", "echo:80"), mesh.inbound("echo", 8080)];
    for ((status, what, request), address) in REFUSED.iter().flat_map(|row| doors.map(|door| (row, door))) {
        let mut wire = Wire::connect(address).await;
        let mut bytes = request.replace('^', "\r\n").into_bytes();
        bytes.extend_from_slice(SMUGGLED.as_bytes());
        wire.send(bytes).await;
        let (answered, orderly) = wire.to_any_end().await;
        let text = String::from_utf8_lossy(&answered);
        let refused = text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains("x-heddle-cause: bad_request");
        if !refused || !orderly || text.matches("HTTP/1.1 ").count() != 1 {
            wrong.push(format!("{what}: expected one {status} and the end (orderly: {orderly}), got {text:?}"));
        }
        let received = app.received();
        if received.iter().any(|bytes| !bytes.is_empty()) {
            wrong.push(format!("{what}: the application got {:?}", String::from_utf8_lossy(&received.concat())));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_unsupported_version_is_named() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9"] {
        let mut wire = mesh.connect().await;
        wire.send(format!("GET / {version}\r\nHost: echo\r\n\r\n")).await;
        let (answered, _) = wire.to_any_end().await;
        let text = String::from_utf8_lossy(&answered);
        assert!(text.starts_with("HTTP/1.1 505 ") || text.starts_with("HTTP/1.1 400 "), "{version}: {text:?}");
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_response_with_ambiguous_framing_is_not_passed_on() {
    let app = App::http1(|request| {
        let head = match request.target() {
            "/both" => "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "/two" => "Content-Length: 4\r\nContent-Length: 5\r\n",
            "/sign" => "Content-Length: +4\r\n",
            "/space" => "Content-Length : 4\r\n",
            _ => "Transfer-Encoding: chunked, gzip\r\n",
        };
        format!("HTTP/1.1 200 OK\r\n{head}\r\nabcd").into()
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for target in ["/both", "/two", "/sign", "/space", "/not-last"] {
        let mut wire = mesh.connect().await;
        let response = http1::exchange(&mut wire, format!("GET {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
        assert_eq!(response.status(), 502, "{target}");
        assert_eq!(response.header("x-heddle-cause"), Some("upstream_protocol"), "{target}");
        assert!(response.text().contains("inbound sidecar of"), "{target}: it says where: {}", response.text());
    }
}

#[tokio::test]
async fn bytes_after_a_response_do_not_become_the_next_one() {
    let app = App::http1(|_| [answer(200, "", "mine"), answer(200, "", "smuggled")].concat()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for _ in 0..5 {
        let response = http1::exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
        assert_eq!(response.text(), "mine");
        assert!(wire.pending().is_empty());
    }
    assert_eq!(app.connections(), 5, "a connection with bytes that nobody asked for is not used again");
}
