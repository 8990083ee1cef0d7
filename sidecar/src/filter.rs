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

/// The session that a request belongs to (GEP-1619), if it says one that we made and that has not ended. `now` is in Unix seconds.
pub fn session(persistence: &SessionPersistence, request: &impl RequestEdit, now: u64) -> Option<u64> {
    let SessionPersistence { name, carrier, absolute_timeout } = persistence;
    let value = match carrier {
        SessionCarrier::Header => std::str::from_utf8(request.value(name)?).ok()?,
        SessionCarrier::Cookie { .. } => {
            let cookies = std::str::from_utf8(request.value("cookie")?).ok()?;
            cookies.split(';').find_map(|c| c.trim().strip_prefix(name.as_str())?.strip_prefix('='))?
        }
    };
    let (endpoint, begun) = value.split_once('-')?;
    let begun = u64::from_str_radix(begun, 16).ok()?;
    let ended = absolute_timeout.is_some_and(|timeout| now.saturating_sub(begun) >= timeout.as_secs());
    (endpoint.len() == 16 && !ended).then(|| u64::from_str_radix(endpoint, 16).ok())?
}

/// Tells the client its session: the endpoint it belongs to, and when it began, which bounds it.
pub fn offer_session(persistence: &SessionPersistence, session: u64, now: u64, response: &mut impl ResponseEdit) {
    let SessionPersistence { name, carrier, absolute_timeout } = persistence;
    let value = format!("{session:016x}-{now:x}");
    match carrier {
        SessionCarrier::Header => response.set(name, value.as_bytes()),
        SessionCarrier::Cookie { permanent, path } => {
            let mut cookie = format!("{name}={value}; Path={}; HttpOnly", path.as_deref().unwrap_or("/"));
            if let Some(timeout) = absolute_timeout.filter(|_| *permanent) {
                cookie.push_str(&format!("; Max-Age={}", timeout.as_secs()));
            }
            response.append("Set-Cookie", cookie.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{RequestHead, ResponseHead};
    use std::time::Duration;

    fn request(fields: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.parse(format!("GET /a/b?c=d HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap().expect("a whole head");
        head
    }

    fn location(given: Redirect, prefix: Option<&str>, host: &str) -> String {
        let service = ServicePort { namespace: "default".into(), name: "web".into(), port: 8080 };
        redirect(&given, prefix, &request(&format!("Host: {host}")), Some(&service)).headers[0].1.clone()
    }

    #[test]
    fn a_location_keeps_what_the_redirect_leaves_open() {
        use heddle_model::filter::PathRewrite;
        let plain = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
        let with = |edit: fn(&mut Redirect)| {
            let mut redirect = plain.clone();
            edit(&mut redirect);
            redirect
        };
        for (redirect, host, expected) in [
            (plain.clone(), "web:8080", "http://web:8080/a/b?c=d"),
            (plain.clone(), "web", "http://web:8080/a/b?c=d"),
            (plain.clone(), "web:80", "http://web/a/b?c=d"),
            (plain.clone(), "[::1]:81", "http://[::1]:81/a/b?c=d"),
            (with(|r| r.scheme = Some("https".into())), "web:8080", "https://web/a/b?c=d"),
            (with(|r| r.port = Some(443)), "web", "http://web:443/a/b?c=d"),
            (with(|r| r.hostname = Some("other".into())), "web:8080", "http://other:8080/a/b?c=d"),
            (with(|r| r.path = Some(PathRewrite::Full("/x".into()))), "web:80", "http://web/x?c=d"),
            (with(|r| r.path = Some(PathRewrite::Prefix("/x".into()))), "web:80", "http://web/x/b?c=d"),
        ] {
            assert_eq!(location(redirect, Some("/a"), host), expected);
        }
    }

    #[test]
    fn a_session_ends_by_its_absolute_timeout() {
        let persistence = SessionPersistence {
            name: "sid".into(),
            carrier: SessionCarrier::Cookie { permanent: true, path: None },
            absolute_timeout: Some(Duration::from_secs(60)),
        };
        let mut response = ResponseHead::default();
        response.parse(b"HTTP/1.1 200 OK\r\n\r\n", false, false).unwrap();
        offer_session(&persistence, 7, 1000, &mut response);
        let cookie = String::from_utf8(response.value("set-cookie").expect("a cookie").to_vec()).unwrap();
        assert_eq!(cookie, "sid=0000000000000007-3e8; Path=/; HttpOnly; Max-Age=60");
        let again = request(&format!("Host: x\r\nCookie: a=b; {}", cookie.split(';').next().unwrap()));
        assert_eq!(session(&persistence, &again, 1059), Some(7));
        assert_eq!(session(&persistence, &again, 1060), None);
        for forged in ["sid=7", "sid=zz-1", "sid=0000000000000007-", "other=0000000000000007-3e8"] {
            assert_eq!(session(&persistence, &request(&format!("Host: x\r\nCookie: {forged}")), 0), None, "{forged}");
        }
    }
}
