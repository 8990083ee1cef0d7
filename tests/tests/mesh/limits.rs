//! Sizes of heads and trailers: 96 KiB on every leg, in both directions and both versions of HTTP; above, an answer that says what and where.

use heddle_tests::http1::{ADDED, answer, exchange};
use heddle_tests::http2::{self, Client};
use heddle_tests::{App, Mesh};

/// Below the limit, and far above the 16 KiB that libraries have by default.
const PASSES: usize = 90 * 1024;
/// Above the limit on every leg, the room for what sidecars add included.
const REFUSED: usize = 110 * 1024;

/// A field of this length or about it.
fn padding(len: usize) -> String {
    format!("X-Padding: {}\r\n", "p".repeat(len))
}

#[tokio::test]
async fn large_http1_heads_and_trailers_pass() {
    let app = App::http1(|request| {
        let asked = request.header("x-padding").map_or(0, str::len) + request.trailers.iter().map(|(_, v)| v.len()).sum::<usize>();
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\nX-Asked: {asked}\r\n{}Transfer-Encoding: chunked\r\n\r\n", padding(PASSES)).into_bytes();
        bytes.extend(format!("2\r\nok\r\n0\r\n{}\r\n", padding(PASSES)).into_bytes());
        bytes
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for _ in 0..2 {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: echo\r\n{}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{}\r\n",
            padding(PASSES),
            padding(PASSES)
        );
        let response = exchange(&mut wire, request).await;
        assert_eq!(response.header("x-asked"), Some((2 * PASSES).to_string().as_str()));
        assert_eq!((response.header("x-padding").map(str::len), response.text().as_str()), (Some(PASSES), "ok"));
        assert_eq!(response.trailers[0].1.len(), PASSES);
    }
}

#[tokio::test]
async fn a_long_url_passes() {
    let app = App::http1(|request| answer(200, "", request.target())).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let target = format!("/{}?{}", "p".repeat(30_000), "q".repeat(34_000));
    let response = exchange(&mut wire, format!("GET {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
    assert_eq!(response.text(), target);
}

/// An answer about a limit: its status, its cause, the limit and the sidecar.
fn names_limit(status: u16, cause: Option<&str>, text: &str, expected: (u16, &str, &str)) {
    let (expected_status, expected_cause, place) = expected;
    assert_eq!((status, cause), (expected_status, Some(expected_cause)), "{text}");
    for part in [place, "HEDDLE_HEADER_LIMIT", "98304"] {
        assert!(text.contains(part), "{part} is not named in: {text}");
    }
}

#[tokio::test]
async fn a_request_head_above_the_limit_is_answered_431() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, format!("GET / HTTP/1.1\r\nHost: echo\r\n{}\r\n", padding(REFUSED))).await;
    names_limit(response.status(), response.header("x-heddle-cause"), &response.text(), (431, "header_too_large", "outbound sidecar of"));
    assert!(wire.to_end().await.is_empty());
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_request_with_trailers_above_the_limit_is_answered_431() {
    let app = App::http1(|_| answer(200, "", "")).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let request = format!("POST / HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n", padding(REFUSED));
    let response = exchange(&mut wire, request).await;
    names_limit(response.status(), response.header("x-heddle-cause"), &response.text(), (431, "header_too_large", "outbound sidecar of"));
    assert!(wire.to_end().await.is_empty());
}

#[tokio::test]
async fn a_response_head_above_the_limit_is_answered_502() {
    let app = App::http1(|_| answer(200, &padding(REFUSED), "")).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    let expected = (502, "response_header_too_large", "inbound sidecar of");
    names_limit(response.status(), response.header("x-heddle-cause"), &response.text(), expected);
    assert_eq!(exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.status(), 502, "the client's connection goes on");
}

#[tokio::test]
async fn response_trailers_above_the_limit_cut_the_response() {
    let app =
        App::http1(|_| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{}\r\n", padding(REFUSED)).into())
            .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    let (bytes, orderly) = wire.to_any_end().await;
    assert!(!orderly && !bytes.ends_with(b"\r\n\r\n"), "its head has gone already: only a cut can tell");
}

#[tokio::test]
async fn large_http2_heads_and_trailers_pass() {
    let large = "p".repeat(PASSES);
    let app = http2::serve(move |request, mut respond| {
        let large = large.clone();
        async move {
            let asked = request.headers().get("x-padding").map_or(0, |v| v.len());
            let (_, mut body) = request.into_parts();
            let (_, trailers) = http2::read(&mut body).await.unwrap();
            let asked = asked + trailers.map_or(0, |t| t["x-padding"].len());
            let head = http2::response(200, &[("x-padding", &large), ("x-asked", &asked.to_string())]);
            let mut stream = respond.send_response(head, false).unwrap();
            http2::write(&mut stream, b"ok", false).await.unwrap();
            stream.send_trailers(http2::trailers(&[("x-padding", &large)])).unwrap();
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let large = "p".repeat(PASSES);
    for _ in 0..2 {
        let (response, mut stream) = client.send(http2::request("POST", "/", &[("x-padding", &large)]), false).await.unwrap();
        stream.send_trailers(http2::trailers(&[("x-padding", &large)])).unwrap();
        let response = http2::Exchanged::of(response.await.unwrap()).await.unwrap();
        assert_eq!(response.header("x-asked"), Some((2 * PASSES).to_string().as_str()));
        assert_eq!((response.header("x-padding").map(str::len), response.text().as_str()), (Some(PASSES), "ok"));
        assert_eq!(response.trailers.unwrap()["x-padding"].len(), PASSES);
    }
}

#[tokio::test]
async fn http2_heads_above_the_limit_are_answered_with_the_limit_and_others_go_on() {
    let large = "p".repeat(REFUSED);
    let app = http2::serve(move |request, mut respond| {
        let large = large.clone();
        async move {
            let fields: &[_] = if request.uri().path() == "/large" { &[("x-padding", large.as_str())] } else { &[] };
            respond.send_response(http2::response(200, fields), true).unwrap();
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let large = "p".repeat(REFUSED);
    let refused = client.exchange(http2::request("GET", "/", &[("x-padding", &large)]), b"").await.unwrap();
    names_limit(refused.status(), refused.header("x-heddle-cause"), &refused.text(), (431, "header_too_large", "outbound sidecar of"));
    let refused = client.exchange(http2::request("GET", "/large", &[]), b"").await.unwrap();
    let expected = (502, "response_header_too_large", "inbound sidecar of");
    names_limit(refused.status(), refused.header("x-heddle-cause"), &refused.text(), expected);
    assert_eq!(client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_sidecars_add_does_not_count_against_the_client() {
    let app = App::http1(|request| answer(200, "", request.headers.len().to_string())).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    // Exactly the limit: the next sidecar sees more than that.
    let rest = "GET / HTTP/1.1\r\nHost: echo\r\nX-Padding: \r\n\r\n".len();
    let response = exchange(&mut wire, format!("GET / HTTP/1.1\r\nHost: echo\r\n{}\r\n", padding(98304 - rest))).await;
    assert_eq!((response.status(), response.text()), (200, (2 + ADDED.len()).to_string()));
    let response = exchange(&mut wire, format!("GET / HTTP/1.1\r\nHost: echo\r\n{}\r\n", padding(98305 - rest))).await;
    assert_eq!(response.status(), 431);
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.status(), 200);
}
