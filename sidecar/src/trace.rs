//! Trace context: read from W3C `traceparent` and from B3, continued, and written back in the forms that came in.
//!
//! Pure, and without an allocation. Sources: W3C Trace Context (level 1, with the random flag of level 2), and the specification
//! of B3 propagation.
//!
//! A [`TraceContext`] names the span that one is in. On each leg: [`TraceContext::begin`] continues the caller's trace (its `parent`
//! is the caller's span), [`TraceContext::child`] enters a span of one's own, and [`TraceContext::headers`] says what the next hop is
//! told. `tracestate` and `baggage` are passed on as they are; when [`Incoming::keeps_tracestate`] is false, `tracestate` belongs to no
//! trace and is dropped (Trace Context §4.3).

use fastrand::Rng;
use std::fmt;

/// The headers that carry a trace context, lower-case: what a caller sent of them is replaced by [`TraceContext::headers`].
pub const HEADERS: [&str; 7] = ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"];

/// 2 version, 32 trace id, 16 parent id, 2 flags, 3 dashes (Trace Context §3.2).
const TRACEPARENT_BYTES: usize = 55;
/// 32 trace id, 16 span id, 1 sampling state, 2 dashes.
const B3_BYTES: usize = 51;

const FLAG_SAMPLED: u8 = 0x01;
const FLAG_RANDOM: u8 = 0x02;

/// Sampling rates are in parts of this.
pub const PPM: u32 = 1_000_000;

/// The forms in which a context came in; none of them means W3C on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats {
    /// `traceparent`.
    pub w3c: bool,
    /// The one header `b3`.
    pub b3_single: bool,
    /// The headers `x-b3-*`.
    pub b3_multi: bool,
}

/// What the caller says about sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decision {
    /// Nothing: whoever comes next decides.
    #[default]
    Defer,
    /// Not sampled.
    Deny,
    /// Sampled.
    Accept,
    /// Sampled, whatever any rate says (B3 only).
    Debug,
}

/// The values of the headers of one request, as they stand; `None` for absent ones.
///
/// A header that is repeated is to be left out, as is one that is not text: Trace Context §3.2 and B3 know no lists.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceHeaders<'a> {
    /// `traceparent`.
    pub traceparent: Option<&'a [u8]>,
    /// `b3`.
    pub b3: Option<&'a [u8]>,
    /// `x-b3-traceid`.
    pub x_b3_traceid: Option<&'a [u8]>,
    /// `x-b3-spanid`.
    pub x_b3_spanid: Option<&'a [u8]>,
    /// `x-b3-sampled`.
    pub x_b3_sampled: Option<&'a [u8]>,
    /// `x-b3-flags`.
    pub x_b3_flags: Option<&'a [u8]>,
}

/// What a request brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incoming {
    ids: Option<Ids>,
    decision: Decision,
    formats: Formats,
    random: bool,
    short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    trace: u128,
    span: u64,
}

/// The span that one is in, and how to tell others of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Not 0.
    pub trace_id: u128,
    /// The span that one is in: the parent of whatever is begun here. 0: none yet, the trace begins here.
    pub parent: u64,
    /// Whether spans of this trace are recorded.
    pub sampled: bool,
    /// In which forms it goes out.
    pub formats: Formats,
    debug: bool,
    random: bool,
    /// The trace id came in 64 bits, and goes out so in B3: some readers know no other length.
    short: bool,
}

