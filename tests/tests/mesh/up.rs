//! The examples as people run them: `heddle up` on their directories, with its real sidecars, and what is left afterwards: nothing.

use heddle_tests::process::heddle;
use heddle_tests::wait::{until, until_within};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Starting an example, with a compiler beside it.
const START: Duration = Duration::from_secs(60);

/// A copy of an example, and `heddle up` on it, in a process group of its own as a shell makes it.
struct Up {
    root: PathBuf,
    child: Child,
}

impl Up {
    fn start(example: &str, args: &[&str]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("heddle-up-{}-{number}", std::process::id()));
        let manifests = root.join("manifests");
        for folder in [&manifests, &root.join("home")] {
            std::fs::create_dir_all(folder).expect("a directory");
        }
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
        for file in std::fs::read_dir(examples).expect("an example") {
            let file = file.expect("a file").path();
            std::fs::copy(&file, manifests.join(file.file_name().expect("a name"))).expect("a copy");
        }
        let output = |name| std::fs::File::create(root.join(name)).expect("a file");
        let child = Command::new(heddle())
            .arg("up")
            .arg(&manifests)
            .args(args)
            .current_dir(&root)
            .env("XDG_STATE_HOME", root.join("home"))
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .process_group(0)
            .spawn()
            .expect("heddle");
        Self { root, child }
    }

    fn said(&self) -> String {
        let read = |name| std::fs::read_to_string(self.root.join(name)).unwrap_or_default();
        format!("{}{}", read("stderr"), read("stdout"))
    }

    async fn ready(&self) {
        until_within(START, "everything to be ready", async || {
            let said = self.said();
            if said.contains("ready after") { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Waits for the end; the exit code.
    async fn ended(&mut self) -> Option<i32> {
        until_within(START, "the end", async || self.child.try_wait().expect("a child").ok_or_else(|| "it runs".to_owned())).await.code()
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.root.join("report.json")).expect("a report")).expect("JSON")
    }

    /// The parts of `running.json`: what runs, and where.
    fn running(&self) -> Value {
        let file = self.root.join("home/heddle").join(format!("up-{}", self.child.id())).join("running.json");
        serde_json::from_slice(&std::fs::read(file).expect("what runs")).expect("JSON")
    }

    /// Every process that it or its children have started: those whose working directory or environment is this directory's.
    fn processes(&self) -> Vec<String> {
        let home = self.root.join("home").display().to_string();
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").expect("processes") {
            let folder = process.expect("an entry").path();
            let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
            let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
            if [&environment, &command].iter().any(|text| text.windows(home.len()).any(|w| w == home.as_bytes())) {
                found.push(format!("{}: {}", folder.display(), String::from_utf8_lossy(&command).replace('\0', " ")));
            }
        }
        found
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.root.join("home")).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- heddle up:\n{}", self.said());
        }
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(group)) = (self.child.try_wait(), group) {
            let _gone = kill_process_group(group, Signal::KILL);
        }
        let _reaped = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.root);
    }
}

/// What passed to the versions of the backends.
fn rows(report: &Value) -> Vec<&Value> {
    let routes = report["routes"].as_array().into_iter().flatten();
    routes.flat_map(|route| route["backends"].as_array().into_iter().flatten()).collect()
}

#[tokio::test]
async fn the_canary_splits_as_its_route_says_and_reports_it() {
    let mut up = Up::start("canary", &["--for", "8s", "--report", "report.json"]);
    assert_eq!(up.ended().await, Some(0), "{}", up.said());
    let report = up.report();
    assert_eq!(report["endedBy"], "time", "{report:#}");
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(0), "{report:#}");
    let requests = |service: &str, route: &str, version: &str| -> u64 {
        let routes = report["routes"].as_array().into_iter().flatten();
        let found = routes.filter(|r| {
            r["service"].as_str().is_some_and(|s| s.ends_with(service)) && r["route"].as_str().is_some_and(|r| r.ends_with(route))
        });
        let rows = found.flat_map(|r| r["backends"].as_array().into_iter().flatten()).filter(|row| row["version"] == version);
        rows.filter_map(|row| row["requests"].as_u64()).sum()
    };
    // Fifty a second for eight seconds, a tenth by beta testers; a loaded machine may make fewer.
    let (testers_v1, testers_v2) = (requests("reviews:80", "#beta-testers", "v1"), requests("reviews:80", "#beta-testers", "v2"));
    let (all_v1, all_v2) = (requests("reviews:80", "#everybody", "v1"), requests("reviews:80", "#everybody", "v2"));
    assert!(testers_v1 == 0 && testers_v2 > 5, "{testers_v1} and {testers_v2} requests of beta testers: {report:#}");
    assert!(all_v1 > 100 && all_v2 > 0 && all_v2 * 4 < all_v1, "{all_v1} to v1 and {all_v2} to v2: {report:#}");
    for row in rows(&report) {
        assert_eq!((row["failures"].as_u64(), row["mtls"].as_str()), (Some(0), Some("yes")), "{row:#}");
    }
    let accepted = report["objects"].to_string();
    assert!(accepted.contains("\"Accepted\"") && !accepted.contains("\"status\":\"False\""), "{accepted}");
    assert!(up.left_behind().is_empty(), "{:?}", up.left_behind());
}

#[tokio::test]
async fn an_edit_of_a_running_example_is_in_force_within_a_second() {
    let mut up = Up::start("canary", &["--no-table"]);
    up.ready().await;
    let running = up.running();
    let front = running["replicas"].as_array().unwrap().iter().find(|r| r["workload"] == "front").unwrap();
    let admin = front["admin"].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
    let file = up.root.join("manifests/routes.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let edited = text.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50");
    assert_ne!(text, edited);
    let new = up.root.join("routes.new");
    std::fs::write(&new, edited).unwrap();
    std::fs::rename(&new, &file).unwrap();
    let began = Instant::now();
    until("the edit in force", async || {
        let page = heddle_tests::look::page(admin, "/config").await.text();
        if page.contains("\"weight\":50") || page.contains("\"weight\": 50") { Ok(()) } else { Err(page) }
    })
    .await;
    eprintln!("measured: an edit of the running example in force after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    kill_process_group(Pid::from_raw(i32::try_from(up.child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(up.ended().await, Some(0), "{}", up.said());
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    let mut up = Up::start("canary", &[]);
    up.ready().await;
    // Itself, the control plane, seven replicas of which each has an application and a sidecar.
    assert!(up.processes().len() >= 10, "{:#?}", up.processes());
    assert_eq!(up.left_behind().len(), 1, "its state");
    // A terminal sends it to the whole group.
    kill_process_group(Pid::from_raw(i32::try_from(up.child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(up.ended().await, Some(0), "{}", up.said());
    assert!(up.processes().is_empty(), "{:#?}", up.processes());
    assert!(up.left_behind().is_empty(), "{:?}", up.left_behind());
    let crashed = up.said().lines().filter(|line| line.contains("starting again")).map(str::to_owned).collect::<Vec<_>>();
    assert!(crashed.is_empty(), "an end that was asked for is no crash: {crashed:#?}");
}
