//! Whether the machine itself stood still: a thread that wakes up ten times a second, and by how much it was late at worst.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Longer than any scheduler makes a thread wait that wants a microsecond of two cores: the machine was not running.
const STANDSTILL: Duration = Duration::from_millis(1500);

static WATCH: Once = Once::new();
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Begins to watch; later calls do nothing.
pub fn watch() {
    WATCH.call_once(|| {
        // It ends with the process; without it nothing is excused.
        drop(thread::Builder::new().name("standstill".to_owned()).spawn(|| {
            loop {
                let began = now();
                thread::sleep(LOOK);
                let late = now().duration_since(began).saturating_sub(LOOK);
                LONGEST.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }));
    });
}

/// The longest standstill since the last call, if there was one.
pub fn taken() -> Option<Duration> {
    Some(Duration::from_millis(LONGEST.swap(0, Ordering::Relaxed))).filter(|late| *late >= STANDSTILL)
}

#[expect(clippy::disallowed_methods, reason = "real time is what this measures; tokio's clock belongs to a runtime")]
fn now() -> Instant {
    Instant::now()
}
