//! Sources → snapshot → views: what every source hands over, and the one place where the snapshot changes.
//!
//! A source (a directory, or the Kubernetes API) sends [`Batch`]es into a bounded channel; each is taken in as one step and one new
//! view. Sources know nothing of each other or of what is done with the objects.

pub mod directory;
mod files;
pub mod kubernetes;

pub(crate) use files::Stamp;

use crate::metrics::Metrics;
use crate::resolve;
use crate::serve::View;
use crate::snapshot::{ObjectKey, Pod, Snapshot};
use heddle_crds::{Level, Object, ObjectId, manifest};
use heddle_identity::TrustBundle;
use heddle_model::TrustDomain;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

/// Batches that may wait: a source that is ahead of the snapshot by so many has nothing to gain from being further ahead.
pub const MAX_BATCHES: usize = 16;

/// Changes that belong together, and everything that is wrong now in the source's eyes.
#[derive(Debug, Default)]
pub struct Batch {
    /// In any order; at most one for each object.
    pub changes: Vec<Change>,
    /// All of them, not only new ones.
    pub problems: Vec<Problem>,
}

/// One object has changed.
#[derive(Debug)]
pub enum Change {
    /// It is new, or different.
    Apply(Object),
    /// A pod is new, or different, and only what counts of it was kept.
    Pod(ObjectKey, Pod),
    /// It is gone.
    Delete(ObjectId),
}

impl Change {
    fn is_mesh_config(&self) -> bool {
        match self {
            Self::Apply(object) => matches!(object, Object::MeshConfig(_)),
            Self::Pod(..) => false,
            Self::Delete(id) => id.kind == MESH_CONFIG,
        }
    }
}

const MESH_CONFIG: &str = "MeshConfig";

/// Something that cannot be used, for people: one line in the log when it appears, one entry in `/status` while it lasts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How bad it is.
    pub level: Severity,
    /// The file, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The object: `HTTPRoute/default/reviews`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The field's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// All of it in one line.
    pub text: String,
}

/// What a [`Problem`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the file, is not in force.
    Error,
    /// It is in force, except for a part.
    Warning,
    /// Something was skipped on purpose, or is explained.
    Note,
}

impl From<&manifest::Problem> for Problem {
    fn from(problem: &manifest::Problem) -> Self {
        let manifest::Problem { level, file, position, object, field_path, message } = problem;
        Self {
            level: match level {
                Level::Error => Severity::Error,
                Level::Warning => Severity::Warning,
                Level::Note => Severity::Note,
            },
            file: Some(file.display().to_string()),
            line: position.map(|p| p.line),
            column: position.map(|p| p.column),
            object: object.as_ref().map(ToString::to_string),
            field: (!field_path.is_empty()).then(|| field_path.clone()),
            message: message.clone(),
            text: problem.to_string(),
        }
    }
}

/// What the snapshot could not take in.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// Everything that is wrong now.
    pub problems: Vec<Problem>,
}

