//! Echoes by each of the four kinds of call, and says which version it is.

use super::proto::echo_server::{Echo, EchoServer};
use super::proto::{EchoReply, EchoRequest};
use crate::server::GRACE;
use crate::{AppError, Shutdown};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The most copies that `ServerStreaming` sends.
const MAX_REPEAT: u32 = 1000;

/// Serves `heddle.example.v1.Echo` until the end; open streams may take a few seconds to finish.
pub(crate) async fn serve(listener: TcpListener, version: String, mut shutdown: Shutdown) -> Result<(), AppError> {
    let mut told = shutdown.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .serve_with_incoming_shutdown(EchoServer::new(EchoService { version }), incoming, async move { told.told().await });
    tokio::select! {
        served = served => served.map_err(AppError::from),
        // Streams that are still open then are cut off when the process ends.
        () = async { shutdown.told().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

struct EchoService {
    version: String,
}

impl EchoService {
    fn reply(&self, message: String, number: u32) -> EchoReply {
        EchoReply { message, number, version: self.version.clone() }
    }

    fn response<T>(&self, body: T) -> Response<T> {
        let mut response = Response::new(body);
        if let Ok(version) = MetadataValue::try_from(&self.version) {
            response.metadata_mut().insert("x-version", version);
        }
        response
    }
}

#[tonic::async_trait]
impl Echo for EchoService {
    type ServerStreamingStream = BoxStream<'static, Result<EchoReply, Status>>;
    type BidirectionalStream = BoxStream<'static, Result<EchoReply, Status>>;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        Ok(self.response(self.reply(request.into_inner().message, 1)))
    }

    async fn client_streaming(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
        let mut requests = request.into_inner();
        let (mut count, mut last) = (0_u32, String::new());
        while let Some(request) = requests.message().await? {
            count = count.saturating_add(1);
            last = request.message;
        }
        Ok(self.response(self.reply(last, count)))
    }

    async fn server_streaming(&self, request: Request<EchoRequest>) -> Result<Response<Self::ServerStreamingStream>, Status> {
        let EchoRequest { message, repeat } = request.into_inner();
        if repeat > MAX_REPEAT {
            return Err(Status::invalid_argument(format!("repeat is {repeat}, at most {MAX_REPEAT} is allowed")));
        }
        let reply = self.reply(message, 0);
        let replies = (1..=repeat).map(move |number| Ok(EchoReply { number, ..reply.clone() }));
        Ok(self.response(tokio_stream::iter(replies).boxed()))
    }

    async fn bidirectional(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Self::BidirectionalStream>, Status> {
        let reply = self.reply(String::new(), 0);
        let mut number = 0_u32;
        let replies = request.into_inner().map(move |request| {
            number = number.saturating_add(1);
            Ok(EchoReply { message: request?.message, number, ..reply.clone() })
        });
        Ok(self.response(replies.boxed()))
    }
}
