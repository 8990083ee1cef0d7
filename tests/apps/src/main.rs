//! `heddle-test-app`: what runs in the pods of the cluster tests. One static binary that is a server, a client under load, or one call
//! (a Job, an init container, an exec probe, a `preStop` hook). It is an ordinary application: nothing in it knows of a mesh.
//!
//! ```text
//! serve.rs   a server of HTTP/1.1, HTTP/2, gRPC, HTTPS, TCP
//! load.rs    a client that keeps connections busy and idle, and counts what comes of it
//! call.rs    one call, and the exit status says what came of it
//! admin.rs   what tests ask: counts, and calls that the pod is to make
//! client.rs  one connection of any kind
//! tally.rs   counts
//! ```

mod admin;
mod call;
mod client;
mod load;
mod serve;
mod shutdown;
mod tally;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The port of [`admin`]: pods of tests leave it out of the mesh, so that the host can always ask.
const ADMIN_PORT: u16 = 9999;

#[derive(Debug, Parser)]
#[command(name = "heddle-test-app", about = "An ordinary application for pods of tests")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM
    Serve(serve::Options),
    /// Sends requests until SIGTERM, and prints the counts at the end
    Load(load::Options),
    /// Makes calls at once, one after the other, and ends
    Call(call::Options),
    /// Does nothing until SIGTERM
    Hold,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    let ended = runtime.block_on(async {
        match command {
            Command::Serve(options) => serve::run(options).await,
            Command::Load(options) => load::run(options).await,
            Command::Call(options) => call::run(options).await,
            Command::Hold => shutdown::told().await.map(|()| ExitCode::SUCCESS),
        }
    });
    match ended {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("heddle-test-app: {error}");
    ExitCode::FAILURE
}
