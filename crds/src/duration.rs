//! Durations as the Gateway API writes them (GEP-2257): `10s`, `1h30m`, `250ms`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The pattern of GEP-2257, as the API server checks it.
const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// GEP-2257: at most four numbers, each with its unit.
const MAX_TERMS: usize = 4;
/// GEP-2257: at most five digits a number.
const MAX_DIGITS: usize = 5;

/// A length of time in milliseconds, written as GEP-2257 says.
///
/// Up to four terms of one to five digits and a unit (`h`, `m`, `s`, `ms`), without a sign and without fractions. Zero
/// is valid; what it means (mostly "no limit") is said at each field. It is written back in its shortest form: `90s`
/// becomes `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayDuration(Duration);

impl GatewayDuration {
    /// The longest duration that can be written in canonical form: 99999h59m59s999ms.
    pub const MAX: Self = Self(Duration::from_millis(99_999 * 3_600_000 + 59 * 60_000 + 59 * 1_000 + 999));

    /// Makes a duration of whole milliseconds; `None` above [`GatewayDuration::MAX`].
    #[must_use]
    pub const fn from_millis(millis: u64) -> Option<Self> {
        if millis as u128 > Self::MAX.0.as_millis() {
            return None;
        }
        Some(Self(Duration::from_millis(millis)))
    }

    /// The duration as the standard library has it.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether it is zero, which the Gateway API mostly reads as "no limit".
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<GatewayDuration> for Duration {
    fn from(duration: GatewayDuration) -> Self {
        duration.0
    }
}

/// A text that is not a duration of GEP-2257.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 10s, 1h30m or 250ms, found {0:?}")]
pub struct InvalidDuration(String);

impl FromStr for GatewayDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).and_then(Self::from_millis).ok_or_else(|| InvalidDuration(text.to_owned()))
    }
}

/// Milliseconds of `text`, or nothing when it does not have the form of GEP-2257.
fn parse(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    for _ in 0..MAX_TERMS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > MAX_DIGITS {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let unit_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit_len);
        let unit = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total += number.parse::<u64>().ok()? * unit;
        rest = after;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

impl fmt::Display for GatewayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0s");
        }
        let mut millis = self.0.as_millis();
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            let count = millis / size;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
            millis %= size;
        }
        Ok(())
    }
}

impl Serialize for GatewayDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GatewayDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for GatewayDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "title": "a duration" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_examples_of_gep_2257() {
        for (text, millis) in [
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("10s500ms", 10_500),
            ("0s", 0),
            ("0h0m0s0ms", 0),
            ("99999ms", 99_999),
            ("1s1s", 2_000),
        ] {
            let read: GatewayDuration = text.parse().unwrap();
            assert_eq!(read.get().as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn refuses_what_gep_2257_refuses() {
        for text in ["", "1", "-1s", "1.5h", "100000s", "1d", "1us", "s", "1s ", " 1s", "1h1m1s1ms1s", "1S", "1h 2m"] {
            let refused = text.parse::<GatewayDuration>().unwrap_err();
            assert_eq!(refused, InvalidDuration(text.to_owned()));
        }
    }

    #[test]
    fn is_written_in_its_shortest_form() {
        for (text, shortest) in [("90s", "1m30s"), ("0h", "0s"), ("1000ms", "1s"), ("60m1ms", "1h1ms")] {
            let read: GatewayDuration = text.parse().unwrap();
            assert_eq!(read.to_string(), shortest);
        }
    }

    proptest! {
        #[test]
        fn every_duration_survives_being_written_and_read(millis in 0..=360_000_000_000_u64) {
            if let Some(duration) = GatewayDuration::from_millis(millis) {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }

        #[test]
        fn reading_never_panics(text in "[0-9hms. -]{0,24}") {
            let _ = text.parse::<GatewayDuration>();
        }
    }
}
