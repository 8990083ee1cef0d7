//! The rules between fields that the Gateway API has its API server check (CEL, v1.6.1), for objects from files.
//!
//! Messages say what to change. An object from a cluster has passed the same rules already.

use std::collections::BTreeSet;

use super::{
    BackendObjectReference, BackendRef, CookieLifetimeType, ExternalAuthFilter, ExternalAuthProtocol, GrpcRouteFilter, GrpcRouteFilterType,
    GrpcRouteRule, GrpcRouteSpec, HttpMethod, HttpPathMatch, HttpRouteFilter, HttpRouteFilterType, HttpRouteRule, HttpRouteSpec,
    ParentReference, PathMatchType, PathModifier, PathModifierType, PolicyTargetRef, RequestMirrorFilter, SessionPersistence,
    SessionPersistenceType, ValueMatchType,
};
use crate::mistake::{Mistake, Mistakes};

/// Most matches of all rules of a route.
const MAX_MATCHES: usize = 128;

/// The rules of HTTPRoute.
pub(crate) fn http_route(spec: &HttpRouteSpec) -> Vec<Mistake> {
    let mut found = Mistakes::default();
    parents(&spec.parent_refs, &mut found);
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), &mut found);
    match_count(spec.rules.iter().map(|rule| rule.matches.len()).sum(), &mut found);
    for (index, rule) in spec.rules.iter().enumerate() {
        http_rule(&format!("spec.rules[{index}]"), rule, &mut found);
    }
    found.into_vec()
}

fn http_rule(path: &str, rule: &HttpRouteRule, found: &mut Mistakes) {
    for (index, one_match) in rule.matches.iter().enumerate() {
        let path = format!("{path}.matches[{index}]");
        path_match(&format!("{path}.path.value"), &one_match.path, found);
        if one_match.method == Some(HttpMethod::Any) {
            found.add(format!("{path}.method"), "leave it out to match every method".to_owned());
        }
    }
    http_filters(&format!("{path}.filters"), &rule.filters, rule, found);
    if !rule.backend_refs.is_empty() && rule.filters.iter().any(|filter| filter.request_redirect.is_some()) {
        found.add(format!("{path}.backendRefs"), "a rule with a RequestRedirect filter has no backends".to_owned());
    }
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        service_port(&path, &backend.backend(), found);
        http_filters(&format!("{path}.filters"), &backend.filters, rule, found);
    }
    if let Some(timeouts) = &rule.timeouts
        && let (Some(request), Some(backend_request)) = (timeouts.request, timeouts.backend_request)
        && !request.is_zero()
        && backend_request > request
    {
        found.add(format!("{path}.timeouts.backendRequest"), format!("must not be longer than request, which is {request}"));
    }
    if let Some(session) = &rule.session_persistence {
        session_persistence(&format!("{path}.sessionPersistence"), session, found);
    }
}

/// A path of type Exact or PathPrefix is an absolute one in normal form.
fn path_match(path: &str, value: &HttpPathMatch, found: &mut Mistakes) {
    if !matches!(value.match_type, PathMatchType::Exact | PathMatchType::PathPrefix) {
        return;
    }
    let text = &value.value;
    if !text.starts_with('/') {
        found.add(path.to_owned(), format!("must start with '/', found {text:?}"));
        return;
    }
    for forbidden in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if text.contains(forbidden) {
            found.add(path.to_owned(), format!("must not contain {forbidden:?}, found {text:?}"));
        }
    }
    for forbidden in ["/.", "/.."] {
        if text.ends_with(forbidden) {
            found.add(path.to_owned(), format!("must not end with {forbidden:?}, found {text:?}"));
        }
    }
    if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-/._~!$&'()*+,;=:@%#".contains(*c))) {
        found.add(path.to_owned(), format!("{bad:?} has to be percent-encoded in a path, found {text:?}"));
    }
}

