//! gRPC by tonic, all four kinds of call, through the pair; and errors of the mesh as gRPC statuses.

use heddle_tests::app::bind;
use heddle_tests::{Mesh, free_port, wait};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{NamedService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The one message of this service.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

/// Answers each message with one; `fail` with a status. The other three kinds of call are this one with one message where they have one.
#[derive(Clone, Debug)]
struct Echo;

type Replies = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

impl StreamingService<Text> for Echo {
    type Response = Text;
    type ResponseStream = Replies;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Replies>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        let traced = request.metadata().contains_key("traceparent");
        let answer = async move |message: Text| match message.text.as_str() {
            "hang" => std::future::pending().await,
            "fail" => Err(Status::with_details(Code::FailedPrecondition, "not now: ü %", bytes::Bytes::from_static(b"\0details"))),
            "traced?" => Ok(text(traced.to_string())),
            // One message of a megabyte.
            "large" => Ok(text("x".repeat(1024 * 1024))),
            said => Ok(text(format!("echo {said}"))),
        };
        let replies = request.into_inner().then(move |message| async move { answer(message?).await });
        Box::pin(async move {
            let mut response = Response::new(Box::pin(replies) as Replies);
            response.metadata_mut().insert("x-served-by", "echo".parse().unwrap());
            Ok(response)
        })
    }
}

#[derive(Clone, Debug)]
struct EchoServer;

impl NamedService for EchoServer {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<Body>> for EchoServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Text, Text>::default());
            Ok(grpc.streaming(Echo, request).await)
        })
    }
}

/// Ends with the test.
struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn server() -> (Server, SocketAddr) {
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        // It ends with the test.
        let _ended = tonic::transport::Server::builder().serve_with_incoming(EchoServer, TcpListenerStream::new(listener)).await;
    });
    (Server(serving.abort_handle()), address)
}

type Client = tonic::client::Grpc<tonic::transport::Channel>;

async fn client(mesh: &Mesh) -> Client {
    let uri = format!("http://{}", mesh.outbound("client", "echo:80"));
    let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
    let channel = wait::soon("a channel", endpoint.connect()).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(8 * 1024 * 1024);
    client.ready().await.unwrap();
    client
}

fn path() -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static("/test.Echo/Call")
}

fn codec() -> ProstCodec<Text, Text> {
    ProstCodec::default()
}

async fn unary(client: &mut Client, said: &str) -> Result<Response<Text>, Status> {
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    wait::soon("a reply", client.unary(Request::new(text(said)), path(), codec())).await
}

#[tokio::test]
async fn all_four_kinds_of_call_work() {
    let (_server, address) = server().await;
    for protocol in ["grpc", "", "kubernetes.io/h2c"] {
        let mesh = Mesh::pair(address, protocol).await;
        let mut client = client(&mesh).await;
        let reply = unary(&mut client, "one").await.unwrap();
        assert_eq!((reply.metadata().get("x-served-by").unwrap().to_str().unwrap(), reply.get_ref().text.as_str()), ("echo", "echo one"));
        assert_eq!(unary(&mut client, "traced?").await.unwrap().get_ref().text, "true", "the mesh has read it");
        assert_eq!(unary(&mut client, "large").await.unwrap().get_ref().text.len(), 1024 * 1024);

        client.ready().await.unwrap();
        let many = Request::new(tokio_stream::iter(["only"].map(text)));
        assert_eq!(client.client_streaming(many, path(), codec()).await.unwrap().into_inner().text, "echo only");

        client.ready().await.unwrap();
        let replies = client.server_streaming(Request::new(text("server")), path(), codec()).await.unwrap().into_inner();
        let replies: Vec<_> = replies.map(|reply| reply.unwrap().text).collect().await;
        assert_eq!(replies, ["echo server"]);

        // In turns: each message is sent when the last one was answered.
        let (say, said) = mpsc::channel(1);
        client.ready().await.unwrap();
        say.send(text("0")).await.unwrap();
        let call = client.streaming(Request::new(ReceiverStream::new(said)), path(), codec());
        let mut replies = wait::soon("the head", call).await.unwrap().into_inner();
        for n in 0..100 {
            let reply = wait::soon("a reply", replies.message()).await.unwrap().unwrap();
            assert_eq!(reply.text, format!("echo {n}"));
            say.send(text((n + 1).to_string())).await.unwrap();
        }
        drop(say);
        assert!(wait::soon("the last reply", replies.message()).await.unwrap().is_some());
        assert!(wait::soon("the end", replies.message()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn statuses_of_the_application_arrive_whole() {
    let (_server, address) = server().await;
    let mesh = Mesh::pair(address, "grpc").await;
    let status = unary(&mut client(&mesh).await, "fail").await.unwrap_err();
    assert_eq!((status.code(), status.message(), status.details()), (Code::FailedPrecondition, "not now: ü %", &b"\0details"[..]));
}

#[tokio::test]
async fn refusals_of_the_mesh_are_grpc_statuses_that_say_why() {
    let mesh = Mesh::pair(free_port(), "grpc").await;
    let status = unary(&mut client(&mesh).await, "anybody?").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("sidecar of"), "{status:?}");
    assert_eq!(status.metadata().get("x-heddle-cause").unwrap(), "connect_failed");
}

#[tokio::test]
async fn a_call_that_the_client_gives_up_ends_at_the_application() {
    let (_server, address) = server().await;
    let mesh = Mesh::pair(address, "grpc").await;
    let mut client = client(&mesh).await;
    let call = client.server_streaming(Request::new(text("hang")), path(), codec());
    let replies = wait::soon("the head", call).await.unwrap().into_inner();
    mesh.counts("echo", "heddle_http_requests_in_flight", &[], 1.0).await;
    drop(replies);
    mesh.counts("echo", "heddle_http_requests_in_flight", &[], 0.0).await;
    mesh.counts("echo", "heddle_http_requests_total", &[("cause", "client_gone")], 1.0).await;
}
