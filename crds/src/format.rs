//! Schemas of the texts that have a form: names, hosts, headers, addresses. One place for each pattern and its limits.

use schemars::{Schema, SchemaGenerator, json_schema};

/// One text with its form: what it is called in a message, its limits in characters, and its pattern.
fn text(title: &str, min: u32, max: u32, pattern: &str) -> Schema {
    json_schema!({ "type": "string", "title": title, "minLength": min, "maxLength": max, "pattern": pattern })
}

/// A label: the name of a namespace, a port or a Service.
pub(crate) fn label(_: &mut SchemaGenerator) -> Schema {
    text("a name of lower-case letters, digits and '-'", 1, 63, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
}

/// The name of a referenced object: Gateway API `ObjectName` has no pattern, because kinds differ.
pub(crate) fn object_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 253 })
}

/// Gateway API `SectionName`: the name of a port, a listener or a rule.
pub(crate) fn section_name(_: &mut SchemaGenerator) -> Schema {
    text("a name of lower-case letters, digits, '-' and '.'", 1, 253, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
}

/// Gateway API `Group`: empty for the core group.
pub(crate) fn group(_: &mut SchemaGenerator) -> Schema {
    text("an API group", 0, 253, r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
}

/// Gateway API `Kind`.
pub(crate) fn kind(_: &mut SchemaGenerator) -> Schema {
    text("a kind", 1, 63, "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")
}

/// Gateway API `PreciseHostname`.
pub(crate) fn hostname(_: &mut SchemaGenerator) -> Schema {
    text("a host name", 1, 253, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
}

/// A list of Gateway API `Hostname`: a host name, or one whose first label is `*`.
pub(crate) fn hostnames(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": text(
            "a host name, with or without a leading '*.'",
            1,
            253,
            r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        ),
    })
}

/// Gateway API `HeaderName`: a token of RFC 9110 §5.6.2.
pub(crate) fn header_name(_: &mut SchemaGenerator) -> Schema {
    text("a header name", 1, 256, r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$")
}

/// A list of header names. `*` is one of them by its form (RFC 9110 §5.6.2), which CORS needs.
pub(crate) fn header_names(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 64, "items": header_name(generator) })
}

/// Gateway API `CORSOrigin`: scheme, host and optional port, with `*` for the host's first part or for everything.
pub(crate) fn cors_origins(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": text(
            "an origin such as https://example.com, or '*'",
            1,
            253,
            r"(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)",
        ),
    })
}

/// The name of an environment variable.
pub(crate) fn variable(_: &mut SchemaGenerator) -> Schema {
    text("the name of an environment variable", 1, 256, "^[A-Za-z_][A-Za-z0-9_]*$")
}

/// Methods of HTTP, as they are on the wire.
pub(crate) fn methods(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": text("a method in capital letters, such as POST", 1, 64, "^[A-Z][A-Z0-9_-]*$"),
    })
}

/// Where an OTLP collector is.
pub(crate) fn endpoint(_: &mut SchemaGenerator) -> Schema {
    text("an address such as http://127.0.0.1:4317", 1, 2048, "^https?://[^/ ]+(/[^ ]*)?$")
}

/// A SPIFFE trust domain (SPIFFE-ID §2.1): lower-case letters, digits, `.`, `-` and `_`.
pub(crate) fn trust_domain(_: &mut SchemaGenerator) -> Schema {
    text("a trust domain of lower-case letters, digits, '.', '-' and '_'", 1, 255, r"^[a-z0-9._-]+$")
}

/// A moment (RFC 3339), as `metav1.Time` is written.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// The conditions of a status, as `metav1.Condition` describes them; written out so that k8s-openapi is built without
/// the schemas of all its types.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "type": { "type": "string", "maxLength": 316 },
            },
        },
    })
}
