//! The chart by the real Helm and by `heddle install`: the same objects, the same refusals; and every object as the API's types have it.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use heddle_control_plane::inject::InjectionConfig;
use heddle_tests::process;
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    scheduling::v1::PriorityClass,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Values that turn on what is off, and use what is free to choose.
const EVERYTHING: &str = "
image: {registry: registry.example.com/mesh/, tag: v9, pullPolicy: Always, pullSecrets: [one, two]}
trustDomain: example.org
clusterDomain: cluster.example
ipFamilies: [IPv6, IPv4]
controlPlane:
  replicas: 3
  logLevel: info,heddle_control_plane=debug
  resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}
  podDisruptionBudget: {maxUnavailable: 50%}
  priorityClass: {name: important, value: 7}
  antiAffinity: required
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: dedicated, operator: Exists}]
  podAnnotations: {example.org/a: \"yes\"}
  podLabels: {team: mesh}
sidecar:
  resources: {requests: {cpu: 20m}, limits: {memory: 64Mi}}
  logLevel: warn
  logFormat: json
  drainSeconds: 5
  excludeInboundPorts: [22]
  excludeOutboundPorts: [25, 5432]
  excludeOutboundCidrs: [169.254.0.0/16, \"fd00:ec2::/32\"]
  env: {HEDDLE_WORKERS: \"2\"}
webhook: {timeoutSeconds: 3, validation: {failurePolicy: Fail}}
crds: {keep: true}
meshConfig:
  create: true
  spec: {mtls: {mode: Strict}, certificateLifetime: 1h, tracing: {otlpEndpoint: \"http://collector.example:4317\", samplingPercent: 0.5}}
istio: {enabled: true}
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}
monitoring:
  podMonitor: {enabled: true, interval: 10s, labels: {release: prometheus}}
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
";

/// Values that turn off what is on.
const LITTLE: &str = "
controlPlane:
  replicas: 1
  priorityClass: {create: false, name: \"\"}
  podDisruptionBudget: {enabled: false}
  antiAffinity: none
  spreadOverZones: false
  resources: {}
sidecar: {resources: {}}
webhook: {validation: {enabled: false}}
crds: {install: false}
gatewayAPI: {enabled: false}
meshConfig: {create: true}
";

const OWN_AFFINITY: &str = "controlPlane: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}}";

const GOOD: [&str; 4] = ["{}", EVERYTHING, LITTLE, OWN_AFFINITY];

/// Values that no one takes, and the place that both name.
const BAD: [(&str, &str); 12] = [
    ("replicas: 2", "replicas"),
    ("controlPlane: {replicas: 0}", "replicas"),
    ("controlPlane: {replicas: two}", "replicas"),
    ("controlPlane: {antiAffinity: maybe}", "antiAffinity"),
    ("image: {pullPolicy: Sometimes}", "pullPolicy"),
    ("trustDomain: Example.org", "trustDomain"),
    ("ipFamilies: []", "ipFamilies"),
    ("sidecar: {excludeOutboundPorts: [70000]}", "excludeOutboundPorts"),
    ("sidecar: {excludeOutboundCidrs: [example.org]}", "excludeOutboundCidrs"),
    ("sidecar: {env: {HEDDLE_WORKERS: 2}}", "HEDDLE_WORKERS"),
    ("webhook: {timeoutSeconds: 31}", "timeoutSeconds"),
    ("meshConfig: {spec: {mtls: {mode: strict}}}", "mode"),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository's folder")
}

/// A values file, gone with the test.
struct Values(PathBuf);

impl Values {
    fn new(text: &str) -> Self {
        let unique = format!("heddle-values-{}-{:?}.yaml", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(unique);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

fn run(program: &Path, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).current_dir(repository()).output();
    output.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn helm(args: &[&str]) -> Output {
    run(&repository().join("tests/cluster/helm"), args)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn expect_success(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What Helm renders, in no order, without what is for Helm alone.
fn by_helm(args: &[&str]) -> Vec<Value> {
    let mut all = vec!["template", "heddle", "charts/heddle", "--namespace", "mesh"];
    all.extend(args);
    let text = expect_success(&helm(&all));
    let documents = text.split("\n---").map(|document| document.trim_start_matches("---"));
    let objects = documents.map(|document| serde_saphyr::from_str::<Value>(document).unwrap_or_else(|error| panic!("{error}\n{document}")));
    objects.filter(|object| !object.is_null()).map(without_helm).collect()
}

/// What `heddle install` would apply, without the namespace, which a chart cannot have.
fn by_heddle(args: &[&str]) -> Vec<Value> {
    let mut all = vec!["install", "--dry-run", "--output", "json", "--namespace", "mesh"];
    all.extend(args);
    let list: Value = serde_json::from_str(&expect_success(&run(&process::heddle(), &all))).unwrap();
    list["items"].as_array().unwrap().iter().filter(|object| object["kind"] != "Namespace").cloned().map(without_helm).collect()
}

fn without_helm(mut object: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.remove("app.kubernetes.io/managed-by");
                fields.values_mut().for_each(walk);
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    walk(&mut object);
    if let Some(metadata) = object["metadata"].as_object_mut()
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.retain(|name, _| name != "helm.sh/hook" && !name.starts_with("meta.helm.sh/"));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    object
}

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let count = objects.len();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named: BTreeMap<_, _> = objects
        .into_iter()
        .map(|object| {
            let metadata = &object["metadata"];
            (format!("{}/{}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])), object)
        })
        .collect();
    assert_eq!(named.len(), count, "two objects have one name: {:?}", named.keys());
    named
}

fn assert_same(values: &str, helm: Vec<Value>, heddle: Vec<Value>) {
    let (helm, heddle) = (by_name(helm), by_name(heddle));
    assert_eq!(helm.keys().collect::<Vec<_>>(), heddle.keys().collect::<Vec<_>>(), "{values}");
    for (name, object) in &helm {
        assert_eq!(object, &heddle[name], "{name} with {values}");
    }
}

#[test]
fn helm_finds_nothing_to_say_about_the_chart() {
    for values in GOOD {
        let file = Values::new(values);
        expect_success(&helm(&["lint", "--strict", "charts/heddle", "--values", file.path()]));
    }
}

#[test]
fn helm_and_heddle_render_the_same_objects() {
    for values in GOOD {
        let file = Values::new(values);
        assert_same(values, by_helm(&["--values", file.path()]), by_heddle(&["--values", file.path()]));
    }
}

#[test]
fn helm_and_heddle_read_set_alike() {
    let args = [
        "--set",
        r"image.tag=1.20,controlPlane.replicas=4,controlPlane.podLabels.example\.org/a=b\,c",
        "--set",
        "sidecar.excludeOutboundPorts={25,26},controlPlane.tolerations[0].key=x,controlPlane.tolerations[0].operator=Exists",
        "--set-string",
        "controlPlane.podAnnotations.n=7,sidecar.env.HEDDLE_WORKERS=2",
    ];
    assert_same("--set", by_helm(&args), by_heddle(&args));
    let null = Values::new("controlPlane: {resources: {limits: null}}");
    assert_same("null", by_helm(&["--values", null.path()]), by_heddle(&["--values", null.path()]));
}

#[test]
fn wrong_values_are_refused_by_both_and_named() {
    for (values, place) in BAD {
        let file = Values::new(values);
        let by_helm = helm(&["template", "heddle", "charts/heddle", "--values", file.path()]);
        let by_heddle = run(&process::heddle(), &["install", "--dry-run", "--values", file.path()]);
        for (who, output) in [("helm", &by_helm), ("heddle", &by_heddle)] {
            assert!(!output.status.success(), "{who} takes {values}");
            assert!(said(output).contains(place), "{who}, {values}: {}", said(output));
        }
        assert_eq!(by_heddle.status.code(), Some(64), "{values}");
    }
}

#[test]
fn the_templates_of_our_kinds_are_fresh() {
    expect_success(&run(&repository().join("charts/crds"), &["--check"]));
}

/// Reads an object as its type, writes it again, and wants everything back: what a type does not know would be lost.
fn check<K: DeserializeOwned + Serialize>(object: &Value) {
    let read: K = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}\n{object:#}"));
    let written = serde_json::to_value(read).unwrap();
    assert_contains(&written, object, object["kind"].as_str().unwrap_or_default());
}

fn assert_contains(whole: &Value, part: &Value, path: &str) {
    match part {
        Value::Object(fields) => {
            for (name, field) in fields {
                // Types leave out what is empty.
                let empty = field.as_object().is_some_and(serde_json::Map::is_empty) || field.as_array().is_some_and(Vec::is_empty);
                if !(empty && whole.get(name).is_none()) {
                    let found = whole.get(name).unwrap_or_else(|| panic!("{path}.{name} is no field of this kind"));
                    assert_contains(found, field, &format!("{path}.{name}"));
                }
            }
        }
        Value::Array(items) => {
            assert_eq!(whole.as_array().map(Vec::len), Some(items.len()), "{path}");
            for (index, item) in items.iter().enumerate() {
                assert_contains(&whole[index], item, &format!("{path}[{index}]"));
            }
        }
        // A quantity may be written as a number.
        Value::Number(number) if whole.is_string() => assert_eq!(whole.as_str(), Some(number.to_string().as_str()), "{path}"),
        Value::Number(number) => assert_eq!(whole.as_f64(), number.as_f64(), "{path}"),
        Value::Null | Value::Bool(_) | Value::String(_) => assert_eq!(whole, part, "{path}"),
    }
}

#[test]
fn every_object_is_of_its_type_and_loses_nothing() {
    for values in GOOD {
        let file = Values::new(values);
        for object in by_heddle(&["--values", file.path()]) {
            match object["kind"].as_str().unwrap() {
                "ClusterRole" => check::<ClusterRole>(&object),
                "ClusterRoleBinding" => check::<ClusterRoleBinding>(&object),
                "ConfigMap" => check::<ConfigMap>(&object),
                "CustomResourceDefinition" => check::<CustomResourceDefinition>(&object),
                "Deployment" => check::<Deployment>(&object),
                "Lease" => check::<Lease>(&object),
                "MutatingWebhookConfiguration" => check::<MutatingWebhookConfiguration>(&object),
                "NetworkPolicy" => check::<NetworkPolicy>(&object),
                "PodDisruptionBudget" => check::<PodDisruptionBudget>(&object),
                "PriorityClass" => check::<PriorityClass>(&object),
                "Role" => check::<Role>(&object),
                "RoleBinding" => check::<RoleBinding>(&object),
                "Secret" => check::<Secret>(&object),
                "Service" => check::<Service>(&object),
                "ServiceAccount" => check::<ServiceAccount>(&object),
                "ValidatingWebhookConfiguration" => check::<ValidatingWebhookConfiguration>(&object),
                "MeshConfig" => mesh_config(&object),
                // The Prometheus operator's kinds have no types here.
                "PodMonitor" | "ServiceMonitor" => assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1"),
                other => panic!("{other} is of no kind that this test knows"),
            }
        }
    }
}

/// By the rules of the control plane.
fn mesh_config(object: &Value) {
    let read = heddle_crds::manifest::read_json(object);
    assert!(read.object.is_some() && read.flaws.is_empty(), "{:?}\n{object:#}", read.flaws);
}

#[test]
fn the_control_plane_reads_the_injection_that_the_chart_writes() {
    for values in GOOD {
        let file = Values::new(values);
        let objects = by_name(by_heddle(&["--values", file.path()]));
        let text = objects["ConfigMap/mesh/heddle-injection"]["data"]["injection.yaml"].as_str().unwrap();
        let config = InjectionConfig::from_yaml(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(config.control_plane, "heddle-control-plane.mesh.svc:15010");
    }
}

#[test]
fn the_control_plane_meets_the_restricted_pod_security_level() {
    let objects = by_name(by_heddle(&[]));
    let spec = &objects["Deployment/mesh/heddle-control-plane"]["spec"]["template"]["spec"];
    assert_eq!(
        (&spec["securityContext"]["runAsNonRoot"], &spec["securityContext"]["seccompProfile"]["type"]),
        (&json!(true), &json!("RuntimeDefault"))
    );
    for container in spec["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], json!(false));
        assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
        assert_eq!(context["readOnlyRootFilesystem"], json!(true));
    }
    for volume in spec["volumes"].as_array().unwrap() {
        assert!(volume.get("configMap").is_some(), "{volume}");
    }
    let labels = &objects["Deployment/mesh/heddle-control-plane"]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["heddle.dev/inject"], "disabled");
}

/// A right to a Secret, to every object of every kind, or to write what nobody asked for, would be more than the mesh needs.
#[test]
fn the_rights_are_narrow() {
    let file = Values::new(EVERYTHING);
    let objects = by_heddle(&["--values", file.path()]);
    let roles = objects.iter().filter(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role");
    for role in roles {
        for rule in role["rules"].as_array().unwrap() {
            let list = |name: &str| -> Vec<&str> {
                rule[name].as_array().map_or_else(Vec::new, |items| items.iter().filter_map(Value::as_str).collect())
            };
            let (resources, verbs) = (list("resources"), list("verbs"));
            assert!(!list("apiGroups").contains(&"*") && !resources.contains(&"*") && !verbs.contains(&"*"), "{rule}");
            assert!(!verbs.contains(&"delete") && !verbs.contains(&"deletecollection"), "{rule}");
            if resources.contains(&"secrets") {
                assert_eq!((role["kind"].as_str(), list("resourceNames")), (Some("Role"), vec!["heddle-ca"]), "{rule}");
            }
            let writes = verbs.iter().any(|verb| matches!(*verb, "create" | "update" | "patch"));
            let of_status = resources.iter().all(|resource| resource.ends_with("/status"));
            let without_a_name = ["configmaps", "events", "tokenreviews"];
            assert!(
                !writes
                    || of_status
                    || rule.get("resourceNames").is_some()
                    || (resources.iter().all(|one| without_a_name.contains(one)) && verbs == ["create"]),
                "{rule}"
            );
        }
    }
}

/// Fail closed may never stand in the way of the cluster's own pods, nor of the control plane's.
#[test]
fn injection_leaves_the_cluster_and_the_mesh_alone() {
    let objects = by_name(by_heddle(&[]));
    let injector = &objects["MutatingWebhookConfiguration//heddle-injector"];
    for webhook in injector["webhooks"].as_array().unwrap() {
        assert_eq!((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!("Fail"), &json!("NoneOnDryRun")));
        let expressions = webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        let other = expressions.iter().find(|expression| expression["key"] == "kubernetes.io/metadata.name").unwrap();
        assert_eq!((&other["operator"], &other["values"]), (&json!("NotIn"), &json!(["kube-system", "mesh"])));
        let asks = |selector: &Value| selector["matchLabels"]["heddle.dev/inject"] == "enabled";
        assert!(asks(&webhook["namespaceSelector"]) || asks(&webhook["objectSelector"]), "{webhook}");
        assert!(webhook["clientConfig"].get("caBundle").is_none(), "an upgrade would take away what the leader wrote");
    }
}

/// What the control plane fills is shipped without the fields that it fills, so that no upgrade takes them away.
#[test]
fn what_the_control_plane_fills_is_shipped_empty() {
    for values in GOOD {
        let file = Values::new(values);
        let objects = by_name(by_heddle(&["--values", file.path()]));
        let fields = |name: &str| objects[name].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(fields("Secret/mesh/heddle-ca"), ["apiVersion", "kind", "metadata", "type"]);
        assert_eq!(fields("Lease/mesh/heddle-control-plane"), ["apiVersion", "kind", "metadata"]);
    }
}

/// The plain configuration of Prometheus does what the PodMonitor does.
#[test]
fn plain_prometheus_scrapes_as_the_operator_would() {
    let text = std::fs::read_to_string(repository().join("charts/heddle/files/prometheus.yaml")).unwrap();
    let plain: Value = serde_saphyr::from_str(&text).unwrap();
    let objects = by_name(by_heddle(&["--set", "monitoring.podMonitor.enabled=true"]));
    let monitor = &objects["PodMonitor/mesh/heddle-sidecars"]["spec"];
    let job = plain["scrape_configs"].as_array().unwrap().iter().find(|job| job["job_name"] == "heddle-sidecars").unwrap();
    assert_eq!(job["kubernetes_sd_configs"][0]["selectors"][0]["label"], "heddle.dev/injected=true");
    assert_eq!(monitor["selector"]["matchLabels"], json!({ "heddle.dev/injected": "true" }));
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(job["metrics_path"], endpoint["path"]);
    for rule in endpoint["relabelings"].as_array().unwrap() {
        let has = job["relabel_configs"].as_array().unwrap().iter().any(|plain| {
            plain["source_labels"] == rule["sourceLabels"]
                && plain["regex"] == rule["regex"]
                && plain.get("target_label") == rule.get("targetLabel")
                && plain.get("replacement") == rule.get("replacement")
        });
        assert!(has, "{rule}");
    }
}
