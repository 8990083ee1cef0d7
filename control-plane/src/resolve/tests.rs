//! Properties of resolving over arbitrary snapshots, nonsense included, and single rules that no manifest can carry here.

mod arbitrary;

use heddle_crds::Object;
use heddle_model::{Filter, proto};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::arbitrary::{object, objects};
use super::*;
use crate::status::{self, ConditionStatus};

/// Everything that can be asked of a snapshot.
#[derive(Debug, PartialEq)]
struct Answers {
    outbound: Vec<(Target, Option<OutboundPolicy>)>,
    endpoints: Vec<(ServicePort, Vec<Endpoint>)>,
    inbound: Vec<Option<InboundPolicy>>,
    settings: Settings,
    mesh: MeshSettings,
    statuses: Vec<status::ObjectStatus>,
}

fn all_targets() -> Vec<Target> {
    let names = ["a", "b.x", "c.y.svc", "b.x.svc.cluster.local", "a.a", "a.a.x.svc", "A.", "", ".", "a.b.c", "missing", "a b", "ä"];
    let authorities = names.iter().flat_map(|name| [0, 80, 81, 443, 5432].map(|port| format!("{name}:{port}")));
    let nonsense = ["", ":", "a", "a:", "a:b", "a:70000", "a:80:80", "[::1]:80", "[x]:1", "10.0.0.1"].map(str::to_owned);
    let addresses = [
        "10.96.0.1:80",
        "10.96.0.1:9",
        "[fd00::a]:81",
        "10.0.0.1:80",
        "10.0.0.1:8080",
        "10.0.0.2:8080",
        "[fd00::1]:8080",
        "[::ffff:10.0.0.1]:0",
        "203.0.113.1:80",
        "10.0.0.9:30080",
    ];
    authorities
        .chain(nonsense)
        .map(Target::Authority)
        .chain(addresses.map(|a| Target::Address(a.parse().unwrap())))
        .chain([Target::InboundPort(80)])
        .collect()
}

fn answers(snapshot: &Snapshot) -> Answers {
    let mut outbound_answers = Vec::new();
    let mut backends: Vec<ServicePort> = vec![];
    for client in ["x".into(), "y".into(), "".into(), Client::on_node("x", "n1"), Client::on_node("x", "nowhere")] {
        for target in all_targets() {
            let policy = outbound(snapshot, client, &target);
            backends.extend(policy.iter().flat_map(|p| p.backends.iter().map(|b| b.service.clone())));
            outbound_answers.push((target, policy));
        }
    }
    backends.extend(
        [
            "x/a:80",
            "x/a:81",
            "x/b:80",
            "y/a:80",
            "x/pod:a:0",
            "x/pod:a@fd00::1:8080",
            "x/pod:@:80",
            "y/missing:80",
            "x/a@ipv6@node=n2:80",
            "x/a@:80",
        ]
        .map(|key| key.parse().unwrap()),
    );
    backends.sort();
    backends.dedup();
    let pods = ["a", "b", "c", ""];
    Answers {
        outbound: outbound_answers,
        endpoints: backends.into_iter().map(|key| (key.clone(), endpoints(snapshot, &key))).collect(),
        inbound: pods.iter().flat_map(|pod| [0, 80, 8080, 65535].map(|port| inbound(snapshot, "x", pod, port))).collect(),
        settings: settings(snapshot),
        mesh: mesh(snapshot),
        statuses: status::statuses(snapshot),
    }
}

fn snapshot_of(objects: &[Object]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    objects.iter().for_each(|object| assert!(snapshot.apply(object.clone())));
    snapshot
}

