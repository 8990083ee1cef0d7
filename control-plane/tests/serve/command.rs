//! The binary: exit codes, what it prints, and its end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heddle-control-plane"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env_remove("HEDDLE_LOG").env_remove("HEDDLE_LOG_FORMAT");
    command
}

#[test]
fn bad_arguments_are_all_named_and_exit_with_64() {
    let ended = command().args(["--directory", "/nonexistent", "--listen", "nowhere"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(64));
    let text = String::from_utf8(ended.stderr).unwrap();
    let parts = ["/nonexistent", "\"nowhere\"", "--state is missing", "--admin is missing", "--tokens is missing"];
    assert_eq!(text.lines().count(), parts.len(), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(command().arg("--no-such-argument").status().unwrap().code(), Some(64));
    assert_eq!(command().arg("--help").status().unwrap().code(), Some(0));
}

#[test]
fn sigterm_ends_it_within_a_second_with_success() {
    let folder = std::env::temp_dir().join(format!("heddle-command-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let at = |name: &str| folder.join(name).into_os_string();
    let mut child = command()
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json", "--directory"])
        .args([folder.as_os_str(), "--state".as_ref(), &at("state"), "--tokens".as_ref(), &at("tokens.json")])
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("control plane ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it was ready");
    }
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    let asked = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(status.success(), "{status}: {rest}");
    std::fs::remove_dir_all(folder).unwrap();
}
