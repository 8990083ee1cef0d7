//! HTTP/2 with prior knowledge: streams, data, trailers, resets and ends, both ways through the pair.

use bytes::Bytes;
use h2::Reason;
use heddle_tests::http2::{self, Client, Exchanged, Life};
use heddle_tests::{App, Mesh, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, mpsc};

/// Gives the body back, and what it saw of the request as trailers.
async fn echo() -> App {
    http2::serve(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let Ok((data, trailers)) = http2::read(&mut body).await else { return };
        let response = http2::response(200, &[("x-path", head.uri.path()), ("x-method", head.method.as_str())]);
        let Ok(mut stream) = respond.send_response(response, false) else { return };
        if http2::write(&mut stream, &data, false).await.is_ok() {
            let sum = trailers.and_then(|t| t.get("x-sum").cloned());
            let mut own = http2::trailers(&[("x-len", &data.len().to_string())]);
            own.extend(sum.map(|sum| (http::header::HeaderName::from_static("x-sum"), sum)));
            // A client that is gone needs no trailers.
            let _gone = stream.send_trailers(own);
        }
    })
    .await
}

async fn pair(app: &App) -> (Mesh, Client) {
    let mesh = Mesh::pair(app.address(), "http2").await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    (mesh, client)
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_each_with_its_own() {
    let app = echo().await;
    let (mesh, client) = pair(&app).await;
    let client = Arc::new(client);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..500 {
        let client = client.clone();
        all.spawn(async move {
            let body = format!("{n};").repeat(1 + n * 7 % 400);
            let (response, mut stream) = client.send(http2::request("POST", &format!("/{n}"), &[]), false).await.unwrap();
            http2::write(&mut stream, body.as_bytes(), false).await.unwrap();
            stream.send_trailers(http2::trailers(&[("x-sum", &n.to_string())])).unwrap();
            let response = Exchanged::of(wait::soon("a response", response).await.unwrap()).await.unwrap();
            assert_eq!((response.status(), response.header("x-path")), (200, Some(format!("/{n}").as_str())));
            assert_eq!(response.text(), body);
            let trailers = response.trailers.unwrap();
            assert_eq!(trailers["x-sum"], n.to_string());
            assert_eq!(trailers["x-len"], body.len().to_string());
        });
    }
    wait::soon("all streams", all.join_all()).await;
    let labels = [("direction", "outbound"), ("code_class", "2xx"), ("mtls", "true")];
    mesh.counts("client", "heddle_http_requests_total", &labels, 500.0).await;
}

#[tokio::test]
async fn bodiless_requests_and_responses_stay_so() {
    let app = http2::serve(|request, mut respond| async move {
        let ended = request.body().is_end_stream();
        let status = if request.method() == "HEAD" { 200 } else { 204 };
        let response = http2::response(status, &[("x-ended", if ended { "yes" } else { "no" }), ("x-length", "7")]);
        respond.send_response(response, true).unwrap();
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    for (method, status) in [("GET", 204), ("HEAD", 200), ("DELETE", 204)] {
        let response = client.exchange(http2::request(method, "/", &[]), b"").await.unwrap();
        assert_eq!((response.status(), response.header("x-ended"), response.body.len()), (status, Some("yes"), 0));
        assert!(response.trailers.is_none());
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stops_its_sender_in_bounded_memory() {
    const CHUNK: usize = 16 * 1024;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let app = http2::serve(move |request, mut respond| {
        let sent = count.clone();
        async move {
            let endless = request.uri().path() == "/endless";
            let mut stream = respond.send_response(http2::response(200, &[]), !endless).unwrap();
            while endless && http2::room(&mut stream, CHUNK).await.is_ok() {
                let room = stream.capacity().min(CHUNK);
                if stream.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                    return;
                }
                sent.fetch_add(room as u64, Ordering::Relaxed);
            }
        }
    })
    .await;
    let (mesh, client) = pair(&app).await;
    let before = ["client", "echo"].map(|name| mesh.sidecar(name).memory());
    let (response, _stream) = client.send(http2::request("GET", "/endless", &[]), true).await.unwrap();
    let unread = wait::soon("a response", response).await.unwrap();
    let stuck = wait::until_steady("the application's sending", 40, || sent.load(Ordering::Relaxed)).await;
    assert!(stuck < 8 * 1024 * 1024, "{stuck} bytes were taken for a client that read none");
    for (name, before) in ["client", "echo"].into_iter().zip(before) {
        let growth = mesh.sidecar(name).memory().saturating_sub(before);
        assert!(growth < 24 * 1024 * 1024, "the sidecar of {name} has grown by {growth} bytes");
    }
    // Other streams of the same connections do not wait for it.
    assert_eq!(client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().status(), 200);
    // And what is read makes room again.
    let (_, mut body) = unread.into_parts();
    let mut read = 0;
    while read < 2 * stuck {
        read += http2::next(&mut body).await.unwrap().unwrap().len() as u64;
    }
}

#[tokio::test]
async fn a_large_response_arrives_whole() {
    const LEN: usize = 64 * 1024 * 1024;
    let app = http2::serve(|_, mut respond| async move {
        let mut stream = respond.send_response(http2::response(200, &[]), false).unwrap();
        let chunk: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
        for at in 0..LEN / chunk.len() {
            http2::write(&mut stream, &chunk, (at + 1) * chunk.len() == LEN).await.unwrap();
        }
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    let (response, _) = client.send(http2::request("GET", "/", &[]), true).await.unwrap();
    let (_, mut body) = wait::soon("a response", response).await.unwrap().into_parts();
    let mut read = 0;
    while let Some(chunk) = http2::next(&mut body).await.unwrap() {
        let wrong = chunk.iter().enumerate().position(|(at, byte)| *byte != ((read + at) % 256) as u8);
        assert_eq!(wrong, None, "bytes differ after {read}");
        read += chunk.len();
    }
    assert_eq!(read, LEN);
}

#[tokio::test]
async fn resets_of_the_client_reach_the_application() {
    let (begun, mut seen) = mpsc::channel(10);
    let app = http2::serve(move |request, mut respond| {
        let begun = begun.clone();
        async move {
            let path = request.uri().path().to_owned();
            let (_, mut body) = request.into_parts();
            begun.send((path.clone(), None)).await.unwrap();
            if path == "/after-head" {
                let stream = respond.send_response(http2::response(200, &[]), false).unwrap();
                let error = http2::read(&mut body).await.unwrap_err();
                drop(stream);
                return begun.send((path, error.reason())).await.unwrap();
            }
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            begun.send((path, Some(reason))).await.unwrap();
        }
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    for (path, reason) in [("/", Reason::CANCEL), ("/", Reason::NO_ERROR), ("/after-head", Reason::CANCEL)] {
        let (response, mut stream) = client.send(http2::request("POST", path, &[]), false).await.unwrap();
        let begun = wait::soon("the request", seen.recv()).await.unwrap();
        assert_eq!(begun, (path.to_owned(), None));
        if path == "/after-head" {
            wait::soon("a response", response).await.unwrap();
        }
        stream.send_reset(reason);
        let (_, told) = wait::soon("the reset", seen.recv()).await.unwrap();
        assert_eq!(told, Some(reason));
    }
}

#[tokio::test]
async fn resets_of_the_application_reach_the_client() {
    let app = http2::serve(|request, mut respond| async move {
        if request.uri().path() == "/after-head" {
            let mut stream = respond.send_response(http2::response(200, &[]), false).unwrap();
            http2::write(&mut stream, b"some", false).await.unwrap();
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        } else {
            respond.send_reset(Reason::INADEQUATE_SECURITY);
        }
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    let error = client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INADEQUATE_SECURITY));
    let error = client.exchange(http2::request("GET", "/after-head", &[]), b"").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn streams_of_a_client_whose_connection_is_cut_end_at_the_application() {
    let (begun, mut seen) = mpsc::channel(20);
    let app = http2::serve(move |_, mut respond| {
        let begun = begun.clone();
        async move {
            begun.send(None).await.unwrap();
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            begun.send(Some(reason.ok())).await.unwrap();
        }
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(client.send(http2::request("POST", "/", &[]), false).await.unwrap());
    }
    for _ in 0..10 {
        assert_eq!(wait::soon("the request", seen.recv()).await.unwrap(), None);
    }
    drop(client);
    for _ in 0..10 {
        assert_eq!(wait::soon("the reset", seen.recv()).await.unwrap(), Some(Some(Reason::CANCEL)));
    }
    drop(streams);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_whole() {
    let app = http2::serve(|_, mut respond| async move {
        let mut stream = respond.send_response(http2::response(413, &[]), false).unwrap();
        http2::write(&mut stream, b"too much", true).await.unwrap();
        // RFC 9113 §8.1: the rest is not wanted. Dropping says so by NO_ERROR after what is queued; an explicit reset would overtake it.
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    for _ in 0..20 {
        let (response, mut stream) = client.send(http2::request("POST", "/", &[]), false).await.unwrap();
        // It may be refused at any time from now.
        let _refused = stream.send_data(Bytes::from_static(b"more to come"), false);
        let response = Exchanged::of(wait::soon("a response", response).await.unwrap()).await.unwrap();
        assert_eq!((response.status(), response.text().as_str()), (413, "too much"));
    }
}

#[tokio::test]
async fn a_quiet_stream_stays_open_among_pings_and_other_streams() {
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let app = http2::serve(move |request, mut respond| {
        let told = told.clone();
        async move {
            let mut stream = respond.send_response(http2::response(200, &[]), false).unwrap();
            if request.uri().path() == "/quiet" {
                told.notified().await;
            }
            http2::write(&mut stream, b"said", true).await.unwrap();
        }
    })
    .await;
    let (mesh, mut client) = pair(&app).await;
    let (response, _stream) = client.send(http2::request("GET", "/quiet", &[]), true).await.unwrap();
    let quiet = wait::soon("a response", response).await.unwrap();
    for n in 0..100 {
        client.ping().await;
        assert_eq!(client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap().text(), "said");
        if n % 10 == 0 {
            // Edits of other objects, and of this Service's own routes.
            mesh.edit("more", &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: other-{n}}}\nspec: {{ports: [{{port: 80}}]}}\n"));
        }
    }
    go_on.notify_one();
    assert_eq!(Exchanged::of(quiet).await.unwrap().text(), "said");
}

#[tokio::test]
async fn an_application_that_ends_its_connections_loses_no_request() {
    let app = http2::serve_for(Life::Streams(7), |request, mut respond| async move {
        let path = request.uri().path().to_owned();
        let mut stream = respond.send_response(http2::response(200, &[]), false).unwrap();
        http2::write(&mut stream, path.as_bytes(), true).await.unwrap();
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    let client = Arc::new(client);
    for round in 0..50 {
        let mut all = tokio::task::JoinSet::new();
        for n in 0..10 {
            let client = client.clone();
            all.spawn(async move {
                let path = format!("/{round}/{n}");
                let method = if n % 2 == 0 { "GET" } else { "POST" };
                let response = client.exchange(http2::request(method, &path, &[]), b"").await.unwrap();
                assert_eq!((response.status(), response.text()), (200, path));
            });
        }
        wait::soon("a round", all.join_all()).await;
    }
    assert!(app.connections() >= 20, "connections did end: {}", app.connections());
}

#[tokio::test]
async fn extended_fields_pass_unchanged() {
    let app = http2::serve(|request, mut respond| async move {
        let fields = request.headers().iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())));
        let seen = fields.collect::<Vec<_>>().join("|");
        let authority = request.uri().authority().unwrap().to_string();
        let head = http2::response(200, &[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-authority", &authority)]);
        let mut stream = respond.send_response(head, false).unwrap();
        http2::write(&mut stream, seen.as_bytes(), true).await.unwrap();
    })
    .await;
    let (_mesh, client) = pair(&app).await;
    let fields = [("te", "trailers"), ("cookie", "a=b"), ("cookie", "c=d"), ("x-empty", ""), ("x-a", "2"), ("x-a", "1")];
    let response = client.exchange(http2::request("GET", "/a?b=c", &fields), b"").await.unwrap();
    let seen = response.text();
    for part in ["te=trailers", "cookie=a=b", "cookie=c=d", "x-empty=", "x-a=2|x-a=1", "traceparent=00-", "x-request-id="] {
        assert!(seen.contains(part), "{part} is not in {seen}");
    }
    assert_eq!(response.header("x-authority"), Some("echo:80"));
    assert_eq!(response.head.headers().get_all("set-cookie").iter().count(), 2);
}
