//! Heddle as its users run it: `heddle up` on a folder with a Service, the server's workload and the client's workload.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bed, Pair};
use crate::client::Protocol;
use crate::process::{Argv, Process, argv, free_ports, wait};
use crate::procfs;

/// How often `heddle up` reads the sidecars' metrics: as often as a Prometheus does by its own defaults.
const METRICS_INTERVAL: &str = "1m";

/// Starts control plane and both sidecars, and finds the sidecars among the children.
pub(super) fn start(bed: &Bed, protocol: Protocol, origin: SocketAddr, instrument: Option<&Argv>, limit: Duration) -> Result<Pair> {
    let heddle = bed.tools.heddle.clone().context("the program heddle is not here")?;
    let [listen] = free_ports()?;
    let folder = bed.folder.join(format!("heddle-{}", listen.port()));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("mesh.yaml"), manifests(protocol, listen, origin))?;
    // The lean binary is what images ship; `heddle sidecar` is the same code in a larger program.
    let lean = heddle.with_file_name("heddle-sidecar");
    let own = if lean.is_file() { argv([lean]) } else { argv([heddle.clone(), "sidecar".into()]) };
    let sidecar: Argv = instrument.into_iter().flatten().cloned().chain(own).collect();
    let sidecar: Vec<_> = sidecar.iter().map(|part| part.to_string_lossy()).collect();
    ensure!(
        sidecar.iter().all(|part| !part.contains(char::is_whitespace)),
        "no part of the sidecar's command may have a space in it: {sidecar:?}"
    );
    let state = bed.folder.join(format!("heddle-{}-state", listen.port()));
    let mut command = argv([heddle, "up".into(), folder, "--state".into(), state]);
    command.extend(argv(["--workers", "1", "--no-table", "--verbose", "--interval", METRICS_INTERVAL]));
    command.extend(argv(["--sidecar-command".to_owned(), sidecar.join(" ")]));
    let log = bed.folder.join(format!("heddle-{}.log", listen.port()));
    let mut process = Process::start(&command, bed.proxy_cpus.as_deref(), &log, false)?;
    let pids = wait(limit, || match process.check() {
        Ok(()) => sidecars(process.pid(), listen).map(Ok),
        Err(ended) => Ok(Err(ended)),
    })
    .flatten()
    .with_context(|| format!("heddle up starts no two sidecars: {}", process.log_end()))?;
    Ok(Pair { address: listen, pids, authority: "server".to_owned(), processes: vec![process] })
}

/// Finds both sidecars below `heddle up`: the client's, which listens on `listen`, first.
fn sidecars(root: u32, listen: SocketAddr) -> Result<Vec<u32>> {
    let mut pids: Vec<u32> = procfs::descendants(root)?
        .into_iter()
        .filter(|(_, arguments)| arguments.iter().any(|argument| is_sidecar(argument)))
        .map(|(pid, _)| pid)
        .collect();
    ensure!(pids.len() == 2, "{} of 2 sidecars are running", pids.len());
    let client = procfs::listener(&pids, listen.port())?;
    let client = client.with_context(|| format!("no sidecar listens on {listen}"))?;
    pids.sort_by_key(|pid| *pid != client);
    Ok(pids)
}

fn is_sidecar(argument: &str) -> bool {
    argument == "sidecar" || Path::new(argument).ends_with("heddle-sidecar")
}

fn manifests(protocol: Protocol, listen: SocketAddr, origin: SocketAddr) -> String {
    let app_protocol = match protocol {
        Protocol::Http1 => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    };
    let (address, port) = (origin.ip(), origin.port());
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: server, namespace: bench}}
spec:
  selector: {{app: server}}
  ports: [{{name: bench, port: 80, targetPort: {port}, appProtocol: {app_protocol}}}]
---
apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {{name: server, namespace: bench, labels: {{app: server}}}}
spec:
  serviceAccountName: server
  address: {address}
  ports: [{{name: bench, port: {port}, appProtocol: {app_protocol}}}]
---
apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {{name: client, namespace: bench, labels: {{app: client}}}}
spec:
  serviceAccountName: client
  upstreams: [{{service: server, port: 80, listen: {listen}}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_sidecar_by_its_arguments() {
        assert!(is_sidecar("sidecar"));
        assert!(is_sidecar("/opt/heddle-sidecar"));
        assert!(!is_sidecar("control-plane"));
        assert!(!is_sidecar("/srv/sidecar-notes"));
    }
}
