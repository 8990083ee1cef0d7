//! Spans as opentelemetry's `SpanData`, and its OTLP exporter, called from our own task: no processor, no thread, no global.

use super::{SpanAttributes, SpanKind, SpanRecord, SpanStatus};
use crate::config::Config;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use std::time::{Duration, SystemTime};
use tonic::transport::Endpoint;

/// A collector is near: one that needs longer will not take the next batch either.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Dialling it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One collector.
#[derive(Debug)]
pub(super) struct Exporter {
    otlp: OtlpExporter,
    scope: InstrumentationScope,
}

impl Exporter {
    /// An exporter to `http://host:port`; connects at the first export. The error is a sentence.
    pub(super) fn new(endpoint: &str, resource: &Resource) -> Result<Self, String> {
        if endpoint.starts_with("https:") {
            return Err("collectors are reached in plaintext only: write http://host:4317, or put a collector in between".to_owned());
        }
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|_| format!("\"{endpoint}\" is not the address of a collector: write http://host:4317"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(EXPORT_TIMEOUT)
            .connect_lazy();
        let built = OtlpExporter::builder().with_tonic().with_channel(channel).with_timeout(EXPORT_TIMEOUT).build();
        let mut otlp = built.map_err(|error| error.to_string())?;
        otlp.set_resource(resource);
        Ok(Self { otlp, scope: InstrumentationScope::builder("heddle").with_version(env!("CARGO_PKG_VERSION")).build() })
    }

    pub(super) async fn export(&self, spans: Vec<SpanRecord>) -> Result<(), String> {
        let spans = spans.into_iter().map(|span| self.data(span)).collect();
        // The channel has a time-out for each call, and connecting has its own; this one is for both together.
        match tokio::time::timeout(EXPORT_TIMEOUT, self.otlp.export(spans)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", EXPORT_TIMEOUT.as_secs())),
        }
    }

    fn data(&self, span: SpanRecord) -> SpanData {
        let SpanRecord { trace_id, span_id, parent_id, kind, name, start_unix_nanos, end_unix_nanos, attributes, status } = span;
        let (trace_id, span_id) = (TraceId::from(trace_id), SpanId::from(span_id));
        SpanData {
            span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::from(parent_id),
            // A leg's parent is the caller's span, in another process; attempts are children of our own legs.
            parent_span_is_remote: kind != SpanKind::Client && parent_id != 0,
            span_kind: match kind {
                SpanKind::Server => OtelKind::Server,
                SpanKind::Client => OtelKind::Client,
                SpanKind::Internal => OtelKind::Internal,
            },
            name,
            start_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(start_unix_nanos),
            end_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(end_unix_nanos),
            attributes: key_values(attributes),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match status {
                SpanStatus::Unset => Status::Unset,
                SpanStatus::Error(description) => Status::Error { description },
            },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// What is the same for all spans of this sidecar. The service is the service account: what identities, policies and metrics call
/// the workload as well.
pub(super) fn resource(config: &Config) -> Resource {
    let Config { namespace, workload, service_account, .. } = config;
    // No detectors: they read the environment, which is the application's.
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service_account.clone()),
            KeyValue::new("service.namespace", namespace.clone()),
            KeyValue::new("service.instance.id", workload.clone()),
            KeyValue::new("k8s.namespace.name", namespace.clone()),
            KeyValue::new("k8s.pod.name", workload.clone()),
            KeyValue::new("telemetry.sdk.name", "heddle"),
        ])
        .build()
}

fn key_values(attributes: SpanAttributes) -> Vec<KeyValue> {
    let SpanAttributes {
        method,
        status_code,
        grpc_status,
        path,
        server_address,
        peer_address,
        direction,
        route,
        backend,
        peer,
        attempt,
        error_type,
    } = attributes;
    [
        method.map(|v| KeyValue::new("http.request.method", v)),
        status_code.map(|v| KeyValue::new("http.response.status_code", i64::from(v))),
        grpc_status.map(|v| KeyValue::new("rpc.grpc.status_code", i64::from(v))),
        path.map(|v| KeyValue::new("url.path", v)),
        server_address.map(|v| KeyValue::new("server.address", v)),
        peer_address.map(|v| KeyValue::new("network.peer.address", v.to_string())),
        direction.map(|v| KeyValue::new("heddle.direction", v)),
        route.map(|v| KeyValue::new("heddle.route", v)),
        backend.map(|v| KeyValue::new("heddle.backend", v)),
        peer.map(|v| KeyValue::new("heddle.peer", v)),
        attempt.map(|v| KeyValue::new("heddle.attempt", i64::from(v))),
        error_type.map(|v| KeyValue::new("error.type", v)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
