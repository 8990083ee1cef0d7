//! A record as one line of JSON (RFC 8259), with the time as RFC 3339 has it.

use super::Record;
use serde::Serialize;
use std::fmt::{self, Display};
use std::net::SocketAddr;

/// Appends the line.
pub(super) fn write(record: &Record, out: &mut Vec<u8>) {
    let begun = out.len();
    match serde_json::to_writer(&mut *out, &Line::from(record)) {
        Ok(()) => out.push(b'\n'),
        // Nothing in a line can fail to be written to memory; half of one would spoil the next.
        Err(_) => out.truncate(begun),
    }
}

/// What stands in the log, in this order. Absent values are left out.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "text")]
    time: Time,
    direction: &'static str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    authority: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    cause: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    backend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    attempts: u32,
    duration_ms: f64,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    peer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
}

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Self {
        let Record {
            ended_unix_nanos,
            direction,
            protocol,
            method,
            authority,
            path,
            status,
            cause,
            route,
            backend,
            endpoint,
            attempts,
            duration,
            request_bytes,
            response_bytes,
            peer,
            trace_id,
            request_id,
        } = record;
        Line {
            time: Time(*ended_unix_nanos),
            direction: direction.as_str(),
            protocol,
            method,
            authority,
            path,
            status: (*status != 0).then_some(*status),
            cause: cause.flag(),
            route,
            backend,
            endpoint: *endpoint,
            attempts: *attempts,
            // To the microsecond: what is below is noise.
            duration_ms: (duration.as_secs_f64() * 1e6).round() / 1e3,
            request_bytes: *request_bytes,
            response_bytes: *response_bytes,
            peer,
            trace_id: (*trace_id != 0).then(|| format!("{trace_id:032x}")),
            request_id,
        }
    }
}

fn text<S: serde::Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Nanoseconds since 1970, shown as `2026-11-20T22:50:00.123Z`.
struct Time(u64);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 / 1_000_000;
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Year, month and day of a number of days since 1970 (the algorithm of H. Hinnant's `civil_from_days`, for days that are not negative).
fn date(days: u64) -> (u64, u64, u64) {
    // Years begin in March, so that the leap day is a year's last; eras are the 400 years after which the calendar repeats.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000Z"),
            (1_795_215_000, "2026-11-20T22:50:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time(seconds * 1_000_000_000).to_string(), expected);
        }
        assert_eq!(Time(1_234_567).to_string(), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(0);
        for days in 1..200_000 {
            let next = date(days);
            let same_month = (next.0, next.1, next.2) == (last.0, last.1, last.2 + 1);
            let next_month = next.2 == 1 && last.2 >= 28 && (next.0 * 12 + next.1) == (last.0 * 12 + last.1) + 1;
            assert!(same_month || next_month, "{last:?} {next:?}");
            last = next;
        }
    }
}
