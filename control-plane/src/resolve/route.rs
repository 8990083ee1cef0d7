//! HTTPRoute and GRPCRoute → routes of the model, rule by rule, with what is wrong with each.
//!
//! The status of a route is computed from the same conversion, so it cannot say anything else than what is in force.

use std::collections::BTreeSet;
use std::time::Duration;

use heddle_crds::gateway::{
    CookieConfig, CookieLifetimeType, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, HttpMethod, HttpPathMatch, HttpRoute,
    HttpRouteMatch, HttpRouteRetry, HttpRouteRule, HttpRouteTimeouts, PathMatchType, SessionPersistence as SessionSpec,
    SessionPersistenceType, ValueMatchType,
};
use heddle_model::route::{HttpMatch, PathMatch, Pattern, SessionCarrier, SessionPersistence, StringMatch, ValueMatch};
use heddle_model::{Filter, ResourceRef, Route, RouteBackend, Rule};

use super::attach;
use super::backend::{self, Backends, Unresolved};
use super::filter;
use super::traffic_policy::{self, Limits, RuleRetry, Traffic};
use crate::snapshot::ObjectKey;

/// What a cookie or header of a session is called when the route does not say (GEP-1619 leaves it to us).
const SESSION_NAME: &str = "heddle-session";

/// Why a rule cannot be implemented. It is left out: its requests are those that no rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// A value that we do not support (`UnsupportedValue`).
    Unsupported(String),
    /// Filters that exclude each other (`IncompatibleFilters`).
    Incompatible(String),
}

impl Unusable {
    /// The reason of the condition `Accepted`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "UnsupportedValue",
            Self::Incompatible(_) => "IncompatibleFilters",
        }
    }

    /// What is wrong, for people.
    pub(crate) fn message(&self) -> &str {
        let (Self::Unsupported(message) | Self::Incompatible(message)) = self;
        message
    }
}

/// A route in the model's terms, and what became of its rules.
#[derive(Debug)]
pub(crate) struct Converted {
    /// With the rules that can be implemented, and those that refuse.
    pub(crate) route: Route,
    /// How many of the rules are implemented.
    pub(crate) implemented: usize,
    /// The rules that are left out or refuse, by name or index.
    pub(crate) unusable: Vec<(String, Unusable)>,
    /// References that are not resolved.
    pub(crate) problems: Vec<Unresolved>,
}

/// What the conversion of a rule needs, and where it tells what is wrong.
#[derive(Debug)]
pub(crate) struct Scope<'s, 'a> {
    pub(crate) backends: &'s mut Backends<'a>,
    /// The route's.
    pub(crate) namespace: &'s str,
    pub(crate) problems: Vec<Unresolved>,
    /// A rule that stays as a refusal.
    pub(crate) not_implemented: Option<String>,
    /// A rule that asks for nothing but a refusal: no weight is above 0.
    nothing: Option<&'static str>,
    /// The policy of the addressed port.
    policy: Option<&'s Traffic>,
}

/// Reads an HTTPRoute.
pub(crate) fn http(key: &ObjectKey, route: &HttpRoute, backends: &mut Backends<'_>, policy: Option<&Traffic>) -> Converted {
    let source = ResourceRef::new("HTTPRoute", &*key.namespace, &*key.name);
    let rules = route.spec.rules.iter().map(|rule| (rule.name.as_deref(), rule));
    convert(source, attach::created(&route.metadata), key, rules, backends, policy, http_rule)
}

/// Reads a GRPCRoute.
pub(crate) fn grpc(key: &ObjectKey, route: &GrpcRoute, backends: &mut Backends<'_>, policy: Option<&Traffic>) -> Converted {
    let source = ResourceRef::new("GRPCRoute", &*key.namespace, &*key.name);
    let rules = route.spec.rules.iter().map(|rule| (rule.name.as_deref(), rule));
    convert(source, attach::created(&route.metadata), key, rules, backends, policy, grpc_rule)
}

