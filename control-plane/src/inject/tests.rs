//! Pods in, pods out: the golden files of `tests/inject`, and what must hold for every pod.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::path::PathBuf;

fn config() -> InjectionConfig {
    InjectionConfig::with_image("registry.example/heddle-sidecar:0.1.0").unwrap()
}

fn injected(pod: &Value) -> (Value, Vec<String>) {
    match inject(pod, &config()) {
        Decision::Injected { pod, warnings } => (pod, warnings),
        other @ (Decision::Skipped(_) | Decision::Refused(_)) => panic!("{other:?}"),
    }
}

fn refused(pod: &Value) -> Vec<String> {
    match inject(pod, &config()) {
        Decision::Refused(reasons) => reasons,
        other @ (Decision::Skipped(_) | Decision::Injected { .. }) => panic!("{other:?}"),
    }
}

/// A pod with one container, and with `fields` in its spec.
fn pod(fields: &Value) -> Value {
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let (Value::Object(spec), Value::Object(fields)) = (&mut pod["spec"], fields.clone()) else { panic!("objects") };
    spec.extend(fields);
    pod
}

/// `tests/inject/NAME.yaml` is injected and compared with `NAME.out.yaml`; `HEDDLE_BLESS=1` writes the latter anew.
#[test]
fn golden_files() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inject"));
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) =
            path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".yaml") && !name.ends_with(".out.yaml"))
        else {
            continue;
        };
        cases += 1;
        let object: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (object, workloads) = inject_object(&object, &config());
        let workloads: Vec<_> = workloads.iter().map(|Workload { name, outcome }| json!({ name: format!("{outcome:?}") })).collect();
        let text = serde_saphyr::to_string(&json!({"outcome": workloads, "object": object})).unwrap();
        let expected = folder.join(name.replace(".yaml", ".out.yaml"));
        if std::env::var_os("HEDDLE_BLESS").is_some() {
            std::fs::write(&expected, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&expected).unwrap(), "{name}: look at the difference, then HEDDLE_BLESS=1");
        let (again, _) = inject_object(&object, &config());
        assert_eq!(again, object, "{name}: twice is not as once");
    }
    assert!(cases >= 12, "{cases} cases");
}

#[test]
fn a_pod_says_itself_whether_it_wants_a_sidecar() {
    let labelled = |value: &str| json!({"metadata": {"labels": {INJECT_LABEL: value}}, "spec": {"containers": []}});
    assert_eq!(inject(&labelled("disabled"), &config()), Decision::Skipped(Skip::Disabled));
    assert!(matches!(inject(&labelled("enabled"), &config()), Decision::Injected { .. }));
    assert!(refused(&labelled("true"))[0].contains("write \"enabled\" or \"disabled\""));
}

#[test]
fn static_and_windows_pods_stay_as_they_are() {
    let mut mirror = pod(&json!({"hostNetwork": true}));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    assert_eq!(inject(&mirror, &config()), Decision::Skipped(Skip::Static));
    for windows in [json!({"os": {"name": "windows"}}), json!({"nodeSelector": {"kubernetes.io/os": "windows"}})] {
        assert_eq!(inject(&pod(&windows), &config()), Decision::Skipped(Skip::Windows));
    }
}

#[test]
fn what_cannot_have_a_sidecar_is_refused_with_the_way_out() {
    for (fields, sentence) in [
        (json!({"hostNetwork": true}), "set the label heddle.dev/inject: disabled"),
        (json!({"securityContext": {"runAsUser": 15015}}), "spec.containers[0] (app) runs as user 15015"),
        (
            json!({"initContainers": [{"name": "i", "securityContext": {"runAsUser": 15015}}]}),
            "spec.initContainers[0] (i) runs as user 15015",
        ),
        (json!({"containers": [{"name": "istio-proxy"}]}), "the sidecar of Istio"),
        (json!({"initContainers": [{"name": "linkerd-proxy", "restartPolicy": "Always"}]}), "the sidecar of Linkerd"),
        (json!({"containers": [{"name": "consul-dataplane"}]}), "the sidecar of Consul"),
        (json!({"containers": [{"name": "heddle-sidecar"}]}), "rename it"),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 15021}]}]}),
            "spec.containers[0].ports[1] (a) is port 15021",
        ),
        (json!({"volumes": [{"name": "heddle-token", "emptyDir": {}}]}), "a volume is named \"heddle-token\""),
    ] {
        let reasons = refused(&pod(&fields));
        assert!(reasons.len() == 1 && reasons[0].contains(sentence), "{fields}: {reasons:?}");
    }
    assert!(refused(&json!({"kind": "Pod"}))[0].contains("spec.containers"));
}

