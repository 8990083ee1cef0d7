//! Whether whoever runs this may install the mesh.

use super::Finding;
use crate::chart::kinds;
use crate::cluster::{Cluster, ClusterError};
use futures_util::future::try_join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

/// What applying takes (server-side apply checks both).
const VERBS: [&str; 2] = ["create", "patch"];

/// The rights that an installation needs.
pub(super) async fn to_install(cluster: &Cluster, namespace: &str) -> Finding {
    const NAME: &str = "rights";
    // What only the Prometheus operator has, and what only an upgrade finds, is for those who ask for it.
    let wanted: Vec<_> = kinds::all()
        .filter(|kind| !matches!(kind.group_and_plural().0, "monitoring.coreos.com" | "heddle.dev"))
        .flat_map(|kind| VERBS.map(|verb| (kind, verb)))
        .collect();
    let reviews = wanted.iter().map(|(kind, verb)| {
        let (group, resource) = kind.group_and_plural();
        may(cluster, group, resource, verb, if kind.namespaced { namespace } else { "" })
    });
    match try_join_all(reviews).await {
        Ok(answers) => {
            let missing: Vec<_> = wanted
                .iter()
                .zip(answers)
                .filter(|(_, allowed)| !allowed)
                .map(|((kind, verb), _)| format!("{verb} {}", kind.group_and_plural().1))
                .collect();
            verdict(wanted.len(), &missing)
        }
        Err(error) => Finding::not_made(NAME, &error),
    }
}

fn verdict(wanted: usize, missing: &[String]) -> Finding {
    const NAME: &str = "rights";
    if missing.is_empty() {
        Finding::good(NAME, format!("all {wanted} that an installation needs"))
    } else {
        Finding::failure(NAME, format!("missing: {}", missing.join(", ")), "install as an administrator of the cluster")
    }
}

/// Asks for one right.
async fn may(cluster: &Cluster, group: &str, resource: &str, verb: &str, namespace: &str) -> Result<bool, ClusterError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client());
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        verb: Some(verb.to_owned()),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() },
        ..SelfSubjectAccessReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await.map_err(|error| cluster.failed("review rights", &error))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_right_is_named() {
        assert_eq!(verdict(2, &[]), Finding::good("rights", "all 2 that an installation needs"));
        let finding = verdict(2, &["create secrets".to_owned(), "patch secrets".to_owned()]);
        assert_eq!(finding.text, "missing: create secrets, patch secrets");
    }
}
