//! A server as ordinary applications are: at SIGTERM it stops to accept, answers what is under way, and ends.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200, or 503 after `/ready/off` was asked of the admin port |
//! | `/slow?MS` | as others, so many milliseconds later |
//! | `/status/CODE` | that status |
//! | `/headers` | the fields of the request, as JSON |
//! | `/via?URL` | what a call of URL gave, as JSON |
//! | gRPC | `grpc.health.v1.Health/Check`, and an echo of one message for every other method |
//! | others | its name, its pod and the path |

use crate::admin::{self, Page};
use crate::client::{Target, message};
use crate::tally::Asked;
use crate::{ADMIN_PORT, shutdown};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// What is under way at SIGTERM may take so long: below the 30 s that Kubernetes gives a pod.
const GRACE: Duration = Duration::from_secs(10);
/// The call that `--first-call` asks for.
const FIRST_CALL_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What it calls itself, in the field x-app
    #[arg(long, default_value = "app")]
    name: String,
    /// Ports of HTTP/1.1, HTTP/2 with prior knowledge, and gRPC
    #[arg(long)]
    http: Vec<u16>,
    /// Ports of HTTPS, with a certificate that nobody has signed
    #[arg(long)]
    https: Vec<u16>,
    /// Ports that send back what comes
    #[arg(long)]
    tcp: Vec<u16>,
    /// Ports that speak first (a line), and then send back what comes
    #[arg(long)]
    greet: Vec<u16>,
    /// A call to make before anything else; /stats says what came of it
    #[arg(long)]
    first_call: Option<String>,
    /// Milliseconds to accept still after SIGTERM
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
}

/// What requests and pages share.
#[derive(Debug)]
struct App {
    name: String,
    pod: String,
    ready: AtomicBool,
    asked: Mutex<Asked>,
    first_call: Option<Value>,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode, String> {
    let first_call = match &options.first_call {
        Some(url) => Some(first_call(url).await),
        None => None,
    };
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    let app = Arc::new(App { name: options.name, pod, ready: AtomicBool::new(true), asked: Mutex::default(), first_call });
    admin::serve(ADMIN_PORT, pages(&app)).await?;
    let (stop, stopped) = watch::channel(false);
    for port in options.http {
        listen(port, &stopped, http(app.clone(), stopped.clone(), None)).await?;
    }
    let acceptor = if options.https.is_empty() { None } else { Some(self_signed()?) };
    for port in options.https {
        listen(port, &stopped, http(app.clone(), stopped.clone(), acceptor.clone())).await?;
    }
    for port in options.tcp {
        listen(port, &stopped, |stream| drop(tokio::spawn(echo(stream, "")))).await?;
    }
    for port in options.greet {
        listen(port, &stopped, |stream| drop(tokio::spawn(echo(stream, "220 welcome\n")))).await?;
    }
    drop(stopped);
    shutdown::told().await?;
    sleep(Duration::from_millis(options.linger_ms)).await;
    stop.send_replace(true);
    // Closed: every listener and connection has dropped its receiver. What is left after the grace is cut when the process ends.
    let _unfinished = timeout(GRACE, stop.closed()).await;
    Ok(ExitCode::SUCCESS)
}

/// Made before the first listener: an application that wants the network in its first millisecond.
async fn first_call(url: &str) -> Value {
    let began = Instant::now();
    let called = async { Target::parse(url)?.exchange_within(FIRST_CALL_LIMIT, &mut None).await };
    match called.await {
        Ok(answer) => json!({"status": answer.status, "app": answer.app, "micros": began.elapsed().as_micros()}),
        Err(reason) => json!({"error": reason}),
    }
}

fn pages(app: &Arc<App>) -> BTreeMap<&'static str, Page> {
    let page = |show: fn(&App) -> Value| -> Page {
        let app = app.clone();
        Arc::new(move || show(&app))
    };
    BTreeMap::from([("/stats", page(App::stats)), ("/ready/on", page(|app| app.turn(true))), ("/ready/off", page(|app| app.turn(false)))])
}