#[test]
fn all_reasons_come_at_once() {
    let mut pod = pod(&json!({"hostNetwork": true, "securityContext": {"runAsUser": 15015}}));
    pod["metadata"]["annotations"] = json!({"heddle.dev/access-log": "yes", "heddle.dev/log-level": "loud"});
    assert_eq!(refused(&pod).len(), 4);
}

#[test]
fn a_user_of_a_container_comes_before_the_pods() {
    let fields = json!({"securityContext": {"runAsUser": 15015}, "containers": [{"name": "a", "securityContext": {"runAsUser": 1000}}]});
    assert!(matches!(inject(&pod(&fields), &config()), Decision::Injected { .. }));
}

#[test]
fn what_others_made_of_our_containers_stays_and_what_is_ours_comes_first() {
    let (mut pod, _) = injected(&pod(&json!({})));
    // As a LimitRange, the ServiceAccount admission, and another webhook would.
    pod["spec"]["initContainers"][1]["resources"]["limits"] = json!({"cpu": "1"});
    let mount = json!({"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    pod["spec"]["initContainers"][1]["volumeMounts"].as_array_mut().unwrap().push(mount.clone());
    pod["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({"name": "other"}));
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "late", "readinessProbe": {"tcpSocket": {"port": 90}}}));
    let (again, _) = injected(&pod);
    let names: Vec<_> = array(&again["spec"], "initContainers").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, [REDIRECT_CONTAINER, SIDECAR_CONTAINER, "other"]);
    let sidecar = &again["spec"]["initContainers"][1];
    assert_eq!(sidecar["resources"], json!({"limits": {"cpu": "1"}, "requests": {"cpu": "10m", "memory": "16Mi"}}));
    assert!(array(sidecar, "volumeMounts").contains(&mount));
    assert_eq!(again["spec"]["containers"][1]["readinessProbe"]["httpGet"]["path"], "/probe/late/readiness");
    assert_eq!(
        variable(sidecar, "HEDDLE_PROBES"),
        Some(json!({"late/readiness": {"tcp": {"port": 90}, "timeoutSeconds": 1}}).to_string().as_str())
    );
}

#[test]
fn a_variable_that_is_set_no_more_goes() {
    let mut first = pod(&json!({}));
    first["metadata"]["annotations"] = json!({"heddle.dev/access-log": "on"});
    let (mut first, _) = injected(&first);
    assert_eq!(variable(&first["spec"]["initContainers"][1], "HEDDLE_ACCESS_LOG"), Some("on"));
    first["metadata"]["annotations"].as_object_mut().unwrap().remove("heddle.dev/access-log");
    let (second, _) = injected(&first);
    assert_eq!(variable(&second["spec"]["initContainers"][1], "HEDDLE_ACCESS_LOG"), None);
}

#[test]
fn kubelets_expansion_of_variables_leaves_probes_as_they_are() {
    let probe = json!({"httpGet": {"port": 80, "path": "/$(HOME)/$$"}});
    let (once, _) = injected(&pod(&json!({"containers": [{"name": "a", "livenessProbe": probe}]})));
    let value = variable(&once["spec"]["initContainers"][1], "HEDDLE_PROBES").unwrap();
    assert!(value.contains("/$$(HOME)/$$$$"), "{value}");
    assert_eq!(injected(&once).0, once);
}

#[test]
fn probes_that_do_not_reach_the_pod_by_redirection_stay() {
    let mut pod = pod(&json!({"containers": [{
        "name": "a",
        "livenessProbe": {"exec": {"command": ["true"]}},
        "readinessProbe": {"httpGet": {"host": "127.0.0.1", "port": 80}},
        "startupProbe": {"tcpSocket": {"port": 9100}},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}, "postStart": {"tcpSocket": {"port": 80}}},
    }]}));
    pod["metadata"]["annotations"] = json!({"heddle.dev/exclude-inbound-ports": "9100"});
    let (after, warnings) = injected(&pod);
    assert_eq!(after["spec"]["containers"], pod["spec"]["containers"]);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(variable(&after["spec"]["initContainers"][1], "HEDDLE_PROBES"), None);
}

#[test]
fn a_probe_that_can_never_succeed_stays_and_is_said() {
    for port in [json!("nowhere"), json!(0), json!(70000)] {
        let before = pod(&json!({"containers": [{"name": "a", "livenessProbe": {"grpc": {"port": port}}}]}));
        let (after, warnings) = injected(&before);
        assert_eq!(after["spec"]["containers"], before["spec"]["containers"]);
        assert!(warnings.len() == 1 && warnings[0].starts_with("container \"a\": livenessProbe "), "{warnings:?}");
    }
}

fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    array(container, "env").iter().find(|variable| variable["name"] == name)?.get("value")?.as_str()
}

