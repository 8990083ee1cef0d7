use super::*;
use crate::http1::body::Framing;
use heddle_model::RequestView;

fn request(text: &str) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::default();
    let len = head.parse(text.as_bytes())?.expect("a whole head");
    assert_eq!(len, text.len());
    Ok(head)
}

fn written(head: &RequestHead) -> String {
    let mut out = Vec::new();
    head.write(&mut out, true);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_head_passes_in_order_and_case() {
    let text = "POST /a?b=c HTTP/1.1\r\nhOsT: x\r\nSOAPAction: \"Y\"\r\ncontent-LENGTH: 3\r\nX: 1\r\nx: 2\r\n\r\n";
    assert_eq!(written(&request(text).unwrap()), text);
}

#[test]
fn a_status_line_may_end_with_the_status() {
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 "] {
        let mut head = ResponseHead::default();
        let text = format!("{line}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(head.parse(text.as_bytes(), false, false), Ok(Some(text.len())));
        let mut out = Vec::new();
        head.write(&mut out, false, 1);
        assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n");
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: a\r\n folded",
        "X: a\rb",
        "X: a\0b",
        "Host: y",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
        assert!(RequestHead::default().parse(text.as_bytes()).is_err(), "{fields:?} must be refused");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(matches!(RequestHead::default().parse(old.as_bytes()), Err(HeadError::Ambiguous(_))));
    assert!(RequestHead::default().parse(b"GET / HTTP/1.1\r\n\r\n").is_err(), "Host is required");
    assert!(RequestHead::default().parse(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n").is_err());
}

#[test]
fn fields_of_this_hop_stay_here() {
    let head = request(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Mine, host\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\nY: 2\r\n\r\n",
    )
    .unwrap();
    assert_eq!(written(&head), "GET / HTTP/1.1\r\nHost: x\r\nY: 2\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    assert!(!head.keeps_alive());
}

#[test]
fn an_upgrade_is_passed_on() {
    let text = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n";
    let head = request(text).unwrap();
    assert!(head.upgrades());
    assert!(written(&head).ends_with("Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"));
}

#[test]
fn an_upgrade_to_http2_is_not() {
    let text = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n";
    let head = request(text).unwrap();
    assert!(!head.upgrades());
    assert_eq!(written(&head), "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = request("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: H2C, other/2\r\nConnection: Upgrade\r\n\r\n").unwrap();
    assert!(written(&head).ends_with("\r\nUpgrade: other/2\r\nConnection: Upgrade\r\n\r\n"));
}

#[test]
fn a_target_with_a_host_counts_for_both() {
    let head = request("GET http://a/b HTTP/1.1\r\nhost: evil\r\nX: 1\r\n\r\n").unwrap();
    assert_eq!(written(&head), "GET http://a/b HTTP/1.1\r\nhost: a\r\nX: 1\r\n\r\n");
}

#[test]
fn what_the_proxy_sets_is_not_taken_away_by_connection() {
    let mut head = request("GET / HTTP/1.1\r\nHost: x\r\nConnection: x-user, traceparent\r\nX-User: me\r\ntraceparent: 1\r\n\r\n").unwrap();
    head.set("traceparent", b"2");
    assert_eq!(written(&head), "GET / HTTP/1.1\r\nHost: x\r\ntraceparent: 2\r\n\r\n");
}

#[test]
fn targets_are_split_by_their_form() {
    for (line, authority, path, query) in [
        ("GET /a?b HTTP/1.1", "x", "/a", Some("b")),
        ("GET http://other:81/a HTTP/1.1", "other:81", "/a", None),
        ("GET http://other?q HTTP/1.1", "other", "/", Some("q")),
        ("OPTIONS * HTTP/1.1", "x", "*", None),
        ("CONNECT db:5432 HTTP/1.1", "db:5432", "", None),
    ] {
        let head = request(&format!("{line}\r\nHost: x\r\n\r\n")).unwrap();
        assert_eq!((head.authority(), head.path(), head.query()), (Some(authority), path, query), "{line}");
    }
    assert!(request("GET a/b HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
    assert!(request("GET http://u@h/ HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
}

#[test]
fn edits_keep_place_and_case() {
    let mut head = request("GET http://x/old?q HTTP/1.1\r\nHost: x\r\nFoo: 1\r\nBar: 2\r\nfoo: 3\r\n\r\n").unwrap();
    head.set("foo", b"9");
    head.append("Baz", b"4");
    head.remove("bar");
    head.set_path("/new");
    head.set_authority("y");
    assert_eq!(written(&head), "GET http://y/new?q HTTP/1.1\r\nHost: y\r\nFoo: 9\r\nBaz: 4\r\n\r\n");
    assert_eq!((head.path(), head.query(), head.authority()), ("/new", Some("q"), Some("y")));
}

#[test]
fn a_response_knows_its_end() {
    let parse = |text: &str, to_head, to_connect| {
        let mut head = ResponseHead::default();
        head.parse(text.as_bytes(), to_head, to_connect).map(|len| {
            assert!(len.is_some());
            head.framing()
        })
    };
    assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, false), Ok(Framing::Length(5)));
    assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, false), Ok(Framing::None));
    assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n", false, false), Ok(Framing::None));
    assert_eq!(parse("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, false), Ok(Framing::None));
    assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n", false, false), Ok(Framing::UntilClose));
    assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n", false, true), Ok(Framing::None));
    assert_eq!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, false), Ok(Framing::Chunked));
    assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", false, false).is_err());
}

#[test]
fn a_folded_response_field_is_unfolded() {
    let mut head = ResponseHead::default();
    head.parse(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nKeep-Alive: timeout=7, max=3\r\n\r\n", false, false).unwrap();
    let mut out = Vec::new();
    head.write(&mut out, false, 1);
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains("\r\n b"), "{text}");
    assert_eq!(head.keep_alive_timeout(), Some(7));
}