impl TraceHeaders<'_> {
    /// Reads all forms. Invalid ones count as absent. `traceparent` wins over `b3`, and `b3` over `x-b3-*`, where they disagree.
    #[must_use]
    pub fn read(&self) -> Incoming {
        let w3c = self.traceparent.and_then(parse_traceparent);
        let single = self.b3.and_then(parse_b3);
        let multi = self.read_multi();
        let formats = Formats { w3c: w3c.is_some(), b3_single: single.is_some(), b3_multi: multi.is_some() };
        let chosen = w3c.or(single).or(multi).unwrap_or_default();
        // B3 knows "debug" and W3C does not: a debug request stays one whichever form gave the ids.
        let debug = [single, multi].iter().flatten().any(|i| i.decision == Decision::Debug);
        let decision = if debug { Decision::Debug } else { chosen.decision };
        Incoming { formats, decision, ..chosen }
    }

    fn read_multi(&self) -> Option<Incoming> {
        let decision = match (self.x_b3_flags, self.x_b3_sampled) {
            (Some(b"1"), _) => Decision::Debug,
            (_, Some(b"1" | b"true" | b"True")) => Decision::Accept,
            (_, Some(b"0" | b"false" | b"False")) => Decision::Deny,
            (_, Some(_) | None) => Decision::Defer,
        };
        let trace = self.x_b3_traceid.and_then(b3_trace_id);
        let span = self.x_b3_spanid.and_then(id64);
        let (ids, short) = match (trace, span) {
            (Some((trace, short)), Some(span)) => (Some(Ids { trace, span }), short),
            (Some(_) | None, Some(_) | None) => (None, false),
        };
        let found = ids.is_some() || decision != Decision::Defer;
        found.then_some(Incoming { ids, decision, short, ..Incoming::default() })
    }
}

impl Incoming {
    /// The forms that were there and valid.
    #[must_use]
    pub fn formats(&self) -> Formats {
        self.formats
    }

    /// Whether a trace is continued.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.ids.is_some()
    }

    /// What the caller said about sampling.
    #[must_use]
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Whether `tracestate` may be passed on: only together with the valid `traceparent` that it came with (Trace Context §3.3).
    #[must_use]
    pub fn keeps_tracestate(&self) -> bool {
        self.formats.w3c
    }
}

impl TraceContext {
    /// Continues the caller's trace, or begins one. Where the caller leaves sampling open, `sampling_ppm` of [`PPM`] are sampled.
    pub fn begin(incoming: &Incoming, sampling_ppm: u32, rng: &mut Rng) -> Self {
        let Incoming { ids, decision, formats, random, short } = *incoming;
        let (trace_id, parent) = match ids {
            Some(Ids { trace, span }) => (trace, span),
            None => (rng.u128(1..), 0),
        };
        let sampled = match decision {
            Decision::Accept | Decision::Debug => true,
            Decision::Deny => false,
            Decision::Defer => rng.u32(0..PPM) < sampling_ppm,
        };
        let formats = if formats == Formats::default() { Formats { w3c: true, ..formats } } else { formats };
        Self { trace_id, parent, sampled, formats, debug: decision == Decision::Debug, random, short }
    }

    /// Enters a new span: the result's `parent` is the new span's id, and this context's `parent` is that span's parent.
    #[must_use]
    pub fn child(&self, rng: &mut Rng) -> Self {
        Self { parent: rng.u64(1..), ..*self }
    }

    /// The value of `traceparent`, version 00 (Trace Context §3.2.2). Meaningful after [`TraceContext::child`], when `parent` is not 0.
    #[must_use]
    pub fn traceparent(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut out = [b'-'; TRACEPARENT_BYTES];
        let flags = (u8::from(self.sampled) * FLAG_SAMPLED) | (u8::from(self.random) * FLAG_RANDOM);
        write_hex(&mut out[0..2], 0);
        write_hex(&mut out[3..35], self.trace_id);
        write_hex(&mut out[36..52], u128::from(self.parent));
        write_hex(&mut out[53..55], u128::from(flags));
        out
    }

    /// The value of the one header `b3`: trace id, span id, sampling state.
    #[must_use]
    pub fn b3(&self) -> Value {
        let mut value = Value::default();
        value.push_hex(self.b3_trace_id_bytes(), self.trace_id);
        value.push(b'-');
        value.push_hex(16, u128::from(self.parent));
        value.push(b'-');
        value.push(if self.debug { b'd' } else { self.sampled_digit() });
        value
    }

