//! Peers that break HTTP/2's rules to make a proxy work or remember: cheap, and without effect on others.

use heddle_tests::http1::{answer, exchange};
use heddle_tests::http2::frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame, get};
use heddle_tests::http2::{self, Client};
use heddle_tests::{App, Mesh, Wire, wait};

/// Memory that a sidecar may gain by an attack.
const GROWTH_MAX: u64 = 24 * 1024 * 1024;

async fn mesh() -> (App, Mesh) {
    let app = http2::serve(|_, mut respond| async move {
        // A client that is gone needs no answer.
        let _gone = respond.send_response(http2::response(200, &[]), true);
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http2").await;
    (app, mesh)
}

/// Writes `attack` again and again until the other side takes no more, or `times` times; then lets the connection end. A neighbour is
/// served before, while and after.
async fn attack(mesh: &Mesh, times: usize, attack: impl Fn(usize) -> Vec<u8>) -> usize {
    let address = mesh.outbound("client", "echo:80");
    let neighbour = Client::connect(address).await;
    let served = async || assert_eq!(neighbour.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
    served().await;
    let before = mesh.sidecar("client").memory();
    let mut wire = Wire::connect(address).await;
    wire.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    let mut written = 0;
    while written < times && wire.try_send(attack(written)).await.is_ok() {
        written += 1;
        if written % 50 == 0 {
            served().await;
        }
    }
    served().await;
    let growth = mesh.sidecar("client").memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "the sidecar has grown by {growth} bytes after {written} writes");
    drop(wire);
    served().await;
    written
}

/// Stream ids of clients are odd and grow.
fn stream(n: usize) -> u32 {
    u32::try_from(n * 2 + 1).expect("few streams")
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let (_app, mesh) = mesh().await;
    let written = attack(&mesh, 2000, |n| {
        (n * 50..(n + 1) * 50)
            .flat_map(|n| {
                let open = frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &get());
                [open, frame(RST_STREAM, 0, stream(n), &8u32.to_be_bytes())].concat()
            })
            .collect()
    })
    .await;
    assert!(written < 2000, "100,000 streams were opened and reset without an end");
}

#[tokio::test]
async fn endless_header_lists_end_the_connection() {
    let (_app, mesh) = mesh().await;
    // Literal fields that are not indexed, so that the list grows and no table does.
    let field = [&[0x00, 5][..], b"x-pad", &[0x7f, 0x81, 0x07], &[b'p'; 1024]].concat();
    let written = attack(&mesh, 20_000, |n| match n {
        0 => frame(HEADERS, END_STREAM, 1, &get()),
        _ => frame(CONTINUATION, 0, 1, &field),
    })
    .await;
    assert!(written < 20_000, "20 MiB of one header list were taken");
}

#[tokio::test]
async fn empty_continuations_end_the_connection() {
    let (_app, mesh) = mesh().await;
    let written = attack(&mesh, 4000, |n| match n {
        0 => frame(HEADERS, END_STREAM, 1, &get()),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(50),
    })
    .await;
    assert!(written < 4000, "200,000 frames of one header list were taken");
}

#[tokio::test]
async fn floods_of_settings_and_pings_whose_answers_nobody_reads_cost_no_memory() {
    for kind in [SETTINGS, PING] {
        let (_app, mesh) = mesh().await;
        let payload: &[u8] = if kind == PING { &[7; 8] } else { &[] };
        let address = mesh.outbound("client", "echo:80");
        let before = mesh.sidecar("client").memory();
        let mut stream = Wire::connect(address).await.into_stream();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let flood = frame(kind, 0, 0, payload).repeat(5000);
        let (mut written, mut last) = (0, None);
        // Until the sidecar takes no more of it, ends the connection, or has taken a hundred megabytes.
        while written < 100 * 1024 * 1024 {
            match stream.try_write(&flood) {
                Ok(n) => written += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && last != Some(written) => {
                    last = Some(written);
                    let room = tokio::time::timeout(std::time::Duration::from_secs(1), stream.writable()).await;
                    if room.is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        let neighbour = Client::connect(address).await;
        assert_eq!(neighbour.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
        let growth = mesh.sidecar("client").memory().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "the sidecar has grown by {growth} bytes after {written} bytes of frames of kind {kind}");
    }
}

#[tokio::test]
async fn an_idle_attacker_costs_no_time() {
    let (_app, mesh) = mesh().await;
    let address = mesh.outbound("client", "echo:80");
    let half = [PREFACE, &[0, 0, 4, 8]].concat();
    let mut held = Vec::new();
    for n in 0..100 {
        let mut wire = Wire::connect(address).await;
        // Half a preface, a preface alone, half a frame.
        let begun: &[u8] = [&PREFACE[..10], PREFACE, &half][n % 3];
        wire.send(begun).await;
        held.push(wire);
    }
    let neighbour = Client::connect(address).await;
    assert_eq!(neighbour.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
    let spent = || mesh.sidecar("client").cpu();
    wait::until("the sidecar to come to rest", async || {
        let before = spent();
        wait::until_steady("nothing", 10, || ()).await;
        let used = spent() - before;
        if used.as_millis() <= 10 { Ok(()) } else { Err(format!("{used:?} of CPU within 50 ms")) }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_asks_and_asks_and_never_reads_is_left_waiting() {
    let app = App::http1(|_| answer(200, "", "x".repeat(1000))).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let before = mesh.sidecar("client").memory();
    let mut stream = mesh.connect().await.into_stream();
    let many = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n".repeat(1000);
    let mut written = 0;
    // Until the sidecar takes no more; a gigabyte of requests would be an endless queue.
    while written < 1024 * 1024 * 1024 {
        let writing = tokio::io::AsyncWriteExt::write(&mut stream, many.as_bytes());
        match tokio::time::timeout(std::time::Duration::from_secs(1), writing).await {
            Ok(Ok(n)) => written += n,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let growth = mesh.sidecar("client").memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "the sidecar has grown by {growth} bytes after {written} bytes of requests");
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.body.len(), 1000);
}

#[tokio::test]
async fn an_application_that_sends_interim_responses_without_end_is_held_back() {
    let app = App::streams(|stream| async move {
        let mut wire = Wire::new(stream);
        if heddle_tests::http1::request_head(&mut wire).await.is_some() {
            let mut stream = wire.into_stream();
            let many = "HTTP/1.1 102 Processing\r\nX-Padding: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n\r\n".repeat(1000);
            while tokio::io::AsyncWriteExt::write_all(&mut stream, many.as_bytes()).await.is_ok() {}
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let before = ["client", "echo"].map(|name| mesh.sidecar(name).memory());
    let mut wire = mesh.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    wire.expect("HTTP/1.1 102 ").await;
    // It is not read any more: everything comes to rest, at sizes that do not grow.
    wait::until_steady("the sidecars' memory", 60, || ["client", "echo"].map(|name| mesh.sidecar(name).memory())).await;
    for (name, before) in ["client", "echo"].into_iter().zip(before) {
        let growth = mesh.sidecar(name).memory().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "the sidecar of {name} has grown by {growth} bytes");
    }
}

#[tokio::test]
async fn a_slow_http1_head_does_not_hold_up_others() {
    let app = App::http1(|_| answer(200, "", "served")).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut wire = mesh.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: ec").await;
        held.push(wire);
    }
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.text(), "served");
    for wire in &mut held {
        assert_eq!(exchange(wire, "ho\r\n\r\n").await.text(), "served");
    }
}
