//! The exact words for mistakes of form, type and name, with their places.

use crate::{check, check_rule, in_force, route};

#[test]
fn a_wrong_type_names_what_was_expected_and_found() {
    for (rule, expected) in [
        ("backendRefs: [{name: a, port: 80, weight: ninety}]", "6:47 .backendRefs[0].weight: expected an integer, found \"ninety\""),
        ("backendRefs: [{name: a, port: 80, weight: '90'}]", "6:47 .backendRefs[0].weight: expected an integer, found \"90\""),
        ("backendRefs: [{name: a, port: 80, weight: 1.5}]", "6:47 .backendRefs[0].weight: expected an integer, found 1.5"),
        (
            "backendRefs: [{name: a, port: 80, weight: -1}]",
            "6:47 .backendRefs[0].weight: expected an integer from 0 to 4294967295, found -1",
        ),
        ("backendRefs: [{name: a, port: [80]}]", "6:35 .backendRefs[0].port: expected an integer, found a list"),
        ("backendRefs: [{name: a, port: 70000}]", "6:35 .backendRefs[0].port: expected an integer from 0 to 65535, found 70000"),
        ("backendRefs: {name: a}", "6:18 .backendRefs: expected a list, found a mapping"),
        ("backendRefs: [a]", "6:19 .backendRefs[0]: expected a mapping, found \"a\""),
        (
            "matches: [{headers: [{name: x, value: 90}]}]",
            "6:43 .matches[0].headers[0].value: expected a string, found 90: put it in quotes",
        ),
        (
            "matches: [{headers: [{name: x, value: yes}]}]",
            "6:43 .matches[0].headers[0].value: expected a string, found yes: put it in quotes",
        ),
        (
            "matches: [{headers: [{name: x, value: 1.0}]}]",
            "6:43 .matches[0].headers[0].value: expected a string, found 1.0: put it in quotes",
        ),
        ("timeouts: {request: 10}", "6:25 .timeouts.request: expected a string, found 10: put it in quotes"),
        ("timeouts: {request: 10seconds}", "6:25 .timeouts.request: expected a duration such as 10s, 1h30m or 250ms, found \"10seconds\""),
        (
            "filters: [{type: CORS, cors: {allowCredentials: on}}]",
            "6:53 .filters[0].cors.allowCredentials: expected true or false, found on",
        ),
    ] {
        check_rule(rule, &[expected]);
    }
}

#[test]
fn a_missing_field_is_named_at_the_mapping_that_lacks_it() {
    check_rule("backendRefs: [{port: 80}]", &["6:19 .backendRefs[0].name: is required, but missing"]);
    check_rule("backendRefs: [{name: , port: 80}]", &["6:19 .backendRefs[0].name: is required, but missing"]);
    check(
        "apiVersion: heddle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\n",
        &["m.yaml:1:1: TrafficPolicy/default/a: spec: is required, but missing"],
    );
}

#[test]
fn all_mistakes_of_an_object_are_named_at_once() {
    let text = route(
        "backendRefs:
    - {name: a, port: eighty}
    - {port: 80, weight: ninety}
    timeouts:
      request: soon
    matches:
    - path: {value: 7}
",
    );
    let manifests = check(
        &text,
        &[
            "m.yaml:7:23: HTTPRoute/default/reviews: spec.rules[0].backendRefs[0].port: expected an integer, found \"eighty\"",
            "m.yaml:8:7: HTTPRoute/default/reviews: spec.rules[0].backendRefs[1].name: is required, but missing",
            "m.yaml:8:26: HTTPRoute/default/reviews: spec.rules[0].backendRefs[1].weight: expected an integer, found \"ninety\"",
            "m.yaml:10:16: HTTPRoute/default/reviews: spec.rules[0].timeouts.request: expected a duration such as 10s, 1h30m or 250ms, found \"soon\"",
            "m.yaml:12:21: HTTPRoute/default/reviews: spec.rules[0].matches[0].path.value: expected a string, found 7: put it in quotes",
        ],
    );
    assert!(manifests.objects.is_empty());
}

#[test]
fn an_unknown_field_is_a_warning_with_the_word_that_was_meant() {
    for (rule, expected) in [
        (
            "backendRefs: [{name: a, port: 80, weigth: 90}]",
            "m.yaml:6:39: warning: HTTPRoute/default/reviews: spec.rules[0].backendRefs[0].weigth: unknown field, did you mean \"weight\"?; it has no effect",
        ),
        (
            "backendRef: [{name: a, port: 80}]",
            "m.yaml:6:5: warning: HTTPRoute/default/reviews: spec.rules[0].backendRef: unknown field, did you mean \"backendRefs\"?; it has no effect",
        ),
        (
            "backendRefs: [{name: a, port: 80, colour: red}]",
            "m.yaml:6:39: warning: HTTPRoute/default/reviews: spec.rules[0].backendRefs[0].colour: unknown field; it has no effect",
        ),
    ] {
        let manifests = check(&route(rule), &[expected]);
        assert_eq!(in_force(&manifests), ["HTTPRoute/default/reviews"]);
    }
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - {port: 80, targetport: 8080}\n  extra: 1\nstat: {}\n";
    check(
        service,
        &[
            "m.yaml:6:16: warning: Service/default/a: spec.ports[0].targetport: unknown field, did you mean \"targetPort\"?; it has no effect",
            "m.yaml:7:3: warning: Service/default/a: spec.extra: unknown field; it has no effect",
            "m.yaml:8:1: warning: Service/default/a: stat: unknown field, did you mean \"status\"?; it has no effect",
        ],
    );
}

