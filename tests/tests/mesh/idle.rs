//! What carries nothing for longer than its policy allows: ended, and told why where there is a way to tell.

use heddle_tests::http1::{self, answer, exchange};
use heddle_tests::http2::{self, Client};
use heddle_tests::{App, Mesh, wait};
use std::time::Duration;
use tokio::time::Instant;

const IDLE: Duration = Duration::from_millis(300);

async fn mesh(app: &App, protocol: &str) -> Mesh {
    let policy = "apiVersion: heddle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: echo}\nspec:\n  targetRefs: \
                  [{group: '', kind: Service, name: echo}]\n  timeouts: {idle: 300ms}\n";
    Mesh::builder().pair(app.address(), protocol).objects(policy).start().await
}

#[tokio::test]
async fn a_silent_tcp_connection_is_reset_and_a_busy_one_is_not() {
    let app = App::serve(|mut wire, _| async move {
        while let Ok(1..) = wire.try_fill().await {
            if wire.try_send("x").await.is_err() {
                return;
            }
        }
    })
    .await;
    let mesh = mesh(&app, "tcp").await;
    let mut wire = mesh.connect().await;
    let begun = Instant::now();
    let mut rounds = 0;
    // Three times as long as it may be silent.
    while begun.elapsed() < 3 * IDLE {
        wire.send("x").await;
        wire.expect("x").await;
        rounds += 1;
    }
    let silent = Instant::now();
    let (_, orderly) = wire.to_any_end().await;
    assert!(!orderly && silent.elapsed() >= IDLE / 2, "after {rounds} rounds it took {:?}", silent.elapsed());
    // The policy holds in both sidecars: the one that is faster tells the other by a reset.
    wait::until("the cause", async || {
        let mut found = 0.0;
        for name in ["client", "echo"] {
            found += mesh.metrics(name).await.sum("heddle_tcp_connections_total", &[("cause", "idle_timeout")]);
        }
        if found >= 1.0 { Ok(()) } else { Err(format!("counted {found} times")) }
    })
    .await;
}

#[tokio::test]
async fn a_silent_http1_exchange_is_answered_504_or_cut() {
    let app = App::serve(|mut wire, _| async move {
        while let Some(request) = http1::request(&mut wire).await {
            match request.target() {
                "/head" => drop(wire.to_any_end().await),
                "/body" => {
                    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome").await;
                    wire.to_any_end().await;
                }
                _ => wire.send(answer(200, "", "at once")).await,
            }
        }
    })
    .await;
    let mesh = mesh(&app, "http").await;
    let mut wire = mesh.connect().await;
    assert_eq!(exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.text(), "at once");
    let response = exchange(&mut wire, "GET /head HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    assert_eq!((response.status(), response.header("x-heddle-cause")), (504, Some("idle_timeout")), "{}", response.text());
    let mut wire = mesh.connect().await;
    wire.send("GET /body HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    let (bytes, orderly) = wire.to_any_end().await;
    assert!(bytes.ends_with(b"some") && !orderly, "what has begun can only be cut: {:?}", String::from_utf8_lossy(&bytes));
}

#[tokio::test]
async fn a_silent_http2_stream_ends_and_its_connection_goes_on() {
    let app = http2::serve(|request, mut respond| async move {
        let silent = request.uri().path() == "/silent";
        let Ok(mut stream) = respond.send_response(http2::response(200, &[]), !silent) else { return };
        if silent {
            // Until the mesh gives up.
            let _reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
    })
    .await;
    let mesh = mesh(&app, "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let error = client.exchange(http2::request("GET", "/silent", &[]), b"").await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    assert_eq!(client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
}
