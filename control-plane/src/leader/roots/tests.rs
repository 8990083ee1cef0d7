//! The ConfigMaps of roots against an API server of a few lines.

use super::*;
use crate::metrics::Metrics;
use crate::test_support::api::{Answer, Api as Fake, Request};
use crate::test_support::{objects, trust};
use crate::watch::{Batch, Change, Publisher};
use serde_json::Value;

/// Answers with ConfigMaps in these namespaces.
fn server(existing: &'static [(&'static str, &'static str)]) -> Fake {
    Fake::new(move |request: &Request| {
        if request.path.ends_with("/clusterroles/heddle-control-plane") {
            return Answer::ok(json!({"metadata": {"name": "heddle-control-plane", "uid": "role-uid"}}));
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/api/v1/configmaps") => {
                assert!(request.query.contains("metadata.name%3Dheddle-trust-roots"), "{}", request.query);
                let items: Vec<Value> = existing
                    .iter()
                    .map(|(namespace, pem)| json!({"metadata": {"name": CONFIG_MAP, "namespace": namespace}, "data": {KEY: pem}}))
                    .collect();
                Answer::ok(json!({"metadata": {}, "items": items}))
            }
            ("PATCH", path) if path.contains("/namespaces/ending/") => Answer::refused(404, "NotFound"),
            ("PATCH", _) => Answer::ok(json!({"metadata": {"name": CONFIG_MAP}})),
            _ => Answer::refused(405, "MethodNotAllowed"),
        }
    })
}

fn roots(fake: &Fake, pem: &str) -> (watch::Sender<Arc<str>>, Roots) {
    let (sender, receiver) = watch::channel(Arc::from(pem));
    (sender, Roots::new(fake.client(), receiver))
}

fn written(fake: &Fake) -> Vec<Request> {
    fake.requests().into_iter().filter(|request| request.method == "PATCH").collect()
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_written_once_in_a_while_and_at_once_when_roots_change() {
    let fake = server(&[]);
    let (pem, roots) = roots(&fake, "one");
    for _ in 0..3 {
        roots.ensure("shop").await.unwrap();
    }
    assert_eq!(written(&fake).len(), 1);
    pem.send_replace(Arc::from("two"));
    roots.ensure("shop").await.unwrap();
    tokio::time::advance(LOOK).await;
    roots.ensure("shop").await.unwrap();
    let written = written(&fake);
    assert_eq!(written.len(), 3);
    assert_eq!(written[1].path, "/api/v1/namespaces/shop/configmaps/heddle-trust-roots");
    let body = &written[1].body;
    assert_eq!(body["data"], json!({"root.pem": "two"}));
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "role-uid");
    assert_eq!(body["metadata"]["labels"]["app.kubernetes.io/managed-by"], "heddle");
    assert!(written[1].query.contains("force=true") && written[1].query.contains("fieldManager=heddle-control-plane"));
    let asked = fake.requests().iter().filter(|request| request.path.contains("clusterroles")).count();
    assert_eq!(asked, 1);
}

#[tokio::test(start_paused = true)]
async fn the_leader_writes_what_is_missing_or_old_and_nobody_else_does() {
    let fake = server(&[("old", "older roots"), ("present", "pem"), ("ending", "older roots")]);
    let (_pem, roots) = roots(&fake, "pem");
    let wanted = BTreeSet::from(["new".to_owned(), "present".to_owned()]);
    let (until, led) = watch::channel(None);
    let leadership = Leadership::new(led);
    look(&roots, &leadership, &wanted).await.unwrap();
    assert_eq!(written(&fake).len(), 0);
    until.send_replace(Some(Instant::now() + Duration::from_secs(10)));
    look(&roots, &leadership, &wanted).await.unwrap();
    let mut paths: Vec<_> = written(&fake).into_iter().map(|request| request.path).collect();
    paths.sort();
    let expected = ["ending", "new", "old"].map(|namespace| format!("/api/v1/namespaces/{namespace}/configmaps/heddle-trust-roots"));
    assert_eq!(paths, expected);
}

#[test]
fn namespaces_ask_by_their_label() {
    let yaml = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {heddle.dev/inject: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: quiet, labels: {heddle.dev/inject: disabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
";
    let mut publisher = Publisher::new(Arc::new(Metrics::new().unwrap()));
    publisher.apply(Batch { changes: objects(yaml).into_iter().map(Change::Apply).collect(), problems: Vec::new() });
    let domain = publisher.trust_domain();
    publisher.trust(&domain, &trust(&domain));
    assert_eq!(asking(&publisher.view(None).unwrap()), BTreeSet::from(["shop".to_owned()]));
}
