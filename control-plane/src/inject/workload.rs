//! Pods within objects: Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, bare Pods, and Lists of them.

use super::{Decision, InjectionConfig, inject, text};
use serde_json::Value;

/// Deepest nesting of Lists within Lists; `kubectl` makes one.
const MAX_LISTS: usize = 4;

/// The kinds with pods: group, kind, and where the pod is.
const KINDS: [(&str, &str, &str); 8] = [
    ("", "Pod", ""),
    ("", "ReplicationController", "/spec/template"),
    ("apps", "Deployment", "/spec/template"),
    ("apps", "StatefulSet", "/spec/template"),
    ("apps", "DaemonSet", "/spec/template"),
    ("apps", "ReplicaSet", "/spec/template"),
    ("batch", "Job", "/spec/template"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
];

/// What became of one object with pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The object: `Deployment/default/reviews`, without a namespace where it names none.
    pub name: String,
    /// What became of its pods.
    pub outcome: Outcome,
}

/// What became of the pods of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They get their sidecar, or a newer one.
    Injected {
        /// What their author should know.
        warnings: Vec<String>,
    },
    /// They have it already, as it would be now.
    Unchanged,
    /// They stay without one, for this reason.
    Skipped(&'static str),
    /// They cannot have one: every reason.
    Refused(Vec<String>),
}

/// Gives the pods of an object their sidecars; objects without pods stay as they are. Returns the object and what became of the
/// workloads in it; one that is refused stays as it is.
pub fn inject_object(object: &Value, config: &InjectionConfig) -> (Value, Vec<Workload>) {
    let mut changed = object.clone();
    let mut workloads = Vec::new();
    walk(&mut changed, config, MAX_LISTS, &mut workloads);
    (changed, workloads)
}

fn walk(object: &mut Value, config: &InjectionConfig, lists: usize, workloads: &mut Vec<Workload>) {
    let (api_version, kind) = (text(object, &["apiVersion"]).unwrap_or_default(), text(object, &["kind"]).unwrap_or_default());
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let found = KINDS.iter().find(|(of_group, of_kind, _)| (*of_group, *of_kind) == (group, kind));
    if let Some((_, _, path)) = found {
        let name = name_of(object, kind);
        let Some(pod) = object.pointer_mut(path) else {
            let field = path.trim_start_matches('/').replace('/', ".");
            workloads.push(Workload { name, outcome: Outcome::Refused(vec![format!("{field} is missing")]) });
            return;
        };
        let outcome = match inject(pod, config) {
            Decision::Injected { pod: injected, warnings: _ } if *pod == injected => Outcome::Unchanged,
            Decision::Injected { pod: injected, warnings } => {
                *pod = injected;
                Outcome::Injected { warnings }
            }
            Decision::Skipped(skip) => Outcome::Skipped(skip.reason()),
            Decision::Refused(reasons) => Outcome::Refused(reasons),
        };
        workloads.push(Workload { name, outcome });
    } else if kind.ends_with("List") && lists > 0 {
        for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            walk(item, config, lists - 1, workloads);
        }
    }
}

fn name_of(object: &Value, kind: &str) -> String {
    let field = |field| text(object, &["metadata", field]);
    let name = field("name").map(str::to_owned).or_else(|| Some(format!("{}…", field("generateName")?)));
    let name = name.unwrap_or_else(|| "(without a name)".to_owned());
    match field("namespace") {
        Some(namespace) => format!("{kind}/{namespace}/{name}"),
        None => format!("{kind}/{name}"),
    }
}
