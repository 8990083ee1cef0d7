//! Clients under way in pods, and what came of their requests; they never try again.

use super::World;
use super::pod::Pod;
use super::workload::Workload;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Of a kind and use (`http1/busy`): what the client has counted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Answers below 400.
    pub ok: u64,
    /// Everything else.
    pub failed: u64,
    /// Of `ok`: by what the server calls itself.
    #[serde(default)]
    pub by_app: BTreeMap<String, u64>,
    /// Of `ok`: by the server's pod.
    #[serde(default)]
    pub by_pod: BTreeMap<String, u64>,
    /// The longest that a request took, in milliseconds.
    pub slowest_ms: u64,
    /// Connections made.
    pub connections: u64,
    /// The first failures.
    pub failures: Vec<Failure>,
}

/// A failure.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How long the request took.
    pub took_ms: u64,
    /// In words.
    pub reason: String,
}

/// A client pod.
#[derive(Debug, Clone)]
pub struct Load {
    /// The pod.
    pub pod: Pod,
}

/// All tallies of a client.
#[derive(Debug, Clone, Default)]
pub struct Tallies(pub BTreeMap<String, Tally>);

impl Load {
    /// Starts a client with these arguments of `load`, and waits until each of its kinds has answers.
    ///
    /// # Panics
    /// When it gets none, or something fails.
    pub async fn start(world: &World, namespace: &str, name: &str, args: &[&str]) -> Self {
        let load = Self::start_outside(world, namespace, name, args).await;
        load.tallies().await.assert_flawless(&format!("{name} at its start"));
        load
    }

    /// The same where failures at the start are nobody's fault: kube-proxy knows a ready pod some time after it is ready.
    ///
    /// # Panics
    /// When it gets no answers.
    pub async fn start_outside(world: &World, namespace: &str, name: &str, args: &[&str]) -> Self {
        let pod = world.start_pod(&Workload::client(namespace, name, args).pod()).await;
        let load = Self { pod };
        load.more(world, 5).await;
        load
    }

    /// What came of it so far.
    ///
    /// # Panics
    /// When the client does not answer.
    pub async fn tallies(&self) -> Tallies {
        Tallies(serde_json::from_value(self.pod.ask("/stats").await).expect("tallies of a client"))
    }

    /// Waits until every kind and use has had so many more requests; gives what came of all requests meanwhile.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn more(&self, world: &World, requests: u64) -> Tallies {
        let before = self.tallies().await;
        world
            .until(&format!("{requests} more requests of each kind by {}", self.pod.name), async || {
                let since = self.tallies().await.since(&before);
                let few: Vec<_> = since.0.iter().filter(|(_, t)| t.ok + t.failed < requests).map(|(kind, _)| kind.clone()).collect();
                if few.is_empty() && !since.0.is_empty() { Ok(since) } else { Err(format!("too few of {few:?}")) }
            })
            .await
    }
}

impl Tallies {
    /// What has come since `earlier`. Failures that were kept before are left out.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let none = Tally::default();
        let difference = self.0.iter().map(|(kind, now)| {
            let before = earlier.0.get(kind).unwrap_or(&none);
            let less = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
                let pairs = now.iter().map(|(name, n)| (name.clone(), n - before.get(name).copied().unwrap_or_default()));
                pairs.filter(|(_, n)| *n > 0).collect()
            };
            let tally = Tally {
                ok: now.ok - before.ok,
                failed: now.failed - before.failed,
                by_app: less(&now.by_app, &before.by_app),
                by_pod: less(&now.by_pod, &before.by_pod),
                slowest_ms: now.slowest_ms,
                connections: now.connections - before.connections,
                failures: now.failures.iter().skip(before.failures.len()).cloned().collect(),
            };
            (kind.clone(), tally)
        });
        Self(difference.collect())
    }

    /// Requests.
    pub fn total(&self) -> u64 {
        self.0.values().map(|t| t.ok + t.failed).sum()
    }

    /// Failed ones.
    pub fn failed(&self) -> u64 {
        self.0.values().map(|t| t.failed).sum()
    }

    /// The longest that a request took, in milliseconds, since the client's start.
    pub fn slowest_ms(&self) -> u64 {
        self.0.values().map(|t| t.slowest_ms).max().unwrap_or_default()
    }

    /// Answers of a server, by what it calls itself, of all kinds.
    pub fn of(&self, app: &str) -> u64 {
        self.0.values().map(|t| t.by_app.get(app).copied().unwrap_or_default()).sum()
    }

    /// In words, for a figure.
    pub fn words(&self) -> String {
        format!("{} of {} requests failed, slowest {} ms", self.failed(), self.total(), self.slowest_ms())
    }

    /// The first failures of each kind, in words; empty when there are none.
    pub fn failures(&self) -> String {
        let mut text = String::new();
        for (kind, tally) in &self.0 {
            if tally.failed > 0 {
                let _infallible = writeln!(text, "  {kind}: {} of {}", tally.failed, tally.failed + tally.ok);
            }
            for Failure { at_unix_ms, took_ms, reason } in &tally.failures {
                let _infallible = writeln!(text, "    at {at_unix_ms} after {took_ms} ms: {reason}");
            }
        }
        text
    }

    /// Asserts that nothing failed, and that there was something.
    ///
    /// # Panics
    /// When not.
    pub fn assert_flawless(&self, during: &str) {
        assert!(self.total() > 0, "no request was made during {during}");
        assert_eq!(self.failed(), 0, "{} during {during}:\n{}", self.words(), self.failures());
    }
}
