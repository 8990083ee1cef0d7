//! The kubelet's probes in strict mode, asked of the sidecar in place of the application.

use crate::STRICT;
use heddle_tests::http1;
use heddle_tests::netns::{Families, Node, Spec};
use heddle_tests::{App, http2, pki, wait};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

const PROBES: &str = r#"{
    "app/liveness": {"http": {"port": 8080, "path": "/live", "headers": [["X-Probe", "yes"]]}, "timeoutSeconds": 1},
    "app/readiness": {"http": {"port": 8443, "path": "/", "scheme": "HTTPS"}, "timeoutSeconds": 5},
    "app/startup": {"tcp": {"port": 6379}},
    "rpc/liveness": {"grpc": {"port": 9090, "service": "shop"}}
}"#;

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

#[tokio::test]
async fn every_kind_of_probe_says_how_the_application_is() {
    let mut node = Node::start(Families::Both, STRICT).await;
    node.pod(Spec::new("shop").port(8080).env("HEDDLE_PROBES", PROBES)).await;
    let probes = ["app/liveness", "app/readiness", "app/startup", "rpc/liveness"];
    for probe in probes {
        let page = node.health("shop", &format!("/probe/{probe}")).await;
        assert_eq!(page.status(), 503, "{probe}");
        assert!(page.text().contains("connecting to 10.244.0.2"), "{}", page.text());
    }
    let shop = node.get("shop");
    let http = App::listen(shop.listen(any(8080)), |mut wire, _| async move {
        while let Some(request) = http1::request(&mut wire).await {
            let well = request.target() == "/live" && request.header("x-probe") == Some("yes");
            wire.send(http1::answer(if well { 204 } else { 400 }, "", "")).await;
        }
    });
    let _https = https(shop.listen(any(8443)));
    let _tcp = App::listen(shop.listen(any(6379)), |_, _| async {});
    let grpc = tokio::spawn(health(shop.listen(any(9090))));
    for probe in probes {
        let page = node.health("shop", &format!("/probe/{probe}")).await;
        assert_eq!(page.status(), 200, "{probe}: {}", page.text());
    }
    grpc.abort();
    drop(http);
    wait::until("an application that is gone", async || {
        let page = node.health("shop", "/probe/app/liveness").await;
        if page.status() == 503 { Ok(()) } else { Err(page.text()) }
    })
    .await;
    assert_eq!(node.health("shop", "/probe/app/pre-stop").await.status(), 404);
}

#[tokio::test]
async fn the_health_server_tells_outsiders_nothing_else() {
    let mut node = Node::start(Families::Both, STRICT).await;
    node.pod(Spec::new("shop")).await;
    for (path, status) in [("/ready", 200), ("/live", 200), ("/metrics", 200), ("/config", 404), ("/drain", 404), ("/", 404)] {
        assert_eq!(node.health("shop", path).await.status(), status, "{path}");
    }
}

/// A server that speaks TLS by a certificate which nobody vouches for.
fn https(listener: tokio::net::TcpListener) -> tokio::task::JoinHandle<()> {
    let acceptor = TlsAcceptor::from(pki::application("shop", b"http/1.1").0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let _sent = stream.write_all(&http1::answer(200, "", "")).await;
            let _ended = stream.shutdown().await;
        }
    })
}

/// `grpc.health.v1.Health/Check` of the service `shop`, byte by byte: SERVING.
async fn health(listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let (body, _) = http2::read(&mut request.into_body()).await.unwrap();
                assert_eq!(&body[5..], b"\x0a\x04shop");
                let head = http2::response(200, &[("content-type", "application/grpc")]);
                let mut stream = respond.send_response(head, false).unwrap();
                http2::write(&mut stream, b"\0\0\0\0\x02\x08\x01", false).await.unwrap();
                stream.send_trailers(http2::trailers(&[("grpc-status", "0")])).unwrap();
            });
        }
    }
}
