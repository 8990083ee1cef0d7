//! Real handshakes in memory: who is accepted, who is refused and why, and what is negotiated.

use std::sync::Arc;
use std::time::Duration;

use heddle_model::spiffe_id::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup, ProtocolVersion,
    ServerConfig, ServerConnection,
};

use crate::{
    CertificateAuthority, ClientHello, KeyPair, MeshProtocol, PeerError, TlsContext, TrustBundle, VerifiedPeer, VerifyError, client_hello,
    csr, tls, unix_now,
};

const HOUR: Duration = Duration::from_secs(3600);

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&domain("td"), "shop", account).unwrap()
}

/// An authority with the bundle that trusts it.
struct Mesh {
    authority: CertificateAuthority,
    bundle: TrustBundle,
}

impl Mesh {
    fn new() -> Self {
        Self::of("td")
    }

    fn of(trust_domain: &str) -> Self {
        let authority = CertificateAuthority::create(&domain(trust_domain), unix_now()).unwrap();
        let bundle = authority.trust_bundle().clone();
        Self { authority, bundle }
    }

    fn context(&self, id: &SpiffeId) -> TlsContext {
        self.context_issued(id, unix_now(), HOUR, &self.bundle)
    }

    fn context_issued(&self, id: &SpiffeId, at: u64, lifetime: Duration, bundle: &TrustBundle) -> TlsContext {
        let (key, request) = csr(id).unwrap();
        let certificate = self.authority.sign(&request, id, lifetime, at).unwrap();
        TlsContext::new(&key, certificate, bundle).unwrap()
    }
}

/// Both ends of a connection in memory.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

/// Which side gave up, and why.
#[derive(Debug)]
enum Refused {
    ByClient(Error),
    ByServer(Error),
}

/// Shakes hands until both sides have nothing more to say, and the tickets have arrived.
fn connect(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Pair, Refused> {
    let name = tls::session_name("127.0.0.1:7".parse().unwrap());
    let mut pair = Pair { client: ClientConnection::new(client, name).unwrap(), server: ServerConnection::new(server).unwrap() };
    loop {
        let mut moved = false;
        let mut wire = Vec::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut wire).unwrap();
        }
        moved |= !wire.is_empty();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            pair.server.read_tls(&mut rest).unwrap();
            pair.server.process_new_packets().map_err(Refused::ByServer)?;
        }
        let mut wire = Vec::new();
        while pair.server.wants_write() {
            pair.server.write_tls(&mut wire).unwrap();
        }
        moved |= !wire.is_empty();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            pair.client.read_tls(&mut rest).unwrap();
            pair.client.process_new_packets().map_err(Refused::ByClient)?;
        }
        if !moved {
            return Ok(pair);
        }
    }
}

/// Connects `web` to `api`, which are both of the mesh, over HTTP/1.
fn mesh_pair(client: &TlsContext, server: &TlsContext, expected: &SpiffeId) -> Result<Pair, Refused> {
    let config = client.client(expected, MeshProtocol::Http1);
    connect(config, server.server())
}

#[track_caller]
fn refused(result: Result<Pair, Refused>) -> Refused {
    match result {
        Ok(_) => panic!("the connection was accepted"),
        Err(refused) => refused,
    }
}

#[track_caller]
fn refused_by_server(result: Result<Pair, Refused>) -> Error {
    match refused(result) {
        Refused::ByServer(error) => error,
        Refused::ByClient(error) => panic!("the client refused: {error}"),
    }
}

#[track_caller]
fn refused_by_client(result: Result<Pair, Refused>) -> Error {
    match refused(result) {
        Refused::ByClient(error) => error,
        Refused::ByServer(error) => panic!("the server refused: {error}"),
    }
}

#[test]
fn both_sides_learn_the_right_names_over_tls13_with_post_quantum_keys() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    for protocol in MeshProtocol::ALL {
        let config = web.client(&id("api"), protocol);
        let pair = connect(config, api.server()).unwrap();
        let client = VerifiedPeer::from_client(&pair.server, unix_now()).unwrap();
        let server = VerifiedPeer::from_server(&pair.client, &id("api"), unix_now()).unwrap();
        assert_eq!((client.id(), server.id()), (&id("web"), &id("api")));
        assert_eq!(client.not_after(), web.certificate().not_after());
        assert_eq!(pair.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        for group in [pair.client.negotiated_key_exchange_group(), pair.server.negotiated_key_exchange_group()] {
            assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
        }
        assert_eq!(MeshProtocol::from_alpn(pair.server.alpn_protocol()), Some(protocol));
        assert_eq!(pair.server.server_name(), None, "no name on the wire");
    }
}

