//! Rules for HTTP/2 and gRPC requests: the same as for HTTP/1, told in HTTP/2's and gRPC's own words.

use heddle_tests::http2::{self, Client, Exchanged};
use heddle_tests::{App, Mesh, Service, Workload, wait};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What applications have seen: name, method, authority and target, and the body.
type Seen = Arc<Mutex<Vec<(String, String, Vec<u8>)>>>;

/// An application that says its name and gives back the fields it got.
async fn named(name: &'static str, seen: Seen) -> App {
    http2::serve(move |request, mut respond| {
        let seen = seen.clone();
        async move {
            let (head, mut body) = request.into_parts();
            let Ok((data, _)) = http2::read(&mut body).await else { return };
            let fields: String = head.headers.iter().map(|(n, v)| format!("{n}={}\n", String::from_utf8_lossy(v.as_bytes()))).collect();
            seen.lock().unwrap().push((name.to_owned(), format!("{} {}", head.method, head.uri), data));
            // A client that is gone needs no answer.
            let Ok(mut stream) = respond.send_response(http2::response(200, &[("x-app", name), ("x-removed", "1")]), false) else { return };
            let _gone = http2::write(&mut stream, fields.as_bytes(), true).await;
        }
    })
    .await
}

struct Shop {
    _mesh: Mesh,
    client: Client,
    seen: Seen,
    _apps: Vec<App>,
}

async fn shop(rules: &str) -> Shop {
    let seen = Seen::default();
    let (v1, v2) = (named("v1", seen.clone()).await, named("v2", seen.clone()).await);
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n  parentRefs:\n  \
         - {{group: '', kind: Service, name: web}}\n  rules:\n{rules}"
    );
    let mesh = Mesh::builder()
        .service(Service::new("web", 80).protocol("http2").select("app", "v1"))
        .service(Service::new("v1", 80).protocol("http2"))
        .service(Service::new("v2", 80).protocol("http2"))
        .workload(Workload::new("v1").label("app", "v1").serves(8080, v1.address()))
        .workload(Workload::new("v2").label("app", "v2").serves(8080, v2.address()))
        .client("client", &["web:80"])
        .objects(&route)
        .start()
        .await;
    let client = Client::connect(mesh.outbound("client", "web:80")).await;
    Shop { _mesh: mesh, client, seen, _apps: vec![v1, v2] }
}

impl Shop {
    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Exchanged {
        self.client.exchange(http2::request("GET", path, fields), b"").await.unwrap()
    }

    fn seen(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(app, ..)| app == name).map(|(_, target, body)| (target.clone(), body.clone())).collect()
    }
}

#[tokio::test]
async fn rewrites_and_header_edits_are_what_the_application_sees() {
    let shop = shop(
        "  - matches: [{path: {value: /old}}]\n    filters:\n    - type: URLRewrite\n      urlRewrite: {hostname: inner.example.com, path: \
         {type: ReplacePrefixMatch, replacePrefixMatch: /new}}\n    - type: RequestHeaderModifier\n      requestHeaderModifier: \
         {set: [{name: X-Set, value: one}], add: [{name: x-add, value: two}], remove: [x-gone]}\n    - type: ResponseHeaderModifier\n      \
         responseHeaderModifier: {set: [{name: x-app, value: hidden}], add: [{name: x-new, value: '1'}], remove: [X-Removed]}\n    \
         backendRefs: [{name: v1, port: 80}]\n",
    )
    .await;
    let response = shop.get("/old/a?b=c", &[("x-set", "mine"), ("x-add", "first"), ("x-gone", "1")]).await;
    assert_eq!(shop.seen("v1")[0].0, "GET http://inner.example.com/new/a?b=c");
    let fields = response.text();
    for (line, expected) in
        [("x-set=one\n", true), ("x-set=mine", false), ("x-add=first\n", true), ("x-add=two\n", true), ("x-gone", false)]
    {
        assert_eq!(fields.contains(line), expected, "{line:?} in {fields}");
    }
    assert_eq!((response.header("x-app"), response.header("x-new"), response.header("x-removed")), (Some("hidden"), Some("1"), None));
}

#[tokio::test]
async fn answers_of_the_mesh_are_http2_answers_and_the_connection_goes_on() {
    let shop = shop(
        "  - matches: [{path: {value: /moved}}]\n    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example.com, statusCode: 301}}]\n\
         \x20 - matches: [{path: {value: /broken}}]\n    backendRefs: [{name: nobody, port: 80}]\n\
         \x20 - matches: [{path: {value: /cors}}]\n    filters: [{type: CORS, cors: {allowOrigins: ['http://one.test'], allowMethods: [PUT]}}]\n    \
         backendRefs: [{name: v1, port: 80}]\n",
    )
    .await;
    let response = shop.get("/moved/x?y", &[]).await;
    // The client asked for the authority echo:80, and 80 is left out.
    assert_eq!((response.status(), response.header("location")), (301, Some("http://new.example.com/moved/x?y")));
    for (path, status, cause) in [("/other", 404, "no_route"), ("/broken", 500, "invalid_backend")] {
        let response = shop.get(path, &[]).await;
        assert_eq!((response.status(), response.header("x-heddle-cause")), (status, Some(cause)));
        assert!(response.text().contains("outbound sidecar of"), "{}", response.text());
    }
    let preflight = http2::request("OPTIONS", "/cors", &[("origin", "http://one.test"), ("access-control-request-method", "PUT")]);
    let response = shop.client.exchange(preflight, b"").await.unwrap();
    assert_eq!(response.header("access-control-allow-origin"), Some("http://one.test"));
    assert_eq!(shop.get("/cors", &[("origin", "http://one.test")]).await.header("access-control-allow-origin"), Some("http://one.test"));
}

