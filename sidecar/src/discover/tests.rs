//! The task and the handle against a control plane on loopback, killed and restarted.

use super::*;
use crate::credentials::fake::{ControlPlane, Files, Options, Session, TOKEN, log};
use heddle_model::proto::{self, control_message, sidecar_message};
use heddle_model::{MtlsMode, Protocol};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

struct Sidecar {
    discovery: Discovery,
    credentials: Credentials,
    _tasks: JoinSet<()>,
}

impl Sidecar {
    fn start(files: &Files, control_plane: SocketAddr) -> Self {
        log();
        let config = files.config(control_plane);
        let (credentials, renewal) = Credentials::new(&config, Rng::with_seed(3)).unwrap();
        let (discovery, stream) = Discovery::new(&config, &credentials, Rng::with_seed(4)).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(renewal.run());
        tasks.spawn(stream.run());
        Self { discovery, credentials, _tasks: tasks }
    }
}

fn start() -> (Options, Files, ControlPlane, Sidecar) {
    let options = Options::new(Duration::from_secs(3600));
    let files = Files::new();
    files.write_token(TOKEN);
    files.write_roots(&options.authority);
    let control = ControlPlane::start(&options);
    let sidecar = Sidecar::start(&files, control.address);
    (options, files, control, sidecar)
}

fn policy(port: u16, mtls: MtlsMode, version: &str) -> control_message::Message {
    let policy = InboundPolicy { port, protocol: Protocol::Http, mtls, mtls_source: None, idle: None, service: None };
    control_message::Message::Inbound(proto::InboundUpdate {
        target: Some((&Target::InboundPort(port)).into()),
        version: version.to_owned(),
        policy: Some((&policy).into()),
    })
}

async fn in_force(known: &mut watch::Receiver<Known<ResolvedInbound>>, version: &str) {
    let reached = known.wait_for(|known| matches!(known, Known::Policy(policy) if policy.version == version));
    timeout(PATIENCE, reached).await.expect("in time").unwrap();
}

async fn next(session: &mut Session) -> sidecar_message::Message {
    timeout(PATIENCE, session.next()).await.expect("in time")
}

/// The targets asked for at a stream's begin, hello first.
async fn opening(session: &mut Session, count: usize) -> Vec<Target> {
    let sidecar_message::Message::Hello(hello) = next(session).await else { panic!("hello comes first") };
    assert_eq!((hello.namespace.as_str(), hello.workload.as_str(), hello.protocol), ("shop", "front-0", 1));
    let mut targets = Vec::new();
    for _ in 0..count {
        let sidecar_message::Message::Subscribe(subscribe) = next(session).await else { panic!("then what is wanted") };
        targets.push(Target::try_from(subscribe.target).unwrap());
    }
    targets.sort();
    targets
}

#[tokio::test]
async fn a_target_is_asked_for_answered_and_acknowledged() {
    let (_options, _files, mut control, sidecar) = start();
    let mut known = sidecar.discovery.inbound(8080);
    let mut session = timeout(PATIENCE, control.session()).await.unwrap();
    assert_eq!(session.peer.as_str(), "spiffe://cluster.local/ns/shop/sa/front");
    assert_eq!(opening(&mut session, 1).await, [Target::InboundPort(8080)]);
    session.send(policy(8080, MtlsMode::Strict, "1")).await;
    in_force(&mut known, "1").await;
    assert!(matches!(next(&mut session).await, sidecar_message::Message::Ack(ack) if ack.version == "1" && ack.error.is_empty()));
    let _other = sidecar.discovery.outbound(&Target::Authority("reviews:80".to_owned()));
    assert!(matches!(next(&mut session).await, sidecar_message::Message::Subscribe(_)), "subscribed while the stream is open");
}

