//! Against a real OTLP receiver (gRPC) on loopback.

use super::*;
use crate::credentials::fake;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{Span, span, status};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(20);

struct Collector {
    endpoint: String,
    received: mpsc::Receiver<ExportTraceServiceRequest>,
    _tasks: JoinSet<()>,
}

struct Receiver(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        // A full channel is a collector that does not answer.
        self.0.send(request.into_inner()).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(capacity: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = mpsc::channel(capacity);
        let mut tasks = JoinSet::new();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Receiver(sender)));
        tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self { endpoint, received, _tasks: tasks }
    }

    async fn spans(&mut self, count: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        while spans.len() < count {
            let request = timeout(PATIENCE, self.received.recv()).await.expect("in time").unwrap();
            spans.extend(request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans));
        }
        spans
    }
}

struct Running {
    sink: SpanSink,
    settings: watch::Sender<Arc<Settings>>,
    spans: IntCounterVec,
    end: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Running {
    fn start(endpoint: Option<&str>) -> Self {
        fake::log();
        let settings = watch::Sender::new(Arc::new(to(endpoint)));
        let (sink, telemetry) = Telemetry::new(&fake::config("127.0.0.1:1"), settings.subscribe());
        let spans = telemetry.spans.clone();
        let (end, ended) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(telemetry.run(async move {
            let _ = ended.await;
        }));
        Self { sink, settings, spans, end: Some(end), tasks }
    }

    async fn active(&self, active: bool) {
        timeout(PATIENCE, async {
            while self.sink.is_active() != active {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("in time");
    }

    async fn count(&self, result: &str, at_least: u64) {
        timeout(PATIENCE, async {
            while self.spans.with_label_values(&[result]).get() < at_least {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("in time");
    }

    async fn end(&mut self) {
        drop(self.end.take());
        timeout(PATIENCE, self.tasks.join_next()).await.expect("in time").unwrap().unwrap();
    }
}

fn to(endpoint: Option<&str>) -> Settings {
    Settings { otlp_endpoint: endpoint.map(ToOwned::to_owned), ..Settings::default() }
}

fn span(span_id: u64) -> SpanRecord {
    SpanRecord {
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
        span_id,
        parent_id: 0,
        kind: SpanKind::Server,
        name: "HTTPRoute/shop/reviews#canary".into(),
        start_unix_nanos: 1_000_000_007,
        end_unix_nanos: 2_000_000_009,
        attributes: SpanAttributes::default(),
        status: SpanStatus::Unset,
    }
}

fn attribute<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    let value = attributes.iter().find(|pair| pair.key == name)?.value.as_ref();
    value.and_then(|AnyValue { value, .. }| value.as_ref())
}

#[tokio::test]
async fn a_span_arrives_as_it_was() {
    let mut collector = Collector::start(8).await;
    let running = Running::start(Some(&collector.endpoint));
    running.active(true).await;
    running.sink.try_send(SpanRecord {
        parent_id: 7,
        kind: SpanKind::Client,
        attributes: SpanAttributes {
            method: Some("GET".into()),
            status_code: Some(503),
            attempt: Some(2),
            backend: Some("shop/reviews:80".to_owned()),
            error_type: Some("connect".into()),
            ..SpanAttributes::default()
        },
        status: SpanStatus::Error("connection refused".into()),
        ..span(9)
    });
    let request = timeout(PATIENCE, collector.received.recv()).await.unwrap().unwrap();
    let resource = request.resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), Some(&Value::StringValue("front".to_owned())));
    assert_eq!(attribute(&resource.attributes, "service.namespace"), Some(&Value::StringValue("shop".to_owned())));
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(span.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!((span.span_id.as_slice(), span.parent_span_id.as_slice()), (&9u64.to_be_bytes()[..], &7u64.to_be_bytes()[..]));
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_000_000_007, 2_000_000_009));
    assert_eq!((span.name.as_str(), span.kind()), ("HTTPRoute/shop/reviews#canary", span::SpanKind::Client));
    assert_eq!(attribute(&span.attributes, "http.response.status_code"), Some(&Value::IntValue(503)));
    assert_eq!(attribute(&span.attributes, "heddle.backend"), Some(&Value::StringValue("shop/reviews:80".to_owned())));
    assert_eq!(attribute(&span.attributes, "heddle.attempt"), Some(&Value::IntValue(2)));
    assert_eq!(attribute(&span.attributes, "url.path"), None);
    let status = span.status.clone().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (status::StatusCode::Error, "connection refused"));
}

#[tokio::test]
async fn the_collector_can_change_at_run_time() {
    let (mut one, mut two) = (Collector::start(8).await, Collector::start(8).await);
    let running = Running::start(None);
    running.active(false).await;
    running.sink.try_send(span(1));
    running.settings.send_replace(Arc::new(to(Some(&one.endpoint))));
    running.active(true).await;
    running.sink.try_send(span(2));
    assert_eq!(one.spans(1).await[0].span_id, 2u64.to_be_bytes(), "the first one went nowhere");
    running.settings.send_replace(Arc::new(to(Some(&two.endpoint))));
    // Nothing tells from outside when the change is done: spans are sent until one arrives there.
    let arrived = async {
        let mut id = 3;
        loop {
            running.sink.try_send(span(id));
            id += 1;
            tokio::select! {
                spans = two.spans(1) => break spans,
                _ = one.received.recv() => {}
            }
        }
    };
    assert!(!timeout(PATIENCE, arrived).await.unwrap().is_empty());
    running.settings.send_replace(Arc::new(to(None)));
    running.active(false).await;
}

#[tokio::test]
async fn what_is_left_at_the_end_is_exported() {
    let mut collector = Collector::start(64).await;
    let mut running = Running::start(Some(&collector.endpoint));
    running.active(true).await;
    for id in 1..=1000 {
        running.sink.try_send(span(id));
    }
    running.end().await;
    assert_eq!(collector.spans(1000).await.len(), 1000);
    assert_eq!(running.spans.with_label_values(&["exported"]).get(), 1000);
}

#[tokio::test]
async fn a_collector_that_does_not_answer_costs_spans_and_nothing_else() {
    // The first request fills the collector's channel, the second never returns.
    let collector = Collector::start(1).await;
    let mut running = Running::start(Some(&collector.endpoint));
    running.active(true).await;
    let all = 3 * SPANS_MAX as u64;
    for id in 1..=all {
        running.sink.try_send(span(id));
    }
    let dropped = running.spans.with_label_values(&["queue_full"]).get();
    assert_eq!(dropped, all - SPANS_MAX as u64, "nobody else ran meanwhile");
    running.count("exported", 1).await;
    let began = Instant::now();
    running.end().await;
    assert!(began.elapsed() < FLUSH_TIMEOUT * 2, "{:?}", began.elapsed());
    let lost = running.spans.with_label_values(&["export_failed"]).get();
    let exported = running.spans.with_label_values(&["exported"]).get();
    assert_eq!(lost + exported, SPANS_MAX as u64, "every span is counted once");
    drop(collector);
}

#[tokio::test]
async fn an_absent_collector_is_counted_and_taken_when_it_comes() {
    let port = fake::Port::reserve();
    let running = Running::start(Some(&format!("http://{}", port.address)));
    running.active(true).await;
    running.sink.try_send(span(1));
    running.count("export_failed", 1).await;
    let listener = TcpListener::from_std(port.listen()).unwrap();
    let (sender, mut received) = mpsc::channel(8);
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Receiver(sender)));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)).await });
    let arrived = async {
        loop {
            running.sink.try_send(span(2));
            if let Ok(request) = timeout(Duration::from_secs(1), received.recv()).await {
                break request;
            }
        }
    };
    assert!(timeout(PATIENCE, arrived).await.unwrap().is_some());
}

#[tokio::test]
async fn an_endpoint_that_is_none_stops_nothing() {
    for endpoint in ["https://collector:4317", "not an address", ""] {
        let mut running = Running::start(Some(endpoint));
        running.active(false).await;
        running.sink.try_send(span(1));
        running.end().await;
    }
}
