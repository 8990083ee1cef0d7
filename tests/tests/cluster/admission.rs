//! Admission: every kind of workload gets its sidecar; what cannot work is refused with a sentence, all mistakes at once.

use heddle_tests::cluster::api::{Refusal, path};
use heddle_tests::cluster::mesh::{NAMESPACE, conditions};
use heddle_tests::cluster::pod::Pod;
use heddle_tests::cluster::workload::{ALL_PORTS, IMAGE, Workload, service, split};
use heddle_tests::cluster::{World, script};
use serde_json::{Value, json};

/// An init container of the sidecar's pod, by name.
fn container<'a>(pod: &'a Pod, name: &str) -> &'a Value {
    let mut containers = pod.object["spec"]["initContainers"].as_array().into_iter().flatten();
    containers.find(|c| c["name"] == name).unwrap_or_else(|| panic!("{} has no init container {name}", pod.name))
}

/// Deployment, StatefulSet, DaemonSet, bare pod, a pod with init containers of its own (Jobs have their scenario); annotations; opting in
/// and out by the pod's own label.
pub(crate) async fn every_kind_of_pod(world: &World) {
    let namespace = world.namespace("kinds", true).await;
    let elsewhere = world.namespace("elsewhere", false).await;
    let server = |name: &str| Workload::server(&namespace, name);
    let mut pods = Vec::new();
    for object in [server("deployment").deployment(1), server("stateful").stateful_set(1), server("daemon").daemon_set()] {
        pods.extend(world.start(&object).await);
    }
    let init = json!({"name": "own", "image": IMAGE, "imagePullPolicy": "Never", "args": ["call"], "securityContext": {"runAsUser": 1000}});
    let bare = server("bare")
        .spec(&json!({"initContainers": [init]}))
        .annotation("heddle.dev/proxy-cpu-request", "25m")
        .annotation("heddle.dev/proxy-memory-limit", "200Mi")
        .annotation("heddle.dev/log-level", "debug")
        .annotation("heddle.dev/drain-seconds", "5")
        .annotation("heddle.dev/access-log", "on");
    let bare = world.start_pod(&bare.pod()).await;
    let asked = Workload::server(&elsewhere, "asked").label("heddle.dev/inject", "enabled");
    pods.push(world.start_pod(&asked.pod()).await);
    for pod in pods.iter().chain([&bare]) {
        assert!(pod.is_injected(), "{} has no sidecar", pod.name);
        assert_eq!(pod.object["metadata"]["labels"]["heddle.dev/injected"], "true", "{}", pod.name);
        assert!(pod.object["metadata"]["annotations"]["heddle.dev/sidecar-version"].is_string(), "{}", pod.name);
    }
    let names: Vec<_> = bare.object["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["heddle-redirect", "heddle-sidecar", "own"], "the sidecar comes before the pod's own init containers");
    let sidecar = container(&bare, "heddle-sidecar");
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["resources"]["requests"]["cpu"], "25m");
    assert_eq!(sidecar["resources"]["requests"]["memory"], "16Mi");
    assert_eq!(sidecar["resources"]["limits"]["memory"], "200Mi");
    let security = &sidecar["securityContext"];
    assert_eq!((&security["runAsUser"], &security["readOnlyRootFilesystem"]), (&json!(15015), &json!(true)));
    assert_eq!(container(&bare, "heddle-redirect")["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN"]));

    let excluded = world.start_pod(&server("excluded").label("heddle.dev/inject", "disabled").pod()).await;
    let ordinary = world.start_pod(&Workload::server(&elsewhere, "ordinary").pod()).await;
    for pod in [&excluded, &ordinary] {
        assert!(!pod.is_injected(), "{} has a sidecar that nobody asked for", pod.name);
    }
    for pod in world.all_pods(NAMESPACE, "").await.iter().chain(&world.all_pods("kube-system", "").await) {
        assert!(!pod.is_injected(), "{} of {} has a sidecar", pod.name, pod.namespace);
    }
}

/// A refusal whose text has all of these words.
fn assert_refused(what: &str, outcome: Result<Value, Refusal>, words: &[&str]) {
    let Err(Refusal { code, message }) = outcome else { panic!("{what} is accepted") };
    assert!(code != 0, "no answer for {what}: {message}");
    let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
    assert!(missing.is_empty(), "the refusal of {what} lacks {missing:?}: {message}");
}

