//! `heddle install`: renders the chart, applies its objects in order, and waits until the control plane serves.

mod ready;

pub(crate) use ready::{has_bundle, replicas};

use crate::chart::{self, ChartError, Release, kinds, values};
use crate::cluster::progress::Progress;
use crate::cluster::release::{self, Installed};
use crate::cluster::{self, Applied, Cluster, ClusterError, Target, identity};
use crate::command_line::{Install, Output};
use heddle_crds::duration::GatewayDuration;
use serde::Serialize;
use serde_json::{Value, json};
use std::process::ExitCode;
use tokio::time::{Duration, Instant, sleep};

/// The command line or the values cannot be used (EX_USAGE of sysexits.h).
pub(crate) const UNUSABLE: u8 = 64;
/// Time between two looks at something that is waited for.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why an installation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// The command line, the values or the chart.
    #[error("{0}")]
    Usage(String),
    /// See [`ChartError`].
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// See [`ClusterError`].
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The cluster has what forbids it.
    #[error("{0}")]
    Refused(String),
    /// Not ready within the time.
    #[error(
        "not ready after {after}: {state}\nwhat was applied stays: `heddle check` says more, `heddle upgrade` goes on, `heddle uninstall` takes it away"
    )]
    Late {
        /// The time.
        after: GatewayDuration,
        /// What is missing.
        state: String,
    },
}

impl InstallError {
    /// The exit status.
    pub(crate) fn status(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Chart(_) => ExitCode::from(UNUSABLE),
            Self::Cluster(_) | Self::Refused(_) | Self::Late { .. } => ExitCode::FAILURE,
        }
    }
}

/// How objects are brought into the cluster.
#[derive(Debug)]
pub(crate) struct RollOut<'a> {
    /// The namespace of the control plane.
    pub(crate) namespace: &'a str,
    /// The values that are recorded.
    pub(crate) values: &'a Value,
    /// The rendered objects.
    pub(crate) objects: &'a [Value],
    /// Whether fields of others are taken over.
    pub(crate) force: bool,
    /// How long to wait for readiness; none when it is not waited for.
    pub(crate) wait: Option<GatewayDuration>,
}

/// What was done, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    namespace: String,
    objects: Vec<Done>,
    ready: bool,
    seconds: f64,
}

/// What was done with an object.
#[derive(Debug, Serialize)]
struct Done {
    kind: String,
    name: String,
    result: Applied,
}

/// Runs the command.
pub(crate) fn install(options: &Install) -> ExitCode {
    let progress = Progress::new(options.output);
    cluster::run("install", async {
        match begin(options, &progress).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                progress.fail(&error.to_string());
                error.status()
            }
        }
    })
}

async fn begin(options: &Install, progress: &Progress) -> Result<(), InstallError> {
    let Install { target, namespace, values, dry_run, roll, output } = options;
    let values = values::collect(&values.files, &values.set, &values.set_string).map_err(InstallError::Usage)?;
    let objects = chart::objects(&values, Release { namespace, install: true })?;
    if *dry_run {
        return print(namespace, &objects, *output);
    }
    let cluster = connect(target).await?;
    let installed = Installed::look(&cluster, namespace).await?;
    if let Some(refusal) = installed.refusal("upgrade") {
        return Err(InstallError::Refused(refusal));
    }
    if let Installed::Ours { version, .. } = installed {
        let version = if version.is_empty() { "heddle".to_owned() } else { format!("heddle {version}") };
        return Err(InstallError::Refused(format!("{version} is in namespace {namespace} already: `heddle upgrade` changes it")));
    }
    definitions_are_ours(&cluster, &objects).await?;
    let out = RollOut { namespace, values: &values, objects: &objects, force: roll.force_conflicts, wait: roll.wait() };
    let report = out.run(&cluster, progress).await?;
    progress.note("bring a namespace into the mesh: kubectl label namespace NAME heddle.dev/inject=enabled, and start its pods again");
    progress.result(&report);
    Ok(())
}

/// Connects to a cluster that can run the mesh.
///
/// # Errors
///
/// When it does not answer, or is too old.
pub(crate) async fn connect(target: &Target) -> Result<Cluster, InstallError> {
    let cluster = Cluster::connect(target).await?;
    let version = cluster.client().apiserver_version().await.map_err(|error| cluster.failed("ask for the version", &error))?;
    if crate::check::is_too_old(&version.major, &version.minor) {
        return Err(InstallError::Refused(format!(
            "the cluster is Kubernetes {}.{}, and Heddle needs 1.29 or later, where sidecars are init containers that stay",
            version.major, version.minor
        )));
    }
    Ok(cluster)
}

/// Prints what would be applied.
///
/// # Errors
///
/// When it cannot be written as YAML.
pub(crate) fn print(namespace: &str, objects: &[Value], output: Output) -> Result<(), InstallError> {
    let all: Vec<_> = std::iter::once(the_namespace(namespace)).chain(objects.iter().cloned()).collect();
    let text = match output {
        Output::Text => chart::stream(&all)?,
        Output::Json => format!("{}\n", json!({ "apiVersion": "v1", "kind": "List", "items": all })),
    };
    let _status = crate::print(text.as_bytes());
    Ok(())
}

/// The namespace, which no chart can make for itself: with the Pod Security level that the control plane meets.
fn the_namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/part-of": "heddle",
                "app.kubernetes.io/managed-by": "heddle",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    })
}