fn handler() -> BoxedStrategy<Value> {
    let port = || prop_oneof![(1..9_u16).prop_map(|port| json!(port)), Just(json!("web")), Just(json!("none")), Just(json!(15021))];
    prop_oneof![
        (port(), prop::option::of("/[a$()]{0,4}"), prop::option::of(Just("HTTPS")))
            .prop_map(|(port, path, scheme)| json!({"httpGet": {"port": port, "path": path, "scheme": scheme, "httpHeaders": [{"name": "A", "value": "b"}]}})),
        port().prop_map(|port| json!({"httpGet": {"port": port, "host": "elsewhere"}})),
        port().prop_map(|port| json!({"tcpSocket": {"port": port}, "timeoutSeconds": 3})),
        port().prop_map(|port| json!({"grpc": {"port": port, "service": "s"}, "periodSeconds": 7})),
        Just(json!({"exec": {"command": ["true"]}})),
    ]
    .boxed()
}

fn container(name: &'static str) -> BoxedStrategy<Value> {
    let hook = || prop::option::of(handler()).boxed();
    (hook(), hook(), hook(), hook(), hook(), any::<bool>())
        .prop_map(move |(liveness, readiness, startup, post_start, pre_stop, port)| {
            let mut container = json!({"name": name, "image": "app", "env": [{"name": "HEDDLE_LOG", "value": "the application's"}]});
            let probes = [("livenessProbe", liveness), ("readinessProbe", readiness), ("startupProbe", startup)];
            for (field, probe) in probes.into_iter().filter_map(|(field, probe)| Some((field, probe?))) {
                container[field] = probe;
            }
            for (field, hook) in
                [("postStart", post_start), ("preStop", pre_stop)].into_iter().filter_map(|(field, hook)| Some((field, hook?)))
            {
                container["lifecycle"][field] = hook;
            }
            if port {
                container["ports"] = json!([{"name": "web", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]);
            }
            container
        })
        .boxed()
}

/// A container without what injection may change.
fn bare(container: &Value) -> Value {
    let mut bare = container.clone();
    for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        bare.as_object_mut().unwrap().remove(field);
    }
    bare
}

/// What of a probe says when and how often, and not what is asked.
fn times(container: &Value, probe: &str) -> Value {
    let mut times = container.get(probe).cloned().unwrap_or_default();
    if let Some(times) = times.as_object_mut() {
        times.retain(|field, _| !["httpGet", "tcpSocket", "grpc", "exec"].contains(&field.as_str()));
    }
    times
}

proptest! {
    #[test]
    fn injection_is_idempotent_and_changes_nothing_but_probes_and_hooks(
        main in container("a"),
        init in prop::option::of(container("b")),
        grace in prop::option::of(0..60_u64),
        excluded in prop::option::of(1..9_u16),
    ) {
        let mut before = pod(&json!({"containers": [main], "terminationGracePeriodSeconds": grace, "volumes": [{"name": "v", "emptyDir": {}}]}));
        before["spec"]["initContainers"] = init.into_iter().collect();
        before["metadata"]["annotations"] = match excluded {
            Some(port) => json!({"heddle.dev/exclude-inbound-ports": port.to_string()}),
            None => Value::Null,
        };
        let (once, _) = injected(&before);
        let (twice, _) = injected(&once);
        prop_assert_eq!(&twice, &once);
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &merge::diff(&before, &once)).unwrap();
        prop_assert_eq!(&patched, &once);

        let ours = |container: &&Value| !container["name"].as_str().is_some_and(is_ours);
        for list in ["initContainers", "containers"] {
            let (old, new): (Vec<_>, Vec<_>) = (array(&before["spec"], list).iter().collect(), array(&once["spec"], list).iter().filter(ours).collect());
            prop_assert_eq!(old.iter().map(|c| bare(c)).collect::<Vec<_>>(), new.iter().map(|c| bare(c)).collect::<Vec<_>>());
            for (old, new) in old.iter().zip(new) {
                for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                    prop_assert_eq!(times(old, probe), times(new, probe));
                }
            }
        }
        // The rest of the spec is as it was.
        let rest = |pod: &Value| {
            let mut spec = pod["spec"].clone();
            for field in ["containers", "initContainers", "volumes"] {
                spec.as_object_mut().unwrap().remove(field);
            }
            spec
        };
        prop_assert_eq!(rest(&before), rest(&once));
    }

    #[test]
    fn nothing_that_is_no_pod_makes_injection_panic(text in "[\\[\\]{}:,\"a-c0-9 ]{0,40}") {
        if let Ok(value) = serde_saphyr::from_str::<Value>(&text) {
            let _ = inject_object(&json!({"apiVersion": "v1", "kind": "Pod", "spec": value, "metadata": value}), &config());
            let pod = json!({"metadata": {"labels": value, "annotations": value}, "spec": {"containers": [value], "initContainers": value, "volumes": value}});
            let _ = inject(&pod, &config());
        }
    }
}
