//! Starts `heddle up` in a directory of its own, and looks at it from outside: what it prints, `running.json`, and processes.

#![expect(clippy::unwrap_used, reason = "a harness fails the test that uses it")]

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Long enough for a machine that compiles at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub(crate) fn wait(what: &str, condition: impl FnMut() -> bool) {
    wait_or(|| what.to_owned(), condition);
}

/// Waits until `condition` holds; what is said when it does not is made then.
fn wait_or(what: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !condition() {
        assert!(waited < PATIENCE, "not within {PATIENCE:?}: {}", what());
        let pause = Duration::from_millis(10);
        std::thread::park_timeout(pause);
        waited += pause;
    }
}

/// Whether a process is there, and not only its exit status.
pub(crate) fn alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    match state {
        // The state stands behind the name, which may have blanks.
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) if cfg!(target_os = "linux") => false,
        Err(_) => test_kill_process(process(pid)).is_ok(),
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn process(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// What is to be started.
pub(crate) struct Prepared {
    root: PathBuf,
}

/// A started `heddle up`.
pub(crate) struct Up {
    root: PathBuf,
    child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    exit_code: Option<Option<i32>>,
}

/// What `running.json` says.
pub(crate) struct Running(Value);

impl Up {
    /// Begins a scenario; `name` is unique among the tests.
    #[expect(clippy::new_ret_no_self, reason = "a scenario is prepared before it is started")]
    pub(crate) fn new(name: &str) -> Prepared {
        let root = std::env::temp_dir().join(format!("heddle-up-test-{name}-{}", std::process::id()));
        for folder in ["manifests", "work", "state-home"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        Prepared { root }
    }

    /// Waits until a line of standard error has `text`.
    pub(crate) fn wait_for(&self, text: &str) {
        wait_or(|| format!("it says {text:?}; it said:\n{}", self.said()), || self.said().contains(text));
    }

    /// What was said on standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// What was printed on standard output.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(self.root.join("stdout")).unwrap()
    }

    /// Waits for the end.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        if let Some(code) = self.exit_code {
            return code;
        }
        let mut status = None;
        wait("heddle up ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let code = status.unwrap().code();
        self.exit_code = Some(code);
        code
    }

    /// The report, after the end.
    pub(crate) fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.root.join("REPORT")).unwrap()).unwrap()
    }

    /// Whether the state directory is gone.
    pub(crate) fn leaves_nothing(&self) -> bool {
        std::fs::read_dir(self.root.join("state-home")).unwrap().next().is_none()
    }

    /// Writes a manifest while it runs.
    pub(crate) fn edit(&self, file: &str, text: &str) {
        std::fs::write(self.root.join("manifests").join(file), text).unwrap();
    }

    /// Removes a manifest while it runs.
    pub(crate) fn remove(&self, file: &str) {
        std::fs::remove_file(self.root.join("manifests").join(file)).unwrap();
    }

    /// What runs now.
    pub(crate) fn running(&self) -> Running {
        let folder = self.root.join("state-home/heddle").join(format!("up-{}", self.child.id()));
        Running(std::fs::read(folder.join("running.json")).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default())
    }

    /// Waits until what runs is as wanted.
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&Running) -> bool) {
        let failed = || format!("{what}; it said:\n{}\nand runs {:#}", self.said(), self.running().0);
        wait_or(failed, || condition(&self.running()));
    }

    /// The processes of a replica: application, then sidecar.
    pub(crate) fn pids(&self, pod: &str) -> Vec<u32> {
        let running = self.running();
        let replica = running.replica(pod);
        ["application", "sidecar"].iter().map(|role| pid(&replica[role])).collect()
    }

    /// The process of the control plane.
    pub(crate) fn control_plane_pid(&self) -> u32 {
        pid(&self.running().0["controlPlane"])
    }

    /// SIGKILL for an application.
    pub(crate) fn kill_application(&self, pod: &str) {
        kill_process(process(self.pids(pod)[0]), Signal::KILL).unwrap();
    }

    /// SIGKILL for a sidecar.
    pub(crate) fn kill_sidecar(&self, pod: &str) {
        kill_process(process(self.pids(pod)[1]), Signal::KILL).unwrap();
    }

    /// SIGKILL for the control plane.
    pub(crate) fn kill_control_plane(&self) {
        kill_process(process(self.control_plane_pid()), Signal::KILL).unwrap();
    }

    /// SIGTERM for `heddle up` itself.
    pub(crate) fn terminate(&self) {
        kill_process(process(self.child.id()), Signal::TERM).unwrap();
    }

    /// SIGKILL for `heddle up` itself.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        let _status = self.child.wait().unwrap();
    }
}

fn pid(process: &Value) -> u32 {
    process["pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap_or_else(|| panic!("no pid in {process:#}"))
}

impl Drop for Up {
    fn drop(&mut self) {
        // Nothing is left behind by a test that failed either; what runs ends with its parent.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.root);
    }
}

impl Prepared {
    /// Adds a manifest.
    pub(crate) fn manifest(self, file: &str, text: &str) -> Self {
        std::fs::write(self.root.join("manifests").join(file), text).unwrap();
        self
    }

    /// Adds the manifests of one of the examples.
    pub(crate) fn example(self, name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, self.root.join("manifests").join(path.file_name().unwrap())).unwrap();
        }
        self
    }

    /// Starts `heddle up` with further arguments, in a working directory of its own; files of arguments are beside that.
    pub(crate) fn start(self, args: &[&str]) -> Up {
        let Self { root } = self;
        let mut child = Command::new(env!("CARGO_BIN_EXE_heddle"))
            .arg("up")
            .arg(root.join("manifests"))
            .args(args.iter().map(|arg| if *arg == "REPORT" { root.join(arg).into_os_string() } else { arg.into() }))
            .current_dir(root.join("work"))
            .env("XDG_STATE_HOME", root.join("state-home"))
            .stdin(Stdio::null())
            .stdout(File::create(root.join("stdout")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let (said, stderr) = (said.clone(), child.stderr.take().unwrap());
            move || read(stderr, &said)
        });
        Up { root, child, said, reader: Some(reader), exit_code: None }
    }
}

fn read(stderr: impl Read, said: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut said = said.lock().unwrap();
        said.push_str(&line);
        said.push('\n');
    }
}

impl Running {
    /// The Pods that are ready, in the order of their names.
    pub(crate) fn ready(&self) -> Vec<&str> {
        let replicas = self.0["replicas"].as_array().into_iter().flatten();
        replicas.filter(|replica| replica["ready"] == true).filter_map(|replica| replica["pod"].as_str()).collect()
    }

    /// All Pods, in the order of their names.
    pub(crate) fn pods(&self) -> Vec<&str> {
        self.0["replicas"].as_array().into_iter().flatten().filter_map(|replica| replica["pod"].as_str()).collect()
    }

    /// How often a sidecar was started again.
    pub(crate) fn sidecar_restarts(&self, pod: &str) -> u64 {
        self.replica(pod)["sidecar"]["restarts"].as_u64().unwrap()
    }

    /// How often the control plane was started again.
    pub(crate) fn control_plane_restarts(&self) -> u64 {
        self.0["controlPlane"]["restarts"].as_u64().unwrap()
    }

    fn replica(&self, pod: &str) -> &Value {
        let replicas = self.0["replicas"].as_array().into_iter().flatten();
        replicas.into_iter().find(|replica| replica["pod"] == pod).unwrap_or_else(|| panic!("no {pod} in {:#}", self.0))
    }
}
