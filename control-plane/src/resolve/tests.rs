//! Properties of resolving over arbitrary snapshots, nonsense included, and single rules that no manifest can carry here.

use std::collections::BTreeMap;

use heddle_crds::Object;
use heddle_model::{Filter, proto};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::status::{self, ConditionStatus};

/// An object of a kind from its JSON, past the checks of the reader of manifests.
fn object(kind: &str, json: Value) -> Object {
    fn read<T: serde::de::DeserializeOwned>(json: Value) -> Box<T> {
        Box::new(serde_json::from_value(json.clone()).unwrap_or_else(|e| panic!("{e}: {json}")))
    }
    match kind {
        "Service" => Object::Service(read(json)),
        "Pod" => Object::Pod(read(json)),
        "EndpointSlice" => Object::EndpointSlice(read(json)),
        "HTTPRoute" => Object::HttpRoute(read(json)),
        "GRPCRoute" => Object::GrpcRoute(read(json)),
        "TCPRoute" => Object::TcpRoute(read(json)),
        "TrafficPolicy" => Object::TrafficPolicy(read(json)),
        "AuthenticationPolicy" => Object::AuthenticationPolicy(read(json)),
        "MeshConfig" => Object::MeshConfig(read(json)),
        _ => panic!("no kind {kind}"),
    }
}

// --- Arbitrary snapshots ---------------------------------------------------------------------------------------------------

fn one_of(values: Vec<Value>) -> impl Strategy<Value = Value> {
    prop::sample::select(values)
}

fn some_of(values: Vec<Value>, most: usize) -> impl Strategy<Value = Value> {
    prop::collection::vec(one_of(values), 0..=most).prop_map(Value::Array)
}

/// `$api`, metadata with few names so that objects meet, and a spec.
fn any_object(kind: &'static str, api: &'static str, spec: impl Strategy<Value = Value>) -> impl Strategy<Value = Object> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let namespace = prop::sample::select(vec!["x", "x", "y"]);
    let created = one_of(vec![Value::Null, json!("2026-01-01T00:00:00Z"), json!("2025-01-01T00:00:00Z"), json!("1960-01-01T00:00:00Z")]);
    let labels = one_of(vec![
        json!({}),
        json!({"app": "a", "version": "v1", "kubernetes.io/service-name": "a"}),
        json!({"app": "b", "version": "", "kubernetes.io/service-name": "b"}),
    ]);
    (name, namespace, created, labels, spec).prop_map(move |(name, namespace, created, labels, mut body)| {
        let mut metadata = json!({"name": name, "namespace": namespace, "generation": 1, "labels": labels});
        if !created.is_null() {
            metadata["creationTimestamp"] = created;
        }
        body["apiVersion"] = json!(api);
        body["kind"] = json!(kind);
        body["metadata"] = metadata;
        object(kind, body)
    })
}

fn service() -> impl Strategy<Value = Object> {
    let ports = vec![
        json!({"name": "http", "port": 80, "targetPort": 8080}),
        json!({"name": "http", "port": 80, "targetPort": "serve"}),
        json!({"port": 80}),
        json!({"name": "grpc", "port": 81, "appProtocol": "grpc", "targetPort": 0}),
        json!({"name": "tls", "port": 443, "appProtocol": "https"}),
        json!({"name": "tcp-db", "port": 5432, "targetPort": -3}),
        json!({"name": "strange", "port": 70000}),
        json!({"name": "strange", "port": -1, "appProtocol": "?"}),
        json!({"name": "udp", "port": 80, "protocol": "UDP"}),
    ];
    let spec = (
        some_of(ports, 4),
        one_of(vec![json!({}), json!({"app": "a"}), json!({"app": "b"}), Value::Null]),
        one_of(vec![
            json!({}),
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::a"]}),
            json!({"clusterIP": "10.0.0.1"}),
            json!({"clusterIP": "None"}),
            json!({"clusterIP": "nonsense"}),
            json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.1"}),
        ]),
    );
    any_object(
        "Service",
        "v1",
        spec.prop_map(|(ports, selector, mut spec)| {
            spec["ports"] = ports;
            if !selector.is_null() {
                spec["selector"] = selector;
            }
            json!({"spec": spec})
        }),
    )
}