fn http_filters(path: &str, filters: &[HttpRouteFilter], rule: &HttpRouteRule, found: &mut Mistakes) {
    use HttpRouteFilterType as Type;
    let mut seen = BTreeSet::new();
    for (index, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let repeatable = matches!(filter.filter_type, Type::RequestMirror | Type::ExtensionRef | Type::ExternalAuth | Type::Unknown(_));
        if !seen.insert(&filter.filter_type) && !repeatable {
            found.add(path.clone(), format!("there is another {} filter; one is allowed", filter.filter_type));
        }
        http_filter(&path, filter, rule, found);
    }
    if seen.contains(&Type::RequestRedirect) && seen.contains(&Type::UrlRewrite) {
        found.add(path.to_owned(), "RequestRedirect and URLRewrite cannot be used together".to_owned());
    }
}

fn http_filter(path: &str, filter: &HttpRouteFilter, rule: &HttpRouteRule, found: &mut Mistakes) {
    use HttpRouteFilterType as Type;
    let HttpRouteFilter {
        filter_type,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
        cors,
        external_auth,
        extension_ref,
    } = filter;
    let fields = [
        ("requestHeaderModifier", Type::RequestHeaderModifier, request_header_modifier.is_some()),
        ("responseHeaderModifier", Type::ResponseHeaderModifier, response_header_modifier.is_some()),
        ("requestMirror", Type::RequestMirror, request_mirror.is_some()),
        ("requestRedirect", Type::RequestRedirect, request_redirect.is_some()),
        ("urlRewrite", Type::UrlRewrite, url_rewrite.is_some()),
        ("cors", Type::Cors, cors.is_some()),
        ("externalAuth", Type::ExternalAuth, external_auth.is_some()),
        ("extensionRef", Type::ExtensionRef, extension_ref.is_some()),
    ];
    union(path, filter_type.as_str(), fields.iter().map(|(name, of, set)| (*name, of.as_str(), *set)), found);
    if let Some(mirror) = request_mirror {
        request_mirror_filter(&format!("{path}.requestMirror"), mirror, found);
    }
    if let Some(modifier) = request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref()) {
        path_modifier(&format!("{path}.requestRedirect.path"), modifier, rule, found);
    }
    if let Some(modifier) = url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()) {
        path_modifier(&format!("{path}.urlRewrite.path"), modifier, rule, found);
    }
    if let Some(cors) = cors {
        let alone = |list: &[String]| list.len() < 2 || !list.iter().any(|entry| entry == "*");
        let methods: Vec<String> = cors.allow_methods.iter().map(ToString::to_string).collect();
        for (field, list) in [("allowOrigins", &cors.allow_origins), ("allowMethods", &methods), ("allowHeaders", &cors.allow_headers)] {
            if !alone(list) {
                found.add(format!("{path}.cors.{field}"), "'*' has to stand alone".to_owned());
            }
        }
    }
    if let Some(auth) = external_auth {
        external_auth_filter(&format!("{path}.externalAuth"), auth, found);
    }
}

/// The field of the filter's type is set, and no other one.
fn union<'a>(path: &str, filter_type: &str, fields: impl Iterator<Item = (&'static str, &'a str, bool)>, found: &mut Mistakes) {
    for (field, of_type, set) in fields {
        match (of_type == filter_type, set) {
            (true, false) => found.add(path.to_owned(), format!("a {filter_type} filter needs the field {field:?}")),
            (false, true) => {
                found.add(format!("{path}.{field}"), format!("belongs to a filter of type {of_type}, but the type is {filter_type}"))
            }
            (true, true) | (false, false) => {}
        }
    }
}

fn request_mirror_filter(path: &str, mirror: &RequestMirrorFilter, found: &mut Mistakes) {
    object_port(&format!("{path}.backendRef"), &mirror.backend_ref, found);
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        found.add(format!("{path}.fraction"), "percent and fraction cannot be used together".to_owned());
    }
    if let Some(fraction) = mirror.fraction
        && fraction.numerator > fraction.denominator
    {
        found.add(format!("{path}.fraction.numerator"), format!("must not be above the denominator, which is {}", fraction.denominator));
    }
}

