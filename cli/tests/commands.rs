//! The commands for clusters, as people start them where there is none: what they say, and how they end.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::process::{Command, Output};

const HEDDLE: &str = env!("CARGO_BIN_EXE_heddle");

fn run(program: &std::path::Path, args: &[&str]) -> Output {
    // No cluster is configured, whatever this machine has.
    Command::new(program).args(args).env_clear().env("KUBECONFIG", "/nonexistent/kubeconfig").env("HOME", "/nonexistent").output().unwrap()
}

fn heddle(args: &[&str]) -> (Option<i32>, String, String) {
    let output = run(std::path::Path::new(HEDDLE), args);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_version_needs_no_cluster() {
    let (status, out, err) = heddle(&["version"]);
    assert_eq!((status, out.as_str(), err.as_str()), (Some(0), concat!("heddle ", env!("CARGO_PKG_VERSION"), "\n"), ""));
    let (_, out, _) = heddle(&["version", "--client", "-o", "json"]);
    assert_eq!(out.trim(), concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}"));
}

#[test]
fn commands_without_a_cluster_say_how_to_give_one() {
    for command in ["install", "upgrade", "uninstall"] {
        let (status, _, err) = heddle(&[command]);
        assert!(status == Some(1) && err.contains("no cluster to talk to") && err.contains("--kubeconfig"), "{command}: {status:?} {err}");
    }
    let (status, out, _) = heddle(&["check", "-o", "json"]);
    assert!(status == Some(1) && out.starts_with("{\"ok\":false"), "{out}");
}

#[test]
fn an_api_server_that_is_away_is_named() {
    let folder = std::env::temp_dir().join(format!("heddle-commands-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("kubeconfig");
    // A port that was free a moment ago: nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"http://127.0.0.1:{port}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    let (status, out, err) = heddle(&["check", "--kubeconfig", file.to_str().unwrap()]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(status == Some(1) && out.contains(&format!("127.0.0.1:{port}")) && out.contains("does not answer"), "{out}{err}");
}

#[test]
fn a_dry_run_needs_no_cluster_and_wrong_values_are_a_mistake_of_the_command_line() {
    let (status, out, err) = heddle(&["install", "--dry-run", "--set", "controlPlane.replicas=5"]);
    assert!(status == Some(0) && out.contains("replicas: 5") && out.starts_with("---\napiVersion: v1\nkind: Namespace\n"), "{err}");
    let (status, _, err) = heddle(&["install", "--dry-run", "--set", "controlPlane.replica=5"]);
    assert!(status == Some(64) && err.contains("controlPlane.replica: there is no such value"), "{err}");
}

#[test]
fn as_a_plug_in_of_kubectl_the_help_says_so() {
    let folder = std::env::temp_dir().join(format!("heddle-plugin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join("kubectl-heddle");
    std::os::unix::fs::symlink(HEDDLE, &link).unwrap();
    let output = run(&link, &["check", "--help"]);
    std::fs::remove_dir_all(&folder).unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("Usage: kubectl heddle check"), "{help}");
}

#[test]
fn shells_complete_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, out, _) = heddle(&["completions", shell]);
        assert!(status == Some(0) && ["install", "upgrade", "uninstall", "check"].iter().all(|command| out.contains(command)), "{shell}");
    }
}
