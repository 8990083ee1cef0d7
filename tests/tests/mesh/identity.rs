//! What passes between two sidecars, who is believed, and who is refused.

use heddle_identity::tls::MeshProtocol;
use heddle_identity::{CertificateAuthority, KeyPair, SpiffeId, TlsContext, TrustDomain, VerifiedPeer, unix_now};
use heddle_tests::http1::{answer, exchange};
use heddle_tests::load::Plan;
use heddle_tests::look::{in_force, inbound, outbound};
use heddle_tests::mesh::ROUTES;
use heddle_tests::pki::{Authority, Credential};
use heddle_tests::recorder::Recorder;
use heddle_tests::{App, Mesh, Service, Wire, Workload, wait};
use rustls::{ClientConfig, NamedGroup, ProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
pub(crate) const ECHO: &str = "spiffe://cluster.local/ns/default/sa/echo";
/// What no wire must show.
const SECRET: &str = "the-secret-of-the-request";

/// A mesh whose Service `echo:80` has no endpoint but what [`lead`] says; the workload `echo` is there all the same.
pub(crate) async fn without_endpoints(app: SocketAddr) -> Mesh {
    let workload = Workload::new("echo").label("app", "somewhere-else").serves(8080, app);
    let service = Service::new("echo", 80).protocol("http");
    Mesh::builder().service(service).workload(workload).client("client", &["echo:80"]).start().await
}

/// Says that the Pod `echo` is at another address: what stands there has to be it.
pub(crate) async fn lead(mesh: &Mesh, address: SocketAddr) {
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: echo-elsewhere, labels: {{kubernetes.io/service-name: echo}}}}
addressType: IPv4
endpoints:
- addresses: [\"{}\"]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, namespace: default, name: echo}}
ports: [{{name: main, port: {}, protocol: TCP}}]
",
        address.ip(),
        address.port()
    );
    mesh.edit("elsewhere", &slice);
    in_force(mesh, "client", "the endpoint", |config| {
        let endpoint = &outbound(config, "echo:80")["policy"]["backends"][0]["endpoints"][0];
        endpoint["address"] == address.to_string() && endpoint["identity"] == ECHO
    })
    .await;
}

/// Splits bytes into TLS records (RFC 8446 §5.1): type and content.
fn records(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let [kind, 3, _, high, low, rest @ ..] = bytes else { panic!("no TLS record: {:?}", String::from_utf8_lossy(bytes)) };
        let (content, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        records.push((*kind, content));
        bytes = after;
    }
    records
}

/// The extensions of a ServerHello (RFC 8446 §4.1.3), as type and content.
fn extensions(hello: &[u8]) -> Vec<(u16, &[u8])> {
    assert_eq!(hello[0], 2, "a ServerHello");
    // Type and length, version, random; then the session id, the cipher suite and the compression method.
    let session = 4 + 2 + 32;
    let mut rest = &hello[session + 1 + usize::from(hello[session]) + 2 + 1 + 2..];
    let mut found = Vec::new();
    while let [a, b, c, d, after @ ..] = rest {
        let (content, after) = after.split_at(usize::from(u16::from_be_bytes([*c, *d])));
        found.push((u16::from_be_bytes([*a, *b]), content));
        rest = after;
    }
    found
}

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