fn path_modifier(path: &str, modifier: &PathModifier, rule: &HttpRouteRule, found: &mut Mistakes) {
    use PathModifierType as Type;
    let fields = [
        ("replaceFullPath", Type::ReplaceFullPath, modifier.replace_full_path.is_some()),
        ("replacePrefixMatch", Type::ReplacePrefixMatch, modifier.replace_prefix_match.is_some()),
    ];
    for (field, of_type, set) in fields {
        match (of_type == modifier.modifier_type, set) {
            (true, false) => found.add(path.to_owned(), format!("type {of_type} needs the field {field:?}")),
            (false, true) => {
                found.add(format!("{path}.{field}"), format!("belongs to type {of_type}, but the type is {}", modifier.modifier_type))
            }
            (true, true) | (false, false) => {}
        }
    }
    let one_prefix = matches!(rule.matches.as_slice(), [only] if only.path.match_type == PathMatchType::PathPrefix);
    if modifier.replace_prefix_match.is_some() && !one_prefix {
        found.add(format!("{path}.replacePrefixMatch"), "needs exactly one match in its rule, of type PathPrefix".to_owned());
    }
}

fn external_auth_filter(path: &str, auth: &ExternalAuthFilter, found: &mut Mistakes) {
    object_port(&format!("{path}.backendRef"), &auth.backend_ref, found);
    for (field, of_protocol, set) in
        [("grpc", ExternalAuthProtocol::Grpc, auth.grpc.is_some()), ("http", ExternalAuthProtocol::Http, auth.http.is_some())]
    {
        match (of_protocol == auth.protocol, set) {
            (true, false) => found.add(path.to_owned(), format!("protocol {of_protocol} needs the field {field:?}")),
            (false, true) => {
                found.add(format!("{path}.{field}"), format!("belongs to protocol {of_protocol}, but the protocol is {}", auth.protocol))
            }
            (true, true) | (false, false) => {}
        }
    }
}

/// The rules of GRPCRoute.
pub(crate) fn grpc_route(spec: &GrpcRouteSpec) -> Vec<Mistake> {
    let mut found = Mistakes::default();
    parents(&spec.parent_refs, &mut found);
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), &mut found);
    match_count(spec.rules.iter().map(|rule| rule.matches.len()).sum(), &mut found);
    for (index, rule) in spec.rules.iter().enumerate() {
        grpc_rule(&format!("spec.rules[{index}]"), rule, &mut found);
    }
    found.into_vec()
}

fn grpc_rule(path: &str, rule: &GrpcRouteRule, found: &mut Mistakes) {
    for (index, one_match) in rule.matches.iter().enumerate() {
        let Some(method) = &one_match.method else { continue };
        let path = format!("{path}.matches[{index}].method");
        if method.service.is_none() && method.method.is_none() {
            found.add(path, "needs a service, a method, or both".to_owned());
            continue;
        }
        if method.match_type != ValueMatchType::Exact {
            continue;
        }
        if let Some(service) = &method.service
            && !service.strip_prefix('.').unwrap_or(service).split('.').all(is_identifier)
        {
            found.add(format!("{path}.service"), format!("expected the full name of a gRPC service, found {service:?}"));
        }
        if let Some(name) = &method.method
            && !is_identifier(name)
        {
            found.add(format!("{path}.method"), format!("expected the name of a gRPC method, found {name:?}"));
        }
    }
    grpc_filters(&format!("{path}.filters"), &rule.filters, found);
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        service_port(&path, &backend.backend(), found);
        grpc_filters(&format!("{path}.filters"), &backend.filters, found);
    }
    if let Some(session) = &rule.session_persistence {
        session_persistence(&format!("{path}.sessionPersistence"), session, found);
    }
}

/// An identifier of protobuf.
fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn grpc_filters(path: &str, filters: &[GrpcRouteFilter], found: &mut Mistakes) {
    use GrpcRouteFilterType as Type;
    let mut seen = BTreeSet::new();
    for (index, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let GrpcRouteFilter { filter_type, request_header_modifier, response_header_modifier, request_mirror, extension_ref } = filter;
        let once = matches!(filter_type, Type::RequestHeaderModifier | Type::ResponseHeaderModifier);
        if !seen.insert(filter_type) && once {
            found.add(path.clone(), format!("there is another {filter_type} filter; one is allowed"));
        }
        let fields = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, request_header_modifier.is_some()),
            ("responseHeaderModifier", Type::ResponseHeaderModifier, response_header_modifier.is_some()),
            ("requestMirror", Type::RequestMirror, request_mirror.is_some()),
            ("extensionRef", Type::ExtensionRef, extension_ref.is_some()),
        ];
        union(&path, filter_type.as_str(), fields.iter().map(|(name, of, set)| (*name, of.as_str(), *set)), found);
        if let Some(mirror) = request_mirror {
            request_mirror_filter(&format!("{path}.requestMirror"), mirror, found);
        }
    }
}

