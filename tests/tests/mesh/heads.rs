//! HTTP/1 heads: every field, in its case and order, end to end; those of one hop at that hop.

use heddle_tests::http1::{self, ADDED, answer, exchange, without};
use heddle_tests::{App, Mesh};

#[tokio::test]
async fn fields_keep_case_order_and_repetition_in_both_directions() {
    const REQUEST: &str = "GET /Path HTTP/1.1\r\nhOsT: echo\r\nSOAPAction: \"urn:x\"\r\nx-b: 2\r\nX-A: 1\r\nx-b: 1\r\nX-Empty: \r\n\
        Cookie: a=b; c=d\r\nX_Under_Score: yes\r\nX-Bytes: caf\u{e9} ,;=\"\\\r\nSec-WebSocket-Protocol: One, tWo\r\n\r\n";
    const RESPONSE: &str = "HTTP/1.1 299 Ünusual Reason\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nETag: W/\"x\"\r\nX-EMPTY: \r\n\
        SET-COOKIE: c=3\r\nWWW-Authenticate: Basic realm=\"a, b\", Digest\r\nx-Under_score: 1\r\nContent-Length: 2\r\nServer: Me\r\n\r\nok";
    let app = App::http1(|_| RESPONSE.into()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, REQUEST).await;
    assert_eq!(String::from_utf8_lossy(&response.raw()), RESPONSE);
    let received = app.received().concat();
    assert_eq!(String::from_utf8_lossy(&without(&received, &ADDED)), REQUEST);
}

#[tokio::test]
async fn bytes_beyond_ascii_pass_in_values() {
    let app = App::http1(|_| b"HTTP/1.1 200 OK\r\nX-Latin: caf\xe9\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: echo\r\nX-Latin: \xfcber\r\n\r\n";
    let response = exchange(&mut wire, request).await;
    assert!(response.head.windows(13).any(|w| w == b"X-Latin: caf\xe9"), "{response:?}");
    assert_eq!(without(&app.received().concat(), &ADDED), request);
}

#[tokio::test]
async fn fields_of_one_hop_end_there() {
    let app = App::http1(|_| {
        answer(200, "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-End: 1\r\n", "")
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = exchange(
        &mut wire,
        "GET / HTTP/1.1\r\nHost: echo\r\nConnection: X-Mine, TE, Host, Content-Length\r\nx-mine: 1\r\nKeep-Alive: timeout=1\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip;q=0.5, trailers\r\nX-End: 1\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let names: Vec<_> = response.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["X-End", "Content-Length"], "what is of the application's connection ends with it");
    let heads = app.heads();
    let request = &heads[0];
    for gone in ["x-mine", "keep-alive", "proxy-connection"] {
        assert_eq!(request.header(gone), None, "{gone} is of the client's connection");
    }
    for kept in ["x-end", "host", "content-length"] {
        assert!(request.header(kept).is_some(), "{kept} is for the application, whatever Connection says");
    }
    assert_eq!(request.header("te"), Some("trailers"), "the one part of TE that a proxy may say itself");
}

#[tokio::test]
async fn obsolete_line_folding_of_a_response_becomes_spaces() {
    let app = App::http1(|_| b"HTTP/1.1 200 OK\r\nX-Folded: one,\r\n two,\r\n\tthree\r\nContent-Length: 2\r\n\r\nok".to_vec()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    let words: Vec<_> = response.header("x-folded").unwrap().split_whitespace().collect();
    assert_eq!((words, response.text().as_str()), (vec!["one,", "two,", "three"], "ok"));
}

#[tokio::test]
async fn a_reason_may_be_missing() {
    let app = App::http1(|request| {
        format!("HTTP/1.1 200{}\r\nContent-Length: 2\r\n\r\nok", if request.target() == "/" { "" } else { " " }).into()
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for (target, start) in [("/", "HTTP/1.1 200 "), ("/space", "HTTP/1.1 200 ")] {
        let response = exchange(&mut wire, format!("GET {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
        assert_eq!((response.start.as_str(), response.text().as_str()), (start, "ok"));
    }
}

#[tokio::test]
async fn a_thousand_fields_pass_in_both_directions() {
    let app = App::http1(|request| {
        let many: String = (0..1000).map(|n| format!("X-Answer-{n}: {n}\r\n")).collect();
        answer(200, &many, request.headers.len().to_string())
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let many: String = (0..1000).map(|n| format!("X-Ask-{n}: {n}\r\n")).collect();
    let response = exchange(&mut wire, format!("GET / HTTP/1.1\r\nHost: echo\r\n{many}\r\n")).await;
    assert_eq!(response.headers.len(), 1001);
    assert_eq!(response.header("x-answer-999"), Some("999"));
    assert_eq!(response.text(), (1001 + ADDED.len()).to_string());
}

#[tokio::test]
async fn interim_responses_pass_before_the_final_one() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let app =
        App::http1(|_| [HINTS.as_bytes(), b"HTTP/1.1 102 Processing\r\n\r\n", HINTS.as_bytes(), &answer(200, "", "done")].concat()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    wire.expect(HINTS).await;
    assert_eq!(http1::response_head(&mut wire).await.status(), 102);
    wire.expect(HINTS).await;
    assert_eq!(http1::response(&mut wire, "GET").await.text(), "done");
}

#[tokio::test]
async fn an_http10_client_gets_no_interim_responses() {
    let app = App::http1(|_| [b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec(), answer(200, "", "done")].concat()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(http1::response_head(&mut wire).await.status(), 200);
}

#[tokio::test]
async fn trace_fields_of_the_client_are_continued_and_the_request_id_is_kept() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let response = exchange(
        &mut wire,
        format!(
            "GET / HTTP/1.1\r\nHost: echo\r\ntraceparent: 00-{id}-00f067aa0ba902b7-01\r\ntracestate: vendor=x\r\nbaggage: k=v\r\n\
             X-Request-Id: mine\r\n\r\n"
        ),
    )
    .await;
    let seen = http1::Message::parse(&response.body);
    assert!(seen.header("traceparent").unwrap().starts_with(&format!("00-{id}-")), "{seen:?}");
    assert_eq!(seen.header("tracestate"), Some("vendor=x"));
    assert_eq!(seen.header("baggage"), Some("k=v"));
    assert_eq!(seen.header("x-request-id"), Some("mine"));
}