fn delete(snapshot: &mut Snapshot, object: &Object) -> bool {
    let id = object.id();
    snapshot.delete(&id.kind, id.namespace.as_deref().unwrap_or_default(), &id.name)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_do_not_depend_on_the_order_of_arrival(
        (objects, shuffled) in objects().prop_flat_map(|objects| (Just(objects.clone()), Just(objects).prop_shuffle())),
        earlier in objects(),
    ) {
        let expected = answers(&snapshot_of(&objects));
        // A snapshot with a past: other objects, partly with the same names, which were replaced or deleted.
        let mut snapshot = snapshot_of(&earlier);
        let shared = snapshot.clone();
        let before = answers(&shared);
        shuffled.iter().for_each(|object| { snapshot.apply(object.clone()); });
        for object in earlier.iter().filter(|e| !objects.iter().any(|o| o.id() == e.id())) {
            prop_assert!(delete(&mut snapshot, object));
        }
        prop_assert_eq!(answers(&snapshot), expected);
        prop_assert_eq!(answers(&shared), before, "a clone must not see later changes");
        for object in &objects {
            prop_assert!(delete(&mut snapshot, object));
            prop_assert!(!delete(&mut snapshot, object));
        }
        prop_assert!(snapshot.services.is_empty() && snapshot.pods.is_empty() && snapshot.endpoint_slices.is_empty());
        prop_assert!(snapshot.http_routes.is_empty() && snapshot.grpc_routes.is_empty() && snapshot.traffic_policies.is_empty());
    }

    #[test]
    fn answers_survive_the_wire_and_keep_the_promises(objects in objects()) {
        let snapshot = snapshot_of(&objects);
        let Answers { outbound, endpoints, inbound, settings, mesh: _, statuses } = answers(&snapshot);
        for policy in outbound.into_iter().filter_map(|(_, policy)| policy) {
            prop_assert_eq!(OutboundPolicy::try_from(proto::OutboundPolicy::from(&policy)), Ok(policy.clone()));
            prop_assert!(!policy.protocol.is_http() || policy.tcp.is_empty(), "a declared HTTP port took opaque bytes");
            for rule in policy.http.rules() {
                let answers = rule.filters.iter().any(|f| matches!(f, Filter::Redirect(_) | Filter::Fail { .. }));
                prop_assert!(answers || rule.backends.iter().any(|b| b.weight > 0), "{} goes nowhere", rule.source);
            }
        }
        for (key, list) in endpoints {
            prop_assert!(list.is_sorted_by(|a, b| a.address < b.address), "{key}: {list:?}");
            for endpoint in list {
                prop_assert_eq!(Endpoint::try_from(proto::Endpoint::from(&endpoint)), Ok(endpoint.clone()));
                // Names repeat between namespaces: only where all pods of that name are meshed is it sure that this one is.
                let mut pods = snapshot.pods.iter().filter(|(pod, _)| *pod.name == *endpoint.workload).peekable();
                let meshed = pods.peek().is_some() && pods.all(|(_, pod)| pod.is_meshed());
                prop_assert!(!meshed || endpoint.identity.is_some(), "plaintext to a meshed pod: {endpoint:?}");
            }
        }
        for policy in inbound.into_iter().flatten() {
            prop_assert_eq!(InboundPolicy::try_from(proto::InboundPolicy::from(&policy)), Ok(policy));
        }
        prop_assert_eq!(Settings::from(proto::Settings::from(&settings)), settings);
        for status in statuses {
            for parent in status.parents {
                let types: Vec<_> = parent.conditions.iter().map(|c| c.condition_type.as_str()).collect();
                prop_assert!(types == ["Accepted", "ResolvedRefs"] || types == ["Accepted", "ResolvedRefs", "PartiallyInvalid"], "{types:?}");
                if let Some(partly) = parent.conditions.get(2) {
                    prop_assert_eq!(parent.conditions[0].status, ConditionStatus::True);
                    prop_assert!(partly.message.starts_with("Dropped Rule"));
                }
            }
        }
    }
}

/// The status of a route with these rules on a Service that exists: reason of `Accepted`, and of `ResolvedRefs`.
fn reasons(rules: Value) -> (String, String) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "x"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "x"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "a"}], "rules": rules},
    });
    let snapshot = snapshot_of(&[object("Service", service), object("HTTPRoute", route)]);
    let conditions = status::statuses(&snapshot).remove(0).parents.remove(0).conditions;
    (conditions[0].reason.clone(), conditions[1].reason.clone())
}

#[test]
fn filters_that_exclude_each_other_are_incompatible() {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {}});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {}});
    let backend = json!({"name": "a", "port": 80});
    for rule in [
        json!({"filters": [redirect, rewrite]}),
        json!({"filters": [redirect], "backendRefs": [backend]}),
        json!({"filters": [rewrite, rewrite], "backendRefs": [backend]}),
        json!({"backendRefs": [{"name": "a", "port": 80, "filters": [redirect, rewrite]}]}),
    ] {
        assert_eq!(reasons(json!([rule])), ("IncompatibleFilters".to_owned(), "ResolvedRefs".to_owned()), "{rule}");
    }
    assert_eq!(reasons(json!([{"filters": [redirect]}])).0, "Accepted");
}

#[test]
fn one_good_rule_makes_a_route_accepted() {
    let bad = json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]});
    let good = json!({"backendRefs": [{"name": "a", "port": 80}]});
    assert_eq!(reasons(json!([bad, good])).0, "Accepted");
    assert_eq!(reasons(json!([bad])).0, "UnsupportedValue");
}

#[test]
fn values_that_are_not_supported_say_so() {
    let backend = json!({"name": "a", "port": 80});
    for rule in [
        json!({"matches": [{"method": "*"}]}),
        json!({"matches": [{"path": {"value": "relative"}}]}),
        json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 304}}]}),
        json!({"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": 101}}]}),
        json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a:b", "value": "1"}]}}]}),
        json!({"matches": [{"path": {"type": "Exact", "value": "/a"}}],
               "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}]}),
    ] {
        assert_eq!(reasons(json!([rule])).0, "UnsupportedValue", "{rule}");
    }
}

#[test]
fn an_extension_that_nobody_knows_fails_requests_and_is_not_skipped() {
    let rule = json!({"filters": [{"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}}]});
    assert_eq!(reasons(json!([rule])), ("Accepted".to_owned(), "InvalidKind".to_owned()));
}