fn pod() -> impl Strategy<Value = Object> {
    let sidecar = one_of(vec![json!([]), json!([{"name": "heddle-sidecar"}])]);
    let account = one_of(vec![Value::Null, json!("web"), json!("bad name/!"), json!("")]);
    let ports = one_of(vec![json!([]), json!([{"name": "serve", "containerPort": 8080}, {"containerPort": 70000}])]);
    let status = one_of(vec![
        json!({}),
        json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
        json!({"podIP": "10.0.0.2", "phase": "Running"}),
        json!({"podIP": "10.0.0.2", "phase": "Failed"}),
        json!({"podIP": "nonsense"}),
    ]);
    let spec = (sidecar, account, ports, status).prop_map(|(sidecar, account, ports, status)| {
        json!({"spec": {"initContainers": sidecar, "serviceAccountName": account, "containers": [{"name": "app", "ports": ports}]}, "status": status})
    });
    any_object("Pod", "v1", spec)
}

fn endpoint_slice() -> impl Strategy<Value = Object> {
    let ports = vec![
        json!({"name": "http", "port": 8080}),
        json!({"port": 8080}),
        json!({"name": "grpc"}),
        json!({"name": "grpc", "port": 99999}),
        json!({"name": "http", "port": 8080, "protocol": "UDP"}),
    ];
    let endpoints = vec![
        json!({"addresses": ["10.0.0.1"]}),
        json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}, "zone": ""}),
        json!({"addresses": ["10.0.0.1", "10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b", "namespace": "x"}, "zone": "z"}),
        json!({"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod"}}),
        json!({"addresses": ["10.0.0.3"], "targetRef": {"kind": "Node", "name": "n"}}),
        json!({"addresses": ["nonsense", "::", "fd00::1"]}),
        json!({"addresses": []}),
        json!({"addresses": ["10.0.0.4"], "conditions": {"ready": false}}),
        json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}}),
        json!({"addresses": ["10.0.0.5"], "conditions": {"ready": true, "serving": false, "terminating": true}}),
    ];
    let spec = (some_of(ports, 3), some_of(endpoints, 5))
        .prop_map(|(ports, endpoints)| json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints}));
    any_object("EndpointSlice", "discovery.k8s.io/v1", spec)
}

fn parents() -> impl Strategy<Value = Value> {
    some_of(
        vec![
            json!({"group": "", "kind": "Service", "name": "a", "namespace": "x"}),
            json!({"group": "core", "kind": "Service", "name": "a", "namespace": "x", "port": 80}),
            json!({"group": "", "kind": "Service", "name": "a", "port": 5432}),
            json!({"group": "", "kind": "Service", "name": "b", "namespace": "x"}),
            json!({"group": "", "kind": "Service", "name": "b", "sectionName": "grpc"}),
            json!({"group": "", "kind": "Service", "name": "b", "namespace": "x", "sectionName": "http", "port": 81}),
            json!({"group": "", "kind": "Service", "name": "missing"}),
            json!({"group": "", "kind": "Service", "name": "", "port": 0}),
            json!({"name": "gateway"}),
        ],
        3,
    )
}

fn backend_refs() -> Vec<Value> {
    vec![
        json!({"name": "a", "port": 80}),
        json!({"name": "b", "namespace": "x", "port": 81, "weight": 3}),
        json!({"name": "c", "port": 80, "weight": 0}),
        json!({"name": "a", "port": 443, "weight": u32::MAX}),
        json!({"name": "a"}),
        json!({"name": "a", "port": 65535}),
        json!({"name": "a", "port": 0}),
        json!({"name": "missing", "port": 80}),
        json!({"group": "g", "kind": "K", "name": "a", "port": 80}),
    ]
}

