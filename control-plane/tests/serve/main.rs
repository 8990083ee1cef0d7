//! A real control plane on loopback, and sidecars of a few lines: certificates, discovery, edits, restarts, refusals.
#![expect(clippy::unwrap_used, reason = "a failed expectation of a test is a panic")]

mod client;
mod command;
mod plane;

use client::{Sidecar, bootstrap, certify, connect, request};
use heddle_control_plane::serve::force::Counts;
use heddle_control_plane::{ControlPlane, RunError};
use heddle_identity::{CertificateAuthority, TlsContext, csr, unix_now};
use heddle_model::{Target, proto};
use plane::{MANIFEST, Plane, REVIEWS, TOKEN, manifest};
use proto::control_message::Message;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// Far longer than anything takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(20);

fn web() -> Target {
    Target::Authority("reviews:80".into())
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_that_gives_policies_with_endpoints_first() {
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    let start: Vec<_> = [sidecar.next().await, sidecar.next().await, sidecar.next().await].into();
    assert!(matches!(&start[0], Message::Trust(trust) if trust.trust_domain == "cluster.local" && trust.roots_pem.contains("BEGIN")));
    assert!(matches!(&start[1], Message::Settings(_)));
    assert!(matches!(&start[2], Message::Heartbeat(heartbeat) if heartbeat.revision > 0));

    sidecar.subscribe(&web()).await;
    let Message::Endpoints(endpoints) = sidecar.next().await else { panic!("endpoints come first") };
    assert!(endpoints.reset);
    assert_eq!(endpoints.backend, "default/reviews:80");
    assert_eq!(endpoints.upsert[0].address, "127.0.0.1:4001");
    assert_eq!(endpoints.upsert[0].identity, "spiffe://cluster.local/ns/default/sa/reviews");
    let Message::Outbound(update) = sidecar.next().await else { panic!("the policy comes next") };
    assert_eq!(update.policy.unwrap().backends.len(), 1);

    sidecar.ack(&web(), &update.version, "").await;
    let shown = plane.until_status(|page| page.sidecars.iter().any(|s| s.acks.in_force == 1)).await;
    let shown = &shown.sidecars[0];
    assert_eq!((shown.namespace.as_str(), shown.workload.as_str(), shown.connected), ("default", "client-1", true));
    assert_eq!(shown.targets[0].target, "outbound reviews:80");
    assert_eq!(shown.targets[0].sent, update.version);

    // A quiet stream has a heartbeat.
    assert!(matches!(sidecar.next().await, Message::Heartbeat(_)));
    let metrics = plane.get("/metrics").await;
    for line in ["heddle_control_plane_sidecars 1", "heddle_control_plane_certificates_issued_total 1", "objects{kind=\"Pod\"} 2"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert_eq!(plane.get("/ready").await, "ready\n");
    plane.stop().await;
}

#[tokio::test]
async fn an_unknown_target_and_an_inbound_port_have_answers_too() {
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    sidecar.subscribe(&Target::Authority("nobody:80".into())).await;
    let Message::Outbound(unknown) = sidecar.next_of_targets().await else { panic!("an outbound answer") };
    assert_eq!((unknown.version.as_str(), unknown.policy), ("none", None));
    sidecar.subscribe(&Target::InboundPort(8080)).await;
    let Message::Inbound(inbound) = sidecar.next_of_targets().await else { panic!("an inbound answer") };
    assert_eq!(inbound.policy.unwrap().port, 8080);
    plane.stop().await;
}

#[tokio::test]
async fn an_edit_is_told_within_a_second_and_a_bad_one_changes_nothing() {
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    sidecar.subscribe(&web()).await;
    let Message::Outbound(first) = sidecar.next_outbound().await else { unreachable!() };

    let edited = Instant::now();
    plane.write("route.yaml", &plane::route("v1", 90));
    let Message::Outbound(second) = sidecar.next_outbound().await else { unreachable!() };
    let took = edited.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_ne!(first.version, second.version);

    plane.write("route.yaml", &plane::route("v1", 90).replace("weight: 90", "weight: ninety"));
    let page = plane.until_status(|page| page.problems.len() == 2).await;
    assert!(page.problems[0].text.contains("route.yaml:") && page.problems[0].text.contains("HTTPRoute/default/reviews"), "{page:?}");
    assert_eq!(page.objects.iter().filter(|o| o.kind == "HTTPRoute").count(), 1);

    plane.write("route.yaml", &plane::route("v1", 50));
    let Message::Outbound(third) = sidecar.next_outbound().await else { unreachable!() };
    assert_ne!(second.version, third.version);
    assert_eq!(plane.until_status(|page| page.problems.is_empty()).await.problems, []);

    plane.remove("route.yaml");
    let Message::Outbound(last) = sidecar.next_outbound().await else { unreachable!() };
    assert_eq!(first.version, last.version, "the same answer has the same version");
    plane.stop().await;
}

#[tokio::test]
async fn endpoints_change_by_increments_and_policies_stay() {
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    sidecar.subscribe(&web()).await;
    sidecar.next_outbound().await;
    plane.write("slice.yaml", &plane::slice("reviews", &["127.0.0.2", "127.0.0.3"]));
    let Message::Endpoints(change) = sidecar.next_of_targets().await else { panic!("only endpoints change") };
    let added: Vec<_> = change.upsert.iter().map(|e| e.address.as_str()).collect();
    assert_eq!((change.reset, added, change.remove), (false, vec!["127.0.0.2:4001", "127.0.0.3:4001"], vec![]));
    plane.remove("slice.yaml");
    let Message::Endpoints(change) = sidecar.next_of_targets().await else { panic!("only endpoints change") };
    assert_eq!(change.remove, ["127.0.0.2:4001", "127.0.0.3:4001"]);
    plane.stop().await;
}

#[tokio::test]
async fn who_cannot_prove_the_workload_is_refused() {
    let plane = Plane::start(MANIFEST).await;
    let channel = connect(plane.address(), bootstrap(&plane)).await.unwrap();
    let (_, own) = csr(&plane::id("client")).unwrap();
    let (_, other) = csr(&plane::id("reviews")).unwrap();
    let refused = |csr: &[u8], token: &str| certify(channel.clone(), request(csr, token));
    assert_eq!(refused(&own, "wrong").await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(refused(&own, "").await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(refused(&other, TOKEN).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(refused(b"no request", TOKEN).await.unwrap_err().code(), Code::PermissionDenied);

    // Without a certificate there is no discovery.
    let status = Sidecar::hello(channel, "default", "client-1", 1).await.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");

    // With one, only for its own namespace and service account.
    let (channel, _) = client::join(&plane).await;
    for (namespace, workload, protocol, code) in [
        ("other", "client-1", 1, Code::PermissionDenied),
        ("default", "reviews-1", 1, Code::PermissionDenied),
        ("default", "", 1, Code::PermissionDenied),
        ("default", "client-1", 0, Code::FailedPrecondition),
        ("default", "client-1", 9, Code::FailedPrecondition),
    ] {
        let status = Sidecar::hello(channel.clone(), namespace, workload, protocol).await.end().await;
        assert_eq!(status.code(), code, "{namespace}/{workload} {protocol}: {status}");
    }
    // A pod that is not known yet may start its sidecar.
    assert!(matches!(Sidecar::hello(channel, "default", "client-2", 1).await.next().await, Message::Trust(_)));
    let metrics = plane.get("/metrics").await;
    for line in ["{reason=\"unknown_token\"} 1", "{reason=\"no_proof\"} 1", "{reason=\"request\"} 2"] {
        assert!(metrics.contains(&format!("heddle_control_plane_certificates_refused_total{line}")), "{line} is not in\n{metrics}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn counts_are_told_to_replicas_and_to_no_sidecar() {
    let plane = Plane::start(&manifest("{}")).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    sidecar.subscribe(&web()).await;
    sidecar.next_outbound().await;
    let (refused, _) = client::counts(client::join(&plane).await.0).await;
    assert_eq!(refused, Some(Code::PermissionDenied));
    let (refused, _) = client::counts(connect(plane.address(), bootstrap(&plane)).await.unwrap()).await;
    assert_eq!(refused, Some(Code::PermissionDenied));
    let (refused, body) = client::counts(connect(plane.address(), plane.replica()).await.unwrap()).await;
    assert_eq!(refused, None);
    let counts: Counts = serde_json::from_str(&body).unwrap();
    assert_eq!(counts.objects[0].name.to_string(), "MeshConfig/default");
    assert_eq!(counts.objects[0].count.sidecars, 1);
    plane.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_does_not_connect() {
    let plane = Plane::start(MANIFEST).await;
    let id = plane::id("client");
    let (key, request) = csr(&id).unwrap();
    let foreign = CertificateAuthority::create(id.trust_domain(), unix_now()).unwrap();
    let certificate = foreign.sign(&request, &id, LONG, unix_now()).unwrap();
    let tls = TlsContext::new(&key, certificate, &plane.roots()).unwrap().control_plane_client(&plane::control_plane());
    // In TLS 1.3 the client learns of the refusal when it reads.
    if let Ok(channel) = connect(plane.address(), tls).await {
        let status = Sidecar::hello(channel, "default", "client-1", 1).await.end().await;
        assert_ne!(status.code(), Code::Ok);
    }
    let metrics = plane.get("/metrics").await;
    assert!(metrics.contains("heddle_control_plane_refused_total{bound=\"handshake\"} 1"), "{metrics}");
    plane.stop().await;
}

#[tokio::test]
async fn a_pod_that_turns_out_to_be_somebody_elses_ends_the_stream() {
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "late-1").await;
    assert!(matches!(sidecar.next().await, Message::Trust(_)));
    plane.write("late.yaml", &plane::pod("late-1", "reviews", "127.0.0.9"));
    assert_eq!(sidecar.end().await.code(), Code::PermissionDenied);
    plane.stop().await;
}

#[tokio::test]
async fn after_a_restart_sidecars_resume_with_the_certificate_they_have() {
    let plane = Plane::start(MANIFEST).await;
    let (channel, tls) = client::join(&plane).await;
    let mut sidecar = Sidecar::hello(channel, "default", "client-1", 1).await;
    sidecar.subscribe(&web()).await;
    let Message::Outbound(before) = sidecar.next_outbound().await else { unreachable!() };
    let roots = plane.roots();

    let stopping = Instant::now();
    let stopped = plane.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(1), "{:?}", stopping.elapsed());
    assert_eq!(sidecar.end().await.code(), Code::Unavailable);

    let plane = stopped.start().await;
    assert_eq!(plane.roots(), roots);
    let mut sidecar = Sidecar::hello(connect(plane.address(), tls).await.unwrap(), "default", "client-1", 1).await;
    sidecar.subscribe(&web()).await;
    let Message::Outbound(after) = sidecar.next_outbound().await else { unreachable!() };
    assert_eq!(before.version, after.version);
    plane.stop().await;
}

#[tokio::test]
async fn certificates_live_as_long_as_configured_and_are_renewed_by_themselves() {
    let plane = Plane::start(&manifest("{certificateLifetime: 4s}")).await;
    let (channel, _) = client::join(&plane).await;
    // Renewed with no other proof than the certificate.
    let (_, csr_der) = csr(&plane::id("client")).unwrap();
    let renewed = certify(channel.clone(), request(&csr_der, "")).await.unwrap();
    assert_eq!(renewed.chain_der.len(), 1);
    assert!(renewed.trust.unwrap().roots_pem.contains("BEGIN"));
    // The connection ends with the certificate that opened it; the control plane's own has been renewed by then.
    let status = Sidecar::hello(channel, "default", "client-1", 1).await.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    assert!(matches!(sidecar.next().await, Message::Trust(_)));
    plane.stop().await;
}

#[tokio::test]
async fn a_changed_lifetime_and_new_settings_are_in_force_at_once() {
    let plane = Plane::start(MANIFEST).await;
    let (channel, _) = client::join(&plane).await;
    let mut sidecar = Sidecar::hello(channel.clone(), "default", "client-1", 1).await;
    plane.write("mesh.yaml", &plane::mesh_config("{certificateLifetime: 1h, accessLog: {enabled: true}}"));
    sidecar.until(|message| matches!(message, Message::Settings(settings) if settings.access_log)).await;
    let (_, csr_der) = csr(&plane::id("client")).unwrap();
    let response = certify(channel, request(&csr_der, "")).await.unwrap();
    let certificate = heddle_identity::Certificate::from_der(response.chain_der).unwrap();
    assert!(certificate.remaining(unix_now()) <= Duration::from_secs(3600));
    plane.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_does_not_read_gets_the_latest_state_and_not_every_step() {
    const EDITS: usize = 8;
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    sidecar.subscribe(&web()).await;
    sidecar.next_outbound().await;
    // Each edit changes 2,000 endpoints: more than the 64 KiB that may be under way.
    let addresses = |edit: usize| (0..2000).map(|i| format!("10.{edit}.{}.{}", i / 250, i % 250)).collect::<Vec<_>>();
    for edit in 1..=EDITS {
        let before = plane.status().await.revision;
        let addresses = addresses(edit);
        plane.write("slice.yaml", &plane::slice("reviews", &addresses.iter().map(String::as_str).collect::<Vec<_>>()));
        plane.until_status(|page| page.revision > before).await;
    }
    let mut known = std::collections::BTreeSet::new();
    let mut updates = 0;
    let last: std::collections::BTreeSet<_> = addresses(EDITS).into_iter().map(|ip| format!("{ip}:4001")).collect();
    while known != last {
        if let Message::Endpoints(change) = sidecar.next().await {
            updates += 1;
            known.extend(change.upsert.into_iter().map(|e| e.address));
            known.retain(|address| !change.remove.contains(address));
        }
    }
    assert!(updates < EDITS, "{updates} updates for {EDITS} edits");
    plane.stop().await;
}

#[tokio::test]
async fn targets_of_a_stream_are_bounded() {
    let plane = Plane::start(MANIFEST).await;
    let mut sidecar = Sidecar::join(&plane, "client-1").await;
    for port in 1..=4097 {
        sidecar.subscribe(&Target::InboundPort(port)).await;
    }
    assert_eq!(sidecar.end().await.code(), Code::ResourceExhausted);
    plane.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_in_one_line() {
    let plane = Plane::start(MANIFEST).await;
    let taken = plane.address();
    let mut config = plane.config();
    config.admin.set_port(0);
    let error = ControlPlane::start(config).await.unwrap_err();
    assert!(matches!(error, RunError::Listen { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&taken.to_string()) && text.contains("--listen") && !text.contains('\n'), "{text}");
    plane.stop().await;
}

#[tokio::test]
async fn probes_tell_what_is_there_and_refuse_the_rest() {
    let plane = Plane::start(REVIEWS).await;
    assert_eq!(plane.get("/live").await, "live\n");
    assert!(plane.get("/nothing").await.contains("/status"));
    plane.stop().await;
}
