//! The live table: what passes by each route and version, as lines for a terminal of any width or as plain lines for a log.

use crate::text::{Line, Style, duration, percent};
use crate::traffic::{BackendTraffic, Kind, Mtls, RouteTraffic};
use serde::Serialize;
use std::time::Duration;

/// What is known at one moment; one redraw shows one of these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct View {
    /// Since everything was started.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(crate) elapsed: Duration,
    /// What passed within the window.
    pub(crate) routes: Vec<RouteTraffic>,
    /// What is not as it should be, a sentence each.
    pub(crate) problems: Vec<String>,
}

fn seconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_secs_f64())
}

/// A column of figures.
struct Column {
    title: &'static str,
    width: usize,
    /// Columns of higher rank leave first when the window is narrow.
    rank: u8,
    cell: fn(&RouteTraffic, &BackendTraffic) -> (Style, String),
}

const COLUMNS: [Column; 7] = [
    Column {
        title: "SHARE",
        width: 8,
        rank: 0,
        cell: |route, b| (Style::Bold, if route.requests == 0 { "-".to_owned() } else { percent(b.share) }),
    },
    Column {
        title: "REQ/S",
        width: 8,
        rank: 2,
        cell: |route, b| match route.kind {
            Kind::Http => (Style::Plain, rate(b.per_second)),
            Kind::Tcp => (Style::Plain, bytes(b.bytes_per_second)),
        },
    },
    Column { title: "OPEN", width: 6, rank: 6, cell: |_, b| (Style::Plain, b.open.to_string()) },
    Column {
        title: "SUCCESS",
        width: 8,
        rank: 1,
        cell: |_, b| match (b.requests, b.failures) {
            (0, _) => (Style::Dim, "-".to_owned()),
            (_, 0) => (Style::Good, percent(b.success)),
            (_, _) => (Style::Bad, percent(b.success)),
        },
    },
    Column { title: "P50", width: 8, rank: 5, cell: |_, b| (Style::Plain, b.p50_seconds.map_or_else(|| "-".to_owned(), duration)) },
    Column { title: "P99", width: 8, rank: 3, cell: |_, b| (Style::Plain, b.p99_seconds.map_or_else(|| "-".to_owned(), duration)) },
    Column {
        title: "MTLS",
        width: 5,
        rank: 4,
        cell: |_, b| match b.mtls {
            Mtls::Yes => (Style::Good, "yes".to_owned()),
            Mtls::No => (Style::Dim, "no".to_owned()),
            Mtls::Some => (Style::Bad, "some".to_owned()),
            Mtls::Unknown => (Style::Dim, "-".to_owned()),
        },
    },
];

/// The first column is not made narrower than this while another can leave.
const NAME_MIN: usize = 28;
/// The first column is not made wider than this: figures far from their names are hard to read.
const NAME_MAX: usize = 64;

/// Draws the table for a window of `width` columns; no line is longer.
pub(crate) fn lines(view: &View, width: usize) -> Vec<Line> {
    let (columns, name_width) = fit(width);
    let mut lines = Vec::new();
    let mut head = Line::new(Style::Dim, pad_right(&format!("{:.0} s", view.elapsed.as_secs_f64()), name_width));
    for column in &columns {
        head.push(Style::Dim, pad_left(column.title, column.width));
    }
    lines.push(head);
    if view.routes.is_empty() {
        lines.push(Line::new(Style::Dim, "no requests through the mesh"));
    }
    let mut service = None;
    for route in &view.routes {
        if service != Some(&route.service) {
            service = Some(&route.service);
            lines.push(Line::new(Style::Bold, service_name(route)));
        }
        lines.push(Line::new(Style::Plain, format!("  {}", route_name(route))));
        for backend in &route.backends {
            let name = format!("    {}", backend_name(backend));
            let mut line = Line::new(Style::Plain, pad_right(&name, name_width));
            for column in &columns {
                let (style, text) = (column.cell)(route, backend);
                let indent = column.width.saturating_sub(text.chars().count()).max(1);
                line.push(Style::Plain, " ".repeat(indent));
                line.push(style, text);
            }
            lines.push(line);
        }
    }
    if !view.problems.is_empty() {
        lines.push(Line::default());
        lines.extend(view.problems.iter().map(|problem| Line::new(Style::Bad, format!("! {problem}"))));
    }
    lines
}

/// One line for each route and version, complete in itself, for a log.
pub(crate) fn plain(view: &View) -> Vec<String> {
    let at = format!("{:>6.1}s", view.elapsed.as_secs_f64());
    let mut lines = Vec::new();
    for route in &view.routes {
        for backend in &route.backends {
            let passed = match route.kind {
                Kind::Http => format!("{} req/s", rate(backend.per_second)),
                Kind::Tcp => format!("{} conn/s  {}/s", rate(backend.per_second), bytes(backend.bytes_per_second)),
            };
            let mut line = format!(
                "{at}  {} {} -> {}  share {}  {passed}  open {}  success {}",
                service_name(route),
                route_name(route),
                backend_name(backend),
                percent(backend.share),
                backend.open,
                percent(backend.success),
            );
            if let (Some(p50), Some(p99)) = (backend.p50_seconds, backend.p99_seconds) {
                line.push_str(&format!("  p50 {}  p99 {}", duration(p50), duration(p99)));
            }
            line.push_str(match backend.mtls {
                Mtls::Yes => "  mtls yes",
                Mtls::No => "  mtls no",
                Mtls::Some => "  mtls some",
                Mtls::Unknown => "",
            });
            lines.push(line);
        }
    }
    if lines.is_empty() {
        lines.push(format!("{at}  no requests through the mesh"));
    }
    lines
}

