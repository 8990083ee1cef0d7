//! HTTP/1 bodies: framing kept as it is, nothing waited for, nothing kept back, and memory that does not grow with them.

use heddle_tests::http1::{self, answer, exchange};
use heddle_tests::{App, Mesh, Wire, wait};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};

/// Memory that one sidecar may gain while a body passes: windows and buffers of a few connections, and what an allocator keeps.
const GROWTH_MAX: u64 = 24 * 1024 * 1024;

const CHUNKED: &str = "5;name=value;other=\"a b\"\r\nhello\r\n1;x\r\n,\r\n006\r\n world\r\n0;last\r\nX-Sum: abc\r\nx-EMPTY:\r\n\r\n";

#[tokio::test]
async fn chunked_bodies_pass_with_extensions_and_trailers() {
    let app =
        App::http1(|_| [b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED.as_bytes()].concat()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for n in 0..2 {
        let head = "POST / HTTP/1.1\r\nHost: echo\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
        let response = exchange(&mut wire, format!("{head}{CHUNKED}")).await;
        assert_eq!(String::from_utf8_lossy(&response.raw_body), CHUNKED, "response {n}");
        assert_eq!(response.trailers[0], ("X-Sum".to_owned(), "abc".to_owned()));
        let received = app.received().concat();
        assert_eq!(String::from_utf8_lossy(&received).matches(CHUNKED).count(), n + 1, "request {n} as it was sent");
    }
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_the_same_body() {
    let app = App::http1(|request| answer(200, "", &request.raw_body)).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let request = format!("POST / HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}");
    for byte in request.as_bytes() {
        wire.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(http1::response(&mut wire, "POST").await.text(), CHUNKED);
}

#[tokio::test]
async fn continue_is_asked_of_the_application() {
    let app = App::serve(|mut wire, _| async move {
        while let Some(head) = http1::request_head(&mut wire).await {
            assert_eq!(head.header("expect"), Some("100-continue"));
            if head.target() == "/refuse" {
                wire.send("HTTP/1.1 417 Expectation Failed\r\nX-Why: no\r\nContent-Length: 4\r\n\r\nnono").await;
                // And reads nothing of the body.
                wire.to_any_end().await;
                return;
            }
            wire.send("HTTP/1.1 100 Continue\r\nX-Note: go on\r\n\r\n").await;
            let body = wire.exactly(5).await;
            wire.send(answer(200, "", body)).await;
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    for _ in 0..2 {
        wire.send("POST / HTTP/1.1\r\nHost: echo\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
        wire.expect("HTTP/1.1 100 Continue\r\nX-Note: go on\r\n\r\n").await;
        wire.send("hello").await;
        assert_eq!(http1::response(&mut wire, "POST").await.text(), "hello");
    }
    wire.send("POST /refuse HTTP/1.1\r\nHost: echo\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    let refused = http1::response(&mut wire, "POST").await;
    assert_eq!((refused.status(), refused.header("x-why"), refused.text().as_str()), (417, Some("no"), "nono"));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let app = App::serve(|mut wire, _| async move {
        if http1::request_head(&mut wire).await.is_some() {
            wire.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much").await;
            // As servers end in order: no more answers, and what still comes is thrown away for a while.
            wire.finish().await;
            let mut taken = 0;
            while let Ok(n @ 1..) = wire.try_fill().await {
                taken += n;
                if taken > 1024 * 1024 {
                    break;
                }
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 100000000\r\n\r\n").await;
    let chunk = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    // Until the sidecar takes no more, or enough for anybody's buffers.
    while sent < 16 * 1024 * 1024 && wire.try_send(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    let response = http1::response(&mut wire, "POST").await;
    assert_eq!((response.status(), response.text().as_str()), (413, "too much"));
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection() {
    let app = App::serve(|mut wire, _| async move {
        if http1::request(&mut wire).await.is_some() {
            wire.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n").await;
            for n in 0..1000 {
                wire.send(format!("line {n}\n")).await;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    for version in ["1.1", "1.0"] {
        let mut wire = mesh.connect().await;
        let response = exchange(&mut wire, format!("GET / HTTP/{version}\r\nHost: echo\r\n\r\n")).await;
        assert_eq!((response.status(), response.text()), (200, expected.clone()));
    }
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_seen_to_be() {
    let app = App::serve(|mut wire, _| async move {
        let Some(request) = http1::request(&mut wire).await else { return };
        match request.target() {
            "/length" => wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this").await,
            "/chunked" => wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n").await,
            _ => {
                wire.send("HTTP/1.1 200 OK\r\n\r\nonly this").await;
                wire.reset();
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for target in ["/length", "/chunked", "/until-reset"] {
        let mut wire = mesh.connect().await;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
        let (bytes, orderly) = wire.to_any_end().await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.ends_with("0\r\n\r\n"), "{target}: {text}");
        // A length tells by itself; only the connection's end can tell for the others.
        assert!(!orderly || target == "/length", "{target} ended as if it were whole: {text}");
    }
}

#[tokio::test]
async fn a_request_that_is_cut_short_is_seen_to_be() {
    let (ended, mut ends) = mpsc::channel(1);
    let app = App::serve(move |mut wire, _| {
        let ended = ended.clone();
        async move {
            let (bytes, _) = wire.to_any_end().await;
            ended.send(String::from_utf8_lossy(&bytes).into_owned()).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for (framing, sent) in [("Content-Length: 1000", "only this"), ("Transfer-Encoding: chunked", "9\r\nonly this\r\n")] {
        for by_reset in [true, false] {
            let mut wire = mesh.connect().await;
            wire.send(format!("POST / HTTP/1.1\r\nHost: echo\r\n{framing}\r\n\r\n{sent}")).await;
            wait::until("what was sent", async || {
                let received = app.received().last().cloned().unwrap_or_default();
                if received.ends_with(sent.as_bytes()) { Ok(()) } else { Err(format!("{received:?}")) }
            })
            .await;
            if by_reset {
                wire.reset()
            } else {
                drop(wire)
            }
            let received = wait::soon("the end at the application", ends.recv()).await.unwrap();
            assert!(received.ends_with(sent), "nothing was made up to complete it: {received}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_response_stops_it() {
    let (ended, mut ends) = mpsc::channel(1);
    let app = App::streams(move |stream| {
        let ended = ended.clone();
        async move {
            let mut wire = Wire::new(stream);
            if http1::request(&mut wire).await.is_some() {
                wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                while wire.try_send(format!("400\r\n{}\r\n", "x".repeat(0x400))).await.is_ok() {}
                ended.send(()).await.unwrap();
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    wire.exactly(100_000).await;
    drop(wire);
    wait::soon("the application to be stopped", ends.recv()).await.unwrap();
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let next = Arc::new(Notify::new());
    let told = next.clone();
    let app = App::serve(move |mut wire, _| {
        let told = told.clone();
        async move {
            let Some(request) = http1::request(&mut wire).await else { return };
            // A long poll: not even a head before there is something to say.
            told.notified().await;
            let chunked = request.target() == "/chunked";
            let framing = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n")).await;
            for n in 0..20 {
                told.notified().await;
                let event = format!("data: {n}\n\n");
                wire.send(if chunked { format!("{:x}\r\n{event}\r\n", event.len()) } else { event }).await;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    for target in ["/chunked", "/until-close"] {
        let mut wire = mesh.connect().await;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: echo\r\n\r\n")).await;
        next.notify_one();
        assert_eq!(http1::response_head(&mut wire).await.status(), 200);
        for n in 0..20 {
            // The next event exists only when the last one was seen here.
            next.notify_one();
            let event = wire.until(b"\n\n").await;
            assert!(String::from_utf8_lossy(&event).ends_with(&format!("data: {n}\n\n")));
        }
    }
}

#[tokio::test]
async fn a_request_body_reaches_the_application_while_it_is_sent() {
    let seen = Arc::new(Notify::new());
    let tell = seen.clone();
    let app = App::serve(move |mut wire, _| {
        let seen = tell.clone();
        async move {
            if http1::request_head(&mut wire).await.is_some() {
                for n in 0..10 {
                    wire.expect(format!("7\r\npart {n}\n\r\n")).await;
                    seen.notify_one();
                }
                wire.expect("0\r\n\r\n").await;
                wire.send(answer(200, "", "all")).await;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for n in 0..10 {
        wire.send(format!("7\r\npart {n}\n\r\n")).await;
        wait::soon("a part at the application", seen.notified()).await;
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(http1::response(&mut wire, "POST").await.text(), "all");
}

/// Bytes that depend on where they are, so that none can be lost, doubled or moved.
fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..).take(len).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}

#[tokio::test]
async fn a_slow_reader_costs_bounded_memory() {
    const LEN: u64 = 1024 * 1024 * 1024;
    const CHUNK: usize = 64 * 1024;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let app = App::serve(move |mut wire, _| {
        let sent = count.clone();
        async move {
            if http1::request(&mut wire).await.is_none() {
                return;
            }
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n")).await;
            let chunk = pattern(0, CHUNK);
            let mut stream = wire.into_stream();
            // Without a deadline: it waits for the reader.
            while sent.load(Ordering::Relaxed) < LEN && tokio::io::AsyncWriteExt::write_all(&mut stream, &chunk).await.is_ok() {
                sent.fetch_add(CHUNK as u64, Ordering::Relaxed);
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let before = ["client", "echo"].map(|name| mesh.sidecar(name).memory());
    let mut wire = mesh.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    http1::response_head(&mut wire).await;
    let stuck = wait::until_steady("the application's sending", 40, || sent.load(Ordering::Relaxed)).await;
    assert!(stuck < LEN / 4, "{stuck} bytes were taken for a client that read next to none");
    let mut left = LEN;
    let chunk = pattern(0, CHUNK);
    while left > 0 {
        let part = wire.exactly(CHUNK).await;
        assert!(part == chunk, "bytes differ, {left} before the end");
        left -= CHUNK as u64;
    }
    for (name, before) in ["client", "echo"].into_iter().zip(before) {
        let growth = mesh.sidecar(name).memory().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "the sidecar of {name} has grown by {growth} bytes");
    }
}

#[tokio::test]
async fn a_large_upload_arrives_whole_in_bounded_memory() {
    const LEN: u64 = 64 * 1024 * 1024;
    const CHUNK: usize = 64 * 1024;
    let wrong = Arc::new(Mutex::new(None));
    let found = wrong.clone();
    let app = App::streams(move |stream| {
        let wrong = found.clone();
        async move {
            let mut wire = Wire::new(stream);
            if http1::request_head(&mut wire).await.is_none() {
                return;
            }
            let mut at = 0;
            while at < LEN {
                let part = wire.exactly(CHUNK).await;
                if part != pattern(at, CHUNK) {
                    wrong.lock().unwrap().get_or_insert(at);
                }
                at += CHUNK as u64;
            }
            wire.send(answer(201, "", at.to_string())).await;
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let before = ["client", "echo"].map(|name| mesh.sidecar(name).memory());
    let mut wire = mesh.connect().await;
    wire.send(format!("PUT / HTTP/1.1\r\nHost: echo\r\nContent-Length: {LEN}\r\n\r\n")).await;
    let mut at = 0;
    while at < LEN {
        wire.send(pattern(at, CHUNK)).await;
        at += CHUNK as u64;
    }
    let response = http1::response(&mut wire, "PUT").await;
    assert_eq!((response.status(), response.text()), (201, LEN.to_string()));
    assert_eq!(*wrong.lock().unwrap(), None, "bytes differ");
    for (name, before) in ["client", "echo"].into_iter().zip(before) {
        let growth = mesh.sidecar(name).memory().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "the sidecar of {name} has grown by {growth} bytes");
    }
}
