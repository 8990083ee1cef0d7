//! The exact words for values that have the right type and cannot be meant, with their places.

use crate::{check, check_rule};

#[test]
fn limits_of_the_schema_hold_in_files_too() {
    for (rule, expected) in [
        ("backendRefs: [{name: a, port: 80, weight: 2000000}]", "6:47 .backendRefs[0].weight: must be at most 1000000, found 2000000"),
        ("backendRefs: [{name: a, port: 0}]", "6:35 .backendRefs[0].port: must be at least 1, found 0"),
        ("name: Main", "6:11 .name: expected a name of lower-case letters, digits, '-' and '.', found \"Main\""),
        ("matches: [{headers: [{name: 'a b', value: x}]}]", "6:33 .matches[0].headers[0].name: expected a header name, found \"a b\""),
        ("matches: [{headers: [{name: a, value: ''}]}]", "6:43 .matches[0].headers[0].value: must not be empty"),
        ("retry: {codes: [200]}", "6:21 .retry.codes[0]: must be at least 400, found 200"),
        (
            "matches: [{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}]",
            "6:5 .matches: must have at most 64 items, found 65",
        ),
    ] {
        check_rule(rule, &[expected]);
    }
}

#[test]
fn rules_between_fields_of_a_route_hold_in_files_too() {
    for (rule, expected) in [
        ("backendRefs: [{name: a}]", "6:19 .backendRefs[0]: a reference to a Service needs a port, none for \"a\""),
        ("matches: [{path: {value: abc}}]", "6:30 .matches[0].path.value: must start with '/', found \"abc\""),
        ("matches: [{path: {value: /a//b}}]", "6:30 .matches[0].path.value: must not contain \"//\", found \"/a//b\""),
        ("matches: [{path: {value: /a/..}}]", "6:30 .matches[0].path.value: must not end with \"/..\", found \"/a/..\""),
        ("matches: [{path: {value: /ä}}]", "6:30 .matches[0].path.value: 'ä' has to be percent-encoded in a path, found \"/ä\""),
        ("matches: [{method: '*'}]", "6:24 .matches[0].method: leave it out to match every method"),
        ("timeouts: {request: 1s, backendRequest: 2s}", "6:45 .timeouts.backendRequest: must not be longer than request, which is 1s"),
        ("filters: [{type: RequestMirror}]", "6:15 .filters[0]: a RequestMirror filter needs the field \"requestMirror\""),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}, cors: {}}]",
            "6:82 .filters[0].cors: belongs to a filter of type CORS, but the type is ExtensionRef",
        ),
        ("filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]", "6:39 .filters[1]: there is another CORS filter; one is allowed"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]",
            "6:5 .filters: RequestRedirect and URLRewrite cannot be used together",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]\n    matches: [{path: {type: Exact, value: /a}}]",
            "6:100 .filters[0].urlRewrite.path.replacePrefixMatch: needs exactly one match in its rule, of type PathPrefix",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 5, fraction: {numerator: 1}}}]",
            "6:98 .filters[0].requestMirror.fraction: percent and fraction cannot be used together",
        ),
        (
            "filters: [{type: CORS, cors: {allowOrigins: ['*', 'https://a.example']}}]",
            "6:35 .filters[0].cors.allowOrigins: '*' has to stand alone",
        ),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "6:5 .sessionPersistence: a permanent cookie needs an absoluteTimeout",
        ),
    ] {
        check_rule(rule, &[expected]);
    }
    check(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs:
  - {group: '', kind: Service, name: a}
  - {group: '', kind: Service, name: a, port: 80}
  - {group: '', kind: Service, name: a}
  rules: [{name: x}, {name: x}]
",
        &[
            "m.yaml:7:5: HTTPRoute/default/a: spec.parentRefs[1]: Service \"a\" is named twice: each time has to say port or sectionName",
            "m.yaml:8:5: HTTPRoute/default/a: spec.parentRefs[2]: Service \"a\" is named twice",
            "m.yaml:9:29: HTTPRoute/default/a: spec.rules[1].name: \"x\" is the name of another rule too",
        ],
    );
}

