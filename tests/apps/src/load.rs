//! A client under way for long: on each connection one request after the other, at a rate (busy) or after pauses (idle), or a connection
//! for each request (fresh). It never tries again, so that every request that a mesh loses is seen.

use crate::admin::{self, Page};
use crate::client::Target;
use crate::tally::Tally;
use crate::{ADMIN_PORT, shutdown};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// One request. Far more than any takes, and less than a test waits.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to: http://, h2c://, grpc:// or tcp://; one or several
    url: Vec<String>,
    /// Connections to each that are always in use
    #[arg(long, default_value_t = 2)]
    busy: u32,
    /// Connections to each that rest between two requests
    #[arg(long, default_value_t = 2)]
    idle: u32,
    /// Clients of each that connect anew for each request
    #[arg(long, default_value_t = 1)]
    fresh: u32,
    /// Requests a second of each busy or fresh client
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Longest rest of an idle connection, in milliseconds; each is a random share of it
    #[arg(long, default_value_t = 8000)]
    rest_ms: u64,
    /// Milliseconds before the first request
    #[arg(long, default_value_t = 0)]
    start_after_ms: u64,
    /// A further field of the requests
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Where to say at the end whether all went well: a call of URL/ok or URL/failed
    #[arg(long)]
    report: Option<String>,
}

/// How a client uses its connection.
#[derive(Debug, Clone, Copy)]
enum Use {
    Busy,
    Idle,
    Fresh,
}

type Tallies = Arc<Mutex<BTreeMap<String, Tally>>>;

pub(crate) async fn run(options: Options) -> Result<ExitCode, String> {
    let tallies = Tallies::default();
    let shown = tallies.clone();
    let stats: Page = Arc::new(move || {
        let tallies = shown.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_value(&*tallies).unwrap_or_default()
    });
    admin::serve(ADMIN_PORT, BTreeMap::from([("/stats", stats.clone())])).await?;
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for url in &options.url {
        let target = Target::parse(url)?.with_headers(&options.headers)?;
        for (using, count) in [(Use::Busy, options.busy), (Use::Idle, options.idle), (Use::Fresh, options.fresh)] {
            for _ in 0..count {
                let client = Client { target: target.clone(), using, rate: options.rate, rest: Duration::from_millis(options.rest_ms) };
                let start = Duration::from_millis(options.start_after_ms);
                clients.spawn(client.run(start, tallies.clone(), stopped.clone()));
            }
        }
    }
    shutdown::told().await?;
    stop.send_replace(true);
    while clients.join_next().await.is_some() {}
    eprintln!("{}", stats());
    if let Some(url) = &options.report {
        let failed: u64 = tallies.lock().unwrap_or_else(PoisonError::into_inner).values().map(|tally| tally.failed).sum();
        let target = Target::parse(&format!("{url}/{}", if failed == 0 { "ok" } else { "failed" }))?;
        target.exchange_within(REQUEST_LIMIT, &mut None).await?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Client {
    target: Target,
    using: Use,
    rate: f64,
    rest: Duration,
}

impl Client {
    async fn run(self, start: Duration, tallies: Tallies, mut stopped: watch::Receiver<bool>) {
        let name = format!("{}/{}", self.target.kind.name(), self.using.name());
        let mut connection = None;
        let mut pause = start;
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = sleep(pause) => {}
            }
            let began = Instant::now();
            if matches!(self.using, Use::Fresh) {
                connection = None;
            }
            let anew = connection.is_none();
            let outcome = self.target.exchange_within(REQUEST_LIMIT, &mut connection).await;
            let took = began.elapsed();
            {
                let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                let tally = tallies.entry(name.clone()).or_default();
                tally.count(outcome, took);
                tally.connections += u64::from(anew);
            }
            pause = match self.using {
                Use::Busy | Use::Fresh => Duration::from_secs_f64(1.0 / self.rate).saturating_sub(took),
                Use::Idle => self.rest.mul_f64(fastrand::f64()),
            };
        }
    }
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Fresh => "fresh",
        }
    }
}
