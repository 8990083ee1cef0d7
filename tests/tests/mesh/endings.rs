//! Ends: of a sidecar with work in its hands, of connections that are cut, of waits for those who never answer.

use crate::identity::{ECHO, context, lead, without_endpoints};
use bytes::Bytes;
use heddle_tests::http1::{self, answer, exchange};
use heddle_tests::http2::frames::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame};
use heddle_tests::http2::{self, Client};
use heddle_tests::{App, Mesh, Service, Wire, Workload, wait};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

const GET: &str = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n";

/// A workload whose sidecar would wait for ten minutes for what does not end.
fn patient(name: &str) -> Workload {
    Workload::new(name).env("HEDDLE_LAME_DUCK_SECONDS", "0").env("HEDDLE_DRAIN_SECONDS", "600")
}

async fn closed(address: SocketAddr) {
    wait::until("the listener's end", async || match TcpStream::connect(address).await {
        Ok(_) => Err("it accepts".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
}

async fn ended(mesh: &mut Mesh, workload: &str) {
    let status = mesh.sidecar_mut(workload).process().ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn an_answer_that_needs_others_is_finished_while_the_sidecar_ends() {
    let back = App::named("back").await;
    let upstream: Arc<OnceLock<SocketAddr>> = Arc::default();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at, tell_begun, wait_for) = (upstream.clone(), begun.clone(), go_on.clone());
    let front = App::serve(move |mut wire, _| {
        let (at, begun, go_on) = (at.clone(), tell_begun.clone(), wait_for.clone());
        async move {
            while http1::request(&mut wire).await.is_some() {
                begun.notify_one();
                go_on.notified().await;
                let mut call = Wire::connect(*at.get().unwrap()).await;
                let called = exchange(&mut call, "GET /needed HTTP/1.1\r\nHost: back\r\n\r\n").await;
                wire.send(answer(called.status(), "", called.text())).await;
            }
        }
    })
    .await;
    let mut mesh = Mesh::builder()
        .service(Service::new("echo", 80).protocol("http"))
        .service(Service::new("back", 80).protocol("http"))
        .workload(patient("front").label("app", "echo").serves(8080, front.address()).calls("back:80"))
        .workload(Workload::new("back").label("app", "back").serves(8080, back.address()))
        .client("client", &["echo:80"])
        .start()
        .await;
    upstream.set(mesh.outbound("front", "back:80")).unwrap();
    let mut wire = mesh.connect().await;
    wire.send(GET).await;
    wait::soon("the request", begun.notified()).await;
    mesh.sidecar_mut("front").process().terminate();
    closed(mesh.inbound("front", 8080)).await;
    go_on.notify_one();
    let response = http1::response(&mut wire, "GET").await;
    assert_eq!(response.status(), 200, "{}", response.text());
    assert!(response.text().starts_with("GET /needed "), "{}", response.text());
    ended(&mut mesh, "front").await;
}

#[tokio::test]
async fn what_comes_as_the_sidecar_ends_is_answered_and_silence_does_not_hold_it_up() {
    let app = App::named("echo").await;
    let mut mesh = Mesh::builder()
        .service(Service::new("echo", 80).protocol("http"))
        .workload(Workload::new("echo").label("app", "echo").serves(8080, app.address()))
        .workload(patient("client").calls("echo:80"))
        .start()
        .await;
    let address = mesh.outbound("client", "echo:80");
    let (mut late, mut never) = (Wire::connect(address).await, Wire::connect(address).await);
    // Connections are taken in turn: when this one is served, the others are known.
    let mut kept = Wire::connect(address).await;
    assert_eq!(exchange(&mut kept, GET).await.status(), 200);
    mesh.sidecar_mut("client").process().terminate();
    closed(address).await;
    let response = exchange(&mut late, GET).await;
    assert_eq!((response.status(), response.header("connection")), (200, Some("close")), "{}", response.text());
    assert!(never.to_end().await.is_empty());
    assert!(kept.to_end().await.is_empty());
    ended(&mut mesh, "client").await;
}

#[tokio::test]
async fn a_body_that_is_cut_between_sidecars_does_not_look_whole() {
    let app = App::named("never").await;
    let mesh = without_endpoints(app.address()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(context(&mesh, ECHO).server());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut tls = acceptor.accept(stream).await.unwrap();
            let mut request = vec![0; 16 * 1024];
            let _head = tls.read(&mut request).await.unwrap();
            tls.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of ").await.unwrap();
            tls.flush().await.unwrap();
            // Somebody on the way ends TCP: no close_notify.
            tls.get_mut().0.shutdown().await.unwrap();
        }
    });
    lead(&mesh, address).await;
    let mut wire = mesh.connect().await;
    wire.send(GET).await;
    http1::response_head(&mut wire).await;
    let end = loop {
        match wire.try_fill().await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.kind()),
        }
    };
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn those_who_wait_for_a_silent_endpoint_fail_together() {
    let app = App::named("never").await;
    let mesh = without_endpoints(app.address()).await;
    // It accepts, and never says a word of TLS.
    let silent = App::serve(|mut wire, _| async move { drop(wire.to_any_end().await) }).await;
    lead(&mesh, silent.address()).await;
    let client = Arc::new(Client::connect(mesh.outbound("client", "echo:80")).await);
    let began = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let client = client.clone();
        all.spawn(async move {
            let response = client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap();
            assert_eq!((response.status(), response.header("x-heddle-cause")), (503, Some("connect_timeout")));
        });
    }
    wait::soon("all answers", all.join_all()).await;
    // Two tries of a second each, and some air.
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_has_no_more_time_for_connecting_than_for_all_of_it() {
    let app = App::named("never").await;
    let mesh = without_endpoints(app.address()).await;
    let silent = App::serve(|mut wire, _| async move { drop(wire.to_any_end().await) }).await;
    mesh.edit(
        "policy",
        "apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: echo}
spec:
  targetRefs: [{group: \"\", kind: Service, name: echo}]
  timeouts: {connect: 60s, request: 300ms}
",
    );
    heddle_tests::look::in_force(&mesh, "client", "the timeouts", |config| config.to_string().contains("\"connectTimeoutMs\":60000")).await;
    lead(&mesh, silent.address()).await;
    let response = exchange(&mut mesh.connect().await, GET).await;
    assert_eq!((response.status(), response.header("x-heddle-cause")), (504, Some("request_timeout")), "{}", response.text());
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let response = client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap();
    assert_eq!((response.status(), response.header("x-heddle-cause")), (504, Some("request_timeout")));
}

#[tokio::test]
async fn a_post_that_was_at_work_when_its_kept_connection_ended_is_not_sent_again() {
    const WORK: Duration = Duration::from_millis(300);
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let app = App::serve(move |mut wire, _| {
        let count = count.clone();
        async move {
            while let Some(request) = http1::request(&mut wire).await {
                if request.method() == "POST" {
                    count.fetch_add(1, Ordering::Relaxed);
                    // It works, and dies of it.
                    return tokio::time::sleep(WORK).await;
                }
                wire.send(answer(200, "", "")).await;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, GET).await.status(), 200);
    let response = exchange(&mut wire, "POST /pay HTTP/1.1\r\nHost: echo\r\nContent-Length: 2\r\n\r\n10").await;
    assert_eq!((response.status(), response.header("x-heddle-cause")), (502, Some("reset")), "{}", response.text());
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_no_answer() {
    let app = App::http1(|_| b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n".to_vec()).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let response = exchange(&mut mesh.connect().await, GET).await;
    assert_eq!((response.status(), response.header("x-heddle-cause")), (502, Some("upstream_protocol")), "{}", response.text());
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_stop_others() {
    let app = http2::serve(|request, mut respond| async move {
        let endless = request.uri().path() == "/endless";
        let mut stream = respond.send_response(http2::response(200, &[]), !endless).unwrap();
        while endless && http2::room(&mut stream, 16 * 1024).await.is_ok() {
            let room = stream.capacity().min(16 * 1024);
            if stream.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                return;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let mut unread = Vec::new();
    // More than a few of them, and less than this client itself has room for.
    for _ in 0..12 {
        let (response, stream) = client.send(http2::request("GET", "/endless", &[]), true).await.unwrap();
        unread.push((wait::soon("a response", response).await.unwrap(), stream));
    }
    // Until they have taken all the room that they get.
    wait::until_steady("the sidecar's memory", 10, || mesh.sidecar("client").memory() >> 20).await;
    for _ in 0..10 {
        assert_eq!(client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
    }
}

/// The head of the next frame; `None`: the connection has ended.
async fn next_head(wire: &mut Wire) -> Option<Vec<u8>> {
    while wire.pending().len() < 9 {
        wire.try_fill().await.ok().filter(|n| *n > 0)?;
    }
    Some(wire.exactly(9).await)
}

#[tokio::test]
async fn a_request_that_an_ending_connection_did_not_take_goes_by_another() {
    const GOAWAY: u8 = 7;
    let app = App::serve(|mut wire, number| async move {
        wire.send(frame(SETTINGS, 0, 0, &[])).await;
        wire.exactly(PREFACE.len()).await;
        let mut seen = 0;
        while let Some(head) = next_head(&mut wire).await {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            wire.exactly(len as usize).await;
            if head[3] == SETTINGS && head[4] == 0 {
                wire.send(frame(SETTINGS, 1, 0, &[])).await;
            }
            if head[3] != HEADERS {
                continue;
            }
            seen += 1;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if (number, seen) == (0, 2) {
                // Just now it has become too old: the first stream is the last one, and there is no error.
                wire.send(frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await;
            } else {
                // :status 200
                wire.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])).await;
            }
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    for _ in 0..3 {
        assert_eq!(client.exchange(http2::request("POST", "/", &[]), b"").await.unwrap().status(), 200);
    }
    assert_eq!(app.connections(), 2);
}

async fn open_calls(mesh: &Mesh, wanted: f64) {
    wait::until("the calls", async || {
        match mesh.metrics("client").await.sum("heddle_http_requests_in_flight", &[("direction", "outbound")]) {
            open if (open - wanted).abs() < 0.5 => Ok(()),
            open => Err(format!("{open} are open")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_burst_of_calls_that_are_given_up_does_not_end_the_others() {
    let app = http2::serve(|request, mut respond| async move {
        let mut stream = respond.send_response(http2::response(200, &[]), false).unwrap();
        let (_, mut body) = request.into_parts();
        // Says what it is told, as long as somebody listens.
        while let Ok(Some(chunk)) = http2::next(&mut body).await {
            if stream.send_data(chunk, false).is_err() {
                return;
            }
        }
    })
    .await;
    let mut mesh = Mesh::pair(app.address(), "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let (response, mut talk) = client.send(http2::request("POST", "/talk", &[]), false).await.unwrap();
    let (_, mut heard) = wait::soon("a response", response).await.unwrap().into_parts();
    // The other sidecar is busy meanwhile, and then reads begin and end of all calls at once.
    mesh.sidecar_mut("echo").process().pause();
    let mut calls = Vec::new();
    for _ in 0..200 {
        calls.push(client.send(http2::request("POST", "/", &[]), false).await.unwrap());
    }
    open_calls(&mesh, 201.0).await;
    calls.iter_mut().for_each(|(_, stream)| stream.send_reset(h2::Reason::CANCEL));
    open_calls(&mesh, 1.0).await;
    mesh.sidecar_mut("echo").process().resume();
    talk.send_data(Bytes::from_static(b"still there?"), false).unwrap();
    assert_eq!(http2::next(&mut heard).await.unwrap().unwrap(), "still there?");
}
