//! What filters do to messages: rewrites, redirects, cross-origin rules, session cookies.

use crate::cause::Cause;
use crate::message::{Reply, RequestEdit, ResponseEdit};
use heddle_model::ServicePort;
use heddle_model::filter::{Cors, Redirect, Rewrite};
use heddle_model::route::{SessionCarrier, SessionPersistence};

/// Changes host and path before forwarding.
pub fn rewrite(rewrite: &Rewrite, prefix: Option<&str>, request: &mut impl RequestEdit) {
    let Rewrite { hostname, path } = rewrite;
    if let Some(path) = path {
        let new = path.apply(request.path(), prefix);
        request.set_path(&new);
    }
    if let Some(hostname) = hostname {
        request.set_authority(hostname);
    }
}

/// The redirect's answer. The port is left out where the scheme implies it (Gateway API: 80 and 443 SHOULD be).
pub fn redirect(redirect: &Redirect, prefix: Option<&str>, request: &impl RequestEdit, service: Option<&ServicePort>) -> Reply {
    let Redirect { scheme, hostname, path, port, status } = redirect;
    let authority = request.authority_text().unwrap_or_default();
    let (host, asked_port) = split_authority(authority);
    let new_scheme = scheme.as_deref().unwrap_or("http");
    // An explicit scheme without a port means that scheme's own port; otherwise the port that was addressed stays.
    let port = port.or_else(|| if scheme.is_some() { None } else { asked_port.or_else(|| service.map(|s| s.port)) });
    let port = port.filter(|p| !matches!((new_scheme, p), ("http", 80) | ("https", 443)));
    let mut location = format!("{new_scheme}://{}", hostname.as_deref().unwrap_or(host));
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    match path {
        Some(path) => location.push_str(&path.apply(request.path(), prefix)),
        None => location.push_str(request.path()),
    }
    if let Some(query) = request.query() {
        location.push('?');
        location.push_str(query);
    }
    Reply { status: *status, cause: Cause::Filter, headers: vec![("Location", location)], body: String::new() }
}

fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// The answer of a preflight (Fetch standard, CORS protocol); `None`: it is none, or a request to pass on.
pub fn preflight(cors: &Cors, request: &impl RequestEdit) -> Option<Reply> {
    let text = |name| request.value(name).and_then(|v| std::str::from_utf8(v).ok());
    let origin = text("origin")?;
    let asked_method = text("access-control-request-method").filter(|_| request.method() == "OPTIONS")?;
    let mut headers = vec![("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers".to_owned())];
    if cors.allows_origin(origin) {
        headers.push(("Access-Control-Allow-Origin", allowed_origin(cors, origin)));
        if cors.allow_credentials {
            headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        // With credentials a literal `*` means nothing to browsers: say what was asked for.
        let list = |allowed: &[String], asked: Option<&str>| match (allowed.iter().any(|a| a == "*"), asked) {
            (true, Some(asked)) if cors.allow_credentials => asked.to_owned(),
            (true, _) => "*".to_owned(),
            (false, _) => allowed.join(", "),
        };
        if !cors.allow_methods.is_empty() {
            headers.push(("Access-Control-Allow-Methods", list(&cors.allow_methods, Some(asked_method))));
        }
        if !cors.allow_headers.is_empty() {
            headers.push(("Access-Control-Allow-Headers", list(&cors.allow_headers, text("access-control-request-headers"))));
        }
        headers.push(("Access-Control-Max-Age", cors.max_age_seconds.to_string()));
    }
    Some(Reply { status: 204, cause: Cause::Filter, headers, body: String::new() })
}

/// Marks an answer for a browser.
pub fn cors(cors: &Cors, origin: Option<&str>, response: &mut impl ResponseEdit) {
    let Some(origin) = origin.filter(|o| cors.allows_origin(o)) else {
        return;
    };
    response.set("Access-Control-Allow-Origin", allowed_origin(cors, origin).as_bytes());
    if cors.allow_credentials {
        response.set("Access-Control-Allow-Credentials", b"true");
    }
    if !cors.expose_headers.is_empty() {
        response.set("Access-Control-Expose-Headers", cors.expose_headers.join(", ").as_bytes());
    }
    response.append("Vary", b"Origin");
}

fn allowed_origin(cors: &Cors, origin: &str) -> String {
    let any = cors.allow_origins.iter().any(|o| o == "*") && !cors.allow_credentials;
    if any { "*".to_owned() } else { origin.to_owned() }
}

/// The session that a request belongs to (GEP-1619), if it says one that we made.
pub fn session(persistence: &SessionPersistence, request: &impl RequestEdit) -> Option<u64> {
    let SessionPersistence { name, carrier, absolute_timeout: _ } = persistence;
    let value = match carrier {
        SessionCarrier::Header => std::str::from_utf8(request.value(name)?).ok()?,
        SessionCarrier::Cookie { .. } => {
            let cookies = std::str::from_utf8(request.value("cookie")?).ok()?;
            cookies.split(';').find_map(|c| c.trim().strip_prefix(name.as_str())?.strip_prefix('='))?
        }
    };
    (value.len() == 16).then(|| u64::from_str_radix(value, 16).ok())?
}

/// Tells the client its session.
pub fn offer_session(persistence: &SessionPersistence, session: u64, response: &mut impl ResponseEdit) {
    let SessionPersistence { name, carrier, absolute_timeout } = persistence;
    match carrier {
        SessionCarrier::Header => response.set(name, format!("{session:016x}").as_bytes()),
        SessionCarrier::Cookie { permanent, path } => {
            let mut cookie = format!("{name}={session:016x}; Path={}; HttpOnly", path.as_deref().unwrap_or("/"));
            if let Some(timeout) = absolute_timeout.filter(|_| *permanent) {
                cookie.push_str(&format!("; Max-Age={}", timeout.as_secs()));
            }
            response.append("Set-Cookie", cookie.as_bytes());
        }
    }
}
