//! Other programs: those of `tests/cluster`, and whatever else a scenario runs on the host.

use super::repository;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// A cold build of the cluster's programs takes a quarter of an hour on two cores, one of the images some minutes.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// Of a program's output in a failure's text.
const TAIL: usize = 4000;

/// Runs a program of `tests/cluster`, and gives what it has printed.
///
/// # Panics
/// When it fails, with what it said.
pub async fn cluster(program: &str, args: &[&str]) -> String {
    try_cluster(program, args).await.unwrap_or_else(|reason| panic!("tests/cluster/{program} {}: {reason}", args.join(" ")))
}

/// The same, with the failure as text.
///
/// # Errors
/// What the program said when it did not end well.
pub async fn try_cluster(program: &str, args: &[&str]) -> Result<String, String> {
    try_run(repository().join("tests/cluster").join(program), args).await
}

/// `kubectl apply` of a manifest; what it has printed, warnings too.
///
/// # Errors
/// What kubectl said when it was refused.
pub async fn apply(manifest: &str) -> Result<String, String> {
    let kubectl = repository().join("tests/cluster/kubectl");
    let Output { status, stdout, stderr } = run(kubectl.as_ref(), &["apply", "-f", "-"], Some(manifest)).await?;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.success() { Ok(text) } else { Err(text) }
}

/// Builds the images and takes them into the cluster.
///
/// # Panics
/// When that fails.
pub async fn images() {
    let program = repository().join("tests/apps/images");
    try_run(&program, &[]).await.unwrap_or_else(|reason| panic!("tests/apps/images: {reason}"));
}

/// Builds images of the mesh that speak the next version of the protocol between the planes, and takes them in under this tag.
///
/// # Panics
/// When that fails.
pub async fn next_images(tag: &str) {
    let program = repository().join("tests/apps/images");
    try_run(&program, &["--next", tag]).await.unwrap_or_else(|reason| panic!("tests/apps/images --next: {reason}"));
}

/// Runs any program, and gives what it has printed.
///
/// # Errors
/// What it said when it did not end well.
pub async fn try_run(program: impl AsRef<OsStr>, args: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } = run(program.as_ref(), args, None).await?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(stdout);
    }
    let text = format!("{stdout}{}", String::from_utf8_lossy(&stderr));
    let tail: String = text.chars().skip(text.chars().count().saturating_sub(TAIL)).collect();
    Err(format!("{status}: {}", tail.trim()))
}

async fn run(program: &OsStr, args: &[&str], input: Option<&str>) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(repository()).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    let at = |error: std::io::Error| format!("{}: {error}", program.to_string_lossy());
    let mut child = command.spawn().map_err(at)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // Manifests fit into the pipe, or the program reads on.
        stdin.write_all(input.as_bytes()).await.map_err(at)?;
    }
    match timeout(LIMIT, child.wait_with_output()).await {
        Ok(output) => output.map_err(at),
        Err(_) => Err(format!("{} did not end within {LIMIT:?}", program.to_string_lossy())),
    }
}

/// Where the cluster keeps its state: kubeconfig, logs, the node's process id.
pub fn state() -> PathBuf {
    std::env::var_os("HEDDLE_CLUSTER_STATE").map_or_else(|| PathBuf::from("/tmp/onenode"), PathBuf::from)
}

/// The process that is the node: its network namespace is where all packets between pods pass.
///
/// # Panics
/// When there is no cluster.
pub fn node_pid() -> String {
    let file = state().join("node.pid");
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}: is the cluster up?", file.display())).trim().to_owned()
}