fn http_filters() -> Vec<Value> {
    vec![
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "1"}], "remove": ["X-B"]}}),
        json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "bad name", "value": "1"}]}}),
        json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "a", "value": "ä\n"}]}}),
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "a", "port": 80}, "percent": 10}}),
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "missing"}, "fraction": {"numerator": 1, "denominator": 0}}}),
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "missing", "port": 80}}}),
        json!({"type": "RequestRedirect", "requestRedirect": {"port": 0, "hostname": ""}}),
        json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 200, "scheme": "gopher"}}),
        json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}}}),
        json!({"type": "URLRewrite", "urlRewrite": {"hostname": "a b", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/a b"}}}),
        json!({"type": "CORS", "cors": {"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]}}),
        json!({"type": "CORS"}),
        json!({"type": "ExternalAuth"}),
        json!({"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}}),
        json!({"type": "Teleport"}),
    ]
}

fn http_route() -> impl Strategy<Value = Object> {
    let matches = vec![
        json!({}),
        json!({"path": {"type": "Exact", "value": "/a"}, "method": "POST"}),
        json!({"path": {"value": ""}, "method": "BREW"}),
        json!({"path": {"type": "RegularExpression", "value": "/(a|b)+"}}),
        json!({"path": {"type": "RegularExpression", "value": "("}}),
        json!({"path": {"type": "RegularExpression", "value": ""}}),
        json!({"path": {"type": "RegularExpression", "value": "(a{1000}){1000}"}}),
        json!({"path": {"type": "Glob", "value": "*"}}),
        json!({"headers": [{"name": "A", "value": "1"}, {"name": "a", "value": "2"}], "queryParams": [{"name": "", "value": ""}]}),
        json!({"headers": [{"name": "bad name", "value": ""}]}),
    ];
    let timeouts =
        one_of(vec![Value::Null, json!({}), json!({"request": "0s", "backendRequest": "99999h"}), json!({"backendRequest": "1ms"})]);
    let retry = one_of(vec![Value::Null, json!({}), json!({"codes": [503, 500, 503, 65535], "attempts": u32::MAX, "backoff": "99999h"})]);
    let session = one_of(vec![
        Value::Null,
        json!({"absoluteTimeout": "0s", "cookieConfig": {"lifetimeType": "Permanent"}}),
        json!({"type": "Header", "sessionName": "bad name"}),
        json!({"type": "Header"}),
        json!({"absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"}}),
    ]);
    let name = one_of(vec![Value::Null, json!("named"), json!("")]);
    let backends = (some_of(backend_refs(), 3), some_of(http_filters(), 1)).prop_map(|(mut backends, filters)| {
        if let Some(first) = backends.get_mut(0) {
            first["filters"] = filters;
        }
        backends
    });
    let rule = (name, some_of(matches, 1), some_of(http_filters(), 1), backends, timeouts, retry, session).prop_map(
        |(name, matches, filters, backends, timeouts, retry, session)| {
            json!({
                "name": name, "matches": matches, "filters": filters, "backendRefs": backends,
                "timeouts": timeouts, "retry": retry, "sessionPersistence": session,
            })
        },
    );
    let spec = (parents(), prop::collection::vec(rule, 0..4))
        .prop_map(|(parents, rules)| json!({"spec": {"parentRefs": parents, "rules": rules}}));
    any_object("HTTPRoute", "gateway.networking.k8s.io/v1", spec)
}

fn grpc_route() -> impl Strategy<Value = Object> {
    let matches = vec![
        json!({}),
        json!({"method": {"service": "s.S", "method": "M"}}),
        json!({"method": {"service": "", "method": ""}}),
        json!({"method": {"type": "RegularExpression", "service": "(", "method": "M"}}),
        json!({"method": {"type": "RegularExpression", "service": "s.*"}, "headers": [{"name": "A", "value": "1"}]}),
        json!({"method": {"type": "Glob", "service": "s"}}),
    ];
    let filters = vec![
        json!({"type": "RequestHeaderModifier"}),
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["X-B"]}}),
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "a", "port": 80}}}),
        json!({"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}}),
        json!({"type": "URLRewrite"}),
    ];
    let rule = (some_of(matches, 1), some_of(filters, 1), some_of(backend_refs(), 3))
        .prop_map(|(matches, filters, backends)| json!({"matches": matches, "filters": filters, "backendRefs": backends}));
    let spec = (parents(), prop::collection::vec(rule, 0..4))
        .prop_map(|(parents, rules)| json!({"spec": {"parentRefs": parents, "rules": rules}}));
    any_object("GRPCRoute", "gateway.networking.k8s.io/v1", spec)
}

fn targets() -> impl Strategy<Value = Value> {
    some_of(
        vec![
            json!({"kind": "Service", "name": "a"}),
            json!({"kind": "Service", "name": "b", "sectionName": "http"}),
            json!({"kind": "Service", "name": "a", "sectionName": "nowhere"}),
            json!({"kind": "Service", "name": "missing"}),
            json!({"kind": "Namespace", "name": "x"}),
            json!({"group": "g", "kind": "K", "name": "a"}),
        ],
        3,
    )
}

fn traffic_policy() -> impl Strategy<Value = Object> {
    let specs = one_of(vec![
        json!({}),
        json!({"mode": "Shadow", "protocol": "grpc"}),
        json!({"protocol": "tcp", "loadBalancer": {"policy": "Random"}}),
        json!({"protocol": "http", "timeouts": {"connect": "0s", "request": "1s", "backendRequest": "0s", "idle": "99999h"}}),
        json!({"retry": {"attempts": u32::MAX, "codes": [503, 7], "grpcCodes": ["UNAVAILABLE"], "methods": ["POST"], "perTryTimeout": "1ms"}}),
        json!({"retry": {"backoff": {"base": "2s", "max": "1s"}}}),
        json!({"retry": {"backoff": {"base": "99999h"}}, "retryBudget": {"percent": u32::MAX}, "connectionPool": {"http1IdleTimeout": "0s"}}),
    ]);
    let spec = (specs, targets()).prop_map(|(mut spec, targets)| {
        spec["targetRefs"] = targets;
        json!({"spec": spec})
    });
    any_object("TrafficPolicy", "heddle.dev/v1alpha1", spec)
}

