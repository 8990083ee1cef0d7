use super::*;
use proptest::prelude::*;

struct Request {
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
}

impl RequestView for Request {
    fn method(&self) -> &str {
        self.method
    }
    fn path(&self) -> &str {
        self.path
    }
    fn query(&self) -> Option<&str> {
        self.query
    }
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values: Vec<_> = self.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(",").into_bytes()))
    }
}

fn get(path: &'static str) -> Request {
    Request { method: "GET", path, query: None, headers: Vec::new() }
}

fn exact(path: &str) -> HttpMatch {
    HttpMatch { path: PathMatch::Exact(path.into()), ..HttpMatch::default() }
}

fn prefix(path: &str) -> HttpMatch {
    HttpMatch { path: PathMatch::Prefix(path.into()), ..HttpMatch::default() }
}

fn with_header(mut m: HttpMatch, name: &str, value: &str) -> HttpMatch {
    m.headers.push(ValueMatch { name: name.into(), value: StringMatch::Exact(value.into()) });
    m
}

fn route(name: &str, created: Option<u64>, rules: Vec<Vec<HttpMatch>>) -> Route {
    let source = ResourceRef::new("HTTPRoute", "default", name);
    Route {
        rules: rules
            .into_iter()
            .enumerate()
            .map(|(index, matches)| Rule {
                source: source.rule(index.to_string()),
                matches,
                filters: Vec::new(),
                backends: Vec::new(),
                timeouts: Timeouts::default(),
                retry: RetryPolicy::default(),
                session_persistence: None,
            })
            .collect(),
        source,
        created,
    }
}

fn check(routes: Vec<Route>, request: &Request, expected: Option<&str>) {
    let table = RouteTable::new(Precedence::Specificity, routes);
    let found = table.find(request).map(|m| m.rule.source.to_string());
    assert_eq!(found.as_deref(), expected);
}

#[test]
fn an_exact_path_beats_a_prefix() {
    check(vec![route("r", None, vec![vec![prefix("/a/b")], vec![exact("/a/b")]])], &get("/a/b"), Some("HTTPRoute/default/r#1"));
}

#[test]
fn the_longest_prefix_beats_more_headers() {
    let mut request = get("/v2/x");
    request.headers.push(("version", "two"));
    let routes = vec![route("r", None, vec![vec![with_header(prefix("/"), "version", "two")], vec![prefix("/v2")]])];
    check(routes, &request, Some("HTTPRoute/default/r#1"));
}

#[test]
fn a_prefix_matches_by_elements() {
    let routes = vec![route("r", None, vec![vec![prefix("/v2/")]])];
    check(routes.clone(), &get("/v2"), Some("HTTPRoute/default/r#0"));
    check(routes.clone(), &get("/v2/x"), Some("HTTPRoute/default/r#0"));
    check(routes, &get("/v2example"), None);
}

#[test]
fn a_method_beats_headers() {
    let mut request = get("/");
    request.headers.push(("a", "1"));
    let method = HttpMatch { method: Some("GET".into()), ..HttpMatch::default() };
    let routes = vec![route("r", None, vec![vec![with_header(prefix("/"), "a", "1")], vec![method]])];
    check(routes, &request, Some("HTTPRoute/default/r#1"));
}

#[test]
fn equal_matches_go_to_the_older_route_then_to_the_name_then_to_the_first_rule() {
    check(
        vec![route("a", Some(20), vec![vec![prefix("/")]]), route("b", Some(10), vec![vec![prefix("/")], vec![prefix("/")]])],
        &get("/"),
        Some("HTTPRoute/default/b#0"),
    );
    check(vec![route("b", None, vec![vec![]]), route("a", None, vec![vec![]])], &get("/"), Some("HTTPRoute/default/a#0"));
}

#[test]
fn an_ordered_table_takes_the_first_match() {
    let table = RouteTable::new(Precedence::Ordered, vec![route("vs", None, vec![vec![prefix("/")], vec![exact("/a")]])]);
    assert_eq!(table.find(&get("/a")).unwrap().index, 0);
}

#[test]
fn query_parameters_are_decoded_and_the_first_counts() {
    let mut wanted = prefix("/");
    wanted.query.push(ValueMatch { name: "name with".into(), value: StringMatch::Exact("a b".into()) });
    let routes = vec![route("r", None, vec![vec![wanted]])];
    let mut request = get("/");
    request.query = Some("x=1&name%20with=a+b&name+with=other");
    check(routes.clone(), &request, Some("HTTPRoute/default/r#0"));
    request.query = Some("name%20with=other&name+with=a+b");
    check(routes, &request, None);
}

