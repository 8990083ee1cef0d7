//! Filters of routes → filters of the model. What cannot be honoured fails requests or drops its rule; it is never skipped.

use heddle_crds::gateway::{
    CorsFilter, Fraction, GrpcRouteFilter, GrpcRouteFilterType, HeaderFilter, HttpHeader, HttpRouteFilter, HttpRouteFilterType,
    PathModifier, PathModifierType, RedirectScheme, RequestMirrorFilter, RequestRedirectFilter, UrlRewriteFilter,
};
use heddle_model::filter::{Cors, HeaderEdits, Mirror, PathRewrite, Redirect, Rewrite};
use heddle_model::route::{HttpMatch, PathMatch};
use heddle_model::{Filter, RouteBackend};
use http::{HeaderName, HeaderValue};

use super::backend::{Unresolved, invalid, unresolved};
use super::route::{Scope, Unusable};

/// The status of a request whose filter cannot be honoured (Gateway API, HTTPRouteFilter).
const FAILED_FILTER_STATUS: u16 = 500;

/// Reads the filters of a rule, or of one of its backends; `matches` are the rule's.
pub(crate) fn http(scope: &mut Scope<'_, '_>, filters: &[HttpRouteFilter], matches: &[HttpMatch]) -> Result<Vec<Filter>, Unusable> {
    let filters = filters.iter().map(|filter| one(scope, filter, matches)).collect::<Result<Vec<_>, _>>()?;
    let count = |wanted: fn(&Filter) -> bool| filters.iter().filter(|f| wanted(f)).count();
    let redirects = count(|f| matches!(f, Filter::Redirect(_)));
    let rewrites = count(|f| matches!(f, Filter::Rewrite(_)));
    let cors = count(|f| matches!(f, Filter::Cors(_)));
    if redirects > 0 && rewrites > 0 {
        return Err(Unusable::Incompatible("RequestRedirect and URLRewrite exclude each other".to_owned()));
    }
    for (name, count) in [("RequestRedirect", redirects), ("URLRewrite", rewrites), ("CORS", cors)] {
        if count > 1 {
            return Err(Unusable::Incompatible(format!("{name} is there more than once")));
        }
    }
    Ok(filters)
}

/// Reads the filters of a rule of a GRPCRoute, which are a part of those of HTTPRoute.
pub(crate) fn grpc(scope: &mut Scope<'_, '_>, filters: &[GrpcRouteFilter]) -> Result<Vec<Filter>, Unusable> {
    filters.iter().map(|filter| one(scope, &as_http(filter), &[])).collect()
}

fn as_http(filter: &GrpcRouteFilter) -> HttpRouteFilter {
    let GrpcRouteFilter { filter_type, request_header_modifier, response_header_modifier, request_mirror, extension_ref } = filter.clone();
    HttpRouteFilter {
        filter_type: match filter_type {
            GrpcRouteFilterType::RequestHeaderModifier => HttpRouteFilterType::RequestHeaderModifier,
            GrpcRouteFilterType::ResponseHeaderModifier => HttpRouteFilterType::ResponseHeaderModifier,
            GrpcRouteFilterType::RequestMirror => HttpRouteFilterType::RequestMirror,
            GrpcRouteFilterType::ExtensionRef => HttpRouteFilterType::ExtensionRef,
            GrpcRouteFilterType::Unknown(text) => HttpRouteFilterType::Unknown(text),
        },
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect: None,
        url_rewrite: None,
        cors: None,
        external_auth: None,
        extension_ref,
    }
}

fn one(scope: &mut Scope<'_, '_>, filter: &HttpRouteFilter, matches: &[HttpMatch]) -> Result<Filter, Unusable> {
    let HttpRouteFilter {
        filter_type,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
        cors: cors_filter,
        external_auth: _, // not implemented, whatever it says
        extension_ref,
    } = filter;
    let missing = || Unusable::Unsupported(format!("a filter of type {filter_type} lacks the field of that name"));
    match filter_type {
        HttpRouteFilterType::RequestHeaderModifier => {
            Ok(Filter::RequestHeaders(header_edits(request_header_modifier.as_ref().ok_or_else(missing)?)?))
        }
        HttpRouteFilterType::ResponseHeaderModifier => {
            Ok(Filter::ResponseHeaders(header_edits(response_header_modifier.as_ref().ok_or_else(missing)?)?))
        }
        HttpRouteFilterType::RequestMirror => mirror(scope, request_mirror.as_ref().ok_or_else(missing)?),
        HttpRouteFilterType::RequestRedirect => redirect(request_redirect.as_ref().ok_or_else(missing)?, matches),
        HttpRouteFilterType::UrlRewrite => rewrite(url_rewrite.as_ref().ok_or_else(missing)?, matches),
        HttpRouteFilterType::Cors => cors(cors_filter.as_ref().ok_or_else(missing)?),
        HttpRouteFilterType::ExtensionRef => {
            let reference = extension_ref.as_ref().ok_or_else(missing)?;
            let message = format!("filter {}.{} \"{}\" is not known", reference.kind, reference.group, reference.name);
            scope.problems.push(unresolved("InvalidKind", message.clone()));
            Ok(Filter::Fail { status: FAILED_FILTER_STATUS, message })
        }
        // Kept as a refusal and not dropped: another rule must not take the requests that were to be authorized.
        HttpRouteFilterType::ExternalAuth => {
            let message = "filter ExternalAuth is not supported".to_owned();
            scope.not_implemented.get_or_insert_with(|| message.clone());
            Ok(Filter::Fail { status: FAILED_FILTER_STATUS, message })
        }
        HttpRouteFilterType::Unknown(text) => Err(Unusable::Unsupported(format!("\"{text}\" is not a type of filter"))),
    }
}