#[tokio::test]
async fn what_passes_between_sidecars_is_tls_1_3_and_nothing_else() {
    let app = App::http1(|request| answer(200, "", format!("{SECRET} {}", request.target()))).await;
    let mesh = without_endpoints(app.address()).await;
    let recorder = Recorder::to(mesh.inbound("echo", 8080)).await;
    lead(&mesh, recorder.address()).await;
    let mut wire = mesh.connect().await;
    for number in 0..3 {
        let request = format!("GET /{number} HTTP/1.1\r\nHost: echo\r\nAuthorization: {SECRET}\r\n\r\n");
        let response = exchange(&mut wire, request).await;
        assert_eq!((response.status(), response.text()), (200, format!("{SECRET} /{number}")));
    }
    let carried = recorder.carried();
    assert_eq!(carried.len(), 1, "one connection carries all of it");
    for (direction, bytes) in [("sent", &carried[0].sent), ("received", &carried[0].received)] {
        assert!(bytes.len() > 1_000, "{direction}: {} bytes", bytes.len());
        let records = records(bytes);
        assert_eq!(records[0].0, HANDSHAKE, "{direction}");
        // From the hello on everything is encrypted, and looks like application data.
        assert!(records[1..].iter().all(|(kind, _)| [CHANGE_CIPHER_SPEC, APPLICATION_DATA].contains(kind)), "{direction}");
        for plain in [SECRET, "HTTP/1.1", "spiffe://", "cluster.local"] {
            assert!(!bytes.windows(plain.len()).any(|w| w == plain.as_bytes()), "{plain:?} was {direction} in plaintext");
        }
    }
    let received = records(&carried[0].received);
    let extensions = extensions(received[0].1);
    let of = |kind| extensions.iter().find(|(k, _)| *k == kind).expect("the extension").1;
    assert_eq!(of(SUPPORTED_VERSIONS), [3, 4], "TLS 1.3");
    assert_eq!(of(KEY_SHARE)[..2], [0x11, 0xec], "X25519MLKEM768");
}

#[tokio::test]
async fn a_sidecar_shows_its_own_identity_in_tls_1_3() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let config = Authority::of(&mesh).client(&Credential::Valid(CLIENT.to_owned()), b"heddle/http1");
    let stream = TcpStream::connect(mesh.inbound("echo", 8080)).await.unwrap();
    let tls = TlsConnector::from(config).connect("any".try_into().unwrap(), stream).await.unwrap();
    let connection = tls.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    let shown = heddle_identity::Certificate::from_chain(connection.peer_certificates().unwrap().to_vec()).unwrap();
    assert_eq!(shown.id().as_str(), ECHO);
    assert!(shown.remaining(unix_now()) <= Duration::from_secs(24 * 3600), "a day at most");
}

/// A sidecar's TLS for any identity, signed by the mesh's own authority.
pub(crate) fn context(mesh: &Mesh, id: &str) -> TlsContext {
    let read = |name| std::fs::read_to_string(mesh.state().join("ca").join(name)).unwrap();
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let authority = CertificateAuthority::from_pem(&trust_domain, &read("ca.key"), &read("root.pem")).unwrap();
    let (id, key): (SpiffeId, _) = (id.parse().unwrap(), KeyPair::generate().unwrap());
    let certificate = authority.sign(&key.csr(&id).unwrap(), &id, Duration::from_secs(3600), unix_now()).unwrap();
    TlsContext::new(&key, certificate, authority.trust_bundle()).unwrap()
}

