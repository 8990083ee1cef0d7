//! Manifests in, objects and problems out: what is read, what is said about mistakes, and what is bounded.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bounds;
mod definitions;
mod files;
mod fixtures;
mod messages;

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
