//! Traces: one of three hops in a real receiver, the forms in which contexts travel, and collectors that do not keep up.

use heddle_tests::http1::{self, Message, answer, exchange};
use heddle_tests::load::Plan;
use heddle_tests::otlp::{Collector, Kept, hex};
use heddle_tests::{App, Mesh, Service, Wire, Workload, wait};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;

/// What applications hand on, as the documentation of every mesh tells them to.
const HANDED_ON: [&str; 9] =
    ["traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "x-request-id"];

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Where an application calls next: known when the mesh has started.
type Next = Arc<OnceLock<SocketAddr>>;

/// An application that calls the next one for each request, with the headers that it hands on.
async fn hop(next: Next) -> App {
    App::serve(move |mut wire, _| {
        let next = next.clone();
        async move {
            while let Some(request) = http1::request(&mut wire).await {
                let mut head = "GET / HTTP/1.1\r\nHost: next\r\n".to_owned();
                let handed = request.headers.iter().filter(|(name, _)| HANDED_ON.contains(&name.to_ascii_lowercase().as_str()));
                handed.for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
                let mut upstream = Wire::connect(*next.get().expect("the mesh has started")).await;
                let below = exchange(&mut upstream, format!("{head}\r\n")).await;
                wire.send(answer(below.status(), "", below.body)).await;
            }
        }
    })
    .await
}

/// client → front → reviews → ratings.
struct Chain {
    mesh: Mesh,
    _apps: [App; 3],
}

impl Chain {
    async fn start(collector: SocketAddr) -> Self {
        let (to_reviews, to_ratings) = (Next::default(), Next::default());
        let (front, reviews) = (hop(to_reviews.clone()).await, hop(to_ratings.clone()).await);
        let ratings = App::named("ratings").await;
        let workload = |name, app: &App| Workload::new(name).label("app", name).serves(8080, app.address());
        let mut builder = Mesh::builder().objects(&tracing(collector, 100));
        for name in ["front", "reviews", "ratings"] {
            builder = builder.service(Service::new(name, 80).protocol("http"));
        }
        let mesh = builder
            .workload(workload("front", &front).calls("reviews:80"))
            .workload(workload("reviews", &reviews).calls("ratings:80"))
            .workload(workload("ratings", &ratings))
            .client("client", &["front:80"])
            .start()
            .await;
        to_reviews.set(mesh.outbound("front", "reviews:80")).expect("set once");
        to_ratings.set(mesh.outbound("reviews", "ratings:80")).expect("set once");
        Self { mesh, _apps: [front, reviews, ratings] }
    }

    /// Sends a request with these fields; the request as the last application has it, which gives it back.
    async fn call(&self, fields: &str) -> Message {
        let mut wire = Wire::connect(self.mesh.outbound("client", "front:80")).await;
        let response = exchange(&mut wire, format!("GET / HTTP/1.1\r\nHost: front\r\n{fields}\r\n")).await;
        assert_eq!(response.status(), 200, "{}", response.text());
        Message::parse(&response.body)
    }
}

fn tracing(collector: SocketAddr, percent: u32) -> String {
    format!(
        "apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata: {{name: default}}
spec:
  tracing: {{otlpEndpoint: \"http://{collector}\", samplingPercent: {percent}}}
"
    )
}

/// OpenTelemetry's numbers of span kinds.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// Each hop has the caller's leg, its one attempt, and the leg of the called.
const SPANS: [(&str, i32, &str); 9] = [
    ("client", INTERNAL, "outbound"),
    ("client", CLIENT, "outbound"),
    ("front", SERVER, "inbound"),
    ("front", INTERNAL, "outbound"),
    ("front", CLIENT, "outbound"),
    ("reviews", SERVER, "inbound"),
    ("reviews", INTERNAL, "outbound"),
    ("reviews", CLIENT, "outbound"),
    ("ratings", SERVER, "inbound"),
];

/// Asserts that the spans are one chain from `root`, the id of the caller's span.
fn assert_chain(spans: &[Kept], root: &str) {
    assert_eq!(spans.len(), SPANS.len());
    let mut parent = root.to_owned();
    for (workload, kind, direction) in SPANS {
        let children: Vec<_> = spans.iter().filter(|kept| hex(&kept.span.parent_span_id) == parent).collect();
        let [child] = children.as_slice() else { panic!("one child of {parent} in {spans:#?}, not {}", children.len()) };
        assert_eq!(child.of_resource("k8s.pod.name").as_deref(), Some(workload), "{child:#?}");
        assert_eq!(child.of_resource("service.name").as_deref(), Some(workload), "{child:#?}");
        assert_eq!((child.span.kind, child.attribute("heddle.direction").as_deref()), (kind, Some(direction)), "{child:#?}");
        assert_eq!(child.attribute("http.response.status_code").as_deref(), Some("200"), "{child:#?}");
        assert!(child.span.start_time_unix_nano <= child.span.end_time_unix_nano);
        parent = hex(&child.span.span_id);
    }
}

/// The trace and span id of a `traceparent`, which must say that it is sampled.
fn traceparent(request: &Message) -> (String, String) {
    let value = request.header("traceparent").expect("a traceparent");
    let parts: Vec<_> = value.split('-').collect();
    let ["00", trace, span, flags] = parts.as_slice() else { panic!("{value}") };
    assert!(["01", "03"].contains(flags), "{value}");
    ((*trace).to_owned(), (*span).to_owned())
}

#[tokio::test]
async fn a_call_of_three_hops_is_one_trace_with_the_right_parents() {
    let collector = Collector::start().await;
    let chain = Chain::start(collector.address()).await;
    let last = chain.call(&format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n")).await;
    let spans = collector.until(TRACE, SPANS.len()).await;
    assert_chain(&spans, SPAN);
    let (trace, span) = traceparent(&last);
    let server = spans.iter().find(|kept| hex(&kept.span.span_id) == span).expect("the span that the application is told");
    assert_eq!((trace.as_str(), server.span.kind), (TRACE, SERVER));
    assert_eq!(server.attribute("heddle.peer").as_deref(), Some("spiffe://cluster.local/ns/default/sa/reviews"));
    // A trace that begins in the mesh has a first span without a parent.
    let (trace, _) = traceparent(&chain.call("").await);
    assert_ne!(trace, TRACE);
    assert_chain(&collector.until(&trace, SPANS.len()).await, "");
}

#[tokio::test]
async fn contexts_go_on_in_the_form_in_which_they_came() {
    let collector = Collector::start().await;
    let chain = Chain::start(collector.address()).await;
    let single = chain.call(&format!("b3: {TRACE}-{SPAN}-1\r\n")).await;
    let value = single.header("b3").expect("b3").to_owned();
    assert!(value.starts_with(TRACE) && value.ends_with("-1") && !value.contains(SPAN), "{value}");
    assert_eq!((single.header("traceparent"), single.header("x-b3-traceid")), (None, None));
    assert_chain(&collector.until(TRACE, SPANS.len()).await, SPAN);

    let id = "463ac35c9f6413ad48485a3953bb6124";
    let multi = chain.call(&format!("X-B3-TraceId: {id}\r\nX-B3-SpanId: {SPAN}\r\nX-B3-Sampled: 1\r\n")).await;
    assert_eq!((multi.header("x-b3-traceid"), multi.header("x-b3-sampled")), (Some(id), Some("1")));
    assert!(multi.header("x-b3-spanid").is_some_and(|span| span != SPAN && span.len() == 16), "{multi:?}");
    assert_eq!((multi.header("traceparent"), multi.header("b3")), (None, None));
    assert_chain(&collector.until(id, SPANS.len()).await, SPAN);

    let state = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";
    let baggage = "userId=alice,serverNode=DF%2028";
    let id = "0af7651916cd43dd8448eb211c80319c";
    let w3c = chain.call(&format!("traceparent: 00-{id}-{SPAN}-01\r\ntracestate: {state}\r\nbaggage: {baggage}\r\n")).await;
    assert_eq!((w3c.header("tracestate"), w3c.header("baggage")), (Some(state), Some(baggage)));
    assert_eq!((w3c.header("b3"), w3c.header("x-b3-traceid")), (None, None));

    // What is not sampled is passed on, and not exported.
    let id = "11111111111111111111111111111111";
    let denied = chain.call(&format!("traceparent: 00-{id}-{SPAN}-00\r\n")).await;
    assert!(denied.header("traceparent").is_some_and(|v| v.contains(id) && v.ends_with("-00")), "{denied:?}");
    collector.until(&traceparent(&chain.call("").await).0, SPANS.len()).await;
    assert!(collector.trace(id).is_empty());
}

#[tokio::test]
async fn requests_have_an_id_made_once_and_kept() {
    let collector = Collector::start().await;
    let chain = Chain::start(collector.address()).await;
    let made = chain.call("").await;
    let ids: Vec<_> = made.all("x-request-id").map(str::to_owned).collect();
    assert!(ids.len() == 1 && ids[0].len() == 36, "{ids:?}");
    let again = chain.call("").await;
    assert_ne!(again.header("x-request-id"), Some(ids[0].as_str()), "each has its own");
    let kept = chain.call("X-Request-Id: mine\r\n").await;
    assert_eq!(kept.all("x-request-id").collect::<Vec<_>>(), ["mine"]);
}

/// Sends more requests than spans can wait, and asserts that none was held up.
async fn is_not_held_up(collector: SocketAddr) -> heddle_tests::metrics::Metrics {
    let app = App::named("echo").await;
    let client = Workload::new("client").calls("echo:80").env("HEDDLE_WORKERS", "1");
    let echo = Workload::new("echo").label("app", "echo").serves(8080, app.address());
    let service = Service::new("echo", 80).protocol("http");
    let objects = tracing(collector, 100);
    let mesh = Mesh::builder().service(service).workload(echo).workload(client).objects(&objects).start().await;
    let all = Plan::new(mesh.outbound("client", "echo:80")).clients(8).limit(6_000).run().await;
    // The collector's own time-out is 3 s: whoever waited for it would be slower.
    assert!(all.slowest < Duration::from_secs(2), "a request took {:?}", all.slowest);
    let lost = async || {
        let metrics = mesh.metrics("client").await;
        let of = |result| metrics.sum("heddle_telemetry_spans_total", &[("result", result)]);
        if of("queue_full") + of("export_failed") > 0.0 { Ok(metrics) } else { Err("no span is lost so far".to_owned()) }
    };
    wait::until("lost spans to be counted", lost).await
}

#[tokio::test]
async fn a_collector_that_is_away_holds_up_no_request() {
    let nobody = heddle_tests::free_port();
    let metrics = is_not_held_up(nobody).await;
    assert_eq!(metrics.sum("heddle_telemetry_spans_total", &[("result", "exported")]), 0.0);
}

#[tokio::test]
async fn a_collector_that_stalls_holds_up_no_request() {
    // It takes connections, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stalled = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let metrics = is_not_held_up(address).await;
    assert!(metrics.sum("heddle_telemetry_spans_total", &[("result", "queue_full")]) > 0.0, "the bound of the queue has bitten");
    stalled.abort();
}
