//! Conversion of routes to and from messages.

use super::{
    HttpMatch, PathMatch, Pattern, Precedence, Route, RouteTable, Rule, SessionCarrier, SessionPersistence, StringMatch, ValueMatch,
};
use crate::proto;
use crate::wire::{WireError, duration, millis, text};

impl From<&RouteTable> for proto::RouteTable {
    fn from(table: &RouteTable) -> Self {
        Self { ordered: table.precedence() == Precedence::Ordered, routes: table.to_routes().iter().map(Into::into).collect() }
    }
}

impl TryFrom<proto::RouteTable> for RouteTable {
    type Error = WireError;

    fn try_from(table: proto::RouteTable) -> Result<Self, WireError> {
        let proto::RouteTable { ordered, routes } = table;
        let precedence = if ordered { Precedence::Ordered } else { Precedence::Specificity };
        Ok(Self::new(precedence, routes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?))
    }
}

impl From<&Route> for proto::Route {
    fn from(route: &Route) -> Self {
        let Route { source, created, rules } = route;
        Self { source: Some(source.into()), created: created.unwrap_or(0), rules: rules.iter().map(Into::into).collect() }
    }
}

impl TryFrom<proto::Route> for Route {
    type Error = WireError;

    fn try_from(route: proto::Route) -> Result<Self, WireError> {
        let proto::Route { source, created, rules } = route;
        Ok(Self {
            source: source.ok_or(WireError::Missing("route.source"))?.into(),
            created: (created != 0).then_some(created),
            rules: rules.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Rule> for proto::Rule {
    fn from(rule: &Rule) -> Self {
        let Rule { source, matches, filters, backends, timeouts, retry, session_persistence } = rule;
        Self {
            source: Some(source.into()),
            matches: matches.iter().map(Into::into).collect(),
            filters: filters.iter().map(Into::into).collect(),
            backends: backends.iter().map(Into::into).collect(),
            timeouts: Some(timeouts.into()),
            retry: Some(retry.into()),
            session_persistence: session_persistence.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::Rule> for Rule {
    type Error = WireError;

    fn try_from(rule: proto::Rule) -> Result<Self, WireError> {
        let proto::Rule { source, matches, filters, backends, timeouts, retry, session_persistence } = rule;
        Ok(Self {
            source: source.ok_or(WireError::Missing("rule.source"))?.into(),
            matches: matches.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            filters: filters.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            backends: backends.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            timeouts: timeouts.map(Into::into).unwrap_or_default(),
            retry: retry.map(Into::into).unwrap_or_default(),
            session_persistence: session_persistence.map(Into::into),
        })
    }
}

impl From<&SessionPersistence> for proto::SessionPersistence {
    fn from(session: &SessionPersistence) -> Self {
        let SessionPersistence { name, carrier, absolute_timeout } = session;
        let (header, permanent, cookie_path) = match carrier {
            SessionCarrier::Header => (true, false, None),
            SessionCarrier::Cookie { permanent, path } => (false, *permanent, path.clone()),
        };
        Self {
            name: name.clone(),
            header,
            absolute_timeout_ms: millis(*absolute_timeout),
            permanent,
            cookie_path: cookie_path.unwrap_or_default(),
        }
    }
}

impl From<proto::SessionPersistence> for SessionPersistence {
    fn from(session: proto::SessionPersistence) -> Self {
        let proto::SessionPersistence { name, header, absolute_timeout_ms, permanent, cookie_path } = session;
        Self {
            name,
            carrier: if header { SessionCarrier::Header } else { SessionCarrier::Cookie { permanent, path: text(cookie_path) } },
            absolute_timeout: duration(absolute_timeout_ms),
        }
    }
}

impl From<&HttpMatch> for proto::Match {
    fn from(matched: &HttpMatch) -> Self {
        let HttpMatch { path, headers, query, method } = matched;
        Self {
            path: Some(path.into()),
            headers: headers.iter().map(Into::into).collect(),
            query: query.iter().map(Into::into).collect(),
            method: method.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<proto::Match> for HttpMatch {
    type Error = WireError;

    fn try_from(matched: proto::Match) -> Result<Self, WireError> {
        let proto::Match { path, headers, query, method } = matched;
        let values = |list: Vec<proto::ValueMatch>| list.into_iter().map(TryInto::try_into).collect::<Result<Vec<_>, WireError>>();
        Ok(Self {
            path: path.ok_or(WireError::Missing("match.path"))?.try_into()?,
            headers: values(headers)?,
            query: values(query)?,
            method: text(method),
        })
    }
}

impl From<&ValueMatch> for proto::ValueMatch {
    fn from(value_match: &ValueMatch) -> Self {
        let ValueMatch { name, value } = value_match;
        let (value, regex) = string_match(value);
        Self { name: name.clone(), value, regex }
    }
}

impl TryFrom<proto::ValueMatch> for ValueMatch {
    type Error = WireError;

    fn try_from(value_match: proto::ValueMatch) -> Result<Self, WireError> {
        let proto::ValueMatch { name, value, regex } = value_match;
        Ok(Self { name, value: parse_string_match(value, regex)? })
    }
}

impl From<&PathMatch> for proto::PathMatch {
    fn from(path: &PathMatch) -> Self {
        use proto::path_match::Path;
        Self {
            path: Some(match path {
                PathMatch::Exact(text) => Path::Exact(text.clone()),
                PathMatch::Prefix(text) => Path::Prefix(text.clone()),
                PathMatch::Regex(pattern) => Path::Regex(pattern.text().to_owned()),
                PathMatch::Grpc { service, method } => {
                    let part = |m: &Option<StringMatch>| m.as_ref().map(string_match).unwrap_or_default();
                    let (service, service_regex) = part(service);
                    let (method, method_regex) = part(method);
                    Path::Grpc(proto::GrpcMethod { service, method, regex: service_regex || method_regex })
                }
            }),
        }
    }
}

impl TryFrom<proto::PathMatch> for PathMatch {
    type Error = WireError;

    fn try_from(path: proto::PathMatch) -> Result<Self, WireError> {
        use proto::path_match::Path;
        Ok(match path.path.ok_or(WireError::Missing("match.path"))? {
            Path::Exact(text) => Self::Exact(text),
            Path::Prefix(text) => Self::Prefix(text),
            Path::Regex(text) => Self::Regex(pattern(&text)?),
            Path::Grpc(proto::GrpcMethod { service, method, regex }) => {
                let part = |value: String| text(value).map(|value| parse_string_match(value, regex)).transpose();
                Self::Grpc { service: part(service)?, method: part(method)? }
            }
        })
    }
}

fn string_match(value: &StringMatch) -> (String, bool) {
    match value {
        StringMatch::Exact(text) => (text.clone(), false),
        StringMatch::Regex(pattern) => (pattern.text().to_owned(), true),
    }
}

fn parse_string_match(value: String, regex: bool) -> Result<StringMatch, WireError> {
    Ok(if regex { StringMatch::Regex(pattern(&value)?) } else { StringMatch::Exact(value) })
}

fn pattern(text: &str) -> Result<Pattern, WireError> {
    Pattern::new(text).map_err(|e| WireError::invalid("regex", e))
}