#[test]
fn rules_between_fields_of_a_grpc_route_hold_in_files_too() {
    check(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: a}
spec:
  rules:
  - matches:
    - method: {}
    - method: {service: shop.Reviews, method: Get-All}
    - method: {service: 'shop..Reviews'}
    - method: {type: RegularExpression, service: 'shop[.].*'}
    backendRefs: [{name: b}]
",
        &[
            "m.yaml:7:7: GRPCRoute/default/a: spec.rules[0].matches[0].method: needs a service, a method, or both",
            "m.yaml:8:47: GRPCRoute/default/a: spec.rules[0].matches[1].method.method: expected the name of a gRPC method, found \"Get-All\"",
            "m.yaml:9:25: GRPCRoute/default/a: spec.rules[0].matches[2].method.service: expected the full name of a gRPC service, found \"shop..Reviews\"",
            "m.yaml:11:19: GRPCRoute/default/a: spec.rules[0].backendRefs[0]: a reference to a Service needs a port, none for \"b\"",
        ],
    );
}

#[test]
fn rules_between_fields_of_our_own_kinds() {
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a}
spec:
  targetRefs:
  - {kind: Deployment, group: apps, name: a}
  - {kind: Service, name: a}
  - {kind: Service, name: a}
  timeouts: {request: 1s, backendRequest: 1500ms}
  retry: {attempts: 11, backoff: {base: 2s, max: 1s}, methods: [post]}
  retryBudget: {percent: 120, interval: 0s}
",
        &[
            "m.yaml:6:12: TrafficPolicy/default/a: spec.targetRefs[0].kind: the target has to be a Service of the core group (\"\"), found Deployment of group \"apps\"",
            "m.yaml:8:5: TrafficPolicy/default/a: spec.targetRefs[2]: is named twice",
            "m.yaml:9:43: TrafficPolicy/default/a: spec.timeouts.backendRequest: must not be longer than request, which is 1s",
            "m.yaml:10:21: TrafficPolicy/default/a: spec.retry.attempts: must be at most 10, found 11",
            "m.yaml:10:41: TrafficPolicy/default/a: spec.retry.backoff.base: must not be longer than max, which is 1s",
            "m.yaml:10:65: TrafficPolicy/default/a: spec.retry.methods[0]: expected a method in capital letters, such as POST, found \"post\"",
            "m.yaml:11:26: TrafficPolicy/default/a: spec.retryBudget.percent: must be at most 100, found 120",
            "m.yaml:11:41: TrafficPolicy/default/a: spec.retryBudget.interval: must be above 0s and at most 10m, found 0s",
        ],
    );
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: MeshConfig
metadata: {name: mine}
spec: {certificateLifetime: 0s, trustDomain: Example.org, tracing: {otlpEndpoint: 'localhost:4317', samplingPercent: 101}}
",
        &[
            "m.yaml:3:18: MeshConfig/mine: metadata.name: there is one MeshConfig, and its name is \"default\", found \"mine\"",
            "m.yaml:4:29: MeshConfig/mine: spec.certificateLifetime: must be from 1s to 2160h, found 0s",
            "m.yaml:4:46: MeshConfig/mine: spec.trustDomain: expected a trust domain of lower-case letters, digits, '.', '-' and '_', found \"Example.org\"",
            "m.yaml:4:83: MeshConfig/mine: spec.tracing.otlpEndpoint: expected an address such as http://127.0.0.1:4317, found \"localhost:4317\"",
            "m.yaml:4:118: MeshConfig/mine: spec.tracing.samplingPercent: must be at most 100, found 101",
        ],
    );
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: a}
spec:
  targetRefs: [{kind: Namespace, name: default, sectionName: http}, {kind: Pod, name: a}]
  mtls: {mode: strict}
",
        &[
            "m.yaml:6:16: AuthenticationPolicy/default/a: spec.mtls.mode: expected one of Permissive, Audit, Strict, found \"strict\", did you mean \"Strict\"?",
        ],
    );
}

#[test]
fn the_targets_of_an_authentication_policy_are_services_and_namespaces() {
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: a}
spec:
  targetRefs: [{kind: Namespace, name: default, sectionName: http}, {kind: Pod, name: a}]
  mtls: {mode: Strict}
",
        &[
            "m.yaml:5:62: AuthenticationPolicy/default/a: spec.targetRefs[0].sectionName: a Namespace has no sections",
            "m.yaml:5:76: AuthenticationPolicy/default/a: spec.targetRefs[1].kind: the target has to be a Service or a Namespace of the core group (\"\"), found Pod of group \"\"",
        ],
    );
}

