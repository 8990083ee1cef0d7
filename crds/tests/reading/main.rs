//! Manifests in, objects and problems out: what is read, what is said about mistakes, and what is bounded.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bounds;
mod definitions;
mod files;
mod fixtures;
mod messages;
mod rules;

use std::path::Path;

use heddle_crds::{Manifests, read_str};

/// Reads one manifest called `m.yaml`.
fn read(text: &str) -> Manifests {
    read_str(Path::new("m.yaml"), text)
}

/// The names of the objects that are in force.
fn in_force(manifests: &Manifests) -> Vec<String> {
    manifests.objects.iter().map(|located| located.object.id().to_string()).collect()
}

/// Its problems as text.
fn problems(manifests: &Manifests) -> Vec<String> {
    manifests.problems.iter().map(ToString::to_string).collect()
}

/// Reads a manifest and compares its problems, word by word.
#[track_caller]
fn check(text: &str, expected: &[&str]) -> Manifests {
    let manifests = read(text);
    assert_eq!(problems(&manifests), expected, "of the manifest\n{text}");
    manifests
}

/// An HTTPRoute whose first rule is `rule`, which begins in line 6 and is indented by four.
fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: reviews}}\nspec:\n  rules:\n  - {}",
        rule.trim_start()
    )
}

/// Checks the problems of an HTTPRoute's rule; each expectation begins with its line.
#[track_caller]
fn check_rule(rule: &str, expected: &[&str]) {
    let expected: Vec<String> = expected
        .iter()
        .map(|line| {
            let (place, message) = line.split_once(' ').unwrap();
            format!("m.yaml:{place}: HTTPRoute/default/reviews: spec.rules[0]{message}")
        })
        .collect();
    check(&route(rule), &expected.iter().map(String::as_str).collect::<Vec<_>>());
}