/// The snapshot and its one writer.
#[derive(Debug)]
pub struct Publisher {
    snapshot: Snapshot,
    published: Instant,
    report: Arc<Report>,
    /// What the authority is for; from then on it stays.
    trust: Option<(TrustDomain, Arc<TrustBundle>)>,
    /// Why the latest `MeshConfig` is not in force.
    refused: Option<Problem>,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// An empty snapshot.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { snapshot: Snapshot::default(), published: Instant::now(), report: Arc::default(), trust: None, refused: None, metrics }
    }

    /// The trust domain that the snapshot asks for.
    pub fn trust_domain(&self) -> TrustDomain {
        resolve::mesh(&self.snapshot).trust_domain
    }

    /// Fixes the trust domain: identities, endpoints and certificates must all name the same one.
    pub fn trust(&mut self, trust_domain: &TrustDomain, trust: &Arc<TrustBundle>) {
        self.trust = Some((trust_domain.clone(), trust.clone()));
    }

    /// Takes in a batch. Returns whether there is anything new to serve.
    pub fn apply(&mut self, batch: Batch) -> bool {
        let Batch { changes, mut problems } = batch;
        let (of_mesh, changes): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::is_mesh_config);
        let mut next = self.snapshot.clone();
        take_in(&mut next, changes);
        if !of_mesh.is_empty() {
            let mut with_mesh = next.clone();
            take_in(&mut with_mesh, of_mesh);
            self.refused = self.refuse(&with_mesh);
            if self.refused.is_none() {
                next = with_mesh;
            }
        }
        problems.extend(self.refused.clone());
        let is_changed = next.revision() != self.snapshot.revision();
        if is_changed {
            self.snapshot = next;
            self.published = Instant::now();
        }
        let report = Report { problems };
        let is_reported = report != *self.report;
        if is_reported {
            log_new(&self.report.problems, &report.problems);
            self.report = Arc::new(report);
        }
        self.measure();
        is_changed || is_reported
    }

    /// Makes the view of the snapshot as it is now; `None` before the trust domain is fixed. `previous` is the last one.
    pub fn view(&self, previous: Option<&View>) -> Option<View> {
        let (_, trust) = self.trust.as_ref()?;
        let Self { snapshot, published, report, metrics, .. } = self;
        Some(View::new(snapshot.clone(), *published, trust.clone(), report.clone(), previous, metrics.clone()))
    }

    /// Why the `MeshConfig` of a snapshot cannot come into force: with another trust domain, endpoints would be expected to have names
    /// that the authority cannot give, and every connection in the mesh would fail.
    fn refuse(&self, next: &Snapshot) -> Option<Problem> {
        let asked = resolve::mesh(next).trust_domain;
        let (fixed, _) = self.trust.as_ref().filter(|(fixed, _)| *fixed != asked)?;
        let message = format!(
            "the trust domain cannot change from {fixed} to {asked} while the control plane runs; the last MeshConfig stays in force"
        );
        let object = format!("{MESH_CONFIG}/{}", resolve::MESH_CONFIG_NAME);
        let field = "spec.trustDomain";
        Some(Problem {
            level: Severity::Error,
            file: None,
            line: None,
            column: None,
            text: format!("{object}: {field}: {message}"),
            object: Some(object),
            field: Some(field.to_owned()),
            message,
        })
    }

    fn measure(&self) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.revision.set(i64::try_from(self.snapshot.revision()).unwrap_or(i64::MAX));
        self.metrics.problems.set(count(self.report.problems.iter().filter(|p| p.level == Severity::Error).count()));
        for (kind, objects) in self.snapshot.counts() {
            self.metrics.objects.with_label_values(&[kind]).set(count(objects));
        }
    }
}

fn take_in(snapshot: &mut Snapshot, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Apply(object) => snapshot.apply(object),
            Change::Pod(key, pod) => snapshot.apply_pod(key, pod),
            Change::Delete(ObjectId { kind, namespace, name }) => snapshot.delete(&kind, namespace.as_deref().unwrap_or_default(), &name),
        };
    }
}

/// Says once what is wrong now and was not before, and once what is not any more.
fn log_new(before: &[Problem], now: &[Problem]) {
    let known: BTreeSet<_> = before.iter().collect();
    for problem in now.iter().filter(|problem| !known.contains(problem)) {
        if problem.level == Severity::Note {
            tracing::info!(problem = problem.text, "manifest");
        } else {
            tracing::warn!(problem = problem.text, "manifest");
        }
    }
    if now.is_empty() && !before.is_empty() {
        tracing::info!("all manifests are in force");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{objects, trust};

    fn batch(yaml: &str) -> Batch {
        Batch { changes: objects(yaml).into_iter().map(Change::Apply).collect(), problems: Vec::new() }
    }

    fn mesh(trust_domain: &str, lifetime: &str) -> Batch {
        batch(&format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{trustDomain: {trust_domain}, certificateLifetime: {lifetime}}}"
        ))
    }

    #[test]
    fn the_trust_domain_stays_what_the_authority_is_for() {
        let mut publisher = Publisher::new(Arc::new(Metrics::new().unwrap()));
        publisher.apply(mesh("one.example", "1h"));
        let domain = publisher.trust_domain();
        assert_eq!(domain.as_str(), "one.example");
        publisher.trust(&domain, &trust(&domain));

        assert!(publisher.apply(mesh("two.example", "2h")));
        let view = publisher.view(None).unwrap();
        assert_eq!(view.mesh().trust_domain, domain);
        assert_eq!(view.mesh().certificate_lifetime.as_secs(), 3600);
        assert!(view.report().problems[0].text.contains("cannot change from one.example to two.example"));

        assert!(publisher.apply(mesh("one.example", "2h")));
        let view = publisher.view(None).unwrap();
        assert_eq!(view.mesh().certificate_lifetime.as_secs(), 7200);
        assert_eq!(view.report().problems, []);
    }

    #[test]
    fn a_batch_that_changes_nothing_is_no_news() {
        let mut publisher = Publisher::new(Arc::new(Metrics::new().unwrap()));
        assert!(publisher.apply(mesh("one.example", "1h")));
        assert!(!publisher.apply(mesh("one.example", "1h")));
    }
}
