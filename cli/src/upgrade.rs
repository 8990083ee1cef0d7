//! `heddle upgrade`: brings an installation to this version and to other values, and takes away what the chart no longer makes.

use crate::chart::{self, Release, kinds::Kind, values};
use crate::cluster::progress::Progress;
use crate::cluster::release::{self, Installed, RECORD};
use crate::cluster::{self, Cluster, identity};
use crate::command_line::Upgrade;
use crate::install::{InstallError, RollOut, connect, definitions_are_ours, print};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;

/// Runs the command.
pub(crate) fn upgrade(options: &Upgrade) -> ExitCode {
    let progress = Progress::new(options.output);
    cluster::run("upgrade", async {
        match begin(options, &progress).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                progress.fail(&error.to_string());
                error.status()
            }
        }
    })
}

async fn begin(options: &Upgrade, progress: &Progress) -> Result<(), InstallError> {
    let Upgrade { target, namespace, values, reset_values, dry_run, roll, output } = options;
    let given = values::collect(&values.files, &values.set, &values.set_string).map_err(InstallError::Usage)?;
    let cluster = connect(target).await?;
    let installed = Installed::look(&cluster, namespace).await?;
    if let Some(refusal) = installed.refusal("upgrade") {
        return Err(InstallError::Refused(refusal));
    }
    let Installed::Ours { version, values: before } = installed else {
        return Err(InstallError::Refused(format!("nothing is installed in namespace {namespace}: `heddle install` does that")));
    };
    if release::is_newer(&version, chart::VERSION) {
        return Err(InstallError::Refused(format!(
            "heddle {version} is installed, and this is heddle {}: take heddle {version} or later",
            chart::VERSION
        )));
    }
    let mut values = if *reset_values { json!({}) } else { before };
    values::merge(&mut values, &given);
    let objects = chart::objects(&values, Release { namespace, install: false })?;
    if *dry_run {
        return print(namespace, &objects, *output);
    }
    definitions_are_ours(&cluster, &objects).await?;
    let out = RollOut { namespace, values: &values, objects: &objects, force: roll.force_conflicts, wait: roll.wait() };
    let report = out.run(&cluster, progress).await?;
    prune(&cluster, &objects, progress).await?;
    progress.result(&report);
    Ok(())
}

/// Removes objects of the installation that are no longer in it.
///
/// Definitions stay, whatever the values say: with them, all objects of their kinds would go. So does the namespace.
async fn prune(cluster: &Cluster, objects: &[Value], progress: &Progress) -> Result<(), InstallError> {
    let wanted: BTreeSet<_> = objects
        .iter()
        .map(|object| {
            let (kind, _, name) = identity(object);
            (kind.map_or("", Kind::name), name)
        })
        .collect();
    for (kind, found) in release::objects(cluster, release::OURS).await? {
        if matches!(kind.name(), "CustomResourceDefinition" | "Namespace") {
            continue;
        }
        for object in found {
            let name = object.metadata.name.unwrap_or_default();
            if !wanted.contains(&(kind.name(), name.as_str())) && name != RECORD {
                cluster.delete(kind, object.metadata.namespace.as_deref().unwrap_or_default(), &name).await?;
                progress.done(&format!("{} {name} removed: the chart no longer makes it", kind.name()));
            }
        }
    }
    Ok(())
}