impl App {
    fn stats(&self) -> Value {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"name": self.name, "pod": self.pod, "asked": asked.paths, "firstCall": self.first_call})
    }

    fn turn(&self, ready: bool) -> Value {
        self.ready.store(ready, Ordering::Relaxed);
        json!({"ready": ready})
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).count(&path);
        let ready = self.ready.load(Ordering::Relaxed);
        let is_grpc = request.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        let mut response = if is_grpc {
            grpc(&path, ready, request).await
        } else {
            let (status, body) = self.page(&path, ready, &request).await;
            let mut response = Response::new(Full::from(body).boxed());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::BAD_REQUEST);
            response
        };
        for (name, value) in [("x-app", &self.name), ("x-pod", &self.pod)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    async fn page(&self, path: &str, ready: bool, request: &Request<Incoming>) -> (u16, String) {
        let query = request.uri().query().unwrap_or_default();
        match path {
            "/healthz" => (if ready { 200 } else { 503 }, String::new()),
            "/headers" => {
                let fields =
                    request.headers().iter().map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]));
                (200, Value::from_iter(fields).to_string())
            }
            "/via" => (200, admin::via(query, &passed_on(request)).await.to_string()),
            _ => {
                if path == "/slow" {
                    sleep(Duration::from_millis(query.parse().unwrap_or_default())).await;
                }
                let status = path.strip_prefix("/status/").and_then(|code| code.parse().ok()).unwrap_or(200);
                (status, format!("{} {} {path}\n", self.name, self.pod))
            }
        }
    }
}

/// What every instrumented application copies to the calls that it makes, and who the user is.
fn passed_on(request: &Request<Incoming>) -> Vec<String> {
    let names = ["traceparent", "tracestate", "x-request-id", "end-user"];
    let field = |name: &&str| Some(format!("{name}: {}", request.headers().get(*name)?.to_str().ok()?));
    names.iter().filter_map(field).collect()
}

/// Answers a unary call.
async fn grpc(path: &str, ready: bool, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let reply = if path == "/grpc.health.v1.Health/Check" {
        // HealthCheckResponse{status}: field 1, SERVING or NOT_SERVING.
        message(&[0x08, if ready { 1 } else { 2 }])
    } else {
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(reply).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Accepts until it is told to stop.
async fn listen(port: u16, stopped: &watch::Receiver<bool>, serve: impl Fn(TcpStream) + Send + 'static) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(|error| format!("port {port}: {error}"))?;
    let mut stopped = stopped.clone();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                accepted = listener.accept() => accepted,
            };
            if let Ok((stream, _)) = accepted {
                // A failure costs nothing but time.
                let _slower = stream.set_nodelay(true);
                serve(stream);
            }
        }
    });
    Ok(())
}

fn http(app: Arc<App>, stopped: watch::Receiver<bool>, acceptor: Option<TlsAcceptor>) -> impl Fn(TcpStream) + Send + 'static {
    move |stream| {
        let (app, stopped, acceptor) = (app.clone(), stopped.clone(), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                None => connection(app, stream, stopped).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection(app, stream, stopped).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection; told to stop, it ends after what is under way.
async fn connection<S>(app: Arc<App>, stream: S, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        // A client that went away is no failure of the server.
        let _ended = connection.await;
    }
}

/// Sends back what comes, after a greeting.
async fn echo(mut stream: TcpStream, greeting: &'static str) {
    let mut buffer = vec![0; 4096];
    let mut sent = stream.write_all(greeting.as_bytes()).await;
    while sent.is_ok() {
        sent = match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => stream.write_all(&buffer[..n]).await,
            Ok(_) | Err(_) => return,
        };
    }
}

fn self_signed() -> Result<TlsAcceptor, String> {
    let key = rcgen::generate_simple_self_signed(["app.test".to_owned()]).map_err(|error| error.to_string())?;
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der())?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?.with_no_client_auth();
    let config = builder.with_single_cert(vec![key.cert.der().clone()], private).map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