#[tokio::test]
async fn what_changed_during_an_outage_is_in_force_within_a_second_of_the_return() {
    let (options, _files, mut control, sidecar) = start();
    let mut known = sidecar.discovery.inbound(8080);
    let session = timeout(PATIENCE, control.session()).await.unwrap();
    session.send(policy(8080, MtlsMode::Strict, "1")).await;
    in_force(&mut known, "1").await;
    let port = control.kill();
    let away = async {
        while sidecar.discovery.inventory().connected {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, away).await.unwrap();
    // Asked for while it is away: pending, and then answered like all others.
    let mut new = sidecar.discovery.inbound(9090);
    assert!(matches!(*new.borrow(), Known::Pending));
    in_force(&mut known, "1").await;
    // Until the pauses have reached their maximum: 50, 100, 200, 400, 500 ms.
    let attempts = sidecar.discovery.state().counts.attempts;
    let tired = async {
        while sidecar.discovery.state().counts.attempts < attempts + 6 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, tired).await.unwrap();

    let mut control = ControlPlane::start_at(port, &options);
    let back = Instant::now();
    let mut session = timeout(PATIENCE, control.session()).await.unwrap();
    session.send(policy(8080, MtlsMode::Permissive, "2")).await;
    session.send(policy(9090, MtlsMode::Strict, "1")).await;
    in_force(&mut known, "2").await;
    in_force(&mut new, "1").await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert_eq!(opening(&mut session, 2).await, [Target::InboundPort(8080), Target::InboundPort(9090)]);
}

#[tokio::test]
async fn roots_and_settings_come_by_the_stream() {
    let (options, _files, mut control, sidecar) = start();
    let session = timeout(PATIENCE, control.session()).await.unwrap();
    let mut contexts = sidecar.credentials.context();
    let other = Options::new(Duration::from_secs(60));
    let both = options.authority.trust_bundle().union(other.authority.trust_bundle()).unwrap();
    let domain = crate::credentials::fake::trust_domain();
    let message = proto::TrustBundle { trust_domain: domain.to_string(), roots_pem: both.to_pem(&domain), revision: String::new() };
    session.send(control_message::Message::Trust(message)).await;
    let replaced = contexts.wait_for(|context| context.as_ref().is_some_and(|c| c.bundle_revision() == both.revision()));
    timeout(PATIENCE, replaced).await.unwrap().unwrap();
    let mut settings = sidecar.discovery.settings();
    session.send(control_message::Message::Settings(proto::Settings { access_log: true, ..Default::default() })).await;
    timeout(PATIENCE, settings.wait_for(|settings| settings.access_log)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_replaced_authority_is_followed() {
    let (_options, files, mut control, sidecar) = start();
    let mut known = sidecar.discovery.inbound(8080);
    let session = timeout(PATIENCE, control.session()).await.unwrap();
    session.send(policy(8080, MtlsMode::Strict, "1")).await;
    in_force(&mut known, "1").await;
    let port = control.kill();
    let replaced = Options::new(Duration::from_secs(3600));
    files.write_roots(&replaced.authority);
    let mut control = ControlPlane::start_at(port, &replaced);
    let session = timeout(PATIENCE, control.session()).await.unwrap();
    session.send(policy(8080, MtlsMode::Strict, "2")).await;
    in_force(&mut known, "2").await;
}

#[tokio::test]
async fn a_renewed_certificate_begins_a_new_stream_and_new_roots_do_not() {
    let options = Options::new(Duration::from_secs(4));
    let files = Files::new();
    files.write_token(TOKEN);
    files.write_roots(&options.authority);
    let mut control = ControlPlane::start(&options);
    let sidecar = Sidecar::start(&files, control.address);
    let mut known = sidecar.discovery.inbound(8080);
    let mut first = timeout(PATIENCE, control.session()).await.unwrap();
    first.send(policy(8080, MtlsMode::Strict, "1")).await;
    in_force(&mut known, "1").await;
    let other = Options::new(Duration::from_secs(60));
    sidecar.credentials.update_trust(options.authority.trust_bundle().union(other.authority.trust_bundle()).unwrap());
    let second = timeout(PATIENCE, control.session()).await.unwrap();
    assert_eq!(control.asked.by_certificate.load(std::sync::atomic::Ordering::Relaxed), 1, "begun by the renewal alone");
    assert!(sidecar.discovery.inventory().connected, "no outage");
    second.send(policy(8080, MtlsMode::Strict, "2")).await;
    in_force(&mut known, "2").await;
    assert_eq!(opening(&mut first, 1).await, [Target::InboundPort(8080)]);
}

#[tokio::test]
async fn metrics_tell_ages_and_counts() {
    let (_options, _files, mut control, sidecar) = start();
    let registry = prometheus::Registry::new();
    sidecar.discovery.register(&registry).unwrap();
    sidecar.credentials.register(&registry).unwrap();
    let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text().contains("heddle_control_plane_connected 0"));
    let mut known = sidecar.discovery.inbound(8080);
    let session = timeout(PATIENCE, control.session()).await.unwrap();
    session.send(policy(8080, MtlsMode::Strict, "1")).await;
    in_force(&mut known, "1").await;
    for line in [
        "heddle_control_plane_connected 1",
        "heddle_config_targets{state=\"in_force\"} 1",
        "heddle_config_updates_total{result=\"applied\"} 1",
        "heddle_control_plane_connections_total 1",
        "heddle_certificate_renewals_total{result=\"ok\"} 1",
    ] {
        assert!(text().contains(line), "{line} is not in\n{}", text());
    }
}
