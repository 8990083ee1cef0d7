//! Connections as pods make them: by cluster IP, by pod IP, to themselves, to nobody that the mesh knows.

use crate::{PERMISSIVE, STRICT, STRICT_OPEN, pair};
use heddle_tests::netns::{Families, Node, Spec, get};
use heddle_tests::{App, wait};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

#[tokio::test]
async fn a_service_is_reached_over_mtls_in_both_families() {
    let (node, service) = pair(Families::Both, STRICT).await;
    let app = node.get("echo").serve(8080);
    let client = node.get("client");
    let v6 = SocketAddr::new("fd00:96::1".parse().unwrap(), 80);
    for address in [service, v6] {
        let answer = client.get(address).await;
        assert_eq!((answer.status(), answer.header("x-app")), (200, Some("echo")), "{address}");
        assert!(answer.text().starts_with("GET / HTTP/1.1\r\nHost: echo\r\n"), "{}", answer.text());
    }
    assert_eq!(app.heads().len(), 2);
    let metrics = node.get("echo").metrics().await;
    assert!(metrics.sum("heddle_http_requests_total", &[("direction", "inbound"), ("mtls", "true")]) >= 2.0);
}

#[tokio::test]
async fn everything_works_where_there_is_no_ipv4() {
    let (node, service) = pair(Families::Ipv6, STRICT).await;
    let _app = node.get("echo").serve(8080);
    assert!(service.is_ipv6());
    assert_eq!(node.get("client").get(service).await.status(), 200);
    assert_eq!(node.get("client").get(node.get("echo").at(8080)).await.status(), 200);
}

#[tokio::test]
async fn a_pod_is_reached_by_its_address_on_ports_that_nobody_declared() {
    let (node, _) = pair(Families::Both, STRICT).await;
    let echo = node.get("echo");
    let apps = [echo.serve(8080), echo.serve(9999)];
    for ip in &echo.ips {
        for port in [8080, 9999] {
            assert_eq!(node.get("client").get(SocketAddr::new(*ip, port)).await.header("x-app"), Some("echo"));
        }
    }
    assert_eq!(apps.map(|app| app.heads().len()), [2, 2]);
}

#[tokio::test]
async fn plaintext_from_outside_is_refused_in_strict_mode() {
    let (mut node, _) = pair(Families::Both, STRICT).await;
    let app = node.get("echo").serve(8080);
    node.pod(Spec::new("outside").plain()).await;
    for ip in &node.get("echo").ips {
        let mut wire = node.get("outside").connect(SocketAddr::new(*ip, 8080));
        let answer = get(&mut wire, "/").await;
        assert_eq!(answer.status(), 403, "{}", answer.text());
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn an_application_reaches_itself_by_every_address_that_it_has() {
    let mut node = Node::start(Families::Both, STRICT).await;
    let service = node.service("echo", 80, 8080, Some("http"));
    let echo = node.pod(Spec::new("echo").port(8080)).await;
    let app = echo.serve(8080);
    let own: Vec<_> = echo.ips.iter().map(|ip| SocketAddr::new(*ip, 8080)).collect();
    let loopback = [SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))];
    for address in own.into_iter().chain(loopback).chain([service]) {
        assert_eq!(echo.get(address).await.status(), 200, "{address}");
    }
    assert_eq!(app.heads().len(), 4);
}

#[tokio::test]
async fn what_listens_on_loopback_only_stays_unreachable_from_outside() {
    let (node, _) = pair(Families::Both, STRICT_OPEN).await;
    let echo = node.get("echo");
    let _app = echo.serve_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    assert_eq!(echo.get(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))).await.status(), 200);
    assert_eq!(node.get("client").get(echo.at(8080)).await.status(), 503);
}

#[tokio::test]
async fn what_listens_on_the_pods_address_only_is_reached() {
    let (node, service) = pair(Families::Both, STRICT).await;
    let echo = node.get("echo");
    let _app = echo.serve_on(echo.at(8080));
    assert_eq!(node.get("client").get(service).await.status(), 200);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_no_special_case() {
    let mut node = Node::start(Families::Both, STRICT).await;
    let service = node.service("greeter", 25, 2525, None);
    node.pod(Spec::new("greeter").port(2525)).await;
    node.pod(Spec::new("client")).await;
    let _app = App::listen(node.get("greeter").listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 2525))), |mut wire, _| async move {
        wire.send("220 hello\r\n").await;
        let line = wire.until(b"\n").await;
        wire.send(line).await;
    });
    for address in [service, node.get("greeter").at(2525)] {
        let mut wire = node.get("client").connect(address);
        wire.expect("220 hello\r\n").await;
        wire.send("EHLO me\r\n").await;
        wire.expect("EHLO me\r\n").await;
    }
}

