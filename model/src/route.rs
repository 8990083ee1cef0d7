//! Routes and the rule that a request belongs to: matching and precedence as pure functions.
//!
//! [`RouteTable::find`] is what the sidecar runs, what tests check and what `explain` shows: there is no second engine.

mod matching;
mod wire;

pub use matching::{HttpMatch, InvalidPattern, PathMatch, Pattern, Specificity, StringMatch, ValueMatch};

use crate::backend::RouteBackend;
use crate::filter::Filter;
use crate::name::ResourceRef;
use crate::retry::RetryPolicy;
use crate::timeout::Timeouts;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::time::Duration;

/// What matching needs to see of a request.
pub trait RequestView {
    /// The method, as sent.
    fn method(&self) -> &str;
    /// The path, without query.
    fn path(&self) -> &str;
    /// What stands after the first `?`.
    fn query(&self) -> Option<&str>;
    /// The value of a header, by lower-case name; repeated ones are joined by commas (RFC 9110 §5.3). `host` is the authority.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// A route as one object defines it.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The object.
    pub source: ResourceRef,
    /// When it was created, in Unix seconds; `None`: unknown, which counts as youngest.
    pub created: Option<u64>,
    /// In the object's order.
    pub rules: Vec<Rule>,
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The object and the rule's name or index.
    pub source: ResourceRef,
    /// Any of these; empty: everything.
    pub matches: Vec<HttpMatch>,
    /// In order.
    pub filters: Vec<Filter>,
    /// Where requests go, by weight.
    pub backends: Vec<RouteBackend>,
    /// Limits.
    pub timeouts: Timeouts,
    /// Which failures are tried again.
    pub retry: RetryPolicy,
    /// Whether a client stays with an endpoint (GEP-1619).
    pub session_persistence: Option<SessionPersistence>,
}

/// Affinity of a client to an endpoint (GEP-1619).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPersistence {
    /// The cookie's or header's name.
    pub name: String,
    /// What carries the session.
    pub carrier: SessionCarrier,
    /// A session ends so long after its begin.
    pub absolute_timeout: Option<Duration>,
}

/// What carries a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A header that the client repeats.
    Header,
    /// A cookie.
    Cookie {
        /// Whether it outlives the browser's session.
        permanent: bool,
        /// Its `Path`.
        path: Option<String>,
    },
}

/// How the rules of a table compete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precedence {
    /// Gateway API: the most specific match; then the older route; then its name; then the rule's place.
    #[default]
    Specificity,
    /// Istio: the first match in list order.
    Ordered,
}

/// All rules that compete for the requests to one destination, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteTable {
    precedence: Precedence,
    routes: Vec<RouteHead>,
    rules: Vec<Rule>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, PartialEq)]
struct RouteHead {
    source: ResourceRef,
    created: Option<u64>,
    rules: usize,
}

/// One match of one rule, in the order of trial.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    rule: usize,
    /// `None`: the rule has no match and takes everything.
    matched: Option<usize>,
}

/// The rule that a request belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Its index in [`RouteTable::rules`].
    pub index: usize,
    /// Which of its matches fitted; `None`: it has none.
    pub matched: Option<&'a HttpMatch>,
}

impl Matched<'_> {
    /// The path prefix that matched, for [`crate::filter::PathRewrite::Prefix`].
    pub fn prefix(&self) -> Option<&str> {
        match &self.matched?.path {
            PathMatch::Prefix(prefix) => Some(prefix),
            PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Grpc { .. } => None,
        }
    }
}

impl RouteTable {
    /// A table of routes; the result does not depend on the order of `routes` under [`Precedence::Specificity`].
    pub fn new(precedence: Precedence, mut routes: Vec<Route>) -> Self {
        match precedence {
            // A total order: no two objects of one kind share namespace and name.
            Precedence::Specificity => routes.sort_by(|a, b| age(a).cmp(&age(b))),
            Precedence::Ordered => {}
        }
        let mut heads = Vec::with_capacity(routes.len());
        let mut rules: Vec<Rule> = Vec::new();
        for Route { source, created, rules: of_route } in routes {
            heads.push(RouteHead { source, created, rules: of_route.len() });
            rules.extend(of_route);
        }
        let mut candidates = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            if rule.matches.is_empty() {
                candidates.push(Candidate { rule: index, matched: None });
            }
            candidates.extend((0..rule.matches.len()).map(|m| Candidate { rule: index, matched: Some(m) }));
        }
        if precedence == Precedence::Specificity {
            // Stable: ties keep the order by age, name and place.
            candidates.sort_by_key(|c| Reverse(c.matched.map_or_else(Specificity::anything, |m| rules[c.rule].matches[m].specificity())));
        }
        Self { precedence, routes: heads, rules, candidates }
    }

    /// How its rules compete.
    pub fn precedence(&self) -> Precedence {
        self.precedence
    }

    /// All rules, by route age and place.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Finds the rule for a request; `None`: no rule matches (404).
    pub fn find(&self, request: &impl RequestView) -> Option<Matched<'_>> {
        self.candidates.iter().find_map(|candidate| {
            let rule = &self.rules[candidate.rule];
            let matched = candidate.matched.map(|m| &rule.matches[m]);
            matched.is_none_or(|m| m.accepts(request)).then_some(Matched { rule, index: candidate.rule, matched })
        })
    }

    fn to_routes(&self) -> Vec<Route> {
        let mut rules = self.rules.iter().cloned();
        self.routes
            .iter()
            .map(|RouteHead { source, created, rules: count }| Route {
                source: source.clone(),
                created: *created,
                rules: rules.by_ref().take(*count).collect(),
            })
            .collect()
    }
}

/// Oldest first, then by `{namespace}/{name}` (GEP-713, HTTPRoute precedence).
fn age(route: &Route) -> (u64, &str, &str, &str) {
    (route.created.unwrap_or(u64::MAX), route.source.namespace(), route.source.name(), route.source.kind())
}

#[cfg(test)]
mod tests;