#[test]
fn hello_of_the_mesh_is_recognised_by_its_first_bytes() {
    let mesh = Mesh::new();
    let web = mesh.context(&id("web"));
    let config = web.client(&id("api"), MeshProtocol::Opaque);
    let name = tls::session_name("[::1]:7".parse().unwrap());
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    let hello = client_hello::peek(&bytes);
    assert!(hello.is_mesh());
    let alpn = vec![b"heddle/opaque".to_vec()];
    assert_eq!(hello, ClientHello::Hello { sni: None, alpn });
}

#[test]
fn server_with_another_id_is_refused() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    let error = refused_by_client(mesh_pair(&web, &api, &id("admin")));
    assert_eq!(VerifyError::find(&error), Some(&VerifyError::WrongIdentity { expected: id("admin"), presented: id("api") }));
}

#[test]
fn peers_of_a_foreign_authority_are_refused_on_both_sides() {
    let (mesh, foreign) = (Mesh::new(), Mesh::new());
    let api = mesh.context(&id("api"));
    let stranger = foreign.context(&id("api"));
    let error = refused_by_client(mesh_pair(&mesh.context(&id("web")), &stranger, &id("api")));
    assert!(is_unknown_issuer(&error), "{error}");
    // The stranger trusts our root, so that only our side can refuse.
    let stranger = foreign.context_issued(&id("web"), unix_now(), HOUR, &mesh.bundle);
    let error = refused_by_server(mesh_pair(&stranger, &api, &id("api")));
    assert!(is_unknown_issuer(&error), "{error}");
}

fn is_unknown_issuer(error: &Error) -> bool {
    error == &Error::InvalidCertificate(TlsCertificateError::UnknownIssuer)
}

#[test]
fn authority_of_one_trust_domain_cannot_name_workloads_of_another() {
    let (td, other) = (Mesh::new(), Mesh::of("other"));
    let api = td.context(&id("api"));
    let guest: SpiffeId = "spiffe://other/ns/a/sa/b".parse().unwrap();
    let guest = other.context_issued(&guest, unix_now(), HOUR, &td.bundle);
    let error = refused_by_server(mesh_pair(&guest, &api, &id("api")));
    assert!(matches!(VerifyError::find(&error), Some(VerifyError::UntrustedDomain(_))));
    // With both domains trusted, the guest is welcome under its own name.
    let both = td.bundle.union(&other.bundle).unwrap();
    let open = td.context_issued(&id("api"), unix_now(), HOUR, &both);
    let pair = mesh_pair(&guest, &open, &id("api")).unwrap();
    let peer = VerifiedPeer::from_client(&pair.server, unix_now()).unwrap();
    assert_eq!(peer.id().as_str(), "spiffe://other/ns/a/sa/b");
    // An authority that is trusted for `other` only, and signs a name in `td`.
    let liar = Mesh::new();
    let roots = liar.bundle.roots(&domain("td")).iter().map(|r| r.to_vec());
    let both = td.bundle.union(&TrustBundle::new(&domain("other"), roots).unwrap()).unwrap();
    let open = td.context_issued(&id("api"), unix_now(), HOUR, &both);
    let forged = liar.context_issued(&id("admin"), unix_now(), HOUR, &both);
    let error = refused_by_server(mesh_pair(&forged, &open, &id("api")));
    assert!(is_unknown_issuer(&error), "{error}");
}

#[test]
fn expired_certificates_are_refused_on_both_sides() {
    let mesh = Mesh::new();
    let old = |name| mesh.context_issued(&id(name), unix_now() - 20, Duration::from_secs(10), &mesh.bundle);
    let error = refused_by_server(mesh_pair(&old("web"), &mesh.context(&id("api")), &id("api")));
    assert!(is_expired(&error), "{error}");
    let error = refused_by_client(mesh_pair(&mesh.context(&id("web")), &old("api"), &id("api")));
    assert!(is_expired(&error), "{error}");
}

fn is_expired(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(TlsCertificateError::Expired | TlsCertificateError::ExpiredContext { .. }))
}

#[test]
fn certificates_of_a_few_seconds_work() {
    let mesh = Mesh::new();
    let brief = |name| mesh.context_issued(&id(name), unix_now(), Duration::from_secs(5), &mesh.bundle);
    assert!(mesh_pair(&brief("web"), &brief("api"), &id("api")).is_ok());
}

#[test]
fn client_without_certificate_is_refused_by_a_sidecar() {
    let mesh = Mesh::new();
    let api = mesh.context(&id("api"));
    let bare = tls::bootstrap_client(&mesh.bundle, &id("api")).unwrap();
    let mut bare = (*bare).clone();
    bare.alpn_protocols = vec![MeshProtocol::Http1.alpn().to_vec()];
    let error = refused_by_server(connect(Arc::new(bare), api.server()));
    assert_eq!(error, Error::NoCertificatesPresented);
}