#[test]
fn an_unknown_value_of_the_gateway_api_is_a_warning_and_kept() {
    let manifests = check(
        &route("matches: [{path: {type: Prefix, value: /a}, method: FETCH}]"),
        &[
            "m.yaml:6:29: warning: HTTPRoute/default/reviews: spec.rules[0].matches[0].path.type: unknown value \"Prefix\" (known: Exact, PathPrefix, RegularExpression)",
            "m.yaml:6:57: warning: HTTPRoute/default/reviews: spec.rules[0].matches[0].method: unknown value \"FETCH\" (known: GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH, *)",
        ],
    );
    let heddle_crds::Object::HttpRoute(route) = &manifests.objects[0].object else { panic!() };
    let matched = &route.spec.rules[0].matches[0];
    assert_eq!(matched.path.match_type.as_str(), "Prefix");
    assert_eq!(matched.method, Some(heddle_crds::gateway::HttpMethod::Unknown("FETCH".to_owned())));
}

#[test]
fn an_unknown_value_of_our_own_kinds_is_an_error_with_the_known_ones() {
    let text = "apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a}
spec:
  targetRefs: [{kind: Service, name: a}]
  loadBalancer:
    policy: LeastRequests
  retry: {grpcCodes: [UNAVAILABLE, Aborted]}
";
    check(
        text,
        &[
            "m.yaml:7:13: TrafficPolicy/default/a: spec.loadBalancer.policy: expected one of LeastRequest, LeastConnection, RoundRobin, Random, found \"LeastRequests\", did you mean \"LeastRequest\"?",
            "m.yaml:8:36: TrafficPolicy/default/a: spec.retry.grpcCodes[1]: expected one of CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED, found \"Aborted\", did you mean \"ABORTED\"?",
        ],
    );
}

#[test]
fn a_syntax_error_costs_its_document_only() {
    let text = "apiVersion: v1
kind: Service
metadata: {name: first}
---
apiVersion: v1
kind: Service
metadata: {name: broken
---
apiVersion: v1
kind: Service
metadata: {name: third, labels: {a: 'b}}
---
# a comment
apiVersion: v1
kind: Service
metadata: {name: last}
";
    let manifests = check(text, &["m.yaml:7:11: not valid YAML: unclosed bracket '{'", "m.yaml:11:37: not valid YAML: unclosed quote"]);
    assert_eq!(in_force(&manifests), ["Service/default/first", "Service/default/last"]);
}

#[test]
fn a_key_that_is_there_twice_is_an_error() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels: {x: '1', x: '2'}\n  name: b\n";
    let manifests = check(
        text,
        &[
            "m.yaml:5:20: Service/default/a: the key \"x\" is there already, in line 5",
            "m.yaml:6:3: Service/default/a: the key \"name\" is there already, in line 4",
        ],
    );
    assert!(manifests.objects.is_empty());
}

#[test]
fn of_two_objects_with_one_name_the_first_is_in_force() {
    let text = "apiVersion: v1
kind: Service
metadata: {name: a, labels: {which: first}}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default, labels: {which: second}}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: other}
";
    let manifests = check(text, &["m.yaml:5:1: Service/default/a: is there already, in m.yaml:1:1; this one is not in force"]);
    assert_eq!(in_force(&manifests), ["Service/default/a", "Service/other/a"]);
    let labels = manifests.objects[0].object.meta().labels.clone().unwrap();
    assert_eq!(labels["which"], "first");
}

#[test]
fn names_are_checked() {
    for (metadata, expected) in [
        ("{}", &["m.yaml:3:1: metadata.name: is required, but missing"] as &[&str]),
        ("", &["m.yaml:3:1: metadata: is required, but missing"]),
        ("{generateName: a-}", &["m.yaml:3:1: metadata.name: is required: names are generated in a cluster only"]),
        ("{name: 7}", &["m.yaml:3:18: metadata.name: expected a string, found 7: put it in quotes"]),
        (
            "{name: My_Service}",
            &[
                "m.yaml:3:18: Service/default/My_Service: metadata.name: \"My_Service\" is not a valid name: 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit (RFC 1123)",
            ],
        ),
        (
            "{name: a, namespace: b.c}",
            &[
                "m.yaml:3:32: Service/b.c/a: metadata.namespace: \"b.c\" is not a valid name: 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit (RFC 1123)",
            ],
        ),
    ] {
        check(&format!("apiVersion: v1\nkind: Service\nmetadata: {metadata}\n"), expected);
    }
}

