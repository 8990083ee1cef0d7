//! HTTPRoutes as clients and applications see them: what matches, what is changed, what is refused and why.

use heddle_tests::http1::{self, Message, answer, exchange};
use heddle_tests::{App, Builder, Mesh, Service, Wire, Workload, free_port, wait};
use std::collections::BTreeSet;

/// A client of `web:80`, whose routes are in question, and two versions behind Services of their own.
struct Shop {
    mesh: Mesh,
    v1: App,
    v2: App,
}

fn version(app: &App, name: &str) -> Workload {
    Workload::new(name).label("app", "web").label("version", name).serves(8080, app.address())
}

async fn builder(rules: &str) -> (Builder, App, App) {
    let (v1, v2) = (App::named("v1").await, App::named("v2").await);
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n  parentRefs:\n  \
         - {{group: '', kind: Service, name: web, port: 80}}\n  rules:\n{rules}"
    );
    let service = |name| Service::new(name, 80).protocol("http").select("app", "web");
    let builder = Mesh::builder()
        .service(service("web"))
        .service(service("web-v1").select("version", "v1"))
        .service(service("web-v2").select("version", "v2"))
        .service(Service::new("empty", 80).protocol("http"))
        .workload(version(&v1, "v1"))
        .workload(version(&v2, "v2"))
        .client("client", &["web:80"])
        .objects(&route);
    (builder, v1, v2)
}

async fn shop(rules: &str) -> Shop {
    let (builder, v1, v2) = builder(rules).await;
    Shop { mesh: builder.start().await, v1, v2 }
}

impl Shop {
    async fn connect(&self) -> Wire {
        Wire::connect(self.mesh.outbound("client", "web:80")).await
    }

    async fn get(&self, target: &str, headers: &str) -> Message {
        self.send("GET", target, headers).await
    }

    async fn send(&self, method: &str, target: &str, headers: &str) -> Message {
        exchange(&mut self.connect().await, format!("{method} {target} HTTP/1.1\r\nHost: web\r\n{headers}\r\n")).await
    }

    /// Asserts which version answers, or with which status nobody does.
    async fn expect(&self, method: &str, target: &str, headers: &str, expected: &str) {
        let response = self.send(method, target, headers).await;
        let status = response.status().to_string();
        let found = response.header("x-app").unwrap_or(&status);
        assert_eq!(found, expected, "{method} {target} {headers:?}: {}", response.text());
    }
}

/// What the application saw of a request whose answer is its head.
fn seen(response: &Message) -> Message {
    Message::parse(&response.body)
}

#[tokio::test]
async fn rules_match_as_the_gateway_api_says() {
    let shop = shop(
        "  - matches:\n    - path: {type: PathPrefix, value: /v2}\n    backendRefs: [{name: web-v2, port: 80}]\n\
         \x20 - matches:\n    - path: {type: Exact, value: /v2/exact}\n    backendRefs: [{name: web-v1, port: 80}]\n\
         \x20 - matches:\n    - path: {type: RegularExpression, value: '/item/[0-9]+'}\n      method: GET\n    backendRefs: [{name: web-v2, port: 80}]\n\
         \x20 - matches:\n    - headers: [{name: end-user, value: tester}]\n    - queryParams: [{name: version, value: v2}]\n\
         \x20   - path: {value: /method}\n      method: PATCH\n    backendRefs: [{name: web-v2, port: 80}]\n\
         \x20 - matches:\n    - headers: [{name: host, value: v2.example.com}]\n    backendRefs: [{name: web-v2, port: 80}]\n\
         \x20 - matches:\n    - path: {value: /}\n    - path: {value: /method}\n    backendRefs: [{name: web-v1, port: 80}]\n",
    )
    .await;
    for (method, target, headers, expected) in [
        ("GET", "/", "", "v1"),
        ("GET", "/v2", "", "v2"),
        ("GET", "/v2/", "", "v2"),
        ("GET", "/v2/x?y", "", "v2"),
        // Prefixes are of whole elements.
        ("GET", "/v2example", "", "v1"),
        ("GET", "/v2/exact", "", "v1"),
        ("GET", "/v2/exact/", "", "v2"),
        ("GET", "/item/77", "", "v2"),
        ("POST", "/item/77", "", "v1"),
        // The whole path, not a part of it.
        ("GET", "/item/77x", "", "v1"),
        ("GET", "/x", "End-User: tester\r\n", "v2"),
        ("GET", "/x", "end-user: testers\r\n", "v1"),
        ("GET", "/x?version=v2", "", "v2"),
        ("GET", "/x?version=v1&version=v2", "", "v1"),
        ("PATCH", "/method", "", "v2"),
        ("GET", "/method", "", "v1"),
        // A longer prefix goes before a header.
        ("GET", "/method", "End-User: tester\r\n", "v1"),
        ("GET", "http://v2.example.com/", "", "v2"),
    ] {
        shop.expect(method, target, headers, expected).await;
    }
}