#[test]
fn clients_without_mesh_alpn_share_no_protocol_with_a_sidecar() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    let config = web.control_plane_client(&id("api"));
    let error = refused_by_server(connect(config, api.server()));
    assert_eq!(error, Error::NoApplicationProtocol);
}

#[test]
fn control_plane_takes_clients_with_and_without_certificate() {
    let mesh = Mesh::new();
    let control = mesh.context(&id("control"));
    let server = control.control_plane_server();

    let bare = tls::bootstrap_client(&mesh.bundle, &id("control")).unwrap();
    let pair = connect(bare, server.clone()).unwrap();
    assert_eq!(VerifiedPeer::from_optional_client(&pair.server, unix_now()), Ok(None));
    assert_eq!(VerifiedPeer::from_client(&pair.server, unix_now()), Err(PeerError::NoCertificate));
    assert_eq!(pair.client.alpn_protocol(), Some(&b"h2"[..]));
    let peer = VerifiedPeer::from_server(&pair.client, &id("control"), unix_now()).unwrap();
    assert_eq!(peer.id(), &id("control"));

    let web = mesh.context(&id("web"));
    for _ in 0..2 {
        let config = web.control_plane_client(&id("control"));
        let pair = connect(config, server.clone()).unwrap();
        let peer = VerifiedPeer::from_optional_client(&pair.server, unix_now()).unwrap();
        assert_eq!(peer.unwrap().id(), &id("web"));
        assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    let stranger = Mesh::new().context_issued(&id("web"), unix_now(), HOUR, &mesh.bundle);
    let config = stranger.control_plane_client(&id("control"));
    assert!(is_unknown_issuer(&refused_by_server(connect(config, server))));
}

#[test]
fn control_plane_with_another_id_is_refused() {
    let mesh = Mesh::new();
    let server = mesh.context(&id("web")).control_plane_server();
    let bare = tls::bootstrap_client(&mesh.bundle, &id("control")).unwrap();
    let error = refused_by_client(connect(bare, server));
    assert!(matches!(VerifyError::find(&error), Some(VerifyError::WrongIdentity { .. })));
}

#[test]
fn roots_overlap_while_one_replaces_another() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let both = old.bundle.union(&new.bundle).unwrap();
    let by_old = |name| old.context_issued(&id(name), unix_now(), HOUR, &both);
    let by_new = |name| new.context_issued(&id(name), unix_now(), HOUR, &both);
    assert!(mesh_pair(&by_old("web"), &by_new("api"), &id("api")).is_ok());
    assert!(mesh_pair(&by_new("web"), &by_old("api"), &id("api")).is_ok());
    let after = new.context(&id("api"));
    let error = refused_by_server(mesh_pair(&by_old("web"), &after, &id("api")));
    assert!(is_unknown_issuer(&error), "the dropped root is trusted: {error}");
}

#[test]
fn sessions_resume_and_still_name_the_peers() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    let kind = |pair: &Pair| pair.client.handshake_kind().unwrap();
    let first = mesh_pair(&web, &api, &id("api")).unwrap();
    assert_eq!(kind(&first), HandshakeKind::Full);
    for protocol in MeshProtocol::ALL {
        let config = web.client(&id("api"), protocol);
        let again = connect(config, api.server()).unwrap();
        assert_eq!(kind(&again), HandshakeKind::Resumed);
        let peer = VerifiedPeer::from_client(&again.server, unix_now()).unwrap();
        assert_eq!(peer.id(), &id("web"));
        let peer = VerifiedPeer::from_server(&again.client, &id("api"), unix_now()).unwrap();
        assert_eq!(peer.id(), &id("api"));
        assert_eq!(MeshProtocol::from_alpn(again.server.alpn_protocol()), Some(protocol));
        let group = again.client.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), NamedGroup::X25519MLKEM768, "resumed, and forward secret");
    }
}

#[test]
fn resumed_session_does_not_outlive_the_certificate() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    mesh_pair(&web, &api, &id("api")).unwrap();
    let again = mesh_pair(&web, &api, &id("api")).unwrap();
    assert_eq!(again.server.handshake_kind(), Some(HandshakeKind::Resumed));
    let end = web.certificate().not_after();
    assert!(VerifiedPeer::from_client(&again.server, end).is_ok());
    assert_eq!(VerifiedPeer::from_client(&again.server, end + 1), Err(PeerError::Expired { id: id("web"), not_after: end }));
    let end = api.certificate().not_after();
    let late = VerifiedPeer::from_server(&again.client, &id("api"), end + 1);
    assert!(matches!(late, Err(PeerError::Expired { .. })));
}