fn convert<'r, R: 'r>(
    source: ResourceRef,
    created: Option<u64>,
    key: &ObjectKey,
    rules: impl Iterator<Item = (Option<&'r str>, &'r R)>,
    backends: &mut Backends<'_>,
    policy: Option<&Traffic>,
    convert_rule: impl Fn(&mut Scope<'_, '_>, ResourceRef, &R) -> Result<Rule, Unusable>,
) -> Converted {
    let mut converted =
        Converted { route: Route { source, created, rules: Vec::new() }, implemented: 0, unusable: Vec::new(), problems: Vec::new() };
    for (index, (name, rule)) in rules.enumerate() {
        let name = name.filter(|n| !n.is_empty()).map_or_else(|| index.to_string(), str::to_owned);
        let mut scope = Scope {
            backends: &mut *backends,
            namespace: &key.namespace,
            problems: Vec::new(),
            not_implemented: None,
            nothing: None,
            policy,
        };
        let result = convert_rule(&mut scope, converted.route.source.rule(name.as_str()), rule);
        let Scope { problems, not_implemented, nothing, .. } = scope;
        converted.problems.extend(problems);
        match (result, not_implemented) {
            (Ok(rule), None) => {
                converted.implemented += 1;
                // It is what the user wrote, and hardly what the user wants.
                converted
                    .unusable
                    .extend(nothing.map(|why| (name, Unusable::Unsupported(format!("{why}: its requests are answered with 500")))));
                converted.route.rules.push(rule);
            }
            (Ok(rule), Some(message)) => {
                converted.unusable.push((name, Unusable::Unsupported(message)));
                converted.route.rules.push(rule);
            }
            (Err(unusable), _) => converted.unusable.push((name, unusable)),
        }
    }
    converted
}

fn http_rule(scope: &mut Scope<'_, '_>, source: ResourceRef, rule: &HttpRouteRule) -> Result<Rule, Unusable> {
    let HttpRouteRule { name: _, matches, filters, backend_refs, timeouts, retry, session_persistence } = rule;
    let matches = matches.iter().map(http_match).collect::<Result<Vec<_>, _>>()?;
    let filters = filter::http(scope, filters, &matches)?;
    let redirects = filters.iter().any(|f| matches!(f, Filter::Redirect(_)));
    if redirects && !backend_refs.is_empty() {
        return Err(Unusable::Incompatible("RequestRedirect answers by itself and excludes backendRefs".to_owned()));
    }
    let mut backends = Vec::with_capacity(backend_refs.len());
    for reference in backend_refs {
        let backend = scope.backends.weighted(scope.namespace, &reference.backend(), &mut scope.problems);
        backends.push(RouteBackend { filters: filter::http(scope, &reference.filters, &matches)?, ..backend });
    }
    let HttpRouteTimeouts { request, backend_request } = timeouts.unwrap_or_default();
    let limits = Limits { request: request.map(Duration::from), attempt: backend_request.map(Duration::from), idle: None };
    let retry = retry.as_ref().map(|HttpRouteRetry { codes, attempts, backoff }| RuleRetry {
        attempts: *attempts,
        statuses: codes.clone(),
        backoff: backoff.map(Duration::from),
    });
    Ok(Rule {
        session_persistence: session_persistence.as_ref().map(|s| session(s, &matches)).transpose()?,
        timeouts: traffic_policy::timeouts(limits, &source, scope.policy),
        retry: traffic_policy::retry(retry.as_ref(), &source, scope.policy),
        source,
        matches,
        filters,
        backends: if redirects { backends } else { backend::or_nothing(backends, &mut scope.nothing) },
    })
}

fn grpc_rule(scope: &mut Scope<'_, '_>, source: ResourceRef, rule: &GrpcRouteRule) -> Result<Rule, Unusable> {
    let GrpcRouteRule { name: _, matches, filters, backend_refs, session_persistence } = rule;
    let matches = matches.iter().map(grpc_match).collect::<Result<Vec<_>, _>>()?;
    let filters = filter::grpc(scope, filters)?;
    let mut backends = Vec::with_capacity(backend_refs.len());
    for reference in backend_refs {
        let backend = scope.backends.weighted(scope.namespace, &reference.backend(), &mut scope.problems);
        backends.push(RouteBackend { filters: filter::grpc(scope, &reference.filters)?, ..backend });
    }
    Ok(Rule {
        session_persistence: session_persistence.as_ref().map(|s| session(s, &matches)).transpose()?,
        timeouts: traffic_policy::timeouts(Limits::default(), &source, scope.policy),
        retry: traffic_policy::retry(None, &source, scope.policy),
        source,
        matches,
        filters,
        backends: backend::or_nothing(backends, &mut scope.nothing),
    })
}

fn http_match(http_match: &HttpRouteMatch) -> Result<HttpMatch, Unusable> {
    let HttpRouteMatch { path, headers, query_params, method } = http_match;
    let HttpPathMatch { match_type, value } = path;
    let absolute = || {
        if value.starts_with('/') {
            Ok(value.clone())
        } else {
            Err(Unusable::Unsupported(format!("the path \"{value}\" does not begin with /")))
        }
    };
    Ok(HttpMatch {
        path: match match_type {
            PathMatchType::Exact => PathMatch::Exact(absolute()?),
            PathMatchType::PathPrefix => PathMatch::Prefix(absolute()?),
            PathMatchType::RegularExpression => PathMatch::Regex(pattern(value)?),
            PathMatchType::Unknown(text) => return Err(Unusable::Unsupported(format!("\"{text}\" is not a type of path match"))),
        },
        headers: first_of_each(headers.iter().map(|h| Ok((filter::header_name(&h.name)?, &h.match_type, h.value.as_str()))))?,
        query: first_of_each(query_params.iter().map(|q| Ok((q.name.clone(), &q.match_type, q.value.as_str()))))?,
        method: match method {
            None => None,
            Some(method @ (HttpMethod::Any | HttpMethod::Unknown(_))) => {
                return Err(Unusable::Unsupported(format!("\"{method}\" is not a method to match")));
            }
            Some(method) => Some(method.as_str().to_owned()),
        },
    })
}

