//! Errors of a client that goes on: silent while its upstream starts, then at most one line a second.

use std::fmt::Display;
use std::time::Duration;
use tokio::time::Instant;

/// An upstream may take this long to come up before its absence is worth a line.
const START_UP: Duration = Duration::from_secs(10);

/// Between two lines: a broken upstream must not flood the terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// Counts and prints the failures of one client application.
#[derive(Debug)]
pub(crate) struct Complaints {
    app: &'static str,
    silent_until: Instant,
    started: bool,
    unsaid: u64,
}

impl Complaints {
    pub(crate) fn new(app: &'static str) -> Self {
        Self { app, silent_until: Instant::now() + START_UP, started: false, unsaid: 0 }
    }

    /// Notes a success: from the first one on, every failure is worth a line.
    pub(crate) fn success(&mut self) {
        if !self.started {
            self.started = true;
            self.unsaid = 0;
            self.silent_until = Instant::now();
        }
    }

    /// Whether there has been a success yet.
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    /// Prints the failure, or counts it for the next line.
    pub(crate) fn failure(&mut self, what: &dyn Display) {
        if let Some(line) = self.line(what) {
            eprintln!("{line}");
        }
    }

    fn line(&mut self, what: &dyn Display) -> Option<String> {
        self.unsaid += 1;
        if Instant::now() < self.silent_until {
            return None;
        }
        self.silent_until = Instant::now() + BETWEEN_LINES;
        Some(match std::mem::take(&mut self.unsaid) {
            1 => format!("{}: {what}", self.app),
            count => format!("{}: {count} failures, the last one: {what}", self.app),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn says_one_line_a_second_after_the_start() {
        let mut complaints = Complaints::new("load");
        assert_eq!(complaints.line(&"refused"), None, "while the upstream starts");
        complaints.success();
        assert_eq!(complaints.line(&"503").as_deref(), Some("load: 503"));
        assert_eq!(complaints.line(&"503"), None);
        assert_eq!(complaints.line(&"503"), None);
        tokio::time::advance(BETWEEN_LINES).await;
        assert_eq!(complaints.line(&"504").as_deref(), Some("load: 3 failures, the last one: 504"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_never_comes_is_named_in_the_end() {
        let mut complaints = Complaints::new("load");
        tokio::time::advance(START_UP).await;
        assert_eq!(complaints.line(&"refused").as_deref(), Some("load: refused"));
    }
}