/// The rules of TCPRoute and TLSRoute: their parents and backends.
pub(crate) fn stream_route<'a>(parent_refs: &[ParentReference], backends_by_rule: impl Iterator<Item = &'a [BackendRef]>) -> Vec<Mistake> {
    let mut found = Mistakes::default();
    parents(parent_refs, &mut found);
    for (rule, backends) in backends_by_rule.enumerate() {
        for (index, backend) in backends.iter().enumerate() {
            service_port(&format!("spec.rules[{rule}].backendRefs[{index}]"), backend, &mut found);
        }
    }
    found.into_vec()
}

/// The targets of a policy are of kinds that it can be about, and each is named once.
pub(crate) fn policy_targets(targets: &[PolicyTargetRef], kinds: &[&str], found: &mut Mistakes) {
    let mut seen = BTreeSet::new();
    for (index, target) in targets.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        if !kinds.contains(&target.kind.as_str()) || !matches!(target.group.as_str(), "" | "core") {
            found.add(
                format!("{path}.kind"),
                format!(
                    "the target has to be a {} of the core group (\"\"), found {} of group {:?}",
                    kinds.join(" or a "),
                    target.kind,
                    target.group
                ),
            );
        } else if target.section_name.is_some() && target.kind != "Service" {
            found.add(format!("{path}.sectionName"), format!("a {} has no sections", target.kind));
        }
        if !seen.insert(target) {
            found.add(path, "is named twice".to_owned());
        }
    }
}

/// Two references to one parent differ in port or section name, and both say which.
fn parents(parents: &[ParentReference], found: &mut Mistakes) {
    for (index, parent) in parents.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        let same = |other: &&ParentReference| {
            (&other.group, &other.kind, &other.namespace, &other.name) == (&parent.group, &parent.kind, &parent.namespace, &parent.name)
        };
        let mut earlier = parents.iter().take(index).filter(same);
        if earlier.clone().any(|other| other == parent) {
            found.add(path, format!("{} {:?} is named twice", parent.kind, parent.name));
        } else if earlier
            .any(|other| (other.port.is_some(), other.section_name.is_some()) != (parent.port.is_some(), parent.section_name.is_some()))
        {
            found.add(path, format!("{} {:?} is named twice: each time has to say port or sectionName", parent.kind, parent.name));
        }
    }
}

fn rule_names<'a>(names: impl Iterator<Item = Option<&'a str>>, found: &mut Mistakes) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if let Some(name) = name
            && !seen.insert(name)
        {
            found.add(format!("spec.rules[{index}].name"), format!("{name:?} is the name of another rule too"));
        }
    }
}

fn match_count(count: usize, found: &mut Mistakes) {
    if count > MAX_MATCHES {
        found.add("spec.rules", format!("the rules have {count} matches in all, at most {MAX_MATCHES} are allowed"));
    }
}

fn service_port(path: &str, backend: &BackendRef, found: &mut Mistakes) {
    object_port(path, &backend.object(), found);
}

fn object_port(path: &str, backend: &BackendObjectReference, found: &mut Mistakes) {
    if backend.group.is_empty() && backend.kind == "Service" && backend.port.is_none() {
        found.add(path.to_owned(), format!("a reference to a Service needs a port, none for {:?}", backend.name));
    }
}

fn session_persistence(path: &str, session: &SessionPersistence, found: &mut Mistakes) {
    let Some(cookie) = &session.cookie_config else { return };
    if session.persistence_type != SessionPersistenceType::Cookie {
        found.add(format!("{path}.cookieConfig"), "belongs to type Cookie".to_owned());
    }
    if cookie.lifetime_type == CookieLifetimeType::Permanent && session.absolute_timeout.is_none() {
        found.add(path.to_owned(), "a permanent cookie needs an absoluteTimeout".to_owned());
    }
}