/// Pods that cannot be meshed as they are, and how a workload's owner learns of it.
pub(crate) async fn refusals_are_sentences(world: &World) {
    let namespace = world.namespace("refused", true).await;
    let pod = |name: &str| Workload::server(&namespace, name);
    assert_refused("hostNetwork", world.api.create(&pod("host").spec(&json!({"hostNetwork": true})).pod()).await, &["hostNetwork"]);
    let as_sidecar = pod("user").container(&json!({"securityContext": {"runAsUser": 15015}}));
    assert_refused("the sidecar's user", world.api.create(&as_sidecar.pod()).await, &["15015"]);
    let port = pod("port").container(&json!({"ports": [{"name": "mine", "containerPort": 15021}]}));
    assert_refused("the sidecar's port", world.api.create(&port.pod()).await, &["15021"]);
    let wrong = pod("annotations").annotation("heddle.dev/proxy-cpu-request", "much").annotation("heddle.dev/drain-seconds", "soon");
    let words = ["heddle.dev/proxy-cpu-request", "much", "heddle.dev/drain-seconds", "soon"];
    assert_refused("wrong annotations", world.api.create(&wrong.pod()).await, &words);

    // Of a Deployment, the pods are refused one by one, and its owner learns it where he looks.
    world.api.apply(&pod("owner").spec(&json!({"hostNetwork": true})).deployment(1)).await;
    world
        .until("the ReplicaSet to say why it has no pods", async || {
            let events = world.api.list(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector=reason%3DFailedCreate")).await;
            let said = events.iter().any(|event| event["message"].to_string().contains("hostNetwork"));
            if said { Ok(()) } else { Err(format!("{} events", events.len())) }
        })
        .await;
    world
        .until("an event of the mesh itself", async || {
            let events = world.api.list(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).await;
            let own = events.iter().filter(|event| event["reason"] == "InjectionRefused").count();
            if own > 0 { Ok(()) } else { Err(format!("none of {} events is InjectionRefused", events.len())) }
        })
        .await;
}

/// A manifest that is refused, with all of these words.
async fn assert_invalid(what: &str, manifest: &Value, words: &[&str]) {
    let refusal = script::apply(&manifest.to_string()).await.err().unwrap_or_else(|| panic!("{what} is accepted"));
    let missing: Vec<_> = words.iter().filter(|word| !refusal.contains(**word)).collect();
    assert!(missing.is_empty(), "the refusal of {what} lacks {missing:?}: {refusal}");
}

/// What can never work is refused when it is written, with every field; what Gateway API has a condition for is a warning, and the
/// condition; Gateways' routes are nobody's business here.
pub(crate) async fn routes_and_policies_are_validated(world: &World) {
    let namespace = world.namespace("validated", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    let policy = json!({
        "apiVersion": "heddle.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "wrong", "namespace": namespace},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Namespace", "name": "server"}],
            "retry": {"attempts": 2, "backoff": {"base": "1s", "max": "10ms"}},
        },
    });
    assert_invalid("a wrong policy", &policy, &["validate.heddle.dev", "spec.targetRefs[0].kind", "spec.retry.backoff.base"]).await;
    let config = json!({
        "apiVersion": "heddle.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "default"},
        "spec": {"certificateLifetime": "1ms"},
    });
    assert_invalid("a wrong MeshConfig", &config, &["validate.heddle.dev", "spec.certificateLifetime"]).await;

    let mut route = split(&namespace, "HTTPRoute", "wrong", ("server", 80), &[("server", 1)]);
    // Valid by the schema, and no regular expression.
    route["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "RegularExpression", "value": "/(unclosed"}}]);
    let mut gateways = route.clone();
    let said = script::apply(&route.to_string()).await.unwrap_or_else(|refusal| panic!("Gateway API has a condition for it: {refusal}"));
    assert!(said.contains("Warning:") && said.contains("/(unclosed"), "{said}");
    let path_of_wrong = path("gateway.networking.k8s.io/v1", "HTTPRoute", Some(&namespace), "wrong");
    world
        .until("the route's condition", async || {
            let all = conditions(&world.api.get(&path_of_wrong).await);
            let found = all.iter().any(|c| c["type"] == "Accepted" && c["status"] == "False" && c["reason"] == "UnsupportedValue");
            if found { Ok(()) } else { Err(json!(all).to_string()) }
        })
        .await;
    gateways["metadata"]["name"] = "gateways".into();
    gateways["spec"]["parentRefs"] = json!([{"name": "some-gateway"}]);
    let said = script::apply(&gateways.to_string()).await.unwrap_or_else(|refusal| panic!("a Gateway's route is refused: {refusal}"));
    assert!(!said.contains("Warning"), "a Gateway's route is commented on: {said}");
    let fine = split(&namespace, "HTTPRoute", "fine", ("server", 80), &[("server", 1)]);
    let said = script::apply(&fine.to_string()).await.unwrap_or_else(|refusal| panic!("a good route is refused: {refusal}"));
    assert!(!said.contains("Warning"), "{said}");
    world.accepted(&path("gateway.networking.k8s.io/v1", "HTTPRoute", Some(&namespace), "fine")).await;
}
