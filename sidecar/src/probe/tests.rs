//! Checks against small applications, as the kubelet would see them.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const IPS: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

fn probe(json: &str) -> Probe {
    let probe: Probe = serde_json::from_str(json).unwrap();
    assert_eq!(probe.mistake(), None);
    probe
}

async fn check_as(kind: &str, json: &str) -> Result<(), String> {
    let agent = HeaderValue::from_static("kube-probe/1.35");
    probe(json).check(Asked { kind, agent: Some(&agent), ips: &IPS }).await
}

async fn check(json: &str) -> Result<(), String> {
    check_as("liveness", json).await
}

/// An application that answers every connection by what `answer` makes of the request's head.
async fn app(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = answer(&String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, task)
}

fn status(code: u16, fields: &str) -> String {
    format!("HTTP/1.1 {code} X\r\n{fields}Content-Length: 2\r\n\r\nok")
}

#[tokio::test]
async fn statuses_mean_what_they_mean_to_the_kubelet() {
    let (port, _app) = app(|head| {
        let code = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        status(code, "")
    })
    .await;
    for (code, well) in [(200, true), (204, true), (304, true), (399, true), (400, false), (503, false)] {
        let result = check(&format!(r#"{{"http": {{"port": {port}, "path": "/{code}"}}}}"#)).await;
        assert_eq!(result.is_ok(), well, "{code}: {result:?}");
    }
    check_as("pre-stop", &format!(r#"{{"http": {{"port": {port}, "path": "503"}}}}"#)).await.unwrap();
}

#[tokio::test]
async fn the_request_is_the_kubelets() {
    let (port, _app) = app(|head| {
        let wanted =
            ["GET /x?y=1 HTTP/1.1\r\n", "host: example.org\r\n", "x-a: 1\r\n", "user-agent: kube-probe/1.35\r\n", "accept: */*\r\n"];
        let missing: Vec<_> = wanted.iter().filter(|w| !head.contains(*w)).collect();
        if missing.is_empty() { status(200, "") } else { status(500, &format!("X-Missing: {missing:?}\r\n").replace(['\r', '\n'], "")) }
    })
    .await;
    check(&format!(r#"{{"http": {{"port": {port}, "path": "/x?y=1", "headers": [["Host", "example.org"], ["X-A", "1"]]}}}}"#))
        .await
        .unwrap();
}

#[tokio::test]
async fn redirects_are_followed_within_the_pod_only() {
    let (port, _app) = app(|head| match head.split(' ').nth(1).unwrap() {
        "/local" => status(302, "Location: /bad\r\n"),
        "/foreign" => status(302, "Location: http://example.org/bad\r\n"),
        "/loop" => status(307, "Location: /loop\r\n"),
        "/nowhere" => status(302, ""),
        _ => status(500, ""),
    })
    .await;
    let at = |path: &str| format!(r#"{{"http": {{"port": {port}, "path": "{path}"}}}}"#);
    assert!(check(&at("/local")).await.unwrap_err().contains("500"));
    check(&at("/foreign")).await.unwrap();
    check(&at("/nowhere")).await.unwrap();
    assert!(check(&at("/loop")).await.unwrap_err().contains("redirects"));
}

#[tokio::test]
async fn a_port_that_nobody_has_and_one_that_is_silent_fail() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    check(&format!(r#"{{"tcp": {{"port": {port}}}}}"#)).await.unwrap();
    let silent = check(&format!(r#"{{"http": {{"port": {port}}}, "timeoutSeconds": 1}}"#)).await.unwrap_err();
    assert!(silent.contains("within 1s"), "{silent}");
    drop(listener);
    assert!(check(&format!(r#"{{"tcp": {{"port": {port}}}}}"#)).await.unwrap_err().contains("connecting to 127.0.0.1"));
    assert!(check(&format!(r#"{{"grpc": {{"port": {port}}}}}"#)).await.unwrap_err().contains("connecting to 127.0.0.1"));
}

#[test]
fn what_injection_may_not_write_is_told() {
    let mistake = |json: &str| serde_json::from_str::<Probe>(json).unwrap().mistake();
    assert!(mistake(r#"{"tcp": {"port": 1}, "http": {"port": 1}}"#).unwrap().contains("exactly one"));
    assert!(mistake(r#"{"tcp": {"port": 1}, "timeoutSeconds": 0}"#).unwrap().contains("timeoutSeconds"));
    assert!(serde_json::from_str::<Probe>(r#"{"tcp": {"port": 1, "hosts": ""}}"#).is_err());
}