    /// The headers for the next hop, in the forms of `formats`: names of [`HEADERS`] with their values.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let Formats { w3c, b3_single, b3_multi } = self.formats;
        let hex = |digits, id| {
            let mut value = Value::default();
            value.push_hex(digits, id);
            value
        };
        let digit = |digit| {
            let mut value = Value::default();
            value.push(digit);
            value
        };
        // B3: the debug flag says that it is sampled, and stands instead of `x-b3-sampled`.
        let state = if self.debug { ("x-b3-flags", digit(b'1')) } else { ("x-b3-sampled", digit(self.sampled_digit())) };
        [
            w3c.then(|| ("traceparent", Value::from(self.traceparent()))),
            b3_single.then(|| ("b3", self.b3())),
            b3_multi.then(|| ("x-b3-traceid", hex(self.b3_trace_id_bytes(), self.trace_id))),
            b3_multi.then(|| ("x-b3-spanid", hex(16, u128::from(self.parent)))),
            b3_multi.then_some(state),
        ]
        .into_iter()
        .flatten()
    }

    fn b3_trace_id_bytes(&self) -> usize {
        // Short only when nothing is cut off.
        if self.short && self.trace_id <= u128::from(u64::MAX) { 16 } else { 32 }
    }

    fn sampled_digit(&self) -> u8 {
        if self.sampled { b'1' } else { b'0' }
    }
}

/// A header's value on the stack.
#[derive(Clone, Copy)]
pub struct Value {
    bytes: [u8; TRACEPARENT_BYTES],
    length: usize,
}

impl Value {
    /// The bytes: lower-case hexadecimal digits and dashes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn push_hex(&mut self, digits: usize, value: u128) {
        write_hex(&mut self.bytes[self.length..self.length + digits], value);
        self.length += digits;
    }
}

impl Default for Value {
    fn default() -> Self {
        Self { bytes: [0; TRACEPARENT_BYTES], length: 0 }
    }
}

impl From<[u8; TRACEPARENT_BYTES]> for Value {
    fn from(bytes: [u8; TRACEPARENT_BYTES]) -> Self {
        Self { bytes, length: TRACEPARENT_BYTES }
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

const _: () = assert!(B3_BYTES <= TRACEPARENT_BYTES, "one buffer holds either");

/// Trace Context §3.2: lower-case only, version ff is invalid, later versions are read by the parts that version 00 has.
fn parse_traceparent(text: &[u8]) -> Option<Incoming> {
    let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' || known.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let version = hex(&known[0..2])?;
    if version == 0xff || (version == 0 && !rest.is_empty()) || !(rest.is_empty() || rest[0] == b'-') {
        return None;
    }
    let trace = hex(&known[3..35]).filter(|id| *id != 0)?;
    let span = id64(&known[36..52])?;
    let flags = u8::try_from(hex(&known[53..55])?).ok()?;
    let decision = if flags & FLAG_SAMPLED != 0 { Decision::Accept } else { Decision::Deny };
    Some(Incoming { ids: Some(Ids { trace, span }), decision, random: flags & FLAG_RANDOM != 0, ..Incoming::default() })
}

/// `{trace id}-{span id}[-{sampling state}[-{parent span id}]]`, or a sampling state alone.
fn parse_b3(text: &[u8]) -> Option<Incoming> {
    let state = |state: &[u8]| match state {
        b"0" => Some(Decision::Deny),
        b"1" => Some(Decision::Accept),
        b"d" => Some(Decision::Debug),
        _ => None,
    };
    if let Some(decision) = state(text) {
        return Some(Incoming { decision, ..Incoming::default() });
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let (trace, short) = b3_trace_id(parts.next()?)?;
    let span = id64(parts.next()?)?;
    let decision = match parts.next() {
        None => Decision::Defer,
        Some(text) => state(text)?,
    };
    if let Some(parent) = parts.next() {
        id64(parent)?;
    }
    parts.next().is_none().then_some(Incoming { ids: Some(Ids { trace, span }), decision, short, ..Incoming::default() })
}

/// A trace id of 128 or 64 bits, and whether it is the shorter one. Upper case is taken: some clients send it, and B3's readers do.
fn b3_trace_id(text: &[u8]) -> Option<(u128, bool)> {
    match text.len() {
        32 => hex(text).filter(|id| *id != 0).map(|id| (id, false)),
        16 => id64(text).map(|id| (u128::from(id), true)),
        _ => None,
    }
}

/// 16 hexadecimal digits that are not all 0.
fn id64(text: &[u8]) -> Option<u64> {
    if text.len() != 16 {
        return None;
    }
    u64::try_from(hex(text)?).ok().filter(|id| *id != 0)
}

/// At most 32 hexadecimal digits of either case.
fn hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// The lowest digits of `value`, as many as `out` is long.
fn write_hex(out: &mut [u8], mut value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in out.iter_mut().rev() {
        *byte = DIGITS[(value & 0xf) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests;
