//! Manifests as people write them: read without a word, with the right values, and the same after a round trip.

use heddle_crds::{
    Object,
    gateway::{GrpcRouteFilterType, HttpRouteFilterType, PathMatchType, RedirectScheme, ValueMatchType},
    heddle::{DeclaredProtocol, EgressDefault, GrpcCode, LoadBalancerPolicy, Mode, MtlsMode},
};

use crate::{check, in_force, read};

const FIXTURES: &[(&str, &str)] = &[
    ("core.yaml", include_str!("fixtures/core.yaml")),
    ("http_route.yaml", include_str!("fixtures/http_route.yaml")),
    ("grpc_route.yaml", include_str!("fixtures/grpc_route.yaml")),
    ("stream_route.yaml", include_str!("fixtures/stream_route.yaml")),
    ("heddle.yaml", include_str!("fixtures/heddle.yaml")),
    ("local_workload.yaml", include_str!("fixtures/local_workload.yaml")),
];

fn fixture(name: &str) -> Vec<Object> {
    let (_, text) = FIXTURES.iter().find(|(file, _)| *file == name).unwrap();
    check(text, &[]).objects.into_iter().map(|located| located.object).collect()
}

#[test]
fn every_object_is_the_same_after_a_round_trip() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, _) in FIXTURES {
        for object in fixture(name) {
            kinds.insert(object.kind());
            let json = serde_json::to_string(&object).unwrap();
            let yaml = serde_saphyr::to_string(&object).unwrap();
            for text in [json, yaml] {
                let again = check(&text, &[]);
                assert_eq!(again.objects.len(), 1, "{text}");
                assert_eq!(again.objects[0].object, object, "{text}");
            }
        }
    }
    // Every variant of Object is in some fixture.
    assert_eq!(kinds.len(), 14, "{kinds:?}");
}

#[test]
fn serde_json_reads_what_this_reader_reads() {
    for object in fixture("http_route.yaml") {
        let Object::HttpRoute(route) = object else { continue };
        let value = serde_json::to_value(&route).unwrap();
        assert_eq!(serde_json::from_value::<heddle_crds::gateway::HttpRoute>(value).unwrap(), *route);
    }
}

#[test]
fn the_defaults_of_the_api_server_are_filled_in() {
    let manifests = check(
        "apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{name: g}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, creationTimestamp: }
spec:
  rules:
  - matches:
    - headers: [{name: x, value: z}]
      path:
    filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https}}
  - backendRefs: [{name: c, port: 80}]
",
        &[],
    );
    let Object::HttpRoute(a) = &manifests.objects[0].object else { panic!() };
    assert_eq!(a.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(a.metadata.creation_timestamp, None);
    assert_eq!((a.spec.parent_refs[0].group.as_str(), a.spec.parent_refs[0].kind.as_str()), ("gateway.networking.k8s.io", "Gateway"));
    assert!(!a.spec.parent_refs[0].is_service());
    assert_eq!(a.spec.rules.len(), 1);
    assert_eq!(a.spec.rules[0].matches[0].path.match_type, PathMatchType::PathPrefix);
    assert_eq!(a.spec.rules[0].matches[0].path.value, "/");
    let Object::HttpRoute(b) = &manifests.objects[1].object else { panic!() };
    assert_eq!(b.spec.rules[0].matches[0].path.value, "/");
    assert_eq!(b.spec.rules[0].matches[0].headers[0].match_type, ValueMatchType::Exact);
    assert_eq!(b.spec.rules[0].filters[0].request_redirect.as_ref().unwrap().status_code, 302);
    let backend = &b.spec.rules[1].backend_refs[0];
    assert_eq!((backend.group.as_str(), backend.kind.as_str(), backend.weight), ("", "Service", 1));
    assert_eq!(b.spec.rules[1].matches.len(), 1);
}

#[test]
fn an_http_route_has_all_its_fields() {
    let Object::HttpRoute(route) = fixture("http_route.yaml").remove(0) else { panic!() };
    assert!(route.spec.parent_refs[0].is_service());
    let rule = &route.spec.rules[0];
    assert_eq!(rule.name.as_deref(), Some("beta-testers"));
    assert_eq!(rule.matches[0].path.match_type, PathMatchType::RegularExpression);
    assert_eq!(rule.backend_refs[1].filters[0].filter_type, HttpRouteFilterType::RequestHeaderModifier);
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((retry.codes.as_slice(), retry.attempts), ([502, 503].as_slice(), Some(2)));
    assert_eq!(retry.backoff.unwrap().get().as_millis(), 250);
    assert_eq!(rule.session_persistence.as_ref().unwrap().session_name.as_deref(), Some("shop"));
    let types: Vec<&str> = route.spec.rules.iter().flat_map(|rule| &rule.filters).map(|filter| filter.filter_type.as_str()).collect();
    assert_eq!(
        types,
        [
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestMirror",
            "URLRewrite",
            "CORS",
            "ExternalAuth",
            "ExtensionRef",
            "RequestRedirect"
        ]
    );
    let redirect = route.spec.rules[1].filters[0].request_redirect.as_ref().unwrap();
    assert_eq!((redirect.scheme.as_ref(), redirect.port, redirect.status_code), (Some(&RedirectScheme::Https), Some(8443), 308));
}

#[test]
fn a_grpc_route_has_all_its_fields() {
    let Object::GrpcRoute(route) = fixture("grpc_route.yaml").remove(0) else { panic!() };
    let rule = &route.spec.rules[0];
    assert_eq!(rule.matches[0].method.as_ref().unwrap().service.as_deref(), Some("shop.v1.Reviews"));
    assert_eq!(rule.filters[1].filter_type, GrpcRouteFilterType::RequestMirror);
    assert_eq!(rule.backend_refs[0].weight, 90);
}

