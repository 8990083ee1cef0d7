//! The rules themselves: what they leave alone, how they are made, and what is said when they are not there.

use crate::{STRICT, pair};
use heddle_tests::netns::{Families, Namespace, Node, Spec, binary};
use heddle_tests::{App, wait};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};

/// Runs the command in a namespace, as root or with less.
fn redirect(namespace: &Namespace, before: &[&str], args: &[&str]) -> Output {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]).args(before).arg(binary("heddle-sidecar")).arg("redirect").args(args);
    command.output().unwrap()
}

#[test]
fn a_second_run_leaves_the_same_rules_and_other_tables_alone() {
    let namespace = Namespace::new("rules");
    namespace.run("nft", &["add table ip other; add chain ip other c { type nat hook output priority 0; }"]);
    for _ in 0..2 {
        let output = redirect(&namespace, &[], &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("These rules are in force.\n"));
    }
    let rules = namespace.run("nft", &["list", "ruleset"]);
    assert_eq!(rules.matches("redirect to :15001 comment \"to the sidecar\"").count(), 1, "{rules}");
    assert_eq!(rules.matches("redirect to :15006 comment \"to the sidecar\"").count(), 1, "{rules}");
    assert!(rules.contains("table ip other"), "{rules}");
}

#[test]
fn as_many_exclusions_as_injection_takes_are_taken() {
    let namespace = Namespace::new("rules");
    let list = |item: &dyn Fn(usize) -> String| (0..256).map(item).collect::<Vec<_>>().join(",");
    let output = Command::new("ip")
        .args(["netns", "exec", namespace.name()])
        .arg(binary("heddle-sidecar"))
        .arg("redirect")
        .env("HEDDLE_EXCLUDE_INBOUND_PORTS", list(&|n| (n + 1).to_string()))
        .env("HEDDLE_EXCLUDE_OUTBOUND_PORTS", list(&|n| (n + 1).to_string()))
        .env("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", list(&|n| format!("fd00:{n:x}::/32")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(namespace.run("nft", &["list", "ruleset"]).matches("HEDDLE_EXCLUDE").count(), 768);
}

#[test]
fn checking_and_printing_change_nothing() {
    let namespace = Namespace::new("rules");
    for option in ["--check", "--print"] {
        let output = redirect(&namespace, &[], &[option]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(words.contains("outbound: everything else: redirected to port 15001"), "{words}");
    }
    assert_eq!(namespace.run("nft", &["list", "ruleset"]), "");
}

#[test]
fn without_the_right_to_it_the_way_out_is_said() {
    let namespace = Namespace::new("rules");
    let output = redirect(&namespace, &["setpriv", "--bounding-set", "-net_admin"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NET_ADMIN"), "{output:?}");
    // And with nothing but it, it works.
    let only = ["setpriv", "--inh-caps", "-all,+net_admin", "--bounding-set", "-all,+net_admin"];
    let output = redirect(&namespace, &only, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn wrong_use_is_told_at_once() {
    let namespace = Namespace::new("rules");
    assert_eq!(redirect(&namespace, &[], &["--now"]).status.code(), Some(64));
    let output = redirect(&namespace, &["env", "HEDDLE_EXCLUDE_INBOUND_PORTS=http", "HEDDLE_EXCLUDE_OUTBOUND_CIDRS=10.0.0.1/8"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 2);
    assert_eq!(namespace.run("nft", &["list", "ruleset"]), "");
}

#[tokio::test]
async fn an_excluded_inbound_port_is_the_applications_own() {
    let mut node = Node::start(Families::Both, STRICT).await;
    node.pod(Spec::new("echo").port(8080).env("HEDDLE_EXCLUDE_INBOUND_PORTS", "9100")).await;
    node.pod(Spec::new("outside").plain()).await;
    let (_meshed, _excluded) = (node.get("echo").serve(8080), node.get("echo").serve(9100));
    assert_eq!(node.get("outside").get(node.get("echo").at(8080)).await.status(), 403);
    assert_eq!(node.get("outside").get(node.get("echo").at(9100)).await.status(), 200);
}

#[tokio::test]
async fn excluded_destinations_are_reached_past_the_sidecar() {
    let mut node = Node::start(Families::Both, STRICT).await;
    let spec =
        Spec::new("client").env("HEDDLE_EXCLUDE_OUTBOUND_PORTS", "7001").env("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.244.0.1/32,fd00:244::1");
    node.add(Spec::new("outside").plain());
    node.pod(spec).await;
    let outside = node.get("outside");
    let apps: Vec<_> = [7000, 7001].iter().map(|port| outside.serve(*port)).collect();
    let at_node = node.namespace.within(|| std::net::TcpListener::bind("[::]:7000")).unwrap();
    at_node.set_nonblocking(true).unwrap();
    let _at_node = App::listen(tokio::net::TcpListener::from_std(at_node).unwrap(), |mut wire, _| async move {
        wire.send("node\r\n").await;
    });
    let client = node.get("client");
    let passed = async || client.metrics().await.sum("heddle_connections_accepted_total", &[]);
    let before = passed().await;
    assert_eq!(client.get(node.get("outside").at(7001)).await.status(), 200, "by port");
    for ip in ["10.244.0.1", "fd00:244::1"] {
        client.connect(SocketAddr::new(ip.parse().unwrap(), 7000)).expect("node\r\n").await;
    }
    assert_eq!(passed().await, before, "the sidecar saw none of these");
    assert_eq!(client.get(node.get("outside").at(7000)).await.status(), 200, "a pod without a sidecar that the mesh knows");
    assert!(passed().await > before);
    assert_eq!(apps.len(), 2);
}

#[tokio::test]
async fn loopback_is_untouched() {
    let (node, _) = pair(Families::Both, STRICT).await;
    let client = node.get("client");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 15003));
    // Not even the port of the sidecar's own check is anything else to an application.
    let _app = client.serve_on(address);
    assert_eq!(client.get(address).await.status(), 200);
}

#[tokio::test]
async fn without_rules_a_sidecar_is_not_ready_and_says_why() {
    let mut node = Node::start(Families::Both, STRICT).await;
    node.add(Spec::new("naked").without_redirection());
    let reason = wait::until("everything but the redirection", async || {
        let page = node.health("naked", "/ready").await.text();
        if page.contains("heddle-redirect") && page.lines().count() == 1 { Ok(page) } else { Err(page) }
    })
    .await;
    assert!(reason.contains("outbound IPv4 connections are not redirected") && reason.contains("127.0.0.1:15003"), "{reason}");
    node.redirect(node.get("naked"));
    node.ready("naked").await;
    assert!(node.get("naked").rules().contains("redirect to :15006"));
}
