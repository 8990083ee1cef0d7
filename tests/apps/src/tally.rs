//! Counts of a client and of a server, as the admin port shows them.

use crate::client::Answer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Failures that are kept as text; all are counted.
const KEPT_FAILURES: usize = 20;
/// Paths that are told apart; the rest are counted together.
const KEPT_PATHS: usize = 64;

/// What came of a client's requests of one kind.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tally {
    /// Answers below 400.
    pub(crate) ok: u64,
    /// Everything else.
    pub(crate) failed: u64,
    /// Of `ok`: by what the server calls itself.
    pub(crate) by_app: BTreeMap<String, u64>,
    /// Of `ok`: by the server's pod.
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// The longest that a request took, in milliseconds.
    pub(crate) slowest_ms: u64,
    /// The first failures, with the wall time of each.
    pub(crate) failures: Vec<Failure>,
    /// Connections made.
    pub(crate) connections: u64,
}

/// One failure.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// Milliseconds since 1970.
    at_unix_ms: u64,
    took_ms: u64,
    reason: String,
}

impl Tally {
    pub(crate) fn count(&mut self, outcome: Result<Answer, String>, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.slowest_ms = self.slowest_ms.max(took_ms);
        let reason = match outcome {
            Ok(answer) if answer.status < 400 => {
                self.ok += 1;
                *self.by_app.entry(answer.app).or_default() += 1;
                *self.by_pod.entry(answer.pod).or_default() += 1;
                return;
            }
            Ok(answer) => format!("HTTP {}: {}", answer.status, answer.text()),
            Err(reason) => reason,
        };
        self.failed += 1;
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(Failure { at_unix_ms: wall_clock_ms(), took_ms, reason });
        }
    }
}

/// What a server was asked.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Asked {
    /// By path, without the query.
    pub(crate) paths: BTreeMap<String, u64>,
}

impl Asked {
    pub(crate) fn count(&mut self, path: &str) {
        let known = self.paths.len() < KEPT_PATHS || self.paths.contains_key(path);
        *self.paths.entry(if known { path } else { "others" }.to_owned()).or_default() += 1;
    }
}

/// The wall clock, to be compared with the logs of others.
#[expect(clippy::disallowed_methods, reason = "the one place where this program reads the wall clock")]
pub(crate) fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(status: u16) -> Answer {
        Answer { status, app: "v1".to_owned(), pod: "p".to_owned(), body: Bytes::from_static(b"why") }
    }

    #[test]
    fn answers_of_400_and_more_are_failures() {
        let mut tally = Tally::default();
        tally.count(Ok(answer(200)), Duration::from_millis(3));
        tally.count(Ok(answer(503)), Duration::from_millis(1));
        tally.count(Err("reset".to_owned()), Duration::from_millis(2));
        assert_eq!((tally.ok, tally.failed, tally.slowest_ms), (1, 2, 3));
        assert_eq!(tally.by_app["v1"], 1);
        let reasons: Vec<_> = tally.failures.iter().map(|f| f.reason.as_str()).collect();
        assert_eq!(reasons, ["HTTP 503: why", "reset"]);
    }

    #[test]
    fn paths_are_bounded() {
        let mut asked = Asked::default();
        for n in 0..100 {
            asked.count(&format!("/{n}"));
        }
        assert_eq!(asked.paths.len(), KEPT_PATHS + 1);
        assert_eq!(asked.paths["others"], 36);
    }
}
