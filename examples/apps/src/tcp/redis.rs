//! Puts redis-server in this process's place: a real application that nobody wrote for the mesh.

use crate::AppError;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use tokio::net::TcpListener;

/// What it is called in `$PATH`.
pub(crate) const PROGRAM: &str = "redis-server";

/// Executes `program` at the address of `listener`, which has shown that the port is free; returns only if that fails.
pub(crate) fn become_redis(program: &Path, listener: TcpListener) -> AppError {
    let failed = |source| AppError::Execute { program: program.to_owned(), source };
    let port = match listener.local_addr() {
        Ok(address) => address.port(),
        Err(error) => return failed(error),
    };
    drop(listener);
    failed(command(program, port).exec())
}

/// Redis on loopback, small, and without a trace on the disk.
pub(super) fn command(program: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"]);
    command.args(["--save", "", "--appendonly", "no", "--maxmemory", "32mb", "--tcp-backlog", "128"]);
    // Its log is advice about the kernel's settings; mistakes in these arguments still go to standard error.
    command.args(["--logfile", "/dev/null"]);
    command
}
