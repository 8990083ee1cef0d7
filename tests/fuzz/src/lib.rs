//! What must hold for any bytes: one function a target, for `cargo fuzz` (`fuzz_targets/`) and for the test binary `fuzz` of `tests/`,
//! which runs them on mutated seeds with stable Rust. Each panics when it does not hold.

use heddle_control_plane::admission::review::AdmissionRequest;
use heddle_control_plane::admission::validate;
use heddle_control_plane::inject::{InjectionConfig, inject_object};
use heddle_control_plane::snapshot::Snapshot;
use heddle_control_plane::{resolve, status};
use heddle_identity::client_hello::{ClientHello, peek};
use heddle_model::endpoint::EndpointsUpdate;
use heddle_model::route::RequestView;
use heddle_model::{InboundPolicy, OutboundPolicy, SpiffeId, Target, proto};
use heddle_sidecar::detect::{self, Detected};
use heddle_sidecar::http1::body::{BodyScanner, Framing};
use heddle_sidecar::http1::head::{RequestHead, ResponseHead};
use prost::Message;
use std::collections::HashSet;
use std::path::Path;

/// Bytes of trailers that a body may have here.
const TRAILERS_MAX: usize = 1024;

/// Where to cut `len` bytes: everywhere while that is few places, else at some.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / 64).max(1);
    (0..len).step_by(step)
}

/// What a connection's first bytes are does not change when more arrive.
pub fn detect(data: &[u8]) {
    let whole = detect::detect(data);
    for cut in cuts(data.len()) {
        let part = detect::detect(&data[..cut]);
        assert!(part == Detected::NeedMore || part == whole, "{part:?} of {cut} bytes, {whole:?} of all");
    }
}

/// What a ClientHello says does not change when more arrives, and it is seen for what detection takes it for.
pub fn client_hello(data: &[u8]) {
    let whole = peek(data);
    for cut in cuts(data.len()) {
        let part = peek(&data[..cut]);
        assert!(part == ClientHello::NeedMore || part == whole, "{part:?} of {cut} bytes, {whole:?} of all");
    }
    if let ClientHello::Hello { .. } = &whole {
        let expected = if whole.is_mesh() { Detected::MeshTls } else { Detected::Tls };
        assert_eq!(detect::detect(data), expected);
    }
}

/// What can be read of the wire between the planes survives the way back and forth. The first byte chooses the message.
pub fn wire(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            let Ok(message) = proto::OutboundPolicy::decode(bytes) else { return };
            let Ok(policy) = OutboundPolicy::try_from(message) else { return };
            assert_eq!(OutboundPolicy::try_from(proto::OutboundPolicy::from(&policy)).as_ref(), Ok(&policy));
        }
        1 => {
            let Ok(message) = proto::InboundPolicy::decode(bytes) else { return };
            let Ok(policy) = InboundPolicy::try_from(message) else { return };
            assert_eq!(InboundPolicy::try_from(proto::InboundPolicy::from(&policy)).as_ref(), Ok(&policy));
        }
        2 => {
            let Ok(message) = proto::EndpointsUpdate::decode(bytes) else { return };
            let Ok(update) = EndpointsUpdate::try_from(message) else { return };
            assert_eq!(EndpointsUpdate::try_from(proto::EndpointsUpdate::from(&update)).as_ref(), Ok(&update));
        }
        _ => {
            let Ok(message) = proto::Target::decode(bytes) else { return };
            let Ok(target) = Target::try_from(Some(message)) else { return };
            assert_eq!(Target::try_from(Some(proto::Target::from(&target))).as_ref(), Ok(&target));
        }
    }
}

/// A policy as the wire carries it, after its length in two bytes, and a request's head behind it: the rule that is found accepts the
/// request, none is found only when none does, and the way over the wire changes nothing.
pub fn route_find(data: &[u8]) {
    let [high, low, rest @ ..] = data else { return };
    let Some((policy, request)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else { return };
    let Ok(message) = proto::OutboundPolicy::decode(policy) else { return };
    let Ok(policy) = OutboundPolicy::try_from(message) else { return };
    let mut head = RequestHead::default();
    let Ok(Some(_)) = head.parse(request) else { return };
    let found = policy.http.find(&head);
    match &found {
        Some(found) => {
            assert_eq!(&policy.http.rules()[found.index], found.rule);
            assert!(found.matched.is_none_or(|m| m.accepts(&head)));
        }
        None => {
            let accepting =
                policy.http.rules().iter().find(|rule| rule.matches.is_empty() || rule.matches.iter().any(|m| m.accepts(&head)));
            assert!(accepting.is_none(), "{accepting:?} accepts what no rule was found for");
        }
    }
    let again = OutboundPolicy::try_from(proto::OutboundPolicy::from(&policy)).expect("what was read can be read again");
    assert_eq!(again.http.find(&head).map(|found| found.index), found.map(|found| found.index));
}

/// A SPIFFE id is what it was read from, byte by byte.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(id.to_string().parse::<SpiffeId>(), Ok(id));
}

