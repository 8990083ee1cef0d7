//! A sidecar of a few lines: certificates and one discovery stream.

use super::LONG;
use super::plane::{self, Plane, TOKEN};
use heddle_identity::tls::{bootstrap_client, session_name};
use heddle_identity::{Certificate, TlsContext, csr};
use heddle_model::{Target, proto};
use http::uri::PathAndQuery;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use proto::control_message::Message;
use proto::sidecar_message::Message as Say;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::{Grpc, GrpcService as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let tls = TlsConnector::from(config).connect(session_name(address), tcp).await?;
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    // The smallest window, so that little is under way to a sidecar that does not read.
    Endpoint::from_static("http://control-plane").initial_stream_window_size(65_535).connect_with_connector(connector).await
}

/// A client without a certificate.
pub(crate) fn bootstrap(plane: &Plane) -> Arc<ClientConfig> {
    bootstrap_client(&plane.roots(), &plane::control_plane()).unwrap()
}

pub(crate) fn request(csr_der: &[u8], token: &str) -> proto::CertifyRequest {
    proto::CertifyRequest { csr_der: csr_der.to_vec(), token: token.to_owned() }
}

pub(crate) async fn certify(channel: Channel, request: proto::CertifyRequest) -> Result<proto::CertifyResponse, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::from_static("/heddle.v1.Certificates/Certify");
    grpc.unary(Request::new(request), path, ProstCodec::default()).await.map(tonic::Response::into_inner)
}

/// Asks for the counts of a replica: why not, or the answer.
pub(crate) async fn counts(mut channel: Channel) -> (Option<Code>, String) {
    let request = http::Request::get("http://control-plane/heddle/in-force").body(tonic::body::Body::empty()).unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    let refused = Status::from_header_map(response.headers()).map(|status| status.code());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (refused, String::from_utf8(body.to_vec()).unwrap())
}

/// Gets a certificate for the client by its token, and connects with it.
pub(crate) async fn join(plane: &Plane) -> (Channel, Arc<ClientConfig>) {
    let channel = connect(plane.address(), bootstrap(plane)).await.unwrap();
    let (key, csr_der) = csr(&plane::id("client")).unwrap();
    let response = certify(channel, request(&csr_der, TOKEN)).await.unwrap();
    let certificate = Certificate::from_der(response.chain_der).unwrap();
    let tls = TlsContext::new(&key, certificate, &plane.roots()).unwrap().control_plane_client(&plane::control_plane());
    (connect(plane.address(), tls.clone()).await.unwrap(), tls)
}

/// One discovery stream.
pub(crate) struct Sidecar {
    say: mpsc::Sender<proto::SidecarMessage>,
    /// An error where the call itself was refused.
    hear: Result<Streaming<proto::ControlMessage>, Status>,
}

impl Sidecar {
    /// Joins the mesh as the client, and says hello as a pod of it.
    pub(crate) async fn join(plane: &Plane, workload: &str) -> Self {
        let (channel, _) = join(plane).await;
        Self::hello(channel, "default", workload, 1).await
    }

    pub(crate) async fn hello(channel: Channel, namespace: &str, workload: &str, protocol: u32) -> Self {
        let (say, said) = mpsc::channel(16);
        let hello = proto::Hello { protocol, namespace: namespace.into(), workload: workload.into(), sidecar_version: "test".into() };
        say.send(proto::SidecarMessage { message: Some(Say::Hello(hello)) }).await.unwrap();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/heddle.v1.Discovery/Discover");
        let codec = ProstCodec::<proto::SidecarMessage, proto::ControlMessage>::default();
        let hear = grpc.streaming(Request::new(ReceiverStream::new(said)), path, codec).await.map(tonic::Response::into_inner);
        Self { say, hear }
    }

    pub(crate) async fn subscribe(&self, target: &Target) {
        self.say(Say::Subscribe(proto::Subscribe { target: Some(target.into()) })).await;
    }

    pub(crate) async fn ack(&self, target: &Target, version: &str, error: &str) {
        self.say(Say::Ack(proto::Ack { target: Some(target.into()), version: version.into(), error: error.into() })).await;
    }

    async fn say(&self, message: Say) {
        // A stream that has ended says so to who listens.
        let _ = self.say.send(proto::SidecarMessage { message: Some(message) }).await;
    }

    async fn hear(&mut self) -> Result<Message, Status> {
        let hear = self.hear.as_mut().map_err(|status| status.clone())?;
        let message = tokio::time::timeout(LONG, hear.message()).await.expect("a message in time")?;
        message.and_then(|message| message.message).ok_or_else(|| Status::ok("the stream ended"))
    }

    pub(crate) async fn next(&mut self) -> Message {
        self.hear().await.unwrap()
    }

    /// The first message as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.next().await;
            if wanted(&message) {
                return message;
            }
        }
    }

    /// The next message about endpoints or a target.
    pub(crate) async fn next_of_targets(&mut self) -> Message {
        self.until(|message| matches!(message, Message::Endpoints(_) | Message::Outbound(_) | Message::Inbound(_))).await
    }

    pub(crate) async fn next_outbound(&mut self) -> Message {
        self.until(|message| matches!(message, Message::Outbound(_))).await
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}
