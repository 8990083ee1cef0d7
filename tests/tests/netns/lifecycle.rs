//! The end of a pod: Kubernetes ends the sidecar when the application has ended.

use crate::{STRICT, pair};
use heddle_tests::netns::{Families, Node, Spec, get};
use heddle_tests::{Condition, http1, wait};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_jobs_sidecar_ends_at_once() {
    let (mut node, service) = pair(Families::Both, STRICT).await;
    let _app = node.get("echo").serve(8080);
    // Its work was to call somebody, and its last connections end with it.
    assert_eq!(node.get("client").get(service).await.status(), 200);
    let sidecar = node.get_mut("client").sidecar();
    let began = Instant::now();
    sidecar.terminate();
    let status = sidecar.ended().await;
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_sidecar_that_is_not_ready_yet_ends_at_once() {
    let mut node = Node::start(Families::Both, STRICT).await;
    node.add(Spec::new("early").without_redirection());
    let sidecar = node.get_mut("early").sidecar();
    wait::until("its start", async || if sidecar.log().contains("sidecar started") { Ok(()) } else { Err("not yet".to_owned()) }).await;
    let began = Instant::now();
    sidecar.terminate();
    assert!(sidecar.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_rolling_restart_fails_nobody() {
    let mut node = Node::start(Families::Ipv4, STRICT).await;
    let service = node.service("echo", 80, 8080, Some("http"));
    let mut apps = Vec::new();
    for name in ["echo-1", "echo-2"] {
        apps.push(node.pod(Spec::new(name).of("echo").port(8080)).await.serve(8080));
    }
    node.pod(Spec::new("client")).await;
    let mut kept = node.get("client").connect(service);
    for n in 0..200 {
        match n {
            // The application ends on its SIGTERM, the sidecar is ended after it, and only later do others hear of either.
            50 => drop(apps.remove(0)),
            60 => node.get_mut("echo-1").sidecar().terminate(),
            120 => node.set_condition("echo-1", Condition::Gone),
            _ => {}
        }
        let answer = get(&mut kept, "/").await;
        assert_eq!(answer.status(), 200, "request {n}: {}", answer.text());
        let answer = node.get("client").get(service).await;
        assert_eq!(answer.status(), 200, "request {n} on a new connection: {}", answer.text());
    }
    let status = node.get_mut("echo-1").sidecar().ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn outbound_is_served_until_the_sidecar_is_told_to_end() {
    let (mut node, service) = pair(Families::Both, STRICT).await;
    let app = node.get("echo").serve(8080);
    // A preStop hook of the client calls out while the application is ending: nobody has told the sidecar of it.
    node.set_condition("client", Condition::Terminating);
    assert_eq!(node.get("client").get(service).await.status(), 200);
    // An exchange that is under way when the sidecar is told ends as it would have.
    let mut wire = node.get("client").connect(service);
    wire.send("GET / HTTP/1.1\r\nHost: echo\r\n").await;
    let sidecar = node.get_mut("client").sidecar();
    sidecar.terminate();
    wait::until("its drain", async || if sidecar.log().contains("draining") { Ok(()) } else { Err("not yet".to_owned()) }).await;
    wire.send("\r\n").await;
    let answer = http1::response(&mut wire, "GET").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(node.get_mut("client").sidecar().ended().await.success());
    assert_eq!(app.heads().len(), 2);
}