#[test]
fn our_own_kinds_have_all_their_fields() {
    let objects = fixture("heddle.yaml");
    let Object::TrafficPolicy(policy) = &objects[0] else { panic!() };
    let spec = &policy.spec;
    assert_eq!(spec.mode, Mode::Shadow);
    assert_eq!(spec.target_refs[0].section_name.as_deref(), Some("http"));
    assert_eq!(spec.load_balancer.unwrap().policy, LoadBalancerPolicy::LeastConnection);
    assert_eq!(spec.timeouts.unwrap().idle.unwrap().get().as_secs(), 3600);
    let retry = spec.retry.as_ref().unwrap();
    assert_eq!(retry.grpc_codes, [GrpcCode::Unavailable]);
    assert_eq!(retry.grpc_codes[0].number(), 14);
    assert_eq!(retry.methods, ["POST"]);
    assert_eq!(spec.retry_budget.unwrap().percent, Some(20));
    assert_eq!(spec.connection_pool.unwrap().http1_idle_timeout.unwrap().get().as_secs(), 2);
    assert_eq!(spec.protocol, Some(DeclaredProtocol::Grpc));
    assert_eq!(spec.header_limit, Some(65536));
    let Object::AuthenticationPolicy(policy) = &objects[1] else { panic!() };
    assert_eq!(policy.spec.mtls.mode, MtlsMode::Strict);
    let Object::MeshConfig(config) = &objects[2] else { panic!() };
    assert_eq!(config.metadata.namespace, None);
    assert_eq!(config.spec.trust_domain, "example.org");
    assert_eq!(config.spec.egress.default, EgressDefault::Deny);
    assert!(config.spec.access_log.enabled);
    assert_eq!(config.spec.tracing.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
}

#[test]
fn a_mesh_config_without_words_has_the_defaults() {
    for spec in ["{}", "{tracing: {}, mtls: {}, egress: {}, accessLog: {}}"] {
        let text = format!("apiVersion: heddle.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {spec}\n");
        let Object::MeshConfig(config) = check(&text, &[]).objects.remove(0).object else { panic!() };
        assert_eq!(config.spec, heddle_crds::heddle::MeshConfigSpec::default());
        assert_eq!(config.spec.trust_domain, "cluster.local");
        assert_eq!(config.spec.certificate_lifetime.to_string(), "24h");
        assert!((config.spec.tracing.sampling_percent - 1.0).abs() < f64::EPSILON);
    }
}

#[test]
fn local_workloads_say_where_everything_is() {
    let objects = fixture("local_workload.yaml");
    let workloads: Vec<_> = objects
        .iter()
        .map(|object| {
            let Object::LocalWorkload(workload) = object else { panic!() };
            workload
        })
        .collect();
    let [started, fixed, foreign, client] = workloads.as_slice() else { panic!() };

    assert_eq!(started.spec.own_address(), None);
    assert_eq!(started.spec.port_variable(&started.spec.ports[0]), "PORT_HTTP_WEB");
    assert_eq!(started.spec.port_variable(&started.spec.ports[1]), "ADMIN");
    assert_eq!(started.spec.upstreams[0].service_and_namespace("shop"), ("ratings", "shop"));
    assert_eq!(started.spec.upstreams[0].variable(), "RATINGS_ADDR");
    assert_eq!(started.spec.upstreams[1].service_and_namespace("shop"), ("order-db", "data"));
    assert_eq!(started.spec.upstreams[1].variable(), "ORDER_DB_ADDR");
    assert_eq!(started.spec.upstreams[2].variable(), "CACHE");

    assert_eq!(fixed.spec.own_address().unwrap().to_string(), "127.0.0.2");
    assert_eq!(fixed.spec.port_variable(&fixed.spec.ports[0]), "PORT");
    assert_eq!(foreign.spec.own_address().unwrap().to_string(), "127.0.0.1");
    assert_eq!(foreign.spec.service_account_name, "default");
    assert_eq!(foreign.spec.ports[0].listen.unwrap().to_string(), "127.0.0.1:19080");
    assert_eq!(client.spec.upstreams[0].listen.unwrap().get().port(), 9001);
    assert_eq!(client.spec.sidecar.as_ref().unwrap().admin.unwrap().to_string(), "[::1]:15020");
}

#[test]
fn a_status_in_a_file_is_an_old_copy() {
    let text = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: b, resourceVersion: '7', uid: x, generation: 3, creationTimestamp: '2026-01-02T03:04:05Z'}
spec: {}
status:
  parents:
  - controllerName: example.com/gateway
    parentRef: {name: a}
    conditions:
    - {type: Accepted, status: 'True', reason: Accepted, message: '', lastTransitionTime: '2026-01-02T03:04:05Z'}
";
    let manifests = check(text, &[]);
    let Object::HttpRoute(route) = &manifests.objects[0].object else { panic!() };
    assert_eq!(route.status, None);
    assert!(route.metadata.creation_timestamp.is_some());
    assert_eq!(in_force(&manifests), ["HTTPRoute/b/a"]);
}

#[test]
fn pods_with_numbers_for_quantities_and_either_form_of_ports_are_read() {
    let manifests = read(
        "apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: main
    resources: {limits: {cpu: 1, memory: 1.5Gi}, requests: {cpu: 0.5}}
    livenessProbe: {httpGet: {path: /, port: http}}
    readinessProbe: {httpGet: {path: /, port: 8080}}
    env: [{name: A, value: '1'}]
",
    );
    assert_eq!(crate::problems(&manifests), Vec::<String>::new());
}