/// A server of mesh TLS that says who its clients are, and answers each with 200.
async fn fake_sidecar(mesh: &Mesh, id: &str) -> (SocketAddr, mpsc::Receiver<Result<String, String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(context(mesh, id).server());
    let (clients, seen) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut tls = match acceptor.accept(stream).await {
                Ok(tls) => tls,
                Err(error) => {
                    let _test_over = clients.send(Err(error.to_string())).await;
                    continue;
                }
            };
            let connection = tls.get_ref().1;
            let peer = VerifiedPeer::from_client(connection, unix_now()).unwrap();
            assert_eq!(MeshProtocol::from_alpn(connection.alpn_protocol()), Some(MeshProtocol::Http1));
            let _test_over = clients.send(Ok(peer.id().to_string())).await;
            let mut request = vec![0; 16 * 1024];
            let _head = tls.read(&mut request).await.unwrap();
            tls.write_all(&answer(200, "Connection: close\r\n", "fake")).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_sidecar_names_itself_to_the_other_side() {
    let app = App::named("never").await;
    let mesh = without_endpoints(app.address()).await;
    let (address, mut clients) = fake_sidecar(&mesh, ECHO).await;
    lead(&mesh, address).await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    assert_eq!((response.status(), response.text()), (200, "fake".to_owned()));
    assert_eq!(wait::soon("a client", clients.recv()).await, Some(Ok(CLIENT.to_owned())));
}

#[tokio::test]
async fn a_server_with_another_identity_gets_no_request() {
    let app = App::named("never").await;
    let mesh = without_endpoints(app.address()).await;
    let (address, mut clients) = fake_sidecar(&mesh, "spiffe://cluster.local/ns/default/sa/imposter").await;
    lead(&mesh, address).await;
    let mut wire = mesh.connect().await;
    let response = exchange(&mut wire, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    assert_eq!((response.status(), response.header("x-heddle-cause")), (503, Some("tls_failed")), "{}", response.text());
    let client = wait::soon("a client", clients.recv()).await.expect("a client");
    assert!(client.is_err(), "the handshake must not succeed: {client:?}");
    let failed = mesh.metrics("client").await.sum("heddle_tls_handshakes_total", &[("side", "client"), ("outcome", "failed")]);
    assert!(failed >= 1.0, "{failed} failed handshakes");
}

/// A request with this TLS; what comes back, or why nothing does.
async fn request_with(config: Arc<ClientConfig>, address: SocketAddr) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(address).await?;
    let mut tls = TlsConnector::from(config).connect("any".try_into().unwrap(), stream).await?;
    // In TLS 1.3 the client is done before the server has looked at its certificate: a refusal comes with the first read.
    tls.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    wait::soon("the end", tls.read_to_end(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn clients_without_a_valid_certificate_of_the_mesh_are_refused() {
    let app = App::named("echo").await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let (own, foreign, address) = (Authority::of(&mesh), Authority::foreign(), mesh.inbound("echo", 8080));
    let (valid, expired) = (Credential::Valid(CLIENT.to_owned()), Credential::Expired(CLIENT.to_owned()));
    for alpn in ["heddle/http1", "heddle/h2", "heddle/opaque"] {
        for (what, config) in [
            ("no certificate", own.client(&Credential::None, alpn.as_bytes())),
            ("an expired one", own.client(&expired, alpn.as_bytes())),
            ("one of a foreign authority", foreign.client(&valid, alpn.as_bytes())),
        ] {
            let refused = request_with(config, address).await;
            assert!(refused.is_err(), "{what} with {alpn} got {:?}", refused.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    assert_eq!(app.connections(), 0, "nothing has reached the application");
    mesh.counts("echo", "heddle_tls_handshakes_total", &[("side", "server"), ("outcome", "failed")], 9.0).await;
    let answer = request_with(own.client(&valid, b"heddle/http1"), address).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: heddle.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: echo}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: echo}}]
  mtls: {{mode: {mode}}}
"
    )
}

async fn switch(mesh: &Mesh, to: &str) {
    mesh.edit(ROUTES, &mode(to));
    in_force(mesh, "echo", "the mode", |config| inbound(config, 8080)["policy"]["mtls"] == to).await;
}

#[tokio::test]
async fn plaintext_is_taken_while_permissive_and_refused_from_the_next_request_on_when_strict() {
    let app = App::named("echo").await;
    let mesh = Mesh::builder().pair(app.address(), "http").objects(&mode("Permissive")).start().await;
    let meshed = Plan::new(mesh.outbound("client", "echo:80")).clients(2).start();
    let (taken, not_taken) = ("GET /taken HTTP/1.1\r\nHost: echo\r\n\r\n", "GET /refused HTTP/1.1\r\nHost: echo\r\n\r\n");
    let mut plain = Wire::connect(mesh.inbound("echo", 8080)).await;
    assert_eq!(exchange(&mut plain, taken).await.status(), 200);
    switch(&mesh, "Strict").await;
    // The same connection: a policy is looked at for each request.
    let refused = exchange(&mut plain, not_taken).await;
    assert_eq!((refused.status(), refused.header("x-heddle-cause")), (403, Some("plaintext_refused")), "{}", refused.text());
    assert!(refused.text().contains("AuthenticationPolicy/default/echo"), "the answer names what decided: {}", refused.text());
    assert!(plain.to_end().await.is_empty(), "and the connection ends");
    let mut anew = Wire::connect(mesh.inbound("echo", 8080)).await;
    assert_eq!(exchange(&mut anew, not_taken).await.status(), 403);
    switch(&mesh, "Permissive").await;
    let mut again = Wire::connect(mesh.inbound("echo", 8080)).await;
    assert_eq!(exchange(&mut again, taken).await.status(), 200);
    meshed.more(50).await;
    meshed.stop().await.assert_flawless();
    let reached = |target: &str| app.heads().iter().filter(|head| head.target() == target).count();
    assert_eq!((reached("/taken"), reached("/refused")), (2, 0));
}

#[tokio::test]
async fn plaintext_bytes_are_reset_when_strict() {
    let app = App::serve(|mut wire, _| async move {
        while let Some(line) = wire.until_or_end(b"\n").await {
            wire.send(line).await;
        }
    })
    .await;
    let mesh = Mesh::builder().pair(app.address(), "tcp").objects(&mode("Permissive")).start().await;
    let mut plain = Wire::connect(mesh.inbound("echo", 8080)).await;
    plain.send("line\n").await;
    plain.expect("line\n").await;
    switch(&mesh, "Strict").await;
    let connections = app.connections();
    let mut refused = Wire::connect(mesh.inbound("echo", 8080)).await;
    // The reset may come before all of it was sent.
    let _sent = refused.try_send("line\n").await;
    let (bytes, orderly) = refused.to_any_end().await;
    assert!(bytes.is_empty() && !orderly, "a reset, not {bytes:?} and an orderly end");
    assert_eq!(app.connections(), connections, "nothing has reached the application");
    let mut meshed = mesh.connect().await;
    meshed.send("line\n").await;
    meshed.expect("line\n").await;
}

/// Every file below a directory.
fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// What a private key of P-256 looks like, whatever it is wrapped in: its PEM, and the beginning of its `ECPrivateKey` (RFC 5915).
fn holds_a_key(bytes: &[u8]) -> bool {
    let has = |part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
    has(b"PRIVATE KEY") || has(&[0x02, 0x01, 0x01, 0x04, 0x20])
}

#[tokio::test]
async fn keys_of_workloads_are_never_on_disk() {
    let key = KeyPair::generate().unwrap();
    assert!(!format!("{key:?}").contains("PRIVATE"), "{key:?}");
    let lifetime = "apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {certificateLifetime: 2s}
";
    let app = App::named("echo").await;
    let mut mesh = Mesh::builder().pair(app.address(), "http").objects(lifetime).start().await;
    Plan::new(mesh.outbound("client", "echo:80")).limit(100).run().await;
    let end = |config: &serde_json::Value| config["certificate"]["notAfter"].as_u64();
    let first = end(&heddle_tests::look::config(&mesh, "client").await);
    in_force(&mesh, "client", "another certificate", |config| end(config) > first).await;
    let root = mesh.state().parent().unwrap().to_owned();
    let mut found = Vec::new();
    files(&root, &mut found);
    let with_keys: Vec<_> = found.iter().filter(|path| holds_a_key(&std::fs::read(path).unwrap())).collect();
    assert_eq!(with_keys, [&mesh.state().join("ca").join("ca.key")], "only the authority's own");
    for workload in ["client", "echo"] {
        let pid = mesh.sidecar_mut(workload).process().pid();
        for file in ["environ", "cmdline"] {
            assert!(!holds_a_key(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap()), "{file} of {workload}");
        }
        // Besides its log, a sidecar has no file open at all.
        for open in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let target = std::fs::read_link(open.unwrap().path()).unwrap_or_default();
            let is_file = target.is_absolute() && !target.starts_with("/dev") && !target.starts_with("/proc");
            assert!(!is_file || target.starts_with(root.join("logs")), "{workload} has {} open", target.display());
        }
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(mesh.state().join("ca").join("ca.key")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}
