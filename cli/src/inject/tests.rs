//! Text in, text out: what is not touched stays byte by byte, and twice is as once.

use super::*;
use clap::Parser as _;
use serde_json::Value;

const IMAGE: &str = "registry.example/heddle-sidecar:1";

/// Injects texts as if they were files.
fn inject(texts: &[&str]) -> (Result<String, InjectError>, String) {
    inject_as(texts, &["--image", IMAGE])
}

fn inject_as(texts: &[&str], options: &[&str]) -> (Result<String, InjectError>, String) {
    let folder = std::env::temp_dir().join(format!("heddle-inject-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files: Vec<_> = (0..texts.len()).map(|index| folder.join(format!("{index}.yaml"))).collect();
    for (file, text) in files.iter().zip(texts) {
        std::fs::write(file, text).unwrap();
    }
    let files = files.iter().map(|file| file.display().to_string());
    let args = ["heddle", "inject"].into_iter().map(str::to_owned).chain(options.iter().map(|option| (*option).to_owned())).chain(files);
    let line = crate::command_line::CommandLine::try_parse_from(args).unwrap();
    let crate::command_line::Command::Inject(options) = line.command else { panic!("{line:?}") };
    let mut report = String::new();
    let result = injected(&options, &mut report);
    std::fs::remove_dir_all(&folder).unwrap();
    (result, report)
}

fn values(text: &str) -> Vec<Value> {
    tree::documents(text).unwrap().iter().map(tree::Node::value).collect()
}

/// Injects, and checks what holds for every text.
fn good(text: &str) -> String {
    let (result, report) = inject(&[text]);
    let once = result.unwrap_or_else(|error| panic!("{error}\n{report}"));
    let config = InjectionConfig::with_image(IMAGE).unwrap();
    let expected: Vec<_> = values(text).iter().map(|value| inject_object(value, &config).0).collect();
    assert_eq!(values(&once), expected, "{once}");
    assert_eq!(inject(&[&once]).0.unwrap(), once, "twice is not as once");
    once
}

const DEPLOYMENT: &str = "\
# Reviews, as the shop has them.
apiVersion: v1
kind: Service
metadata: {name: reviews}   # flow, and odd spacing
spec:
    ports:
    -   port: 80
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: reviews # its name
spec:
  template:
    metadata:
      labels:
        app: reviews
    spec:
      # What runs.
      containers:
      - name: app
        image: reviews:1
        readinessProbe:
          httpGet: {path: /ready, port: 8080}
          periodSeconds: 0x5
        command:
        - sh
        - -c
        - |
          echo hello

          # not a comment
      volumes:
      - name: config
        configMap: {name: config, defaultMode: 0644}
# The end.
";

#[test]
fn every_line_that_is_not_touched_stays_in_its_place() {
    let injected = good(DEPLOYMENT);
    let mut lines = injected.lines();
    let touched = ["        readinessProbe:", "          httpGet: {path: /ready, port: 8080}", "          periodSeconds: 0x5"];
    for line in DEPLOYMENT.lines().filter(|line| !touched.contains(line)) {
        assert!(lines.any(|found| found == line), "{line:?} is not there, or in another place:\n{injected}");
    }
    for line in ["        heddle.dev/injected: \"true\"", "      initContainers:", "      - name: \"heddle-token\""] {
        let line = line.replace("\"heddle-token\"", "heddle-token");
        assert!(
            injected.lines().any(|found| found.trim_start().trim_start_matches("- ") == line.trim_start().trim_start_matches("- ")),
            "{line}:\n{injected}"
        );
    }
}

#[test]
fn what_has_no_pods_is_passed_through_byte_by_byte() {
    let text = "\u{feff}%YAML 1.2\n---\n# only this\r\nkind:   Service\napiVersion: v1\n...\n---\n---\na: &x [0755, yes]\nb: *x\n";
    assert_eq!(good(text), text);
    assert_eq!(good(""), "");
    let disabled = DEPLOYMENT.replace("app: reviews\n", "heddle.dev/inject: disabled\n");
    assert_eq!(good(&disabled), disabled);
}

#[test]
fn every_style_is_written_as_it_was() {
    let json =
        "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}, \"spec\": {\"containers\": [{\"name\": \"a\"}]}}\n";
    let injected = good(json);
    let read: Value = serde_json::from_str(&injected).unwrap();
    assert_eq!(read["spec"]["initContainers"][1]["name"], "heddle-sidecar");
    for text in [
        "apiVersion: v1\nkind: Pod\nmetadata:\nspec:\n  containers:\n  - name: a\n",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n  annotations: {a: b}\n  name: a\nspec:\n  initContainers: []\n  volumes:\n  containers: [{name: a}]\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n",
        "kind: Pod\r\napiVersion: v1\r\nmetadata:\r\n  name: a\r\nspec:\r\n  containers:\r\n    - name: a\r\n      image: b\r\n",
        "---\nspec:\n    containers:\n        -\n            name: a\n    initContainers:\n        # first\n        - name: i\nkind: Pod\napiVersion: v1\n",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  spec:\n    containers:\n    - name: a\n- apiVersion: v1\n  kind: Pod\n  spec: {containers: [{name: b}]}\n",
        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    args: &args [1]\n  - name: b\n    args: *args\n",
    ] {
        let injected = good(text);
        assert_eq!(injected.contains("\r\n"), text.contains("\r\n"), "{injected:?}");
    }
}

#[test]
fn a_newer_image_changes_what_was_injected_and_nothing_else() {
    let once = good(DEPLOYMENT);
    let (newer, report) = inject_as(&[&once], &["--image", "registry.example/heddle-sidecar:2"]);
    let newer = newer.unwrap();
    assert_eq!(report, "Deployment/reviews: injected\n");
    let changed: Vec<_> = once.lines().zip(newer.lines()).filter(|(old, new)| old != new).collect();
    assert_eq!((changed.len(), once.lines().count()), (3, newer.lines().count()), "{changed:?}");
}

#[test]
fn what_cannot_be_changed_in_its_place_is_said_with_its_line() {
    for (text, line, part) in [
        ("apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: a\nspec:\n  containers: []\nx: *m\n", 4, "anchor"),
        ("apiVersion: v1\nkind: Pod\nspec: {defaultMode: 0644, containers: [{name: a}]}\n", 3, "0644"),
        ("a: 1\n---\nb: [1\n", 3, "not valid YAML"),
        ("a: 1\na: 2\n", 2, "the key \"a\" is there already"),
    ] {
        let error = inject(&[text]).0.unwrap_err();
        let InjectError::Line { line: found, message, .. } = &error else { panic!("{error}") };
        assert!(*found == line && message.contains(part), "{error}");
    }
}

#[test]
fn a_workload_that_is_refused_stops_everything_and_all_reasons_are_told() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec:\n  hostNetwork: true\n  containers:\n  - name: istio-proxy\n";
    let (result, report) = inject(&[DEPLOYMENT, text]);
    assert!(matches!(result, Err(InjectError::Refused(1))), "{result:?}");
    assert!(report.contains("Deployment/reviews: injected\n"), "{report}");
    assert_eq!(report.matches("Pod/shop/a: refused: ").count(), 2, "{report}");
}

#[test]
fn several_files_are_one_stream_or_one_list() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}";
    let both = inject(&[pod, DEPLOYMENT]).0.unwrap();
    assert_eq!(values(&both).len(), 3);
    let list = inject_as(&[pod, pod], &["--image", IMAGE, "-o", "json"]).0.unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&Value::from("List"), Some(2)));
    let one: Value = serde_json::from_str(&inject_as(&[pod], &["--image", IMAGE, "-o", "json"]).0.unwrap()).unwrap();
    assert_eq!(one["kind"], "Pod");
}

