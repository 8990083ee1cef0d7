//! The four kinds of call without a mesh, and the freshness of the generated code.

use super::client::{Options, run};
use super::proto::EchoRequest;
use super::proto::echo_client::EchoClient;
use super::proto::echo_server::{Echo, EchoServer};
use super::{proto, server};
use crate::{AppError, Shutdown};
use futures_util::stream::BoxStream;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status, Streaming};

#[tokio::test]
async fn all_four_kinds_of_call_are_answered_and_checked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, shutdown) = Shutdown::new();
    let mut apps = JoinSet::new();
    apps.spawn(server::serve(listener, "v2".to_owned(), shutdown.clone()));
    run(&url, Options { rate: 200, count: Some(3) }, shutdown).await.unwrap();

    let mut client = EchoClient::connect_to(&url).await;
    let reply = client.unary(EchoRequest { message: "m".to_owned(), repeat: 0 }).await.unwrap();
    assert_eq!(reply.metadata().get("x-version").unwrap(), "v2");
    assert_eq!(reply.into_inner().version, "v2");
    let refused = client.server_streaming(EchoRequest { message: String::new(), repeat: 1001 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    stop.tell();
    let ended = tokio::time::timeout(Duration::from_secs(5), apps.join_next()).await.unwrap();
    ended.unwrap().unwrap().unwrap();
}

impl EchoClient<tonic::transport::Channel> {
    async fn connect_to(url: &str) -> Self {
        Self::new(tonic::transport::Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap())
    }
}

/// Answers everything with nothing.
struct Liar;

#[tonic::async_trait]
impl Echo for Liar {
    type ServerStreamingStream = BoxStream<'static, Result<proto::EchoReply, Status>>;
    type BidirectionalStream = BoxStream<'static, Result<proto::EchoReply, Status>>;

    async fn unary(&self, _: Request<EchoRequest>) -> Result<Response<proto::EchoReply>, Status> {
        Ok(Response::new(proto::EchoReply::default()))
    }

    async fn client_streaming(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<proto::EchoReply>, Status> {
        Ok(Response::new(proto::EchoReply::default()))
    }

    async fn server_streaming(&self, _: Request<EchoRequest>) -> Result<Response<Self::ServerStreamingStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }

    async fn bidirectional(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<Self::BidirectionalStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
}

#[tokio::test]
async fn a_wrong_answer_ends_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut apps = JoinSet::new();
    apps.spawn(async move {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tonic::transport::Server::builder().serve_with_incoming(EchoServer::new(Liar), incoming).await
    });
    let (_stop, shutdown) = Shutdown::new();
    let error = run(&url, Options { rate: 200, count: Some(1) }, shutdown).await.unwrap_err();
    assert!(matches!(&error, AppError::WrongAnswer(text) if text.starts_with("Unary: ")), "{error}");
    assert_eq!(error.exit_code(), 1);
}

/// Writes the generated code instead of comparing it when HEDDLE_REGENERATE is set.
#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = std::env::temp_dir().join(format!("heddle-example-proto-{}", std::process::id()));
    std::fs::create_dir_all(&fresh).unwrap();
    let descriptors = protox::compile(["heddle/example/v1/echo.proto"], [root.join("proto")]).unwrap();
    tonic_prost_build::configure().build_transport(false).out_dir(&fresh).compile_fds(descriptors).unwrap();
    let name = "heddle.example.v1.rs";
    let wanted = std::fs::read_to_string(fresh.join(name)).unwrap();
    std::fs::remove_dir_all(&fresh).unwrap();
    let committed = root.join("src/grpc/gen").join(name);
    if std::env::var_os("HEDDLE_REGENERATE").is_some() {
        std::fs::write(&committed, wanted).unwrap();
        return;
    }
    let stale = std::fs::read_to_string(&committed).unwrap() != wanted;
    assert!(!stale, "{} is stale: HEDDLE_REGENERATE=1 cargo test -p heddle-example-apps generated", committed.display());
}