#[test]
fn services_and_endpoint_slices_are_checked_as_an_api_server_does() {
    check(
        "apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  ports:
  - {port: 0, targetPort: Web_1, name: web}
  - {port: 81, targetPort: 70000, name: web}
  - {port: 81, protocol: HTTP}
  - {port: 81, name: Web}
",
        &[
            "m.yaml:6:12: Service/default/a: spec.ports[0].port: must be from 1 to 65535, found 0",
            "m.yaml:6:27: Service/default/a: spec.ports[0].targetPort: expected the number or the name of a port, found \"Web_1\"",
            "m.yaml:7:28: Service/default/a: spec.ports[1].targetPort: must be from 1 to 65535, found 70000",
            "m.yaml:7:41: Service/default/a: spec.ports[1].name: \"web\" is the name of another port too",
            "m.yaml:8:5: Service/default/a: spec.ports[2]: needs a name, because there are several ports",
            "m.yaml:8:26: Service/default/a: spec.ports[2].protocol: expected one of TCP, UDP, SCTP, found \"HTTP\"",
            "m.yaml:9:12: Service/default/a: spec.ports[3].port: 81 is the number of another port too",
            "m.yaml:9:22: Service/default/a: spec.ports[3].name: expected a name of lower-case letters, digits and '-', found \"Web\"",
        ],
    );
    check(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1, '::1', here]}]
ports: [{port: 65536}]
",
        &[
            "m.yaml:5:36: EndpointSlice/default/a: endpoints[0].addresses[1]: expected an IPv4 address, found \"::1\"",
            "m.yaml:5:43: EndpointSlice/default/a: endpoints[0].addresses[2]: expected an IPv4 address, found \"here\"",
            "m.yaml:6:16: EndpointSlice/default/a: ports[0].port: must be from 1 to 65535, found 65536",
        ],
    );
}

#[test]
fn rules_between_fields_of_a_local_workload() {
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {name: a}
spec:
  replicas: 2
  address: 127.0.0.1
  ports:
  - {name: http, port: 80, listen: '127.0.0.1:9000'}
  - {name: http, port: 80}
  upstreams:
  - {service: b, port: 80}
  sidecar: {admin: '127.0.0.1:9000'}
",
        &[
            "m.yaml:5:13: LocalWorkload/default/a: spec.replicas: must be 0 or 1 without a command: the process is one that somebody else runs",
            "m.yaml:6:12: LocalWorkload/default/a: spec.address: 2 replicas cannot share one address: leave it out, or set replicas to 1",
            "m.yaml:8:36: LocalWorkload/default/a: spec.ports[0].listen: 2 replicas cannot share one address: leave it out, or set replicas to 1",
            "m.yaml:9:12: LocalWorkload/default/a: spec.ports[1].name: \"http\" is the name of another port too",
            "m.yaml:9:24: LocalWorkload/default/a: spec.ports[1].port: 80 is the number of another port too",
            "m.yaml:12:20: LocalWorkload/default/a: spec.sidecar.admin: 2 replicas cannot share one address: leave it out, or set replicas to 1",
            "m.yaml:12:20: LocalWorkload/default/a: spec.sidecar.admin: 127.0.0.1:9000 is already that of spec.ports[0].listen",
        ],
    );
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {name: a}
spec:
  command: [serve]
  env: [{name: PORT, value: '1'}]
  ports: [{name: http, port: 80}]
  upstreams:
  - {service: b, port: 80}
  - {service: b.other, port: 80}
  - {service: b.other.svc, port: 80}
  - {service: c, port: 80, listen: 'localhost:80'}
",
        &[
            "m.yaml:11:15: LocalWorkload/default/a: spec.upstreams[2].service: expected the name of a Service, with or without a '.' and its namespace, found \"b.other.svc\"",
            "m.yaml:12:36: LocalWorkload/default/a: spec.upstreams[3].listen: expected an IP address and a port such as 127.0.0.1:9001, found \"localhost:80\"",
        ],
    );
    check(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {name: a}
spec:
  command: [serve]
  env: [{name: PORT, value: '1'}]
  ports: [{name: http, port: 80}]
  upstreams:
  - {service: b, port: 80}
  - {service: b.other, port: 80}
",
        &[
            "m.yaml:7:11: LocalWorkload/default/a: spec.ports[0]: the variable PORT is already that of spec.env[0]: give this port another env",
            "m.yaml:10:5: LocalWorkload/default/a: spec.upstreams[1]: the variable B_ADDR is already that of spec.upstreams[0]: give this upstream another env",
        ],
    );
    check(
        "apiVersion: heddle.dev/v1alpha1\nkind: LocalWorkload\nmetadata: {name: a}\nspec: {}\n",
        &["m.yaml:4:1: LocalWorkload/default/a: spec: a workload needs a command, ports or upstreams"],
    );
}
