//! Checks of the cluster itself: its version, its clock, the interfaces that it serves, and the definitions that it has.

use super::Finding;
use crate::chart::{self, kinds};
use crate::cluster::release::is_newer;
use crate::cluster::{Cluster, ClusterError};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::api::Api;
use std::collections::BTreeSet;

/// Native sidecars are on by default from here on (KEP-753).
const OLDEST: (u64, u64) = (1, 29);
/// Certificates are valid from a minute before they are issued: clocks that differ by less are no trouble.
const CLOCK_TROUBLE_S: i64 = 60;
/// What the network adds to the answer's date, and its one second of precision.
const CLOCK_NOISE_S: i64 = 5;
/// The group versions that the chart and the control plane use.
const GROUP_VERSIONS: [&str; 10] = [
    "admissionregistration.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "apps/v1",
    "authentication.k8s.io/v1",
    "coordination.k8s.io/v1",
    "discovery.k8s.io/v1",
    "events.k8s.io/v1",
    "networking.k8s.io/v1",
    "policy/v1",
    "rbac.authorization.k8s.io/v1",
];
/// The oldest bundle of Gateway API with routes for Services and GRPCRoute in v1.
const OLDEST_BUNDLE: &str = "1.1.0";

/// Whether a Kubernetes of this version cannot run the mesh. A version that is no number is taken for a new one.
pub(crate) fn is_too_old(major: &str, minor: &str) -> bool {
    // Providers write the minor version with a mark, as in `29+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u64::MAX);
    (number(major), number(minor)) < OLDEST
}

/// The API server's version and clock.
///
/// # Errors
///
/// When it does not answer.
pub(super) async fn server(cluster: &Cluster) -> Result<Vec<Finding>, ClusterError> {
    let action = "ask for the version";
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.map_err(|error| ClusterError::Refused { action: action.to_owned(), message: error.to_string() })?;
    let answer = cluster.client().send(request).await.map_err(|error| cluster.failed(action, &error))?;
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
    let version = cluster.client().apiserver_version().await.map_err(|error| cluster.failed(action, &error))?;
    let text = format!("Kubernetes {}", version.git_version);
    let first = if is_too_old(&version.major, &version.minor) {
        Finding::failure(
            "kubernetes",
            text,
            "Heddle needs 1.29 or later, where sidecars are init containers that stay: upgrade the cluster",
        )
    } else {
        Finding::good("kubernetes", text)
    };
    Ok(vec![first, clock(date.as_deref(), heddle_identity::unix_now())])
}

/// The clocks of the API server and of this machine.
fn clock(date: Option<&str>, now: u64) -> Finding {
    const NAME: &str = "clock";
    let there = date.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp().as_second());
    let (Some(there), Ok(here)) = (there, i64::try_from(now)) else {
        return Finding::warning(NAME, "the API server's answer has no date", "compare the clocks of the nodes by other means");
    };
    let apart = (there - here).abs();
    let text = format!("the API server's clock and this machine's are {apart} s apart");
    let way_out = "certificates depend on time: set the clocks by NTP";
    if apart <= CLOCK_NOISE_S {
        Finding::good(NAME, format!("the API server's clock and this machine's agree within {CLOCK_NOISE_S} s"))
    } else if apart <= CLOCK_TROUBLE_S {
        Finding::warning(NAME, text, way_out)
    } else {
        Finding::failure(NAME, text, way_out)
    }
}

/// The interfaces that the chart and the control plane use.
pub(super) async fn api_versions(cluster: &Cluster) -> Vec<Finding> {
    const NAME: &str = "api versions";
    let groups = match cluster.client().list_api_groups().await {
        Ok(groups) => groups,
        Err(error) => return vec![Finding::not_made(NAME, &cluster.failed("list API groups", &error))],
    };
    let served: BTreeSet<_> =
        groups.groups.iter().flat_map(|group| &group.versions).map(|version| version.group_version.as_str()).collect();
    let missing: Vec<_> = GROUP_VERSIONS.into_iter().filter(|wanted| !served.contains(wanted)).collect();
    vec![if missing.is_empty() {
        Finding::good(NAME, format!("all {} that Heddle uses are served", GROUP_VERSIONS.len()))
    } else {
        Finding::failure(NAME, format!("not served: {}", missing.join(", ")), "see --runtime-config of the API server")
    }]
}

/// The definitions of our kinds.
pub(super) async fn definitions(cluster: &Cluster, pre: bool) -> Vec<Finding> {
    const NAME: &str = "definitions";
    let Ok(objects) = chart::objects(&serde_json::json!({}), chart::Release { namespace: "heddle-system", install: false }) else {
        return Vec::new();
    };
    let (mut found, mut absent, mut other) = (0, Vec::new(), Vec::new());
    for object in objects.iter().filter(|object| kinds::of(object).is_some_and(|kind| kind.name() == "CustomResourceDefinition")) {
        let (_, _, name) = crate::cluster::identity(object);
        let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
        match api.get_opt(name).await {
            Ok(None) => absent.push(name.to_owned()),
            Ok(Some(definition)) => match difference(&definition) {
                Some(difference) => other.push(format!("{name} {difference}")),
                None => found += 1,
            },
            Err(error) => return vec![Finding::not_made(NAME, &cluster.failed(format!("get {name}"), &error))],
        }
    }
    let finding = match (absent.as_slice(), other.as_slice(), pre) {
        ([], [], false) => Finding::good(NAME, format!("all {found} are of heddle {}", chart::VERSION)),
        ([], [], true) => Finding::warning(NAME, format!("all {found} are there already"), "see the check `installation`"),
        (_, [], true) => Finding::good(NAME, "none is in the way"),
        (absent, [], false) => Finding::failure(
            NAME,
            format!("absent: {}", absent.join(", ")),
            "heddle install; heddle upgrade, or helm upgrade, where the mesh is here already",
        ),
        (_, other, _) => {
            Finding::warning(NAME, other.join("; "), "bring the mesh and this command to one version: heddle upgrade, or helm upgrade")
        }
    };
    vec![finding]
}

