//! Arbitrary objects from a small vocabulary, so that they meet: what works, and nonsense in every field.

use std::collections::BTreeMap;

use heddle_crds::Object;
use proptest::prelude::*;
use serde_json::{Value, json};

/// An object of a kind from its JSON, past the checks of the reader of manifests.
pub(super) fn object(kind: &str, json: Value) -> Object {
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
        json!({"port": 80, "nodePort": 30080}),
        json!({"name": "grpc", "port": 81, "appProtocol": "grpc", "targetPort": 0, "nodePort": 0}),
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
            json!({"clusterIP": "10.0.0.1", "internalTrafficPolicy": "Local"}),
            json!({"clusterIP": "fd00::a", "ipFamilies": ["IPv6", "IPv4", "?"], "trafficDistribution": "PreferClose"}),
            json!({"clusterIP": "10.96.0.1", "externalIPs": ["203.0.113.1", "10.0.0.2", "?"], "publishNotReadyAddresses": true}),
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
    let network = one_of(vec![
        json!({}),
        json!({"nodeName": "n1", "hostname": "a", "subdomain": "a"}),
        json!({"hostNetwork": true, "nodeName": "n2"}),
    ]);
    let started = |started: bool| json!([{"name": "heddle-sidecar", "started": started, "ready": false, "restartCount": 0, "image": "", "imageID": ""}]);
    let status = one_of(vec![
        json!({}),
        json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "initContainerStatuses": started(false)}),
        json!({"podIP": "10.0.0.2", "phase": "Running", "hostIP": "10.0.0.9", "initContainerStatuses": started(true)}),
        json!({"podIP": "10.0.0.2", "phase": "Failed"}),
        json!({"podIP": "nonsense"}),
    ]);
    let spec = (sidecar, account, ports, network, status).prop_map(|(sidecar, account, ports, mut spec, status)| {
        spec["initContainers"] = sidecar;
        spec["serviceAccountName"] = account;
        spec["containers"] = json!([{"name": "app", "ports": ports}]);
        json!({"spec": spec, "status": status})
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
        json!({"addresses": ["10.0.0.3"], "targetRef": {"kind": "Node", "name": "n"}, "nodeName": "n1", "zone": "z"}),
        json!({"addresses": ["10.0.0.6"], "nodeName": "n2", "zone": "y", "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n1"}]}}),
        json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a", "uid": "earlier"}}),
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
pub(super) fn objects() -> impl Strategy<Value = Vec<Object>> {
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