/// Refuses definitions of our kinds that somebody else keeps, or that are newer than ours.
///
/// # Errors
///
/// [`InstallError::Refused`] with what to do.
pub(crate) async fn definitions_are_ours(cluster: &Cluster, objects: &[Value]) -> Result<(), InstallError> {
    for object in objects {
        let (Some(kind), _, name) = identity(object) else { continue };
        if kind.name() != "CustomResourceDefinition" {
            continue;
        }
        let Some(found) = cluster.get(kind, "", name).await? else { continue };
        let labels = release::labels(&found);
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        let (owner, version) = (label("app.kubernetes.io/managed-by"), label("app.kubernetes.io/version"));
        if owner == "Helm" {
            return Err(InstallError::Refused(format!(
                "CustomResourceDefinition {name} belongs to a Helm release: uninstall that, or give --set crds.install=false"
            )));
        }
        if release::is_newer(version, chart::VERSION) {
            return Err(InstallError::Refused(format!(
                "CustomResourceDefinition {name} is of heddle {version}, newer than this heddle {}: take heddle {version}",
                chart::VERSION
            )));
        }
    }
    Ok(())
}

impl RollOut<'_> {
    /// Applies everything in order, and waits.
    ///
    /// # Errors
    ///
    /// The first object that cannot be applied, or what is not ready in time.
    pub(crate) async fn run(&self, cluster: &Cluster, progress: &Progress) -> Result<Report, InstallError> {
        let began = Instant::now();
        let mut done = Vec::new();
        self.namespace(cluster, progress).await?;
        // The record comes first: whatever happens next, `upgrade` and `uninstall` know whose objects these are.
        cluster.apply(&release::record(self.namespace, chart::VERSION, self.values), true).await?;
        let mut established = false;
        for object in self.objects {
            let (kind, _, name) = identity(object);
            if kind.is_none_or(|kind| kind.name() != "CustomResourceDefinition") && !established {
                ready::established(cluster, self.objects).await?;
                established = true;
            }
            let result = cluster.apply(object, self.force).await?;
            let kind = kind.map_or("", kinds::Kind::name).to_owned();
            let line = format!("{kind} {name}");
            match result {
                Applied::Created => progress.done(&format!("{line} created")),
                Applied::Changed => progress.done(&format!("{line} changed")),
                Applied::Unchanged => {}
            }
            done.push(Done { kind, name: name.to_owned(), result });
        }
        let unchanged = done.iter().filter(|done| done.result == Applied::Unchanged).count();
        if unchanged > 0 {
            progress.done(&format!("{unchanged} of {} objects are as they were", done.len()));
        }
        if let Some(time) = self.wait {
            self.wait(cluster, progress, time, began).await?;
        }
        Ok(Report {
            version: chart::VERSION,
            namespace: self.namespace.to_owned(),
            objects: done,
            ready: self.wait.is_some(),
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// Makes the namespace where there is none; one that somebody else has made stays as it is.
    async fn namespace(&self, cluster: &Cluster, progress: &Progress) -> Result<(), InstallError> {
        let Some(kind) = kinds::named("Namespace") else { return Ok(()) };
        match cluster.get(kind, "", self.namespace).await? {
            None => {
                cluster.apply(&the_namespace(self.namespace), false).await?;
                progress.done(&format!("Namespace {} created", self.namespace));
                Ok(())
            }
            Some(found) if found.metadata.deletion_timestamp.is_some() => Err(InstallError::Refused(format!(
                "namespace {} is being removed: wait until `kubectl get namespace {0}` finds it no more",
                self.namespace
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Waits until the control plane serves; says what is missing whenever that changes.
    async fn wait(&self, cluster: &Cluster, progress: &Progress, time: GatewayDuration, began: Instant) -> Result<(), InstallError> {
        let mut said = String::new();
        loop {
            let missing = ready::missing(cluster, self.namespace).await?;
            let Some(missing) = missing else {
                progress.done(&format!("the control plane is ready after {:.0} s", began.elapsed().as_secs_f64()));
                return Ok(());
            };
            if began.elapsed() >= time.get() {
                let state = match ready::pods(cluster, self.namespace).await {
                    Ok(pods) if !pods.is_empty() => format!("{missing}\n{}", pods.join("\n")),
                    Ok(_) | Err(_) => missing,
                };
                return Err(InstallError::Late { after: time, state });
            }
            if missing != said {
                progress.note(&missing);
                said = missing;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake;

    fn definition(owner: &str, version: &str) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "x.heddle.dev", "labels": { "app.kubernetes.io/managed-by": owner, "app.kubernetes.io/version": version } },
        })
    }

    async fn asked(found: Option<Value>) -> Result<(), InstallError> {
        let cluster = fake::cluster(move |_| found.clone().map_or_else(fake::absent, |found| (200, found)));
        definitions_are_ours(&cluster, &[definition("heddle", chart::VERSION)]).await
    }

    #[tokio::test]
    async fn definitions_of_others_are_left_alone() {
        assert!(asked(None).await.is_ok());
        assert!(asked(Some(definition("heddle", "0.0.1"))).await.is_ok());
        let newer = asked(Some(definition("heddle", "99.0.0"))).await.unwrap_err().to_string();
        assert!(newer.contains("take heddle 99.0.0"), "{newer}");
        let helm = asked(Some(definition("Helm", chart::VERSION))).await.unwrap_err().to_string();
        assert!(helm.contains("crds.install=false"), "{helm}");
    }

    #[tokio::test]
    async fn a_namespace_that_is_being_removed_is_not_installed_into() {
        let ending =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "mesh", "deletionTimestamp": "2026-11-21T00:00:00Z" } });
        let cluster = fake::cluster(move |_| (200, ending.clone()));
        let out = RollOut { namespace: "mesh", values: &json!({}), objects: &[], force: false, wait: None };
        let error = out.run(&cluster, &Progress::new(Output::Json)).await.unwrap_err().to_string();
        assert!(error.contains("is being removed") && error.contains("kubectl get namespace mesh"), "{error}");
    }
}
