//! One call or several, made at once; the exit status says whether all were answered: a Job, an init container, a probe, a hook.

use crate::client::Target;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to: http://, h2c://, grpc:// or tcp://
    url: Vec<String>,
    /// Each so often, on one connection
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Most milliseconds of one call
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
    /// Milliseconds to work after the calls
    #[arg(long, default_value_t = 0)]
    work_ms: u64,
    /// The exit status when all went well
    #[arg(long, default_value_t = 0)]
    exit: u8,
    /// A further field of the requests
    #[arg(long = "header")]
    headers: Vec<String>,
}

/// Never tries again: what a mesh loses must be seen.
pub(crate) async fn run(options: Options) -> Result<ExitCode, String> {
    let began = Instant::now();
    for url in &options.url {
        let target = Target::parse(url)?.with_headers(&options.headers)?;
        let mut connection = None;
        for _ in 0..options.times {
            let answer = target.exchange_within(Duration::from_millis(options.timeout_ms), &mut connection).await;
            let answer = answer.map_err(|reason| format!("{url}: {reason} (after {:?})", began.elapsed()))?;
            if answer.status >= 400 {
                return Err(format!("{url}: HTTP {}: {}", answer.status, answer.text()));
            }
            eprintln!("{url}: {} {} (after {:?})", answer.status, answer.text(), began.elapsed());
        }
    }
    sleep(Duration::from_millis(options.work_ms)).await;
    Ok(ExitCode::from(options.exit))
}
