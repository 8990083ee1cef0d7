//! The kinds that are watched in a cluster, and in which version: what the API server serves, of what this program reads.

use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Error};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the question what there is may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The group of the Gateway API.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io";

/// The group of our own kinds.
pub(super) const HEDDLE: &str = "heddle.dev";

/// Which optional kinds are watched. The ServiceAccount must be allowed to list and watch them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// HTTPRoute, GRPCRoute, TCPRoute, TLSRoute and ReferenceGrant, wherever they are installed.
    pub gateway_api: bool,
}

impl Default for Kinds {
    fn default() -> Self {
        Self { gateway_api: true }
    }
}

impl Kinds {
    /// The kinds to watch.
    pub(super) fn list(self) -> Vec<&'static Kind> {
        KINDS.iter().filter(|kind| self.gateway_api || kind.group != GATEWAY).collect()
    }
}

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) plural: &'static str,
    pub(super) group: &'static str,
    /// The versions that are read; the first one that is served is watched.
    pub(super) versions: &'static [&'static str],
}

impl Kind {
    /// Whether every cluster has it. Others come with a CustomResourceDefinition, and may come later, or go.
    pub(super) fn is_built_in(&self) -> bool {
        !matches!(self.group, GATEWAY | HEDDLE)
    }

    /// It as the client wants it, in one of its versions.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, version, self.name), self.plural)
    }
}

const fn kind(name: &'static str, plural: &'static str, group: &'static str, versions: &'static [&'static str]) -> Kind {
    Kind { name, plural, group, versions }
}

/// In the order of the reader's own table (`heddle_crds::manifest`), which knows the same versions.
static KINDS: [Kind; 12] = [
    kind("Namespace", "namespaces", "", &["v1"]),
    kind("Service", "services", "", &["v1"]),
    kind("Pod", "pods", "", &["v1"]),
    kind("EndpointSlice", "endpointslices", "discovery.k8s.io", &["v1"]),
    kind("HTTPRoute", "httproutes", GATEWAY, &["v1", "v1beta1"]),
    kind("GRPCRoute", "grpcroutes", GATEWAY, &["v1"]),
    kind("TCPRoute", "tcproutes", GATEWAY, &["v1", "v1alpha2"]),
    kind("TLSRoute", "tlsroutes", GATEWAY, &["v1", "v1alpha3", "v1alpha2"]),
    kind("ReferenceGrant", "referencegrants", GATEWAY, &["v1", "v1beta1"]),
    kind("TrafficPolicy", "trafficpolicies", HEDDLE, &["v1alpha1"]),
    kind("AuthenticationPolicy", "authenticationpolicies", HEDDLE, &["v1alpha1"]),
    kind("MeshConfig", "meshconfigs", HEDDLE, &["v1alpha1"]),
];

/// In which version each kind is served, in the order of `kinds`; `None`: in none that is read. Asks for no more than it must: six small
/// answers at most, and two where everything is there in the version that is preferred.
///
/// # Errors
/// When the API server does not say. That something is not there, it must say itself.
pub(super) async fn served(client: &Client, kinds: &[&'static Kind]) -> Result<Vec<Option<&'static str>>, Error> {
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = Vec::with_capacity(kinds.len());
    for kind in kinds {
        if kind.is_built_in() {
            found.push(kind.versions.first().copied());
            continue;
        }
        let mut version = None;
        for candidate in kind.versions {
            let group = format!("{}/{candidate}", kind.group);
            if !answers.contains_key(&group) {
                let watchable = watchable(client, &group).await?;
                answers.insert(group.clone(), watchable);
            }
            if answers.get(&group).is_some_and(|served| served.iter().any(|plural| plural == kind.plural)) {
                version = Some(*candidate);
                break;
            }
        }
        found.push(version);
    }
    Ok(found)
}

/// The resources of one version of a group that can be listed and watched.
async fn watchable(client: &Client, group_version: &str) -> Result<Vec<String>, Error> {
    let answer = tokio::time::timeout(TIMEOUT, client.list_api_group_resources(group_version)).await;
    match answer.map_err(|elapsed| Error::Service(elapsed.into()))? {
        Ok(list) => {
            let can = |verbs: &[String], verb: &str| verbs.iter().any(|found| found == verb);
            let both = list.resources.into_iter().filter(|r| can(&r.verbs, "list") && can(&r.verbs, "watch"));
            Ok(both.map(|resource| resource.name).collect())
        }
        Err(Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