/// How a definition differs from this version's.
fn difference(definition: &CustomResourceDefinition) -> Option<String> {
    let version = definition.metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/version"));
    let established = definition
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True"));
    if !established {
        return Some("is not served".to_owned());
    }
    match version {
        Some(version) if version == chart::VERSION => None,
        Some(version) => Some(format!("is of heddle {version}, and this is {}", chart::VERSION)),
        None => Some("has no version of heddle".to_owned()),
    }
}

/// Gateway API: whether there are routes, of which bundle and channel.
pub(super) async fn gateway_api(cluster: &Cluster) -> Finding {
    const NAME: &str = "gateway api";
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    match api.get_opt("httproutes.gateway.networking.k8s.io").await {
        Ok(Some(definition)) => bundle(&definition),
        Ok(None) => Finding::warning(
            NAME,
            "its kinds are not installed, so traffic cannot be routed by HTTPRoute",
            "install them when you want them; Heddle reads them without a restart: https://gateway-api.sigs.k8s.io/guides",
        ),
        Err(error) => Finding::not_made(NAME, &cluster.failed("get the definition of HTTPRoute", &error)),
    }
}

fn bundle(definition: &CustomResourceDefinition) -> Finding {
    const NAME: &str = "gateway api";
    let annotation = |name: &str| {
        let annotations = definition.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(&format!("gateway.networking.k8s.io/{name}"))).map_or("unknown", String::as_str)
    };
    let (version, channel) = (annotation("bundle-version"), annotation("channel"));
    let text = format!("bundle {version}, channel {channel}");
    let served = definition.spec.versions.iter().any(|version| version.name == "v1" && version.served);
    if !served || is_newer(OLDEST_BUNDLE, version.trim_start_matches('v')) {
        Finding::warning(NAME, text, format!("routes for Services need v{OLDEST_BUNDLE} or later: upgrade the bundle"))
    } else {
        Finding::good(NAME, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use serde_json::json;

    #[test]
    fn sidecars_need_kubernetes_1_29() {
        assert!(is_too_old("1", "28") && is_too_old("1", "28+"));
        assert!(!is_too_old("1", "29") && !is_too_old("1", "35+") && !is_too_old("2", "0") && !is_too_old("", ""));
    }

    #[test]
    fn clocks_are_compared() {
        let at = |now| clock(Some("Sat, 21 Nov 2026 02:00:00 GMT"), now).level;
        let there = 1_795_226_400;
        assert_eq!(at(there), Level::Good);
        assert_eq!(at(there + 5), Level::Good);
        assert_eq!(at(there - 30), Level::Warning);
        assert_eq!(at(there + 61), Level::Failure);
        assert_eq!(clock(None, there).level, Level::Warning);
        assert_eq!(clock(Some("yesterday"), there).level, Level::Warning);
    }

    fn definition(labels: &serde_json::Value, annotations: &serde_json::Value, established: &str) -> CustomResourceDefinition {
        serde_json::from_value(json!({
            "metadata": { "name": "x", "labels": labels, "annotations": annotations },
            "spec": { "group": "g", "names": { "kind": "K", "plural": "ks" }, "scope": "Cluster", "versions": [{ "name": "v1", "served": true, "storage": true }] },
            "status": { "conditions": [{ "type": "Established", "status": established }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_definition_of_another_version_is_named() {
        let of = |version: &str, established: &str| {
            difference(&definition(&json!({ "app.kubernetes.io/version": version }), &json!({}), established))
        };
        assert_eq!(of(chart::VERSION, "True"), None);
        assert!(of("9.0.0", "True").unwrap().contains("9.0.0"));
        assert!(of(chart::VERSION, "False").unwrap().contains("not served"));
        assert!(difference(&definition(&json!({}), &json!({}), "True")).is_some());
    }

    #[test]
    fn an_old_bundle_is_a_warning() {
        let of = |version: &str| {
            bundle(&definition(
                &json!({}),
                &json!({ "gateway.networking.k8s.io/bundle-version": version, "gateway.networking.k8s.io/channel": "standard" }),
                "True",
            ))
        };
        assert_eq!(of("v1.4.1"), Finding::good("gateway api", "bundle v1.4.1, channel standard"));
        assert_eq!(of("v1.0.0").level, Level::Warning);
        assert_eq!(of("unknown").level, Level::Warning);
    }
}