fn authentication_policy() -> impl Strategy<Value = Object> {
    let specs = one_of(vec![
        json!({"mtls": {"mode": "Strict"}}),
        json!({"mtls": {"mode": "Permissive"}}),
        json!({"mode": "Shadow", "mtls": {"mode": "Strict"}}),
    ]);
    let spec = (specs, targets()).prop_map(|(mut spec, targets)| {
        spec["targetRefs"] = targets;
        json!({"spec": spec})
    });
    any_object("AuthenticationPolicy", "heddle.dev/v1alpha1", spec)
}

fn mesh_config_object() -> impl Strategy<Value = Object> {
    let name = one_of(vec![json!("default"), json!("other")]);
    let spec = one_of(vec![
        json!({}),
        json!({"trustDomain": "NOT A DOMAIN", "tracing": {"samplingPercent": -7.0}}),
        json!({"trustDomain": "mesh.test", "mtls": {"mode": "Strict"}, "tracing": {"samplingPercent": 1e300, "otlpEndpoint": ""}}),
    ]);
    (name, spec).prop_map(|(name, spec)| {
        object("MeshConfig", json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": name}, "spec": spec}))
    })
}

/// Two Services in namespace `x` that work, with their endpoints: what the nonsense is attached to.
fn sound() -> Vec<Object> {
    let service = |name: &str, ip: &str| {
        let ports = json!([
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "grpc", "port": 81, "appProtocol": "grpc"},
            {"name": "whatever", "port": 5432},
            {"name": "tls", "port": 443},
        ]);
        let spec = json!({"clusterIP": ip, "selector": {"app": name}, "ports": ports});
        object("Service", json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "x"}, "spec": spec}))
    };
    let slice = |name: &str, ready: bool| {
        let endpoint = json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": name}, "conditions": {"ready": ready, "serving": true, "terminating": !ready}});
        object(
            "EndpointSlice",
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("{name}-{ready}"), "namespace": "x", "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "http", "port": 8080}, {"name": "grpc", "port": 81}], "endpoints": [endpoint],
            }),
        )
    };
    let pod = object(
        "Pod",
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "x", "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "heddle-sidecar"}]}, "status": {"podIP": "10.0.0.1"},
        }),
    );
    vec![service("a", "10.96.0.1"), service("b", "10.96.0.2"), slice("a", true), slice("a", false), slice("b", true), pod]
}

/// Objects with different names, each kind often enough to meet the others.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let any = prop_oneof![
        1 => service(),
        2 => pod(),
        3 => endpoint_slice(),
        6 => http_route(),
        3 => grpc_route(),
        4 => traffic_policy(),
        2 => authentication_policy(),
        1 => mesh_config_object(),
    ];
    (prop::bool::weighted(0.8), prop::collection::vec(any, 0..20)).prop_map(|(is_sound, objects)| {
        let base = if is_sound { sound() } else { Vec::new() };
        let by_name: BTreeMap<_, _> = base.into_iter().chain(objects).map(|object| (object.id(), object)).collect();
        by_name.into_values().collect()
    })
}

// --- Answers ---------------------------------------------------------------------------------------------------------------

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
    let names = ["a", "b.x", "c.y.svc", "b.x.svc.cluster.local", "A.", "", ".", "a.b.c", "missing", "a b", "ä"];
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
    for client in ["x", "y", ""] {
        for target in all_targets() {
            let policy = outbound(snapshot, client, &target);
            backends.extend(policy.iter().flat_map(|p| p.backends.iter().map(|b| b.service.clone())));
            outbound_answers.push((target, policy));
        }
    }
    backends.extend(
        ["x/a:80", "x/a:81", "x/b:80", "y/a:80", "x/pod:a:0", "x/pod:a@fd00::1:8080", "x/pod:@:80", "y/missing:80"]
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
                let meshed = pods.peek().is_some() && pods.all(|(_, pod)| endpoint::is_meshed(pod));
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

// --- Single rules ----------------------------------------------------------------------------------------------------------

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