fn grpc_match(grpc_match: &GrpcRouteMatch) -> Result<HttpMatch, Unusable> {
    let GrpcRouteMatch { method, headers } = grpc_match;
    let (service, method) = match method {
        None => (None, None),
        Some(GrpcMethodMatch { match_type, service, method }) => {
            let part = |text: &Option<String>| {
                text.as_deref().filter(|text| !text.is_empty()).map(|text| string_match(match_type, text)).transpose()
            };
            (part(service)?, part(method)?)
        }
    };
    Ok(HttpMatch {
        path: PathMatch::Grpc { service, method },
        headers: first_of_each(headers.iter().map(|h| Ok((filter::header_name(&h.name)?, &h.match_type, h.value.as_str()))))?,
        query: Vec::new(),
        method: None,
    })
}

/// Of several conditions on one name only the first counts (Gateway API, HTTPHeaderMatch).
fn first_of_each<'v>(
    conditions: impl Iterator<Item = Result<(String, &'v ValueMatchType, &'v str), Unusable>>,
) -> Result<Vec<ValueMatch>, Unusable> {
    let mut seen = BTreeSet::new();
    let mut matches = Vec::new();
    for condition in conditions {
        let (name, match_type, value) = condition?;
        if seen.insert(name.clone()) {
            matches.push(ValueMatch { name, value: string_match(match_type, value)? });
        }
    }
    Ok(matches)
}

fn string_match(match_type: &ValueMatchType, text: &str) -> Result<StringMatch, Unusable> {
    match match_type {
        ValueMatchType::Exact => Ok(StringMatch::Exact(text.to_owned())),
        ValueMatchType::RegularExpression => Ok(StringMatch::Regex(pattern(text)?)),
        ValueMatchType::Unknown(text) => Err(Unusable::Unsupported(format!("\"{text}\" is not a type of match"))),
    }
}

fn pattern(text: &str) -> Result<Pattern, Unusable> {
    Pattern::new(text).map_err(|e| Unusable::Unsupported(e.to_string()))
}

fn session(spec: &SessionSpec, matches: &[HttpMatch]) -> Result<SessionPersistence, Unusable> {
    let SessionSpec { session_name, absolute_timeout, persistence_type, cookie_config } = spec;
    // A cookie's name is a token too (RFC 6265 §4.1.1), but its case counts.
    let name = session_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(SESSION_NAME);
    let lower = filter::header_name(name)?;
    let absolute_timeout = absolute_timeout.map(Duration::from).filter(|d| !d.is_zero());
    match persistence_type {
        SessionPersistenceType::Header => Ok(SessionPersistence { name: lower, carrier: SessionCarrier::Header, absolute_timeout }),
        SessionPersistenceType::Cookie => {
            let permanent = match cookie_config.as_ref().map(|CookieConfig { lifetime_type }| lifetime_type) {
                None | Some(CookieLifetimeType::Session) => false,
                Some(CookieLifetimeType::Permanent) => true,
                Some(CookieLifetimeType::Unknown(text)) => {
                    return Err(Unusable::Unsupported(format!("\"{text}\" is not a lifetime of a cookie")));
                }
            };
            if permanent && absolute_timeout.is_none() {
                return Err(Unusable::Unsupported("a permanent cookie needs an absoluteTimeout".to_owned()));
            }
            let carrier = SessionCarrier::Cookie { permanent, path: Some(cookie_path(matches)) };
            Ok(SessionPersistence { name: name.to_owned(), carrier, absolute_timeout })
        }
        SessionPersistenceType::Unknown(text) => Err(Unusable::Unsupported(format!("\"{text}\" is not a type of session persistence"))),
    }
}

/// The path for which a browser sends the cookie: the rule's, when it has just one (GEP-1619, "Path").
fn cookie_path(matches: &[HttpMatch]) -> String {
    match matches {
        [HttpMatch { path: PathMatch::Exact(path) | PathMatch::Prefix(path), .. }]
            if path.bytes().all(|b| b.is_ascii_graphic() && b != b';') =>
        {
            path.clone()
        }
        _ => "/".to_owned(),
    }
}
