//! What the phases of an exchange need of a message, whichever HTTP version carries it; and the proxy's own answers.

use crate::cause::Cause;
use crate::trace::TraceHeaders;
use heddle_model::RequestView;
use heddle_model::filter::HeaderEdits;
use std::borrow::Cow;

/// A request's head that can be changed before it goes on.
pub trait RequestEdit: RequestView {
    /// Calls `f` with each field's name (in any case) and value, in order.
    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8]));
    /// The first value of a field.
    fn value(&self, name: &str) -> Option<&[u8]>;
    /// Replaces a field, or adds it.
    fn set(&mut self, name: &str, value: &[u8]);
    /// Adds a field.
    fn append(&mut self, name: &str, value: &[u8]);
    /// Removes all values of a field.
    fn remove(&mut self, name: &str);
    /// Changes the path and keeps the query.
    fn set_path(&mut self, path: &str);
    /// Changes the authority.
    fn set_authority(&mut self, authority: &str);
    /// `http` or `https`, as far as the request tells.
    fn authority_text(&self) -> Option<&str>;
    /// For logs: `HTTP/1.1`.
    fn protocol_name(&self) -> &'static str;
    /// Whether errors are to be told as gRPC statuses.
    fn is_grpc(&self) -> bool {
        self.value("content-type").is_some_and(|v| v.starts_with(b"application/grpc"))
    }
}

/// A response's head that can be changed before it goes on.
pub trait ResponseEdit {
    /// The status code.
    fn status_code(&self) -> u16;
    /// The first value of a field.
    fn value(&self, name: &str) -> Option<&[u8]>;
    /// Replaces a field, or adds it.
    fn set(&mut self, name: &str, value: &[u8]);
    /// Adds a field.
    fn append(&mut self, name: &str, value: &[u8]);
    /// Removes all values of a field.
    fn remove(&mut self, name: &str);
}

/// Whether a policy may not touch a field, because it says where the message ends or is of one hop only: such an edit would make the
/// next reader see another message than this proxy has forwarded.
fn is_framing(name: &str) -> bool {
    ["content-length", "transfer-encoding", "connection", "upgrade", "te", "keep-alive", "proxy-connection"]
        .iter()
        .any(|n| name.eq_ignore_ascii_case(n))
}

/// The values of one field as one (RFC 9110 §5.3): joined by commas where it is repeated.
pub fn joined<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, [u8]>> {
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(Cow::Owned(all))
}

/// Applies edits to a request.
pub fn edit_request(request: &mut impl RequestEdit, edits: &HeaderEdits) {
    let HeaderEdits { set, add, remove } = edits;
    set.iter().filter(|(name, _)| !is_framing(name)).for_each(|(name, value)| match name.as_str() {
        "host" => request.set_authority(value),
        _ => request.set(name, value.as_bytes()),
    });
    // There is exactly one Host (RFC 9112 §3.2).
    let kept = |name: &str| is_framing(name) || name == "host";
    add.iter().filter(|(name, _)| !kept(name)).for_each(|(name, value)| request.append(name, value.as_bytes()));
    remove.iter().filter(|name| !kept(name)).for_each(|name| request.remove(name));
}

/// Applies edits to a response.
pub fn edit_response(response: &mut impl ResponseEdit, edits: &HeaderEdits) {
    let HeaderEdits { set, add, remove } = edits;
    set.iter().filter(|(name, _)| !is_framing(name)).for_each(|(name, value)| response.set(name, value.as_bytes()));
    add.iter().filter(|(name, _)| !is_framing(name)).for_each(|(name, value)| response.append(name, value.as_bytes()));
    remove.iter().filter(|name| !is_framing(name)).for_each(|name| response.remove(name));
}

/// The trace headers of a request, found in one pass; repeated ones are left out.
pub fn trace_headers(request: &impl RequestEdit) -> TraceHeaders<'_> {
    let mut found = TraceHeaders::default();
    let mut repeated = [false; 6];
    request.each(&mut |name, value| {
        let (index, slot) = match name.len() {
            2 if name.eq_ignore_ascii_case(b"b3") => (0, &mut found.b3),
            11 if name.eq_ignore_ascii_case(b"traceparent") => (1, &mut found.traceparent),
            11 if name.eq_ignore_ascii_case(b"x-b3-spanid") => (2, &mut found.x_b3_spanid),
            10 if name.eq_ignore_ascii_case(b"x-b3-flags") => (3, &mut found.x_b3_flags),
            12 if name.eq_ignore_ascii_case(b"x-b3-traceid") => (4, &mut found.x_b3_traceid),
            12 if name.eq_ignore_ascii_case(b"x-b3-sampled") => (5, &mut found.x_b3_sampled),
            _ => return,
        };
        repeated[index] |= slot.is_some();
        *slot = if repeated[index] { None } else { Some(value) };
    });
    found
}

/// An answer that the proxy makes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Why.
    pub cause: Cause,
    /// Fields beyond those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// For people; one line.
    pub body: String,
}

impl Reply {
    /// The answer that the table gives for a cause. `place` names the sidecar, `detail` what was wrong with what.
    pub fn error(cause: Cause, place: &str, detail: &str) -> Self {
        let answer = cause.answer();
        let mut body = format!("heddle: {place}: {}", answer.text);
        if !detail.is_empty() {
            body.push_str(": ");
            body.push_str(detail);
        }
        body.push('\n');
        Self { status: answer.status, cause, headers: Vec::new(), body }
    }

    /// The field by which clients, the other sidecar and people tell this answer from an application's.
    pub const MARK: &'static str = "x-heddle-cause";

    /// The field by which the sidecar at the application tells the other one, and nobody else, that the application never saw the
    /// request. It is taken from applications' answers on the way in, and from all answers on the way out.
    pub const UNPROCESSED: &'static str = "x-heddle-unprocessed";
}
