//! A collector: takes spans by OTLP over gRPC, as Jaeger and the OpenTelemetry collector do, and keeps them.

use crate::app::bind;
use crate::wait;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::trace::v1::Span;

/// A span, and what it says of the process that made it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Attributes of its resource, such as `service.name`.
    pub resource: Vec<KeyValue>,
    /// The span.
    pub span: Span,
}

impl Kept {
    /// An attribute of the span, as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    /// An attribute of its resource, as text.
    pub fn of_resource(&self, key: &str) -> Option<String> {
        text(&self.resource, key)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()?;
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(yes) => Some(yes.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        Value::ArrayValue(_) | Value::KvlistValue(_) | Value::BytesValue(_) | Value::StringValueStrindex(_) => None,
    }
}

#[derive(Debug, Clone, Default)]
struct Keeper(Arc<Mutex<Vec<Kept>>>);

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().expect("no panic while recording");
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.map(|r| r.attributes).unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| Kept { resource: resource.clone(), span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A running collector; gone when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    kept: Keeper,
    task: AbortHandle,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let listener = bind().await;
        let address = listener.local_addr().expect("the address of a listener");
        let kept = Keeper::default();
        let service = TraceServiceServer::new(kept.clone());
        let task = tokio::spawn(async move {
            // It ends with the task.
            let _ended = tonic::transport::Server::builder().serve_with_incoming(service, TcpListenerStream::new(listener)).await;
        });
        Self { address, kept, task: task.abort_handle() }
    }

    /// Where spans are sent to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The spans of one trace, by its id in hexadecimal, in the order in which they came.
    ///
    /// # Panics
    /// Never, unless the collector did.
    pub fn trace(&self, id: &str) -> Vec<Kept> {
        let kept = self.kept.0.lock().expect("no panic while recording");
        kept.iter().filter(|k| hex(&k.span.trace_id) == id).cloned().collect()
    }

    /// Waits until a trace has so many spans.
    ///
    /// # Panics
    /// When it does not get them.
    pub async fn until(&self, id: &str, spans: usize) -> Vec<Kept> {
        wait::until(&format!("{spans} spans of the trace {id}"), async || {
            let found = self.trace(id);
            if found.len() >= spans { Ok(found) } else { Err(format!("{} came: {found:#?}", found.len())) }
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes in hexadecimal, as trace headers have them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
