//! Pods as network namespaces: the real redirection, the real sidecar and control plane, and applications that know nothing of them.
//! Needs root, `ip`, `nft` and `setpriv`.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod intercept;
mod lifecycle;
mod probes;
mod redirect;

use heddle_tests::netns::{Families, Node, Spec};
use std::net::SocketAddr;

/// Plaintext is refused everywhere, so that whatever is answered came by mTLS; what the mesh does not know is refused too.
const STRICT: &str = "\
apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata:
  name: default
spec:
  mtls:
    mode: Strict
  egress:
    default: Deny
";

/// Plaintext is taken.
const PERMISSIVE: &str = "\
apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata:
  name: default
spec:
  mtls:
    mode: Permissive
";

/// As [`STRICT`], and what the mesh does not know may be reached.
const STRICT_OPEN: &str = "\
apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata:
  name: default
spec:
  mtls:
    mode: Strict
  egress:
    default: Allow
";

/// A node with the Service `echo:80`, its pod `echo` with port 8080, and the pod `client`; the Service's address.
async fn pair(families: Families, manifests: &str) -> (Node, SocketAddr) {
    let mut node = Node::start(families, manifests).await;
    let service = node.service("echo", 80, 8080, Some("http"));
    node.pod(Spec::new("echo").port(8080)).await;
    node.pod(Spec::new("client")).await;
    (node, service)
}