/// The columns that have room, and what is left for the names.
fn fit(width: usize) -> (Vec<&'static Column>, usize) {
    let mut columns: Vec<_> = COLUMNS.iter().collect();
    loop {
        let taken: usize = columns.iter().map(|column| column.width).sum();
        let left = width.saturating_sub(taken);
        if left >= NAME_MIN || columns.len() <= 1 {
            return (columns, left.min(NAME_MAX));
        }
        let last = columns.iter().map(|column| column.rank).max();
        columns.retain(|column| Some(column.rank) != last);
    }
}

fn service_name(route: &RouteTraffic) -> &str {
    if route.service.is_empty() { "(outside any Service)" } else { &route.service }
}

fn route_name(route: &RouteTraffic) -> &str {
    match (route.route.as_str(), route.kind) {
        ("", Kind::Http) => "(no route)",
        ("", Kind::Tcp) => "TCP connections",
        (name, _) => name,
    }
}

fn backend_name(backend: &BackendTraffic) -> String {
    let mut name = match (backend.backend.as_str(), backend.version.as_str()) {
        ("", _) => "answered by the sidecar".to_owned(),
        (name, "" | "-") => name.to_owned(),
        (name, version) => format!("{name} {version}"),
    };
    if !backend.causes.is_empty() {
        let causes: Vec<_> = backend.causes.keys().map(String::as_str).collect();
        name.push_str(&format!(": {}", causes.join(", ")));
    }
    name
}

fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// Bytes with a unit, three figures at most.
fn bytes(count: f64) -> String {
    let mut value = count;
    for unit in ["B", "kB", "MB"] {
        if value < 999.5 {
            return format!("{value:.0} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}

fn pad_right(text: &str, width: usize) -> String {
    let text = crate::text::cut(text, width);
    format!("{text:<width$}")
}

fn pad_left(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn backend(name: &str, version: &str, requests: u64, share: f64) -> BackendTraffic {
        BackendTraffic {
            backend: name.to_owned(),
            version: version.to_owned(),
            requests,
            share,
            per_second: 120.4,
            open: 3,
            bytes: 0,
            bytes_per_second: 0.0,
            failures: 0,
            success: 1.0,
            p50_seconds: Some(0.0012),
            p99_seconds: Some(0.0345),
            mtls: Mtls::Yes,
            causes: BTreeMap::new(),
        }
    }

    fn view() -> View {
        View {
            elapsed: Duration::from_secs(12),
            routes: vec![RouteTraffic {
                service: "default/reviews:80".to_owned(),
                route: "HTTPRoute/default/reviews#canary".to_owned(),
                kind: Kind::Http,
                requests: 100,
                backends: vec![backend("default/reviews-v1:80", "v1", 90, 0.9), backend("default/reviews-v2:80", "v2", 10, 0.1)],
            }],
            problems: vec!["HTTPRoute/default/broken: ResolvedRefs is False: BackendNotFound".to_owned()],
        }
    }

    fn shown(width: usize) -> Vec<String> {
        lines(&view(), width).iter().map(|line| line.render(width, false)).collect()
    }

    #[test]
    fn a_wide_window_shows_every_figure() {
        assert_eq!(
            shown(80),
            [
                "12 s                            SHARE   REQ/S  OPEN SUCCESS     P50     P99 MTLS",
                "default/reviews:80",
                "  HTTPRoute/default/reviews#canary",
                "    default/reviews-v1:80 v1   90.0 %     120     3 100.0 % 1.20 ms 34.5 ms  yes",
                "    default/reviews-v2:80 v2   10.0 %     120     3 100.0 % 1.20 ms 34.5 ms  yes",
                "",
                "! HTTPRoute/default/broken: ResolvedRefs is False: BackendNotFound",
            ]
        );
    }

    #[test]
    fn a_narrow_window_keeps_the_share_longest() {
        assert_eq!(shown(45)[0], "12 s                            SHARE SUCCESS");
        assert_eq!(shown(30)[3], "    default/reviews-v…  90.0 %");
        for width in 0..100 {
            assert!(shown(width).iter().all(|line| line.chars().count() <= width), "{width}");
        }
    }

    #[test]
    fn a_plain_line_stands_by_itself() {
        assert_eq!(
            plain(&view())[0],
            "  12.0s  default/reviews:80 HTTPRoute/default/reviews#canary -> default/reviews-v1:80 v1  share 90.0 %  120 req/s  open 3  \
             success 100.0 %  p50 1.20 ms  p99 34.5 ms  mtls yes"
        );
    }

    #[test]
    fn what_the_sidecar_answered_itself_names_the_cause() {
        let mut own = backend("", "", 3, 1.0);
        own.causes.insert("no_route".to_owned(), 3);
        assert_eq!(backend_name(&own), "answered by the sidecar: no_route");
    }

    #[test]
    fn bytes_have_units() {
        let shown = [0.0, 999.0, 999.6, 1.5e6, 2.345e9].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1 kB", "2 MB", "2.3 GB"]);
    }

    #[test]
    fn a_view_without_traffic_says_so() {
        let empty = View { elapsed: Duration::ZERO, routes: Vec::new(), problems: Vec::new() };
        assert_eq!(plain(&empty).len(), 1);
        assert_eq!(lines(&empty, 80).len(), 2);
    }
}