#[tokio::test]
async fn what_no_rule_matches_is_404_and_says_so() {
    let shop = shop("  - matches:\n    - path: {value: /only}\n    backendRefs: [{name: web-v1, port: 80}]\n").await;
    shop.expect("GET", "/only/this", "", "v1").await;
    let mut wire = shop.connect().await;
    for _ in 0..2 {
        let response = exchange(&mut wire, "POST /other HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!((response.status(), response.header("x-heddle-cause")), (404, Some("no_route")));
        assert!(response.text().contains("outbound sidecar of"), "{}", response.text());
    }
    assert_eq!(exchange(&mut wire, "GET /only HTTP/1.1\r\nHost: web\r\n\r\n").await.status(), 200, "the connection goes on");
    shop.mesh.counts("client", "heddle_http_requests_total", &[("cause", "no_route"), ("code_class", "4xx")], 2.0).await;
}

#[tokio::test]
async fn backends_that_cannot_be_used_fail_for_their_share_with_a_cause() {
    let shop = shop(
        "  - matches: [{path: {value: /missing}}]\n    backendRefs: [{name: nobody, port: 80}]\n\
         \x20 - matches: [{path: {value: /port}}]\n    backendRefs: [{name: web-v1, port: 81}]\n\
         \x20 - matches: [{path: {value: /empty}}]\n    backendRefs: [{name: empty, port: 80}]\n\
         \x20 - matches: [{path: {value: /none}}]\n\
         \x20 - matches: [{path: {value: /zero}}]\n    backendRefs: [{name: web-v1, port: 80, weight: 0}]\n\
         \x20 - matches: [{path: {value: /unused}}]\n    backendRefs: [{name: web-v1, port: 80}, {name: nobody, port: 80, weight: 0}]\n\
         \x20 - matches: [{path: {value: /half}}]\n    backendRefs: [{name: web-v1, port: 80}, {name: nobody, port: 80}]\n",
    )
    .await;
    for (target, status, cause) in [
        ("/missing", 500, "invalid_backend"),
        ("/port", 500, "invalid_backend"),
        ("/empty", 503, "no_endpoints"),
        ("/none", 500, "invalid_backend"),
        ("/zero", 500, "invalid_backend"),
    ] {
        let response = shop.get(target, "").await;
        assert_eq!((response.status(), response.header("x-heddle-cause")), (status, Some(cause)), "{target}: {}", response.text());
        assert!(response.text().contains("HTTPRoute/default/web"), "{target} names the object: {}", response.text());
    }
    let mut wire = shop.connect().await;
    let mut failed = 0;
    for _ in 0..200 {
        assert_eq!(exchange(&mut wire, "GET /unused HTTP/1.1\r\nHost: web\r\n\r\n").await.status(), 200);
        let status = exchange(&mut wire, "GET /half HTTP/1.1\r\nHost: web\r\n\r\n").await.status();
        assert!(matches!(status, 200 | 500), "{status}");
        failed += usize::from(status == 500);
    }
    assert!((60..=140).contains(&failed), "{failed} of 200 were for the half that is invalid");
}

#[tokio::test]
async fn redirects_say_where_to() {
    let redirect = |path: &str, fields: &str| {
        format!("  - matches: [{{path: {{value: {path}}}}}]\n    filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]\n")
    };
    let rules = [
        redirect("/host", "hostname: other.example.com"),
        redirect("/code", "hostname: other.example.com, statusCode: 301"),
        redirect("/scheme", "scheme: https"),
        redirect("/port", "port: 8443"),
        redirect("/both", "scheme: https, port: 8443, statusCode: 308"),
        redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 303"),
        redirect("/prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 307"),
        redirect("/strip", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
        redirect("/known-port", "scheme: https, port: 443"),
    ];
    let shop = shop(&rules.concat()).await;
    for (target, status, location) in [
        ("/host/a?b=c", 302, "http://other.example.com/host/a?b=c"),
        ("/code", 301, "http://other.example.com/code"),
        ("/scheme/x", 302, "https://web/scheme/x"),
        ("/port", 302, "http://web:8443/port"),
        ("/both?q", 308, "https://web:8443/both?q"),
        ("/full/old?q", 303, "http://web/new?q"),
        ("/prefix/a/b?q=1", 307, "http://web/new/a/b?q=1"),
        ("/prefix", 307, "http://web/new"),
        ("/strip/a", 302, "http://web/a"),
        ("/strip", 302, "http://web/"),
        ("/known-port", 302, "https://web/known-port"),
    ] {
        let response = shop.get(target, "").await;
        assert_eq!((response.status(), response.header("location")), (status, Some(location)), "{target}");
    }
    assert_eq!(shop.v1.connections() + shop.v2.connections(), 0);
}

#[tokio::test]
async fn rewrites_are_what_the_application_sees() {
    let rewrite = |path: &str, fields: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]\n    filters: [{{type: URLRewrite, urlRewrite: {{{fields}}}}}]\n    \
             backendRefs: [{{name: web-v1, port: 80}}]\n"
        )
    };
    let rules = [
        rewrite("/prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}"),
        rewrite("/strip", "path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}"),
        rewrite("/root", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
        rewrite("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all/of/it}"),
        rewrite("/host", "hostname: inner.example.com"),
    ];
    let shop = shop(&rules.concat()).await;
    for (target, rewritten, host) in [
        ("/prefix/a?b=c", "/new/a?b=c", "web"),
        ("/prefix", "/new", "web"),
        ("/prefix/", "/new/", "web"),
        ("/strip/a/b", "/a/b", "web"),
        ("/strip", "/", "web"),
        ("/root/a", "/a", "web"),
        ("/full/a?b", "/all/of/it?b", "web"),
        ("/host/a%2Fb", "/host/a%2Fb", "inner.example.com"),
    ] {
        let seen = seen(&shop.get(target, "").await);
        assert_eq!((seen.target(), seen.header("host")), (rewritten, Some(host)), "{target}");
    }
}

