//! The control plane's death and return, and certificates that are renewed: traffic goes on.

use heddle_tests::http1::{Message, exchange};
use heddle_tests::load::{Plan, Tally, alone};
use heddle_tests::look::{config, in_force, outbound};
use heddle_tests::mesh::ROUTES;
use heddle_tests::pki::{Authority, Credential};
use heddle_tests::{App, Mesh, Service, Wire, Workload, wait};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

const GET: &str = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n";

fn marked(mark: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: echo}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: echo}}]
  rules:
  - filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-mark, value: {mark}}}]}}}}]
    backendRefs: [{{name: echo, port: 80}}]
"
    )
}

#[tokio::test]
async fn traffic_goes_on_without_the_control_plane_and_changes_are_made_up_for() {
    let _alone = alone().await;
    let app = App::named("echo").await;
    let mut mesh = Mesh::builder().pair(app.address(), "http").objects(&marked("before")).start().await;
    let load = Plan::new(mesh.outbound("client", "echo:80")).start();
    load.more(100).await;
    mesh.kill_control_plane();
    in_force(&mesh, "client", "the absence", |config| config["controlPlane"]["connected"] == false).await;
    mesh.edit(ROUTES, &marked("meanwhile"));
    // Long enough for the pauses between the sidecars' tries to be the longest.
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(6) {
        load.more(100).await;
    }
    let known = config(&mesh, "client").await;
    assert!(known["controlPlane"]["ageSeconds"].as_f64().is_some_and(|age| age > 4.0), "{known:#}");
    assert!(outbound(&known, "echo:80").to_string().contains("before"), "{known:#}");
    mesh.restart_control_plane().await;
    let back = in_force(&mesh, "client", "what was changed meanwhile", |config| {
        outbound(config, "echo:80")["policy"].to_string().contains("meanwhile")
    })
    .await;
    load.more(100).await;
    let all = load.stop().await;
    eprintln!("measured: {} requests, {} failed; the change in force {back:?} after the control plane was ready", all.total(), all.failed);
    all.assert_flawless();
    assert!(back < Duration::from_secs(1), "{back:?}");
    let answer = exchange(&mut mesh.connect().await, GET).await;
    assert_eq!(Message::parse(&answer.body).header("x-mark"), Some("meanwhile"));
}

#[tokio::test]
async fn a_sidecar_that_starts_without_a_control_plane_waits_for_it() {
    let _alone = alone().await;
    let app = App::named("echo").await;
    let mut mesh = Mesh::pair(app.address(), "http").await;
    Plan::new(mesh.outbound("client", "echo:80")).limit(100).run().await;
    mesh.kill_control_plane();
    mesh.add(Workload::new("late").calls("echo:80"));
    let load = Plan::new(mesh.outbound("client", "echo:80")).start();
    load.more(100).await;
    mesh.restart_control_plane().await;
    mesh.ready().await;
    load.stop().await.assert_flawless();
    let load = Plan::new(mesh.outbound("late", "echo:80")).limit(100).start();
    load.done().await.assert_flawless();
}

/// The serial number and the end of the certificate that an inbound listener shows.
async fn shown(mesh: &Mesh, address: SocketAddr) -> (Vec<u8>, u64) {
    let credential = Credential::Valid("spiffe://cluster.local/ns/default/sa/client".to_owned());
    let connector = TlsConnector::from(Authority::of(mesh).client(&credential, b"heddle/http1"));
    let stream = TcpStream::connect(address).await.expect("a listener");
    let name = "any".try_into().expect("a name");
    let tls = wait::soon("a handshake", connector.connect(name, stream)).await.expect("a handshake");
    let chain = tls.get_ref().1.peer_certificates().expect("a certificate");
    let certificate = heddle_identity::Certificate::from_chain(chain.to_vec()).expect("a workload's certificate");
    (chain[0].to_vec(), certificate.not_after())
}

#[tokio::test]
async fn certificates_are_renewed_and_no_connection_fails() {
    let _alone = alone().await;
    let app = App::named("echo").await;
    let config_of_mesh = "apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {certificateLifetime: 4s}
";
    let workload = Workload::new("echo").label("app", "echo").serves(8080, app.address()).serves(9090, app.address());
    let mesh = Mesh::builder()
        .service(Service::new("echo", 80).protocol("http"))
        // The same application as bytes: each connection of a client makes one between the sidecars.
        .service(Service::new("bytes", 80).protocol("tcp").target_port(9090).select("app", "echo"))
        .workload(workload)
        .client("client", &["echo:80", "bytes:80"])
        .objects(config_of_mesh)
        .start()
        .await;
    let kept = Plan::new(mesh.outbound("client", "echo:80")).clients(2).start();
    let anew = Plan::new(mesh.outbound("client", "bytes:80")).clients(4).reconnecting().start();
    // Connections end with their clients and not with certificates.
    let mut open = Wire::connect(mesh.outbound("client", "bytes:80")).await;
    assert_eq!(exchange(&mut open, GET).await.status(), 200);
    let began = Instant::now();
    let inbound = mesh.inbound("echo", 8080);
    let mut certificates = BTreeSet::new();
    let mut ends = BTreeSet::new();
    // Three lives of a certificate: the first ones have long expired at the end.
    while began.elapsed() < Duration::from_secs(12) {
        anew.more(20).await;
        let (certificate, end) = shown(&mesh, inbound).await;
        certificates.insert(certificate);
        ends.insert(end);
    }
    assert_eq!(exchange(&mut open, GET).await.status(), 200);
    let tallies = [kept.stop().await, anew.stop().await];
    let metrics = mesh.metrics("client").await;
    let handshakes = metrics.sum("heddle_tls_handshakes_total", &[("side", "client")]);
    eprintln!(
        "measured: {} requests and {handshakes} handshakes over {} certificates of 4 s each",
        tallies.iter().map(Tally::total).sum::<u64>(),
        certificates.len()
    );
    tallies.iter().for_each(Tally::assert_flawless);
    assert!(certificates.len() >= 4 && ends.len() >= 4, "{} certificates, ends {ends:?}", certificates.len());
    assert!(handshakes >= f64::from(u32::try_from(tallies[1].total()).unwrap()), "each connection has its own handshake");
}

#[tokio::test]
async fn certificates_outlive_a_control_plane_that_is_away_for_less_than_half_a_life() {
    let _alone = alone().await;
    let app = App::named("echo").await;
    let lifetime = "apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {certificateLifetime: 10s}
";
    let mut mesh = Mesh::builder().pair(app.address(), "tcp").objects(lifetime).start().await;
    let load = Plan::new(mesh.outbound("client", "echo:80")).clients(2).reconnecting().start();
    let not_after = async |mesh: &Mesh| config(mesh, "client").await["certificate"]["notAfter"].as_u64();
    load.more(50).await;
    let first = not_after(&mesh).await;
    mesh.kill_control_plane();
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(3) {
        load.more(10).await;
    }
    mesh.restart_control_plane().await;
    wait::until("a new certificate", async || match not_after(&mesh).await {
        now if now > first => Ok(()),
        now => Err(format!("it ends at {now:?}, as {first:?}")),
    })
    .await;
    load.more(50).await;
    load.stop().await.assert_flawless();
}
