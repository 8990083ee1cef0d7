//! The headers which an instrumented application copies from the request it serves to the requests it makes.

use http::HeaderMap;

/// W3C Trace Context and Baggage, B3 single and multi, the request's id, and the shop's own statement of who the user is.
const COPIED: [&str; 11] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
    "end-user",
];

/// The headers of `incoming` that belong into the requests made on its behalf; repeated ones in their order.
pub(crate) fn copied(incoming: &HeaderMap) -> HeaderMap {
    let mut outgoing = HeaderMap::new();
    for name in COPIED {
        for value in incoming.get_all(name) {
            outgoing.append(name, value.clone());
        }
    }
    outgoing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_trace_headers_and_nothing_else() {
        let mut incoming = HeaderMap::new();
        for name in COPIED {
            incoming.append(name, "1".parse().unwrap());
        }
        incoming.append("tracestate", "2".parse().unwrap());
        let wanted = incoming.clone();
        incoming.append("authorization", "secret".parse().unwrap());
        incoming.append("accept", "*/*".parse().unwrap());
        assert_eq!(copied(&incoming), wanted);
    }
}