#[tokio::test]
async fn udp_is_untouched() {
    let (node, _) = pair(Families::Both, STRICT).await;
    let to = node.get("echo").at(5353);
    let server = node.get("echo").namespace.within(|| std::net::UdpSocket::bind(to)).unwrap();
    server.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let client = node.get("client").namespace.within(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.send_to(b"hello", to).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"hello"[..], node.get("client").ips[0]));
}

#[tokio::test]
async fn what_the_mesh_does_not_know_follows_its_settings() {
    for (manifests, allowed) in [(STRICT_OPEN, true), (STRICT, false)] {
        let (mut node, _) = pair(Families::Both, manifests).await;
        // An address that no object names: the node's.
        let listener = node.namespace.within(|| std::net::TcpListener::bind("[::]:7000")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let app = App::listen(tokio::net::TcpListener::from_std(listener).unwrap(), |mut wire, _| async move {
            wire.send("from outside\r\n").await;
        });
        let mut wire = node.get("client").connect(SocketAddr::from(([10, 244, 0, 1], 7000)));
        if allowed {
            wire.expect("from outside\r\n").await;
        } else {
            assert!(!wire.to_any_end().await.1, "a reset");
        }
        assert_eq!(app.connections(), usize::from(allowed));
        if allowed {
            // With the control plane away, an address that was never asked for goes out all the same.
            node.control_plane().kill();
            let mut wire = node.get("client").connect("[fd00:244::1]:7000".parse().unwrap());
            wire.expect("from outside\r\n").await;
        }
    }
}

#[tokio::test]
async fn an_unmeshed_pod_of_a_service_is_reached_in_plaintext() {
    let mut node = Node::start(Families::Both, STRICT).await;
    let service = node.service("old", 80, 8080, Some("http"));
    node.pod(Spec::new("old").port(8080).plain()).await;
    node.pod(Spec::new("client")).await;
    let _app = node.get("old").serve(8080);
    assert_eq!(node.get("client").get(service).await.header("x-app"), Some("old"));
}

#[tokio::test]
async fn a_connection_straight_to_the_sidecars_ports_is_refused() {
    let (mut node, _) = pair(Families::Both, STRICT_OPEN).await;
    node.pod(Spec::new("outside").plain()).await;
    for from in ["outside", "client", "echo"] {
        for port in [15001, 15006] {
            // A reset may be faster than the connection itself is seen.
            let Ok(mut wire) = node.get(from).try_connect(node.get("echo").at(port)) else { continue };
            let _sent = wire.try_send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
            let (bytes, _) = wire.to_any_end().await;
            let text = String::from_utf8_lossy(&bytes);
            assert!(bytes.is_empty() || text.starts_with("HTTP/1.1 50"), "{from} to {port}: {text}");
        }
    }
    assert!(node.get("echo").metrics().await.sum("heddle_limits_hit_total", &[("limit", "loop")]) > 0.0);
}

#[tokio::test]
async fn policies_and_pools_outlive_connections() {
    let (mut node, service) = pair(Families::Both, STRICT).await;
    let app = node.get("echo").serve(8080);
    for _ in 0..20 {
        assert_eq!(node.get("client").get(service).await.status(), 200);
    }
    // Each worker of either sidecar has a pool of its own.
    assert!(app.connections() <= 4, "{} connections for 20 requests", app.connections());
    // What has been used goes on while the control plane is away.
    node.control_plane().kill();
    assert_eq!(node.get("client").get(service).await.status(), 200);
}

#[tokio::test]
async fn a_dead_application_beside_a_living_sidecar_fails_nobody() {
    let mut node = Node::start(Families::Ipv4, STRICT).await;
    let service = node.service("echo", 80, 8080, Some("http"));
    for name in ["echo-1", "echo-2"] {
        node.pod(Spec::new(name).of("echo").port(8080)).await;
    }
    node.pod(Spec::new("client")).await;
    let mut first = Some(node.get("echo-1").serve(8080));
    let second = node.get("echo-2").serve(8080);
    let mut kept = node.get("client").connect(service);
    for n in 0..60 {
        if n == 20 {
            first = None;
        }
        let answer = get(&mut kept, "/").await;
        assert_eq!(answer.status(), 200, "request {n}: {}", answer.text());
        let answer = node.get("client").get(service).await;
        assert_eq!(answer.status(), 200, "request {n} on a new connection: {}", answer.text());
    }
    assert!(first.is_none() && second.connections() > 0);
}

#[tokio::test]
async fn a_declared_port_is_served_although_the_control_plane_went_before_its_first_connection() {
    let mut node = Node::start(Families::Both, PERMISSIVE).await;
    node.pod(Spec::new("echo").port(8080)).await;
    node.pod(Spec::new("outside").plain()).await;
    let _app = node.get("echo").serve(8080);
    node.control_plane().kill();
    assert_eq!(node.get("outside").get(node.get("echo").at(8080)).await.status(), 200);
}