#[tokio::test]
async fn headers_are_modified_for_a_rule_and_for_a_backend() {
    let shop = shop(
        "  - matches: [{path: {value: /v1}}]\n    filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        \
         set: [{name: X-Set, value: of-the-rule}]\n        add: [{name: X-Add, value: more}]\n        remove: [x-remove]\n    \
         - type: ResponseHeaderModifier\n      responseHeaderModifier:\n        set: [{name: X-App, value: hidden}]\n        \
         add: [{name: x-added, value: '1'}]\n        remove: [Content-Type]\n    backendRefs:\n    - name: web-v1\n      port: 80\n      filters:\n      \
         - type: RequestHeaderModifier\n        requestHeaderModifier:\n          set: [{name: x-backend, value: one}]\n      \
         - type: ResponseHeaderModifier\n        responseHeaderModifier:\n          add: [{name: x-of-backend, value: 'yes'}]\n\
         \x20 - matches: [{path: {value: /v2}}]\n    backendRefs: [{name: web-v2, port: 80}]\n",
    )
    .await;
    let response = shop.get("/v1", "x-set: mine\r\nX-ADD: first\r\nX-Remove: gone\r\nX-Keep: kept\r\n").await;
    let request = seen(&response);
    assert_eq!(request.all("x-set").collect::<Vec<_>>(), ["of-the-rule"]);
    assert_eq!(request.all("x-add").collect::<Vec<_>>(), ["first", "more"]);
    assert_eq!((request.header("x-remove"), request.header("x-keep"), request.header("x-backend")), (None, Some("kept"), Some("one")));
    assert_eq!(response.all("x-app").collect::<Vec<_>>(), ["hidden"]);
    assert_eq!((response.header("x-added"), response.header("x-of-backend")), (Some("1"), Some("yes")));
    let other = shop.get("/v2", "x-set: mine\r\n").await;
    assert_eq!((seen(&other).header("x-set"), other.header("x-added"), other.header("x-app")), (Some("mine"), None, Some("v2")));
}

