//! What the tasks of `up` tell its loop.

use super::probe::Health;
use super::process::ProcessId;
use crate::traffic::Reading;
use serde_json::Value;
use std::time::Duration;

/// Something that happened. The queue of these is bounded: whoever reports waits until the loop has room.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process runs.
    Started(ProcessId, u32),
    /// A process could not be started, for this reason; it is tried again.
    NotStarted(ProcessId, String),
    /// A process ended though nobody asked it to; it is started again after the pause.
    Ended {
        /// Which one.
        id: ProcessId,
        /// Whether it failed, or said that all was well.
        success: bool,
        /// Its status or signal, and its last line.
        how: String,
        /// The pause.
        pause: Duration,
    },
    /// A process wrote a line; only when asked for.
    Line(ProcessId, String),
    /// A replica was looked at.
    Probed {
        /// Which one, as `namespace/pod`.
        pod: String,
        /// Which life of its processes this was: what is known of an earlier one means nothing.
        life: u64,
        /// What was found.
        health: Health,
    },
    /// A replica that was to go is gone.
    Retired(String),
    /// The admin ports were asked.
    Scraped(Scrape),
}

/// What the admin ports answered.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// What each sidecar counted: its Pod, its life, and the counts.
    pub(crate) readings: Vec<(String, u64, Reading)>,
    /// The control plane's `/status`.
    pub(crate) status: Option<Value>,
}