#[test]
fn repeated_headers_match_joined() {
    let mut request = get("/");
    request.headers = vec![("a", "1"), ("a", "2")];
    check(vec![route("r", None, vec![vec![with_header(prefix("/"), "a", "1,2")]])], &request, Some("HTTPRoute/default/r#0"));
}

#[test]
fn a_regex_matches_the_whole_text_only() {
    let m = HttpMatch { path: PathMatch::Regex(Pattern::new("/a|/b").unwrap()), ..HttpMatch::default() };
    let routes = vec![route("r", None, vec![vec![m]])];
    check(routes.clone(), &get("/b"), Some("HTTPRoute/default/r#0"));
    check(routes, &get("/b/c"), None);
    assert!(Pattern::new("a)(b").is_err());
    assert!(Pattern::new("(").unwrap_err().to_string().contains("unclosed group"));
}

#[test]
fn a_regex_beats_what_matches_everything_and_no_real_prefix() {
    let regex = HttpMatch { path: PathMatch::Regex(Pattern::new("/item/[0-9]+").unwrap()), ..HttpMatch::default() };
    let routes = vec![route("r", None, vec![vec![prefix("/")], vec![regex], vec![prefix("/item/7")]])];
    check(routes.clone(), &get("/item/6"), Some("HTTPRoute/default/r#1"));
    check(routes.clone(), &get("/item/7"), Some("HTTPRoute/default/r#2"));
    check(routes, &get("/item/x"), Some("HTTPRoute/default/r#0"));
}

#[test]
fn a_grpc_method_beats_its_service() {
    let grpc = |service: Option<&str>, method: Option<&str>| HttpMatch {
        path: PathMatch::Grpc {
            service: service.map(|s| StringMatch::Exact(s.into())),
            method: method.map(|m| StringMatch::Exact(m.into())),
        },
        ..HttpMatch::default()
    };
    let routes = vec![route("r", None, vec![vec![grpc(None, None)], vec![grpc(Some("s.S"), None)], vec![grpc(Some("s.S"), Some("M"))]])];
    check(routes.clone(), &get("/s.S/M"), Some("HTTPRoute/default/r#2"));
    check(routes.clone(), &get("/s.S/N"), Some("HTTPRoute/default/r#1"));
    check(routes.clone(), &get("/t.T/N"), Some("HTTPRoute/default/r#0"));
    check(routes, &get("/not-grpc"), None);
}

fn any_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        Just(PathMatch::Prefix("/".into())),
        Just(PathMatch::Prefix("/a".into())),
        Just(PathMatch::Exact("/a".into())),
        Just(PathMatch::Exact("/a/b".into())),
        Just(PathMatch::Regex(Pattern::new("/a.*").unwrap())),
    ];
    (path, any::<bool>(), any::<bool>()).prop_map(|(path, header, method)| {
        let mut m = HttpMatch { path, method: method.then(|| "GET".into()), ..HttpMatch::default() };
        if header {
            m.headers.push(ValueMatch { name: "h".into(), value: StringMatch::Exact("1".into()) });
        }
        m
    })
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    proptest::collection::vec(
        (proptest::option::of(1u64..4), proptest::collection::vec(proptest::collection::vec(any_match(), 0..3), 1..3)),
        1..6,
    )
    .prop_map(|routes| routes.into_iter().enumerate().map(|(i, (created, rules))| route(&format!("r{i}"), created, rules)).collect())
}

proptest! {
    #[test]
    fn precedence_does_not_depend_on_the_order_of_arrival(routes in any_routes(), turn in 0usize..6, path in prop_oneof![Just("/"), Just("/a"), Just("/a/b"), Just("/b")]) {
        let mut request = get(path);
        request.headers.push(("h", "1"));
        let mut turned = routes.clone();
        let by = turn % turned.len();
        turned.rotate_left(by);
        let mut reversed = routes.clone();
        reversed.reverse();
        let find = |routes| RouteTable::new(Precedence::Specificity, routes).find(&request).map(|m| m.rule.source.clone());
        let expected = find(routes);
        prop_assert_eq!(&find(turned), &expected);
        prop_assert_eq!(&find(reversed), &expected);
    }

    #[test]
    fn a_table_survives_the_wire(routes in any_routes(), ordered in any::<bool>()) {
        let precedence = if ordered { Precedence::Ordered } else { Precedence::Specificity };
        let table = RouteTable::new(precedence, routes);
        let wire = crate::proto::RouteTable::from(&table);
        prop_assert_eq!(RouteTable::try_from(wire).unwrap(), table);
    }
}