#[tokio::test]
async fn mirrors_get_a_copy_and_answer_nobody() {
    let mirror = |path: &str, share: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]\n    filters:\n    - type: RequestMirror\n      requestMirror: \
             {{backendRef: {{name: web-v2, port: 80}}{share}}}\n    backendRefs: [{{name: web-v1, port: 80}}]\n"
        )
    };
    let rules = [
        mirror("/all", ""),
        mirror("/half", ", percent: 50"),
        mirror("/none", ", percent: 0"),
        mirror("/fraction", ", fraction: {numerator: 1, denominator: 4}"),
    ];
    let shop = shop(&rules.concat()).await;
    let mirrored = |path: &str| shop.v2.heads().iter().filter(|head| head.target().starts_with(path)).count();
    for (path, expected) in [("/all", 200..=200), ("/half", 60..=140), ("/none", 0..=0), ("/fraction", 20..=85)] {
        let mut wire = shop.connect().await;
        for n in 0..200 {
            let response = exchange(&mut wire, format!("GET {path}/{n} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
            assert_eq!(response.header("x-app"), Some("v1"));
        }
        wait::until("the mirrored requests", async || {
            if mirrored(path) >= *expected.start() { Ok(()) } else { Err(format!("{} of 200", mirrored(path))) }
        })
        .await;
        wait::until_steady("the mirrored requests", 20, || mirrored(path)).await;
        assert!(expected.contains(&mirrored(path)), "{path}: {} of 200 were mirrored", mirrored(path));
    }
    let targets: BTreeSet<_> = shop.v2.heads().iter().map(|head| head.target().to_owned()).collect();
    assert_eq!(targets.len(), shop.v2.heads().len(), "each at most once");
}

#[tokio::test]
async fn a_mirror_that_is_down_harms_nobody() {
    let gone = free_port();
    let (builder, _v1, _v2) = builder(
        "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]\n    backendRefs: [{name: web-v1, port: 80}]\n",
    )
    .await;
    let shadow = Workload::new("shadow").label("app", "shadow").serves(8080, gone);
    let mesh = builder.service(Service::new("shadow", 80).protocol("http")).workload(shadow).start().await;
    let mut wire = Wire::connect(mesh.outbound("client", "web:80")).await;
    for _ in 0..20 {
        let response = exchange(&mut wire, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(response.header("x-app"), Some("v1"));
    }
}

#[tokio::test]
async fn cross_origin_requests_are_answered_by_the_rule() {
    let shop = shop(
        "  - filters:\n    - type: CORS\n      cors:\n        allowOrigins: ['https://*.example.com', 'http://one.test']\n        \
         allowMethods: [GET, PUT]\n        allowHeaders: [x-a, x-b]\n        exposeHeaders: [x-app]\n        allowCredentials: true\n        \
         maxAge: 600\n    backendRefs: [{name: web-v1, port: 80}]\n",
    )
    .await;
    let preflight = "Origin: https://shop.example.com\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-a\r\n";
    let response = shop.send("OPTIONS", "/", preflight).await;
    assert!(matches!(response.status(), 200 | 204), "{response:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://shop.example.com"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-a, x-b"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(response.header(name), Some(value), "{response:?}");
    }
    assert_eq!(shop.v1.connections(), 0, "a preflight is the mesh's affair");
    let foreign = preflight.replace("shop.example.com", "evil.test");
    let response = shop.send("OPTIONS", "/", &foreign).await;
    assert_eq!(response.header("access-control-allow-origin"), None);
    let response = shop.get("/", "Origin: http://one.test\r\n").await;
    assert_eq!(response.header("access-control-allow-origin"), Some("http://one.test"));
    assert_eq!(response.header("access-control-expose-headers"), Some("x-app"));
    assert_eq!(shop.get("/", "").await.header("access-control-allow-origin"), None);
    assert_eq!(shop.send("OPTIONS", "/", "").await.header("x-app"), Some("v1"), "an OPTIONS request that is no preflight passes");
}

#[tokio::test]
async fn timeouts_are_answered_504_and_say_which() {
    let timeouts = |path: &str, fields: &str| {
        format!("  - matches: [{{path: {{value: {path}}}}}]\n    timeouts: {{{fields}}}\n    backendRefs: [{{name: slow, port: 80}}]\n")
    };
    let rules = [timeouts("/request", "request: 100ms"), timeouts("/attempt", "backendRequest: 100ms"), timeouts("/zero", "request: 0s")];
    let slow = App::serve(|mut wire, _| async move {
        while let Some(request) = http1::request(&mut wire).await {
            match request.target() {
                "/zero" => wire.send(answer(200, "", "in time")).await,
                "/request/body" => wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome").await,
                _ => {
                    // Never.
                    wire.to_any_end().await;
                }
            }
        }
    })
    .await;
    let (builder, _v1, _v2) = builder(&rules.concat()).await;
    let slow = Workload::new("slow").label("app", "slow").serves(8080, slow.address());
    let mesh = builder.service(Service::new("slow", 80).protocol("http")).workload(slow).start().await;
    let address = mesh.outbound("client", "web:80");
    let mut wire = Wire::connect(address).await;
    for (target, cause) in [("/request", "request_timeout"), ("/attempt", "attempt_timeout")] {
        let response = exchange(&mut wire, format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        assert_eq!((response.status(), response.header("x-heddle-cause")), (504, Some(cause)), "{}", response.text());
    }
    assert_eq!(exchange(&mut wire, "GET /zero HTTP/1.1\r\nHost: web\r\n\r\n").await.text(), "in time");
    wire.send("GET /request/body HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (bytes, orderly) = wire.to_any_end().await;
    assert!(bytes.ends_with(b"some") && !orderly, "what has begun can only be cut");
}

#[tokio::test]
async fn sessions_stay_with_their_endpoint() {
    let (v1, v2, v3) = (App::named("one").await, App::named("two").await, App::named("three").await);
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  parentRefs:\n  \
                 - {group: '', kind: Service, name: web}\n  rules:\n  - sessionPersistence: {sessionName: shop, type: Cookie}\n    \
                 backendRefs: [{name: web, port: 80}]\n";
    let mesh = Mesh::builder()
        .service(Service::new("web", 80).protocol("http"))
        .workload(Workload::new("one").label("app", "web").serves(8080, v1.address()))
        .workload(Workload::new("two").label("app", "web").serves(8080, v2.address()))
        .workload(Workload::new("three").label("app", "web").serves(8080, v3.address()))
        .client("client", &["web:80"])
        .objects(route)
        .start()
        .await;
    let address = mesh.outbound("client", "web:80");
    let mut sessions = BTreeSet::new();
    for _ in 0..12 {
        let first = exchange(&mut Wire::connect(address).await, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        let cookie = first.header("set-cookie").expect("a session").to_owned();
        assert!(cookie.starts_with("shop=") && cookie.contains("HttpOnly"), "{cookie}");
        let session = cookie.split(';').next().unwrap();
        for _ in 0..10 {
            let request = format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: a=b; {session}; c=d\r\n\r\n");
            let next = exchange(&mut Wire::connect(address).await, request).await;
            assert_eq!(next.header("x-app"), first.header("x-app"));
            assert_eq!(next.header("set-cookie"), None, "it has one");
        }
        sessions.insert(first.header("x-app").unwrap().to_owned());
    }
    assert!(sessions.len() > 1, "sessions are spread: {sessions:?}");
    let forged = exchange(&mut Wire::connect(address).await, "GET / HTTP/1.1\r\nHost: web\r\nCookie: shop=0123\r\n\r\n").await;
    assert_eq!(forged.status(), 200);
    assert!(forged.header("set-cookie").is_some(), "a session that is none is replaced");
}