/// Asserts that a head has no line that two readers could take for different ones, and gives its fields, names in lower case.
fn fields(head: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = head.strip_suffix(b"\r\n\r\n").expect("the end of a head");
    let mut rest = lines;
    let mut found = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        assert!(!line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "a line break within a line: {:?}", String::from_utf8_lossy(head));
        found.push(line);
        match end {
            Some(end) => rest = &rest[end + 2..],
            None => break,
        }
    }
    let field = |line: &&[u8]| {
        let colon = line.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("no field: {:?}", String::from_utf8_lossy(line)));
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii().to_vec());
        assert!(!name.is_empty() && !name.iter().any(u8::is_ascii_whitespace), "a field's name: {:?}", String::from_utf8_lossy(line));
        (name, value)
    };
    found[1..].iter().map(field).collect()
}

/// Asserts that a head which was written says the framing in one way only.
fn assert_framing(head: &[u8], framing: Framing) {
    let fields = fields(head);
    let of = |name: &[u8]| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_slice()).collect::<Vec<_>>();
    let (lengths, codings) = (of(b"content-length"), of(b"transfer-encoding"));
    match framing {
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.last().is_some_and(|c| c.to_ascii_lowercase().ends_with(b"chunked")), "{fields:?}");
        }
        Framing::Length(n) => {
            let [length] = lengths.as_slice() else { panic!("one length: {fields:?}") };
            let length = std::str::from_utf8(length).ok().and_then(|l| l.parse().ok());
            assert!(codings.is_empty() && length == Some(n), "{n}: {fields:?}");
        }
        Framing::None | Framing::UntilClose => {}
    }
}

/// A request's head is where and what it is however it arrives, and what is written of it says the same to the next reader.
pub fn request_head(data: &[u8]) {
    let mut head = RequestHead::default();
    let Ok(Some(len)) = head.parse(data) else { return };
    assert!(len <= data.len());
    assert!(matches!(RequestHead::default().parse(&data[..len]), Ok(Some(l)) if l == len));
    for cut in cuts(len) {
        assert!(matches!(RequestHead::default().parse(&data[..cut]), Ok(None)), "{cut} of {len} bytes are no head");
    }
    for keep_alive in [true, false] {
        let mut written = Vec::new();
        head.write(&mut written, keep_alive);
        assert_framing(&written, head.framing());
        let mut next = RequestHead::default();
        let parsed = next.parse(&written);
        assert!(matches!(parsed, Ok(Some(l)) if l == written.len()), "{parsed:?} of {:?}", String::from_utf8_lossy(&written));
        assert_eq!((next.framing(), next.version()), (head.framing(), head.version()));
        assert_eq!((next.method(), next.target(), next.authority()), (head.method(), head.target(), head.authority()));
        assert_eq!((next.path(), next.query()), (head.path(), head.query()));
        assert_eq!(next.upgrades(), head.upgrades());
        let mut again = Vec::new();
        next.write(&mut again, keep_alive);
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&written), "a second writing changes it");
    }
}

/// As [`request_head`]; the first byte says what the request was.
pub fn response_head(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else { return };
    let (to_head, to_connect) = (flags & 1 != 0, flags & 2 != 0);
    let mut head = ResponseHead::default();
    let Ok(Some(len)) = head.parse(data, to_head, to_connect) else { return };
    assert!(len <= data.len());
    for cut in cuts(len) {
        assert!(matches!(ResponseHead::default().parse(&data[..cut], to_head, to_connect), Ok(None)), "{cut} of {len} bytes are no head");
    }
    for (close, version) in [(true, 1), (false, 1), (false, 0)] {
        let mut written = Vec::new();
        head.write(&mut written, close, version);
        assert_framing(&written, head.framing());
        let mut next = ResponseHead::default();
        let parsed = next.parse(&written, to_head, to_connect);
        assert!(matches!(parsed, Ok(Some(l)) if l == written.len()), "{parsed:?} of {:?}", String::from_utf8_lossy(&written));
        assert_eq!((next.status(), next.framing()), (head.status(), head.framing()));
    }
}