#[test]
fn tickets_have_a_bounded_life_and_carry_no_early_data() {
    let mesh = Mesh::new();
    let api = mesh.context(&id("api"));
    assert_eq!(api.server().ticketer.lifetime(), tls::TICKET_SECONDS);
    assert_eq!(api.server().max_early_data_size, 0);
    assert!(!api.control_plane_server().ticketer.enabled());
}

#[test]
fn session_of_one_identity_is_never_used_for_another() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    mesh_pair(&web, &api, &id("api")).unwrap();
    // The same endpoint and server; only the expected id differs.
    let error = refused_by_client(mesh_pair(&web, &api, &id("admin")));
    assert!(matches!(VerifyError::find(&error), Some(VerifyError::WrongIdentity { .. })));
}

#[test]
fn new_context_ends_all_sessions_of_the_old_one() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    mesh_pair(&web, &api, &id("api")).unwrap();
    let kind = |pair: Pair| pair.server.handshake_kind();
    let renewed = mesh.context(&id("api"));
    let full = mesh_pair(&web, &renewed, &id("api")).unwrap();
    assert_eq!(kind(full), Some(HandshakeKind::Full), "server renewed");
    let renewed = mesh.context(&id("web"));
    let full = mesh_pair(&renewed, &api, &id("api")).unwrap();
    assert_eq!(kind(full), Some(HandshakeKind::Full), "client renewed");
}

#[test]
fn open_connection_survives_the_exchange_of_its_context() {
    use std::io::{Read, Write};
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    let mut pair = mesh_pair(&web, &api, &id("api")).unwrap();
    drop((web, api));
    pair.client.writer().write_all(b"still here").unwrap();
    let mut wire = Vec::new();
    pair.client.write_tls(&mut wire).unwrap();
    pair.server.read_tls(&mut &wire[..]).unwrap();
    pair.server.process_new_packets().unwrap();
    let mut read = [0; 10];
    pair.server.reader().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"still here");
}

#[test]
fn connection_to_one_identity_proves_no_other() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    let pair = mesh_pair(&web, &api, &id("api")).unwrap();
    assert_eq!(
        VerifiedPeer::from_server(&pair.client, &id("admin"), unix_now()),
        Err(PeerError::Verify(VerifyError::WrongIdentity { expected: id("admin"), presented: id("api") }))
    );
}

#[test]
fn nothing_is_proven_before_the_handshake_ends() {
    let mesh = Mesh::new();
    let (web, api) = (mesh.context(&id("web")), mesh.context(&id("api")));
    let server = ServerConnection::new(api.server()).unwrap();
    assert_eq!(VerifiedPeer::from_client(&server, unix_now()), Err(PeerError::Handshaking));
    let config = web.client(&id("api"), MeshProtocol::H2);
    let name = tls::session_name("127.0.0.1:7".parse().unwrap());
    let client = ClientConnection::new(config, name).unwrap();
    assert_eq!(VerifiedPeer::from_server(&client, &id("api"), unix_now()), Err(PeerError::Handshaking));
}

#[test]
fn client_configurations_are_kept_and_bounded() {
    let mesh = Mesh::new();
    let web = mesh.context(&id("web"));
    let a = web.client(&id("api"), MeshProtocol::H2);
    let b = web.client(&id("api"), MeshProtocol::H2);
    assert!(Arc::ptr_eq(&a, &b));
    for n in 0..tls::MAX_KEPT_CLIENTS {
        let _ = web.client(&id(&format!("s{n}")), MeshProtocol::H2);
    }
    assert_eq!(web.uncached(), 1);
    let c = web.client(&id("api"), MeshProtocol::H2);
    assert!(Arc::ptr_eq(&a, &c));
}

#[test]
fn key_of_another_certificate_is_refused() {
    let mesh = Mesh::new();
    let (_, request) = csr(&id("web")).unwrap();
    let certificate = mesh.authority.sign(&request, &id("web"), HOUR, unix_now()).unwrap();
    let other = KeyPair::generate().unwrap();
    let error = TlsContext::new(&other, certificate, &mesh.bundle).unwrap_err();
    assert!(error.to_string().contains("cannot be used with its key"));
}

#[test]
fn context_shows_no_key() {
    let mesh = Mesh::new();
    let shown = format!("{:?}", mesh.context(&id("web")));
    assert!(shown.starts_with("TlsContext { id: spiffe://td/ns/shop/sa/web, not_after: "));
    assert!(!shown.to_lowercase().contains("key"), "{shown}");
}