fn header_edits(filter: &HeaderFilter) -> Result<HeaderEdits, Unusable> {
    let HeaderFilter { set, add, remove } = filter;
    let pairs = |headers: &[HttpHeader]| {
        headers
            .iter()
            .map(|HttpHeader { name, value }| {
                let name = header_name(name)?;
                // The text and not only the bytes: the wire and the codec take visible ASCII.
                match HeaderValue::from_str(value).map(|v| v.to_str().is_ok()) {
                    Ok(true) => Ok((name, value.clone())),
                    Ok(false) | Err(_) => Err(Unusable::Unsupported(format!("the value of header \"{name}\" is not visible ASCII"))),
                }
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(HeaderEdits { set: pairs(set)?, add: pairs(add)?, remove: header_names(remove)? })
}

/// A header's name in lower case.
pub(crate) fn header_name(name: &str) -> Result<String, Unusable> {
    HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| Unusable::Unsupported(format!("\"{name}\" is not a header name")))
}

fn header_names(names: &[String]) -> Result<Vec<String>, Unusable> {
    names.iter().map(|name| header_name(name)).collect()
}

fn mirror(scope: &mut Scope<'_, '_>, filter: &RequestMirrorFilter) -> Result<Filter, Unusable> {
    let RequestMirrorFilter { backend_ref, percent, fraction } = filter;
    let (numerator, denominator) = match (percent, fraction) {
        (None, None) => (100, 100),
        (Some(percent), None) => (*percent, 100),
        (None, Some(Fraction { numerator, denominator })) => (*numerator, *denominator),
        (Some(_), Some(_)) => return Err(Unusable::Unsupported("a mirror has percent or fraction, not both".to_owned())),
    };
    if denominator == 0 || numerator > denominator {
        return Err(Unusable::Unsupported(format!("a mirror of {numerator}/{denominator} is not a share")));
    }
    let target = scope.backends.reference(scope.namespace, backend_ref).unwrap_or_else(|problem| {
        let Unresolved { reason: _, message } = &problem;
        let target = invalid(format!("mirror: {message}"));
        scope.problems.push(problem);
        target
    });
    Ok(Filter::Mirror(Mirror { backend: RouteBackend { weight: 1, target, filters: Vec::new() }, numerator, denominator }))
}

fn redirect(filter: &RequestRedirectFilter, matches: &[HttpMatch]) -> Result<Filter, Unusable> {
    let RequestRedirectFilter { scheme, hostname, path, port, status_code } = filter;
    if !RequestRedirectFilter::STATUS_CODES.contains(status_code) {
        return Err(Unusable::Unsupported(format!("{status_code} is not a status of a redirect")));
    }
    if let Some(RedirectScheme::Unknown(scheme)) = scheme {
        return Err(Unusable::Unsupported(format!("\"{scheme}\" is not a scheme of a redirect")));
    }
    Ok(Filter::Redirect(Redirect {
        scheme: scheme.as_ref().map(|s| s.as_str().to_owned()),
        hostname: host(hostname.as_deref())?,
        path: path.as_ref().map(|p| path_rewrite(p, matches)).transpose()?,
        port: port.filter(|p| *p != 0),
        status: *status_code,
    }))
}

fn rewrite(filter: &UrlRewriteFilter, matches: &[HttpMatch]) -> Result<Filter, Unusable> {
    let UrlRewriteFilter { hostname, path } = filter;
    Ok(Filter::Rewrite(Rewrite {
        hostname: host(hostname.as_deref())?,
        path: path.as_ref().map(|p| path_rewrite(p, matches)).transpose()?,
    }))
}

/// A host that can stand in a header.
fn host(hostname: Option<&str>) -> Result<Option<String>, Unusable> {
    let Some(hostname) = hostname.filter(|h| !h.is_empty()) else {
        return Ok(None);
    };
    if hostname.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        Ok(Some(hostname.to_owned()))
    } else {
        Err(Unusable::Unsupported(format!("\"{hostname}\" is not a host name")))
    }
}

fn path_rewrite(modifier: &PathModifier, matches: &[HttpMatch]) -> Result<PathRewrite, Unusable> {
    let PathModifier { modifier_type, replace_full_path, replace_prefix_match } = modifier;
    let missing = || Unusable::Unsupported(format!("a path modifier of type {modifier_type} lacks the field of that name"));
    let rewrite = match modifier_type {
        PathModifierType::ReplaceFullPath => PathRewrite::Full(replace_full_path.clone().ok_or_else(missing)?),
        PathModifierType::ReplacePrefixMatch => {
            if !matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_))) {
                return Err(Unusable::Unsupported("ReplacePrefixMatch needs matches of type PathPrefix".to_owned()));
            }
            PathRewrite::Prefix(replace_prefix_match.clone().ok_or_else(missing)?)
        }
        PathModifierType::Unknown(text) => return Err(Unusable::Unsupported(format!("\"{text}\" is not a type of path modifier"))),
    };
    let (PathRewrite::Full(text) | PathRewrite::Prefix(text)) = &rewrite;
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(rewrite)
    } else {
        Err(Unusable::Unsupported(format!("the path \"{text}\" has characters that need percent-encoding")))
    }
}

fn cors(filter: &CorsFilter) -> Result<Filter, Unusable> {
    let CorsFilter { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } = filter;
    Ok(Filter::Cors(Cors {
        allow_origins: allow_origins.clone(),
        allow_credentials: allow_credentials.unwrap_or(false),
        allow_methods: allow_methods.iter().map(|m| m.as_str().to_owned()).collect(),
        allow_headers: header_names(allow_headers)?,
        expose_headers: header_names(expose_headers)?,
        max_age_seconds: *max_age,
    }))
}