/// A chunked body ends where a simple reader of RFC 9112 §7.1 sees its end.
fn end_of_chunks(body: &[u8]) -> Option<usize> {
    let line_end = |from: usize| body[from..].windows(2).position(|w| w == b"\r\n").map(|at| from + at);
    let mut at = 0;
    loop {
        let end = line_end(at)?;
        let line = std::str::from_utf8(body[at..end].split(|b| matches!(b, b';' | b' ' | b'\t')).next()?).ok()?;
        let size = usize::from_str_radix(line, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        at = at.checked_add(size)?;
        if body.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let end = line_end(at)?;
        if end == at {
            return Some(at + 2);
        }
        at = end + 2;
    }
}

/// A body ends at the same place however its bytes arrive. The first byte chooses the framing, the second the size of the pieces.
pub fn body(data: &[u8]) {
    let [kind, piece, data @ ..] = data else { return };
    let framing = match kind % 4 {
        0 => Framing::Length(u64::from(*kind)),
        1 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let mut whole = BodyScanner::new(framing, TRAILERS_MAX);
    let scanned = whole.scan(data);
    let mut parts = BodyScanner::new(framing, TRAILERS_MAX);
    let (mut at, mut failed) = (0, false);
    for part in data.chunks(usize::from(*piece).max(1)) {
        match parts.scan(part) {
            Ok(taken) => {
                assert!(taken <= part.len());
                at += taken;
            }
            Err(_) => failed = true,
        }
        if failed || parts.is_done() {
            break;
        }
    }
    match scanned {
        Ok(taken) => assert_eq!((taken, whole.is_done(), false), (at, parts.is_done(), failed)),
        Err(error) => assert!(failed, "{error} as a whole, and nothing in pieces"),
    }
    if framing == Framing::Chunked && !failed && whole.is_done() {
        assert_eq!(end_of_chunks(data), Some(at), "another reader sees another end");
        assert_eq!(whole.scan(b"GET / HTTP/1.1\r\n").expect("a body that has ended"), 0);
    }
}

/// Manifests are read to the end, each name is in force once, problems have places; and whatever is in force can be resolved.
pub fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = heddle_crds::read_str(Path::new("any.yaml"), text);
    let mut names = HashSet::new();
    // A carriage return alone ends a line too (YAML 1.2 §5.4).
    let lines = u32::try_from(text.bytes().filter(|b| matches!(b, b'\n' | b'\r')).count()).unwrap_or(u32::MAX).saturating_add(1);
    for problem in &read.problems {
        assert!(!problem.message.is_empty());
        assert!(problem.position.is_none_or(|p| (1..=lines).contains(&p.line) && p.column >= 1), "{problem} of {lines} lines");
    }
    let mut snapshot = Snapshot::default();
    for located in read.objects {
        let id = located.object.id();
        assert!(names.insert(id.clone()), "{id} is in force twice");
        snapshot.apply(located.object);
    }
    let _statuses = status::statuses(&snapshot);
    let _settings = resolve::settings(&snapshot);
    for id in names {
        let namespace = id.namespace.as_deref().unwrap_or("default");
        for port in [80, 8080] {
            let target = Target::Authority(format!("{}.{namespace}:{port}", id.name));
            if let Some(policy) = resolve::outbound(&snapshot, namespace, &target) {
                assert_eq!(OutboundPolicy::try_from(proto::OutboundPolicy::from(&policy)).as_ref(), Ok(&policy));
                policy.backends.iter().for_each(|backend| drop(resolve::endpoints(&snapshot, &backend.service)));
            }
            let _policy = resolve::inbound(&snapshot, namespace, &id.name, port);
        }
    }
}

/// What an API server may ask of the webhooks has an answer that names the question, and pods that are injected twice are as once.
pub fn admission_review(data: &[u8]) {
    let Ok(request) = AdmissionRequest::parse(data) else { return };
    if let Some(object) = &request.object {
        let config = InjectionConfig::with_image("heddle-sidecar:1").expect("an image");
        let (once, _) = inject_object(object, &config);
        assert_eq!(inject_object(&once, &config).0, once, "twice is not as once");
    }
    let uid = request.uid.clone();
    let answer = validate::review(request).to_json();
    assert_eq!(answer["response"]["uid"], uid.as_str());
    let refused = answer["response"]["allowed"] == false;
    assert_eq!(refused, answer["response"]["status"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
}
