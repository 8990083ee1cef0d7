//! Certificates: only a token for the control plane, bound to a living pod, of the identity that the request names, proves anything.

use heddle_identity::{Certificate, SpiffeId, TlsContext, TrustBundle, TrustDomain, csr, tls};
use heddle_model::proto;
use heddle_tests::cluster::World;
use heddle_tests::cluster::mesh::NAMESPACE;
use heddle_tests::cluster::pod::Pod;
use heddle_tests::cluster::script;
use heddle_tests::cluster::workload::{Workload, account};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// The control plane as a sidecar reaches it.
struct Door {
    address: SocketAddr,
    bundle: TrustBundle,
    id: SpiffeId,
}

impl Door {
    async fn of(world: &World, namespace: &str) -> Self {
        let config_map = format!("/api/v1/namespaces/{namespace}/configmaps/heddle-trust-roots");
        let roots = world
            .until("the roots in the namespace", async || {
                let found = world.api.find(&config_map).await.ok_or("no ConfigMap")?;
                found["data"]["root.pem"].as_str().map(str::to_owned).ok_or_else(|| found.to_string())
            })
            .await;
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let pod = world.control_plane().await.remove(0);
        Self {
            address: SocketAddr::new(pod.ip.parse().unwrap(), 15010),
            bundle: TrustBundle::from_pem(&trust_domain, roots.as_bytes()).unwrap(),
            id: SpiffeId::workload(&trust_domain, NAMESPACE, "heddle-control-plane").unwrap(),
        }
    }

    async fn channel(&self, config: Arc<rustls::ClientConfig>) -> Channel {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let stream = TlsConnector::from(config).connect(tls::session_name(self.address), tcp).await.unwrap();
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let once = tower::service_fn(move |_| {
            let taken = stream.lock().unwrap().take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
            std::future::ready(taken)
        });
        Endpoint::from_static("http://heddle-control-plane").connect_with_connector(once).await.unwrap()
    }

    /// Asks for a certificate of `id` with this token; what is given can be used.
    async fn certify(&self, id: &SpiffeId, token: &str) -> Result<TlsContext, Status> {
        let config = tls::bootstrap_client(&self.bundle, &self.id).unwrap();
        let mut client = Grpc::new(self.channel(config).await);
        client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let (key, csr_der) = csr(id).unwrap();
        let request = Request::new(proto::CertifyRequest { csr_der, token: token.to_owned() });
        let path = PathAndQuery::from_static("/heddle.v1.Certificates/Certify");
        let codec = ProstCodec::<proto::CertifyRequest, proto::CertifyResponse>::default();
        let answer = client.unary(request, path, codec).await?.into_inner();
        let certificate = Certificate::from_der(answer.chain_der).unwrap();
        assert_eq!(certificate.id(), id);
        Ok(TlsContext::new(&key, certificate, &self.bundle).unwrap())
    }

    /// Opens discovery with the credentials of one workload, saying that it is `workload`; the first answer, or the refusal.
    async fn discover(&self, context: &TlsContext, namespace: &str, workload: &str) -> Result<(), Status> {
        let mut client = Grpc::new(self.channel(context.control_plane_client(&self.id)).await);
        client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let hello = proto::Hello {
            protocol: 1,
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            sidecar_version: "test".to_owned(),
        };
        let message = proto::SidecarMessage { message: Some(proto::sidecar_message::Message::Hello(hello)) };
        // A stream that stays open: the first message, and then silence.
        let messages = tokio_stream::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending());
        let path = PathAndQuery::from_static("/heddle.v1.Discovery/Discover");
        let codec = ProstCodec::<proto::SidecarMessage, proto::ControlMessage>::default();
        let mut answers = client.streaming(Request::new(messages), path, codec).await?.into_inner();
        answers.message().await?.map(drop).ok_or_else(|| Status::cancelled("the stream ended without an answer"))
    }
}

/// A token of a service account, for an audience, bound to a pod or not.
async fn token(world: &World, namespace: &str, account: &str, audience: &str, pod: Option<&Pod>) -> String {
    let bound = pod.map(|pod| json!({"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.object["metadata"]["uid"]}));
    let mut spec = json!({"audiences": [audience], "expirationSeconds": 600});
    if let Some(bound) = bound {
        spec["boundObjectRef"] = bound;
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer = world.api.post(&path, &request).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// The right token gets a certificate; all others are refused, each for its own reason, and so is discovery in another's name.
pub(crate) async fn only_its_own_token_proves_a_pod(world: &World) {
    let namespace = world.namespace("tokens", true).await;
    for name in ["a", "b"] {
        world.api.apply(&account(&namespace, name)).await;
    }
    let hold = |name: &str, account: &str| Workload::new(&namespace, name, &["hold"]).account(account);
    let a = world.start_pod(&hold("pod-a", "a").pod()).await;
    let b = world.start_pod(&hold("pod-b", "b").pod()).await;
    let gone = world.start_pod(&hold("pod-gone", "a").pod()).await;
    let of_gone = token(world, &namespace, "a", "heddle", Some(&gone)).await;
    world.api.delete(&gone.path()).await;
    world.gone(&gone).await;

    let door = Door::of(world, &namespace).await;
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let id = |account: &str| SpiffeId::workload(&trust_domain, &namespace, account).unwrap();
    let right = token(world, &namespace, "a", "heddle", Some(&a)).await;
    let context = door.certify(&id("a"), &right).await.unwrap_or_else(|e| panic!("the right token is refused: {e}"));

    let expired = script::cluster("token", &[&namespace, "a", "pod-a", "heddle", "-180"]).await.trim().to_owned();
    let wrong = [
        ("of another audience", token(world, &namespace, "a", "vault", Some(&a)).await),
        ("of the API server", token(world, &namespace, "a", "https://kubernetes.default.svc.cluster.local", Some(&a)).await),
        ("of another pod's account", token(world, &namespace, "b", "heddle", Some(&b)).await),
        ("of a pod that is gone", of_gone),
        ("bound to no pod", token(world, &namespace, "a", "heddle", None).await),
        ("that has expired", expired),
        ("that is none", "no.token.atall".to_owned()),
        ("that is empty", String::new()),
    ];
    for (what, token) in wrong {
        let refusal = door.certify(&id("a"), &token).await.err().unwrap_or_else(|| panic!("a token {what} got a certificate"));
        let refused = matches!(refusal.code(), Code::Unauthenticated | Code::PermissionDenied);
        assert!(refused, "a token {what}: {refusal}");
        assert!(!refusal.message().is_empty(), "a token {what} is refused without a word");
        heddle_tests::cluster::say(&format!("a token {what} is refused: {}", refusal.message()));
    }
    door.discover(&context, &namespace, "pod-a").await.unwrap_or_else(|e| panic!("discovery about the own pod: {e}"));
    let refusal = door.discover(&context, &namespace, "pod-b").await.expect_err("discovery about another's pod is answered");
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    let figure = "8 wrong tokens refused, the right one taken; discovery in another pod's name refused";
    world.report.figure("certificates", "proof of identity", figure);
}