#[test]
fn the_configuration_comes_from_a_file_and_its_mistakes_are_named() {
    let file = std::env::temp_dir().join(format!("heddle-injection-{}.yaml", std::process::id()));
    std::fs::write(&file, "image: a:1\nlogLevel: debug\n").unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n";
    let option = file.display().to_string();
    let text = inject_as(&[pod], &["--injection", &option, "--image", "b:2"]).0.unwrap();
    assert!(text.contains("image: \"b:2\"") && text.contains("value: debug"), "{text}");
    std::fs::write(&file, "image: a b\n").unwrap();
    let error = inject_as(&[pod], &["--injection", &option]).0.unwrap_err();
    assert!(error.to_string().contains("image is \"a b\""), "{error}");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn whatever_the_text_is_the_result_is_right_or_refused() {
    let config = InjectionConfig::with_image(IMAGE).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let pieces = ["\n", " ", "  ", "- ", "#", "{", "}", "[", "]", ": ", "&a ", "*a", "|", "'", "\"", "? ", "---\n", "é", "\t", "!!str "];
    let mut written = 0;
    for _ in 0..2_000 {
        let mut text = DEPLOYMENT.to_owned();
        for _ in 0..random.usize(1..4) {
            let at = text.floor_char_boundary(random.usize(0..text.len()));
            let end = text.floor_char_boundary((at + random.usize(0..6)).min(text.len()));
            text.replace_range(at..end, random.choice(pieces).unwrap());
        }
        let Ok(documents) = tree::documents(&text) else { continue };
        let new: Vec<_> = documents.iter().map(|document| inject_object(&document.value(), &config).0).collect();
        let changes: Vec<_> = documents.iter().zip(&new).map(|(old, new)| (old.value() != *new).then(|| new.clone())).collect();
        let Ok(once) = edit::edited(&text, &documents, &changes) else { continue };
        assert_eq!(values(&once), new, "{text}");
        written += 1;
    }
    assert!(written > 500, "{written}");
}

#[test]
fn what_the_chart_configures_is_what_injection_reads() {
    let release = crate::chart::Release { namespace: "mesh", install: true };
    let values = json!({
        "trustDomain": "example.org",
        "image": {"pullSecrets": ["registry"]},
        "sidecar": {"logLevel": "debug", "logFormat": "json", "drainSeconds": 5, "resources": {"limits": {"memory": "64Mi"}},
            "excludeInboundPorts": [9100], "excludeOutboundPorts": [25], "excludeOutboundCidrs": ["10.0.0.0/8"], "env": {"HEDDLE_WORKERS": "2"}},
    });
    let (name, key) = CONFIG_MAP;
    let read = |values: &Value| {
        let objects = crate::chart::objects(values, release).unwrap();
        let found = objects.iter().find(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == name).unwrap();
        InjectionConfig::from_yaml(found["data"][key].as_str().unwrap()).unwrap()
    };
    let config = read(&values);
    assert_eq!(config.control_plane, "heddle-control-plane.mesh.svc:15010");
    assert_eq!(
        (config.trust_domain.as_str(), config.drain_seconds, config.image_pull_secrets.as_slice()),
        ("example.org", 5, &["registry".to_owned()][..])
    );
    assert_eq!(config.resources.limits.memory.as_deref(), Some("64Mi"));
    let by_default = read(&json!({}));
    let expected = InjectionConfig { control_plane: config.control_plane, ..InjectionConfig::with_image(&by_default.image).unwrap() };
    assert_eq!(by_default, expected, "the chart's defaults are not injection's own");
}
