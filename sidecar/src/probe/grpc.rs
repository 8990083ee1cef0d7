//! gRPC checks as the kubelet does them: `grpc.health.v1.Health/Check` in plaintext, and only SERVING is well.

use super::{Asked, GrpcProbe, connect};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use std::sync::Mutex;
use tonic::transport::Endpoint;

/// The answer that is well (`ServingStatus` of `grpc/health/v1/health.proto`).
const SERVING: i32 = 1;
/// Never resolved: the connection is made before.
const NAME: &str = "http://probe";

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(super) async fn check(probe: &GrpcProbe, asked: Asked<'_>) -> Result<(), String> {
    let stream = Mutex::new(Some(TokioIo::new(connect("", probe.port, asked).await?)));
    let once = tower::service_fn(move |_| {
        let taken = stream.lock().ok().and_then(|mut stream| stream.take());
        std::future::ready(taken.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)))
    });
    let mut endpoint = Endpoint::from_static(NAME);
    if let Some(agent) = asked.agent.and_then(|agent| agent.to_str().ok()) {
        endpoint = endpoint.user_agent(agent.to_owned()).map_err(|error| error.to_string())?;
    }
    let channel = endpoint.connect_with_connector(once).await.map_err(|error| format!("HTTP/2 did not start: {error}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let request = tonic::Request::new(HealthCheckRequest { service: probe.service.clone() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let response = client.unary(request, path, codec).await;
    let status = response.map_err(|status| format!("the call failed ({:?}): {}", status.code(), status.message()))?.into_inner().status;
    if status == SERVING { Ok(()) } else { Err(format!("the application is not serving (status {status})")) }
}
