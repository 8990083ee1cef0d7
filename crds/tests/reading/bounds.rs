//! Hostile and odd input: bounded, and never a panic.

use std::fmt::Write as _;

use proptest::prelude::*;

use crate::{check, in_force, problems, read};

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in "bcdefghij".chars().zip("abcdefghi".chars()) {
        let aliases = vec![format!("*{of}"); 10].join(", ");
        writeln!(bomb, "{name}: &{name} [{aliases}]").unwrap();
    }
    check(&bomb, &["m.yaml:6:16: the document has more than 500000 values, aliases written out"]);
}

#[test]
fn an_alias_bomb_of_text_is_refused() {
    let text = "x".repeat(100_000);
    let aliases = vec!["*a"; 200].join(", ");
    let manifests = read(&format!("a: &a {text}\nb: [{aliases}]\n"));
    assert_eq!(manifests.problems.len(), 1);
    assert_eq!(manifests.problems[0].message, "the document has more than 8388608 bytes, aliases written out");
}

#[test]
fn an_alias_within_itself_is_refused() {
    let manifests = read("a: &a [*a]\n");
    assert_eq!(manifests.problems.len(), 1, "{:?}", manifests.problems);
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let manifests = read(&text);
        assert_eq!(manifests.problems.len(), 1);
        assert!(manifests.problems[0].message.starts_with("not valid YAML: "), "{}", manifests.problems[0]);
    }
    let mut block = String::new();
    for depth in 0..1000 {
        writeln!(block, "{}a:", " ".repeat(depth)).unwrap();
    }
    assert_eq!(read(&block).problems.len(), 1);
}

#[test]
fn problems_are_bounded() {
    let manifests = read(&"---\n[\n".repeat(5_000));
    assert_eq!(manifests.problems.len(), 1_000);
}

#[test]
fn documents_are_bounded() {
    let manifests = read(&"--- ~\n".repeat(20_001));
    assert_eq!(problems(&manifests), ["m.yaml:20001:1: the file has 20001 documents; from here on they are not read"]);
}

#[test]
fn warnings_of_one_object_are_bounded() {
    let fields: String = (0..200).map(|index| format!("x{index}: 1\n")).collect();
    let manifests = read(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n{fields}"));
    assert_eq!(manifests.problems.len(), 100);
    assert_eq!(in_force(&manifests), ["Service/default/a"]);
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = "apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata:
    name: a
    labels: &labels {app: a, tier: web}
- apiVersion: v1
  kind: Service
  metadata:
    name: b
    labels:
      <<: *labels
      app: b
- apiVersion: v1
  kind: Service
  metadata: {name: c, labels: *labels}
";
    let manifests = check(text, &[]);
    let labels: Vec<String> = manifests
        .objects
        .iter()
        .map(|located| {
            let labels = located.object.meta().labels.clone().unwrap_or_default();
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        })
        .collect();
    assert_eq!(labels, ["app=a,tier=web", "app=b,tier=web", "app=a,tier=web"]);
}

#[test]
fn typed_lists_are_unpacked_too() {
    let text = "apiVersion: v1
kind: ServiceList
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}}
- {apiVersion: v1, kind: Service, metadata: {name: B}}
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: c}}]}
";
    let manifests = read(text);
    assert_eq!(in_force(&manifests), ["Service/default/a", "Service/default/c"]);
    let problem = &problems(&manifests)[0];
    assert!(problem.starts_with("m.yaml:5:52: Service/default/B: metadata.name: "), "{problem}");
}

#[test]
fn json_is_read_with_positions() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\\/b\"}\n}\n";
    let manifests = read(text);
    assert_eq!(manifests.problems.len(), 1);
    assert!(problems(&manifests)[0].starts_with("m.yaml:4:23: Service/default/a/b: metadata.name: "), "{}", problems(&manifests)[0]);
}

#[test]
fn documents_may_have_markers_directives_and_windows_line_ends() {
    let text = "%YAML 1.2\r\n--- # first\r\napiVersion: v1\r\nkind: Service\r\nmetadata: {name: a}\r\n...\r\n%YAML 1.2\r\n---\r\napiVersion: v1\r\nkind: Service\r\nmetadata: {name: b}\r\n--- {apiVersion: v1, kind: Service, metadata: {name: c}}\r\n";
    assert_eq!(in_force(&check(text, &[])), ["Service/default/a", "Service/default/b", "Service/default/c"]);
}

#[test]
fn positions_are_found_by_field_path() {
    let text = "apiVersion: v1
kind: Service
metadata:
  name: a
  labels:
    app.kubernetes.io/name: a
spec:
  ports:
  - port: 80
    name: first
  - name: second
    port: 81
";
    let manifests = check(text, &[]);
    let located = &manifests.objects[0];
    for (path, place) in [
        ("", "1:1"),
        ("metadata.name", "4:9"),
        ("metadata.labels[\"app.kubernetes.io/name\"]", "6:29"),
        ("spec.ports[1].port", "12:11"),
        ("spec.ports[1].protocol", "11:5"),
        ("spec.ports[7].port", "8:3"),
        ("spec.selector.app", "7:1"),
        ("nonsense[", "1:1"),
    ] {
        assert_eq!(located.field_position(path).to_string(), place, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn reading_never_panics_and_problems_lie_in_the_text(text in "[-a-c:{}\\[\\]\"'&*|>#%!? \\n\\t~1<]{0,120}") {
        let lines = u32::try_from(text.split('\n').count()).unwrap();
        for problem in read(&text).problems {
            let position = problem.position.unwrap();
            prop_assert!((1..=lines + 1).contains(&position.line), "{problem} in {text:?}");
        }
    }

    #[test]
    fn damaged_manifests_never_panic(at in 0..2_000_usize, with in "[ -~\\n]{0,3}") {
        let whole = include_str!("fixtures/http_route.yaml");
        let at = whole.char_indices().map(|(index, _)| index).nth(at).unwrap_or(whole.len());
        let (before, after) = whole.split_at(at);
        let _ = read(&format!("{before}{with}{}", after.chars().skip(1).collect::<String>()));
    }
}
