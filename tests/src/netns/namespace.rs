//! One network namespace: made, entered, gone with the test.

use rustix::process::{Pid, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where `ip netns` keeps namespaces (ip-netns(8)).
const FOLDER: &str = "/run/netns";

static NEXT: AtomicUsize = AtomicUsize::new(0);
static CLEANED: Once = Once::new();

/// A network namespace; it is deleted when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A namespace with nothing but loopback. What earlier runs have left, killed in the midst, is cleared away first.
    ///
    /// # Panics
    /// When this is not root, or `ip` is missing.
    pub fn new(label: &str) -> Self {
        CLEANED.call_once(clear_left);
        let name = format!("heddle-{label}-{}-{}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id());
        command("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    ///
    /// # Panics
    /// When that fails.
    pub fn ip(&self, args: &[&str]) -> String {
        command("ip", &[&["-n", &self.name], args].concat())
    }

    /// Runs a command in it.
    ///
    /// # Panics
    /// When that fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        command("ip", &[&["netns", "exec", &self.name, program], args].concat())
    }

    /// Calls `f` in it: sockets that are made there belong to it, wherever they are used later.
    ///
    /// # Panics
    /// When `f` does.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let path = format!("{FOLDER}/{}", self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap_or_else(|e| panic!("entering {path}: {e}"));
                f()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gives an interface an address, at once usable.
    pub(super) fn add_address(&self, interface: &str, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.ip(&["address", "add", &format!("{ip}/16"), "dev", interface]),
            IpAddr::V6(ip) => self.ip(&["address", "add", &format!("{ip}/64"), "dev", interface, "nodad"]),
        };
    }

    /// Plugs it into the node's bridge.
    pub(super) fn attach(&self, node: &Self, number: u8, ips: &[IpAddr], gateways: &[IpAddr]) {
        let outer = format!("pod{number}");
        node.ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &self.name]);
        node.ip(&["link", "set", &outer, "master", "br0", "up"]);
        for ip in ips {
            self.add_address("eth0", *ip);
        }
        self.ip(&["link", "set", "eth0", "up"]);
        for gateway in gateways {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            self.ip(&[family, "route", "add", "default", "via", &gateway.to_string()]);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that fails must not fail twice.
        let _left = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Deletes namespaces of processes that are gone.
fn clear_left() {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with("heddle-")) {
        let pid = name.rsplit('-').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        if pid.is_some_and(|pid| test_kill_process(pid).is_err()) {
            let _left = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

fn command(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} cannot be run: {e}; the netns tier needs iproute2, nftables and util-linux"));
    let words = args.join(" ");
    assert!(output.status.success(), "{program} {words} (as root?): {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
