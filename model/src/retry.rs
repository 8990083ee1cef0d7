//! When a failed attempt is tried again, and how often in all.

use crate::ResourceRef;
use crate::proto;
use crate::wire::source;
use std::time::Duration;

/// Bytes of a request's body that are kept for another attempt. A body that is longer is sent once.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// The most tries beyond the first that any policy gets: a typing error must not become a retry storm.
pub const ATTEMPTS_MAX: u32 = 10;

/// Which failures are tried again beyond those that were provably never processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries beyond the first, at most [`ATTEMPTS_MAX`].
    pub attempts: u32,
    /// Response statuses that count as failures (GEP-1731 `codes`), sorted.
    pub statuses: Vec<u16>,
    /// gRPC statuses that count as failures, sorted.
    pub grpc_codes: Vec<u32>,
    /// Methods that are tried again although they are not idempotent (RFC 9110 §9.2.2).
    pub methods: Vec<String>,
    /// How long to wait before each further try.
    pub backoff: Backoff,
    /// Who says so; `None`: the built-in default.
    pub source: Option<ResourceRef>,
}

impl Default for RetryPolicy {
    /// One further try for provably unprocessed failures only.
    fn default() -> Self {
        Self { attempts: 1, statuses: Vec::new(), grpc_codes: Vec::new(), methods: Vec::new(), backoff: Backoff::default(), source: None }
    }
}

/// Exponential backoff with full jitter in its upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl Default for Backoff {
    /// 25 ms, doubling, at most 250 ms: Envoy's default, which users know.
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

/// A backoff whose bounds contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backoff: the base ({base:?}) must not exceed the maximum ({max:?})")]
pub struct InvalidBackoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    /// A backoff that starts at `base`, the least that is ever waited (GEP-1731), and doubles up to `max`.
    pub fn try_new(base: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        if base > max {
            return Err(InvalidBackoff { base, max });
        }
        Ok(Self { base, max })
    }

    /// The least wait.
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The longest wait.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How long to wait before try `retry` (1 is the first retry); `random` is in 0..1. Always within [base, max].
    pub fn delay(&self, retry: u32, random: f64) -> Duration {
        let doubled = self.base.saturating_mul(1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX));
        let ceiling = doubled.min(self.max);
        let spread = ceiling.saturating_sub(self.base);
        self.base + spread.mul_f64(random.clamp(0.0, 1.0))
    }
}

impl RetryPolicy {
    /// Whether a request by `method` may be processed twice: it is idempotent, or the policy says so.
    pub fn allows(&self, method: &str) -> bool {
        matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE") || self.methods.iter().any(|m| m == method)
    }
}

/// How much retries may add to the load of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries in percent of first tries.
    pub percent: u32,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    /// 20 %, at least 10 per second: Linkerd's and Gateway API's (GEP-3388).
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

impl From<&RetryPolicy> for proto::Retry {
    fn from(retry: &RetryPolicy) -> Self {
        let RetryPolicy { attempts, statuses, grpc_codes, methods, backoff, source } = retry;
        Self {
            attempts: *attempts,
            statuses: statuses.iter().map(|s| u32::from(*s)).collect(),
            grpc_codes: grpc_codes.clone(),
            methods: methods.clone(),
            backoff_base_ms: u64::try_from(backoff.base.as_millis()).unwrap_or(u64::MAX),
            backoff_max_ms: u64::try_from(backoff.max.as_millis()).unwrap_or(u64::MAX),
            source: source.as_ref().map(Into::into),
        }
    }
}

impl From<proto::Retry> for RetryPolicy {
    fn from(retry: proto::Retry) -> Self {
        let proto::Retry { attempts, statuses, grpc_codes, methods, backoff_base_ms, backoff_max_ms, source: from } = retry;
        let base = Duration::from_millis(backoff_base_ms);
        let mut statuses: Vec<u16> = statuses.into_iter().filter_map(|s| u16::try_from(s).ok()).collect();
        statuses.sort_unstable();
        let mut grpc_codes = grpc_codes;
        grpc_codes.sort_unstable();
        Self {
            attempts: attempts.min(ATTEMPTS_MAX),
            statuses,
            grpc_codes,
            methods,
            backoff: Backoff { base, max: Duration::from_millis(backoff_max_ms).max(base) },
            source: source(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_stays_between_base_and_max(base in 0u64..10_000, extra in 0u64..100_000, retry in 0u32..100, random in 0.0f64..1.0) {
            let backoff = Backoff::try_new(Duration::from_millis(base), Duration::from_millis(base + extra)).unwrap();
            let delay = backoff.delay(retry, random);
            prop_assert!(delay >= backoff.base());
            prop_assert!(delay <= backoff.max());
        }
    }

    #[test]
    fn a_base_above_the_maximum_is_refused() {
        assert!(Backoff::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