#[tokio::test]
async fn grpc_calls_are_refused_with_grpc_statuses() {
    let shop = shop("  - matches: [{path: {value: /only}}]\n    backendRefs: [{name: nobody, port: 80}]\n").await;
    for (path, status) in [("/shop.Reviews/List", "12"), ("/only/this", "14")] {
        let request = http2::request("POST", path, &[("content-type", "application/grpc+proto"), ("te", "trailers")]);
        let (response, mut stream) = shop.client.send(request, false).await.unwrap();
        // A call whose messages have not all been sent: it may be refused at any time.
        let _refused = stream.send_data(bytes::Bytes::from_static(b"\0\0\0\0\0"), false);
        let response = Exchanged::of(wait::soon("a status", response).await.unwrap()).await.unwrap();
        assert_eq!((response.status(), response.header("grpc-status")), (200, Some(status)), "{response:?}");
        assert!(response.header("grpc-message").is_some_and(|m| m.contains("outbound sidecar of")), "{response:?}");
        assert_eq!(response.header("content-type"), Some("application/grpc"));
    }
}

#[tokio::test]
async fn mirrors_get_a_copy_with_its_body() {
    let shop = shop(
        "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}]\n    backendRefs: [{name: v1, port: 80}]\n",
    )
    .await;
    for n in 0..50 {
        let body = format!("body {n}").repeat(n + 1);
        let body = if n % 5 == 0 { "" } else { &body };
        let response = shop.client.exchange(http2::request("POST", &format!("/{n}"), &[]), body.as_bytes()).await.unwrap();
        assert_eq!(response.header("x-app"), Some("v1"));
    }
    wait::until("fifty copies", async || {
        let copies = shop.seen("v2").len();
        if copies >= 50 { Ok(()) } else { Err(format!("{copies} came")) }
    })
    .await;
    let (mut originals, mut copies) = (shop.seen("v1"), shop.seen("v2"));
    originals.sort();
    copies.sort();
    assert_eq!(originals, copies);
}

#[tokio::test]
async fn timeouts_end_calls_with_deadline_exceeded() {
    let app = http2::serve(|request, mut respond| async move {
        let path = request.uri().path().to_owned();
        let stream = (path == "/after-head").then(|| respond.send_response(http2::response(200, &[]), false));
        // Until the mesh gives up.
        let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        drop((stream, reset));
    })
    .await;
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: echo}\nspec:\n  parentRefs: \
                 [{group: '', kind: Service, name: echo}]\n  rules:\n  - timeouts: {request: 150ms}\n    backendRefs: [{name: echo, port: 80}]\n";
    let mesh = Mesh::builder().pair(app.address(), "http2").objects(route).start().await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let response = client.exchange(http2::request("GET", "/", &[]), b"").await.unwrap();
    assert_eq!((response.status(), response.header("x-heddle-cause")), (504, Some("request_timeout")));
    let request = http2::request("POST", "/shop.Reviews/List", &[("content-type", "application/grpc")]);
    let response = client.exchange(request, b"\0\0\0\0\0").await.unwrap();
    assert_eq!((response.status(), response.header("grpc-status")), (200, Some("4")));
    let error = client.exchange(http2::request("GET", "/after-head", &[]), b"").await.unwrap_err();
    assert!(error.is_reset(), "what has begun can only be cut: {error}");
}

#[tokio::test]
async fn statuses_and_grpc_codes_of_a_policy_are_retried_with_the_whole_body() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let app = http2::serve(move |request, mut respond| {
        let calls = count.clone();
        async move {
            let grpc = request.headers().contains_key("content-type");
            let (_, mut body) = request.into_parts();
            let Ok((data, trailers)) = http2::read(&mut body).await else { return };
            if calls.fetch_add(1, Ordering::Relaxed) % 3 < 2 {
                let failed = if grpc { http2::response(200, &[("grpc-status", "14")]) } else { http2::response(503, &[]) };
                respond.send_response(failed, true).unwrap();
                return;
            }
            let sum = trailers.and_then(|t| Some(t.get("x-sum")?.to_str().ok()?.to_owned())).unwrap_or_default();
            let mut stream = respond.send_response(http2::response(200, &[("x-sum", &sum)]), false).unwrap();
            http2::write(&mut stream, &data, true).await.unwrap();
        }
    })
    .await;
    let policy = "apiVersion: heddle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: echo}\nspec:\n  targetRefs: \
                  [{group: '', kind: Service, name: echo}]\n  retry: {attempts: 2, codes: [503], grpcCodes: [UNAVAILABLE], backoff: {base: 1ms}}\n";
    let mesh = Mesh::builder().pair(app.address(), "http2").objects(policy).start().await;
    let client = Client::connect(mesh.outbound("client", "echo:80")).await;
    let response = client.exchange(http2::request("PUT", "/", &[]), b"hello").await.unwrap();
    assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
    let request = http2::request("POST", "/shop.Reviews/List", &[("content-type", "application/grpc")]);
    let (response, mut stream) = client.send(request, false).await.unwrap();
    http2::write(&mut stream, b"\0\0\0\0\0", false).await.unwrap();
    stream.send_trailers(http2::trailers(&[("x-sum", "abc")])).unwrap();
    let response = Exchanged::of(wait::soon("a response", response).await.unwrap()).await.unwrap();
    assert_eq!((response.body.as_slice(), response.header("x-sum")), (&b"\0\0\0\0\0"[..], Some("abc")));
    assert_eq!(calls.load(Ordering::Relaxed), 6);
    mesh.counts("client", "heddle_http_retries_total", &[], 4.0).await;
}