#[test]
fn a_wrong_version_or_kind_is_named_with_the_right_one() {
    for (api_version, kind, expected) in [
        (
            "gateway.networking.k8s.io/v1alpha2",
            "HTTPRoute",
            "m.yaml:1:13: HTTPRoute/default/a: apiVersion: HTTPRoute is read in version \"gateway.networking.k8s.io/v1\", not \"gateway.networking.k8s.io/v1alpha2\"",
        ),
        (
            "v1",
            "HTTPRoute",
            "m.yaml:1:13: HTTPRoute/default/a: apiVersion: HTTPRoute is read in version \"gateway.networking.k8s.io/v1\", not \"v1\"",
        ),
        (
            "gateway.network.k8s.io/v1",
            "HTTPRoute",
            "m.yaml:1:13: HTTPRoute/default/a: apiVersion: HTTPRoute is read in version \"gateway.networking.k8s.io/v1\", not \"gateway.network.k8s.io/v1\"",
        ),
        ("apps/v1", "Service", "m.yaml:1:13: Service/default/a: apiVersion: Service is read in version \"v1\", not \"apps/v1\""),
        (
            "heddle.dev/v1",
            "TrafficPolicy",
            "m.yaml:1:13: TrafficPolicy/default/a: apiVersion: TrafficPolicy is read in version \"heddle.dev/v1alpha1\", not \"heddle.dev/v1\"",
        ),
        (
            "heddle.dev/v1alpha1",
            "TraficPolicy",
            "m.yaml:2:7: TraficPolicy/a: kind: unknown kind \"TraficPolicy\" of group \"heddle.dev\", did you mean \"TrafficPolicy\"?",
        ),
        (
            "gateway.networking.k8s.io/v1",
            "HttpRoutes",
            "m.yaml:2:7: HttpRoutes/a: kind: unknown kind \"HttpRoutes\" of group \"gateway.networking.k8s.io\", did you mean \"HTTPRoute\"?",
        ),
        ("v1", "Sevice", "m.yaml:2:7: Sevice/a: kind: unknown kind \"Sevice\", did you mean \"Service\"?"),
        ("gateway.networking.k8s.io/v1", "Gateway", "m.yaml:1:1: note: Gateway/a: a mesh has no use for this kind; it is skipped"),
        (
            "policy.linkerd.io/v1beta3",
            "HTTPRoute",
            "m.yaml:1:1: note: HTTPRoute/default/a: kind HTTPRoute of \"policy.linkerd.io/v1beta3\" is not one that Heddle reads; it is skipped",
        ),
        (
            "networking.istio.io/v1",
            "VirtualService",
            "m.yaml:1:1: note: VirtualService/a: kind VirtualService of \"networking.istio.io/v1\" is not one that Heddle reads; it is skipped",
        ),
    ] {
        let manifests = check(&format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n"), &[expected]);
        assert!(manifests.objects.is_empty());
    }
}

#[test]
fn ordinary_kubernetes_objects_are_skipped_without_a_word() {
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("v1", "Node"),
        ("v1", "Endpoints"),
        ("batch/v1", "Job"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ] {
        let manifests = check(&format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\nwhat: [ever]\n"), &[]);
        assert!(manifests.objects.is_empty());
    }
}

#[test]
fn a_document_that_is_no_object_is_named() {
    for (text, expected) in [
        ("- a\n- b\n", "m.yaml:1:1: expected an object (a mapping with apiVersion, kind and metadata)"),
        ("hello\n", "m.yaml:1:1: expected an object (a mapping with apiVersion, kind and metadata)"),
        ("services: {web: {}}\n", "m.yaml:1:1: warning: is not a Kubernetes object: it has neither apiVersion nor kind; it is skipped"),
        ("kind: Service\n", "m.yaml:1:1: apiVersion: is required, but missing"),
        ("apiVersion: v1\n", "m.yaml:1:1: kind: is required, but missing"),
        ("apiVersion: 1\nkind: Service\n", "m.yaml:1:13: apiVersion: expected a string"),
        ("[a]: b\n", "m.yaml:1:1: the key of a mapping has to be a text"),
        ("apiVersion: v1\nkind: List\nitems: 7\n", "m.yaml:3:8: items: expected a list"),
    ] {
        check(text, &[expected]);
    }
    for empty in ["", "\n", "# nothing\n", "---\n---\n", "---\n# a\n...\n", "\u{feff}\n", "null\n"] {
        assert!(check(empty, &[]).objects.is_empty());
    }
}

#[test]
fn a_syntax_error_names_the_object_when_its_metadata_came_before() {
    let route = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  namespace: shop\n{spec}");
    check(&route("spec:\n  ports: [\n"), &["m.yaml:7:10: Service/shop/a: not valid YAML: unclosed bracket '['"]);
    check(&route("spec:\n  a: b: c\n"), &["m.yaml:7:7: Service/shop/a: not valid YAML: mapping values are not allowed in this context"]);
    // The namespace is in the line of the error: this may be any object.
    check("kind: Service\nmetadata:\n  name: a\n  namespace: [\n", &["m.yaml:4:14: not valid YAML: unclosed bracket '['"]);
}
