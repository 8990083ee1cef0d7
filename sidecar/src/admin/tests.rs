//! The admin server as a client sees it, byte for byte.

use super::*;
use crate::credentials::{Credentials, fake};
use fastrand::Rng;
use heddle_identity::{CertificateAuthority, SpiffeId};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

struct Running {
    address: std::net::SocketAddr,
    admin: Admin,
    drain: Drain,
    context: watch::Sender<Option<Arc<TlsContext>>>,
    _end: oneshot::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Running {
    async fn start() -> Self {
        let mut config = fake::config("127.0.0.1:1");
        let any = "127.0.0.1:1".parse().unwrap();
        config.inbound = [8080, 8080, 9090].map(|port| crate::config::InboundListener { listen: any, application: any, port }).into();
        let (credentials, _renewal) = Credentials::new(&config, Rng::with_seed(1)).unwrap();
        let (discovery, _stream) = Discovery::new(&config, &credentials, Rng::with_seed(2)).unwrap();
        let registry = prometheus::Registry::new();
        discovery.register(&registry).unwrap();
        let (context, contexts) = watch::channel(None);
        let drain = Drain::new();
        let admin = Admin::new(&config, move || registry.gather(), contexts, discovery, drain.clone(), None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        let serve = admin.clone().serve(listener, async move {
            let _ = ended.await;
        });
        tasks.spawn(serve);
        Self { address, admin, drain, context, _end: end, _tasks: tasks }
    }

    /// Sends bytes; returns status and everything else of the answer.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"));
        (status, answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, answer) = self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

fn context(lifetime: Duration) -> Arc<TlsContext> {
    let domain = fake::trust_domain();
    let authority = CertificateAuthority::create(&domain, unix_now()).unwrap();
    let id = SpiffeId::workload(&domain, "shop", "front").unwrap();
    let (key, csr) = heddle_identity::csr(&id).unwrap();
    let certificate = authority.sign(&csr, &id, lifetime, unix_now()).unwrap();
    Arc::new(TlsContext::new(&key, certificate, authority.trust_bundle()).unwrap())
}

#[tokio::test]
async fn the_paths_are_listed_and_answered() {
    let running = Running::start().await;
    assert_eq!(running.get("/").await, (200, PATHS.to_owned()));
    assert_eq!(running.get("/live").await, (200, "live\n".to_owned()));
    assert_eq!(running.get("/nowhere").await, (404, PATHS.to_owned()));
    let (status, metrics) = running.get("/metrics").await;
    assert!(status == 200 && metrics.contains("\nheddle_control_plane_connected 0\n"), "{metrics}");
}

#[tokio::test]
async fn ready_names_what_is_missing() {
    let running = Running::start().await;
    let (status, reasons) = running.get("/ready").await;
    assert_eq!(status, 503);
    let expected = ["the certificate has not come yet", "inbound port 8080 has not come", "inbound port 9090 has not come"];
    assert_eq!(reasons.lines().count(), expected.len());
    assert!(reasons.lines().zip(expected).all(|(reason, part)| reason.contains(part)), "{reasons}");
    running.context.send_replace(Some(context(Duration::from_secs(60))));
    assert_eq!(running.get("/ready").await.1.lines().count(), 2);
    running.drain.run(crate::drain::LameDuck::For(Duration::ZERO), Duration::ZERO).await;
    assert!(running.get("/ready").await.1.contains("ending"));
}

#[tokio::test]
async fn ready_is_ready_when_all_is_here() {
    let running = Running::start().await;
    running.context.send_replace(Some(context(Duration::from_secs(60))));
    let policy = heddle_model::InboundPolicy {
        port: 8080,
        protocol: heddle_model::Protocol::Http,
        mtls: heddle_model::MtlsMode::Strict,
        mtls_source: None,
        idle: None,
        service: None,
    };
    let known = Known::Policy(Arc::new(ResolvedInbound { policy, version: "1".to_owned() }));
    let sender = watch::Sender::new(known);
    let receivers = vec![(8080, sender.subscribe()), (9090, sender.subscribe())];
    let shared = Shared {
        metrics: Box::new(Vec::new),
        workload: running.admin.shared.workload.clone(),
        context: running.admin.shared.context.clone(),
        inbound: receivers,
        pod: None,
        check: None,
        discovery: running.admin.shared.discovery.clone(),
        drain: running.drain.clone(),
    };
    let admin = Admin { shared: Arc::new(shared) };
    assert_eq!(admin.not_ready(), Vec::<String>::new());
}

#[tokio::test]
async fn config_is_json_and_names_the_certificate() {
    let running = Running::start().await;
    let (status, body) = running.get("/config").await;
    let config: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &config["certificate"]), (200, &Value::Null));
    assert_eq!(config["controlPlane"]["connected"], false);
    assert_eq!(config["settings"]["egressAllow"], false);
    assert_eq!(config["inbound"][0]["target"], "8080");
    assert_eq!(config["inbound"][0]["state"], "pending");
    running.context.send_replace(Some(context(Duration::from_secs(60))));
    let config: Value = serde_json::from_str(&running.get("/config").await.1).unwrap();
    assert_eq!(config["certificate"]["id"], "spiffe://cluster.local/ns/shop/sa/front");
    assert!(config["certificate"]["secondsLeft"].as_u64().unwrap() > 50);
}

#[tokio::test]
async fn drain_is_requested_by_post_only() {
    let running = Running::start().await;
    assert_eq!(running.get("/drain").await.0, 405);
    assert!(timeout(Duration::ZERO, running.drain.requested()).await.is_err());
    let (status, _) = running.raw("POST /drain HTTP/1.1\r\nHost: 127.0.0.1:15020\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 202);
    running.drain.requested().await;
}

#[tokio::test]
async fn other_hosts_bodies_and_methods_are_refused() {
    let running = Running::start().await;
    let head = |host: &str| format!("GET /live HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    for host in
        ["Host: attacker.example\r\n", "Host: 127.0.0.1.nip.io:80\r\n", "Host: \r\n", "", "Host: localhost\r\nHost: attacker.example\r\n"]
    {
        let (status, answer) = running.raw(&head(host)).await;
        assert!(matches!(status, 400 | 403), "{host:?}: {answer}");
    }
    for host in ["Host: localhost:15020\r\n", "Host: LOCALHOST\r\n", "Host: 127.1.2.3\r\n", "Host: [::1]:15020\r\n"] {
        assert_eq!(running.raw(&head(host)).await.0, 200, "{host:?}");
    }
    assert_eq!(running.raw("GET /live HTTP/1.0\r\n\r\n").await.0, 200);
    assert_eq!(running.raw("GET http://attacker.example/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.0, 403);
    assert_eq!(running.raw("POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.0, 405);
    let body = "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert_eq!(running.raw(body).await.0, 413);
}

#[tokio::test]
async fn connections_are_bounded() {
    let running = Running::start().await;
    let mut open = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        open.push(stream);
    }
    let mut waiting = TcpStream::connect(running.address).await.unwrap();
    waiting.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    let early = timeout(Duration::from_millis(50), waiting.read_exact(&mut first)).await;
    assert!(early.is_err(), "there is no slot");
    open.pop();
    waiting.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

/// Asks a health server on a connection of its own; what came back, as text.
async fn asked(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_hook_that_the_application_did_not_hear_is_not_answered() {
    let running = Running::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let probe = serde_json::json!({"http": {"port": nobody, "path": "/"}, "timeoutSeconds": 1});
    let probes = serde_json::from_value(serde_json::json!({"app/post-start": probe, "app/readiness": probe})).unwrap();
    let health = crate::health::Health::new(running.admin.clone(), probes, &[std::net::Ipv4Addr::LOCALHOST.into()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(health.serve(listener, std::future::pending()));
    assert!(asked(address, "/probe/app/readiness").await.starts_with("HTTP/1.1 503"));
    assert_eq!(asked(address, "/probe/app/post-start").await, "");
}
