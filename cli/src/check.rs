//! `heddle check`: what a cluster needs for the mesh, and whether the mesh that is there is well; a line a check, and the way out.

mod authority;
mod cluster_facts;
mod control_plane;
mod pods;
mod rights;

pub(crate) use cluster_facts::is_too_old;

use crate::cluster::{self, Cluster, ClusterError};
use crate::command_line::{Check, Output};
use crate::console::Console;
use crate::text::{Line, Style};
use serde::Serialize;
use std::process::ExitCode;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failure,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// The check's name, for programs.
    check: &'static str,
    level: Level,
    /// What was found.
    text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    way_out: Option<String>,
}

impl Finding {
    fn good(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, level: Level::Good, text: text.into(), way_out: None }
    }

    fn warning(check: &'static str, text: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, text: text.into(), way_out: Some(way_out.into()) }
    }

    fn failure(check: &'static str, text: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { check, level: Level::Failure, text: text.into(), way_out: Some(way_out.into()) }
    }

    /// A check that could not be made: a missing right leaves it open, anything else is a failure.
    fn not_made(check: &'static str, error: &ClusterError) -> Self {
        if let ClusterError::Forbidden { action, message: _ } = error {
            return Self::warning(check, format!("not checked: no right to {action}"), "run this as somebody with that right");
        }
        Self::failure(check, error.to_string(), "see that the API server is well: kubectl get --raw /readyz")
    }

    /// The line for people, and the way out below it.
    fn lines(&self) -> Vec<Line> {
        let (style, mark) = match self.level {
            Level::Good => (Style::Good, "✓"),
            Level::Warning => (Style::Bold, "!"),
            Level::Failure => (Style::Bad, "✗"),
        };
        let mut line = Line::new(style, mark);
        line.push(Style::Plain, format!(" {}: {}", self.check, self.text));
        let mut lines = vec![line];
        lines.extend(self.way_out.iter().map(|way_out| Line::new(Style::Dim, format!("  → {way_out}"))));
        lines
    }
}

/// All findings, for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether nothing failed; warnings count as success.
    ok: bool,
    findings: &'a [Finding],
}

/// Runs the command.
pub(crate) fn check(options: &Check) -> ExitCode {
    cluster::run("check", async {
        let findings = match Cluster::connect(&options.target).await {
            Ok(cluster) => findings(&cluster, options).await,
            Err(error) => vec![Finding::failure("cluster", error.to_string(), "kubectl config get-contexts shows what there is")],
        };
        let ok = findings.iter().all(|finding| finding.level != Level::Failure);
        match options.output {
            Output::Text => {
                let colour = Console::wants_colour();
                let lines = findings.iter().flat_map(Finding::lines).map(|line| format!("{}\n", line.render(usize::MAX, colour)));
                let _status = crate::print(format!("{}{}\n", lines.collect::<String>(), summary(&findings)).as_bytes());
            }
            Output::Json => {
                let json = serde_json::to_string(&Report { ok, findings: &findings }).unwrap_or_default();
                let _status = crate::print(format!("{json}\n").as_bytes());
            }
        }
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Makes all checks, in the order in which a reader wants them.
async fn findings(cluster: &Cluster, options: &Check) -> Vec<Finding> {
    let Check { target: _, namespace, pre, output: _ } = options;
    let mut findings = Vec::new();
    match cluster_facts::server(cluster).await {
        Ok(facts) => findings.extend(facts),
        // Without an answer to the first question there is none to the others.
        Err(error) => return vec![Finding::not_made("cluster", &error)],
    }
    findings.extend(cluster_facts::api_versions(cluster).await);
    findings.extend(cluster_facts::definitions(cluster, *pre).await);
    findings.push(cluster_facts::gateway_api(cluster).await);
    findings.extend(pods::other_meshes(cluster).await);
    if *pre {
        findings.push(rights::to_install(cluster, namespace).await);
        findings.push(control_plane::nothing_installed(cluster, namespace).await);
        return findings;
    }
    findings.extend(control_plane::serving(cluster, namespace).await);
    if control_plane::is_absent(cluster, namespace).await {
        // Everything else would only say the same again.
        return findings;
    }
    findings.extend(control_plane::webhooks(cluster, namespace).await);
    findings.push(control_plane::injection(cluster).await);
    findings.extend(authority::certificates(cluster, namespace).await);
    findings.push(pods::versions(cluster).await);
    findings.push(pods::naked(cluster).await);
    findings
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Failure), count(Level::Warning)) {
        (0, 0) => format!("all {} checks are well", findings.len()),
        (0, warnings) => format!("{} checks are well, {warnings} to look at", count(Level::Good)),
        (failures, warnings) => format!("{} checks are well, {warnings} to look at, {failures} failed", count(Level::Good)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_mark_and_its_way_out() {
        let shown = |finding: &Finding| finding.lines().iter().map(|line| line.render(200, false)).collect::<Vec<_>>();
        assert_eq!(shown(&Finding::good("clock", "0 s apart")), ["✓ clock: 0 s apart"]);
        assert_eq!(shown(&Finding::warning("clock", "9 s apart", "set it")), ["! clock: 9 s apart", "  → set it"]);
        assert_eq!(shown(&Finding::failure("clock", "1 h apart", "set it"))[0], "✗ clock: 1 h apart");
    }

    #[test]
    fn a_missing_right_is_no_failure() {
        let error = ClusterError::Forbidden { action: "list pods".to_owned(), message: String::new() };
        assert_eq!(Finding::not_made("pods", &error).level, Level::Warning);
        let error = ClusterError::Refused { action: "list pods".to_owned(), message: "no".to_owned() };
        assert_eq!(Finding::not_made("pods", &error).level, Level::Failure);
    }

    #[test]
    fn the_summary_counts() {
        let findings = [Finding::good("a", ""), Finding::warning("b", "", ""), Finding::failure("c", "", "")];
        assert_eq!(summary(&findings), "1 checks are well, 1 to look at, 1 failed");
        assert_eq!(summary(&findings[..1]), "all 1 checks are well");
    }
}
