//! What is logged, how it looks, and what happens when nobody reads.

use super::*;
use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

fn record() -> Record {
    Record {
        ended_unix_nanos: 1_795_215_000_123_456_789,
        direction: Direction::Outbound,
        protocol: "HTTP/1.1",
        method: "GET".into(),
        authority: "reviews".into(),
        path: "/reviews/0?token=secret".into(),
        status: 503,
        cause: Cause::ConnectFailed,
        route: "HTTPRoute/default/reviews#canary".into(),
        backend: "default/reviews-v1:80".into(),
        endpoint: Some(SocketAddr::from(([127, 0, 0, 1], 4001))),
        attempts: 2,
        duration: Duration::from_nanos(1_234_567),
        request_bytes: 3,
        response_bytes: 4,
        peer: "spiffe://cluster.local/ns/default/sa/front".into(),
        trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        request_id: "b7a2c1de-0000-4000-8000-000000000000".into(),
    }
}

fn settings(access_log: bool) -> (watch::Sender<Arc<Settings>>, watch::Receiver<Arc<Settings>>) {
    watch::channel(Arc::new(Settings { access_log, ..Settings::default() }))
}

fn line_of(record: Record) -> Value {
    let mut out = Vec::new();
    line::write(&record.bounded(), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_record_is_one_line_with_all_that_is_known() {
    let mut out = Vec::new();
    line::write(&record().bounded(), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"time\":\"2026-11-20T22:50:00.123Z\",\"direction\":\"outbound\",\"protocol\":\"HTTP/1.1\",\"method\":\"GET\",\
         \"authority\":\"reviews\",\"path\":\"/reviews/0\",\"status\":503,\"cause\":\"connect_failed\",\
         \"route\":\"HTTPRoute/default/reviews#canary\",\"backend\":\"default/reviews-v1:80\",\"endpoint\":\"127.0.0.1:4001\",\
         \"attempts\":2,\"duration_ms\":1.235,\"request_bytes\":3,\"response_bytes\":4,\
         \"peer\":\"spiffe://cluster.local/ns/default/sa/front\",\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\
         \"request_id\":\"b7a2c1de-0000-4000-8000-000000000000\"}\n"
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let bare = Record { method: String::new(), status: 0, endpoint: None, peer: String::new(), trace_id: 0, ..record() };
    let line = line_of(bare);
    for absent in ["method", "status", "endpoint", "peer", "trace_id"] {
        assert_eq!(line.get(absent), None, "{absent}");
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let line = line_of(Record { path: format!("/a{}", "ü".repeat(100_000)), ..record() });
    let path = line["path"].as_str().unwrap();
    assert!(path.len() <= TEXT_MAX + 3 && path.len() >= TEXT_MAX - 3 && path.ends_with('…'), "{}", path.len());
}

#[test]
fn off_it_logs_failures_only_and_at_a_bounded_rate() {
    let (_sender, receiver) = settings(false);
    let start = Instant::now();
    let (log, _writer) = AccessLog::new(receiver, start);
    assert!(!log.wants(Cause::None, start));
    assert!(!log.wants(Cause::Filter, start));
    let wanted = |now: Instant| (0..100).filter(|_| log.clone().wants(Cause::Reset, now)).count();
    assert_eq!(wanted(start), 50);
    assert_eq!(wanted(start + Duration::from_secs(1)), 10);
    assert_eq!(wanted(start + Duration::from_secs(60)), 50);
    assert_eq!(log.shared.suppressed.get(), 190);
}

#[tokio::test]
async fn settings_turn_it_on_and_off() {
    let (sender, receiver) = settings(true);
    let now = Instant::now();
    let (log, writer) = AccessLog::new(receiver, now);
    assert!((0..1_000).all(|_| log.wants(Cause::None, now)));
    let running = tokio::spawn(writer.run(tokio::io::sink(), std::future::pending()));
    for on in [false, true, false] {
        sender.send_replace(Arc::new(Settings { access_log: on, ..Settings::default() }));
        while log.wants(Cause::None, now) != on {
            tokio::task::yield_now().await;
        }
    }
    drop(log);
    running.await.unwrap();
}

#[tokio::test]
async fn records_are_written_in_order_and_what_is_left_at_the_end_too() {
    let (_sender, receiver) = settings(true);
    let (log, writer) = AccessLog::new(receiver, Instant::now());
    let registry = Registry::new();
    writer.register(&registry).unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    for attempts in 0..600 {
        log.try_send(Record { attempts, ..record() });
    }
    end.send(()).unwrap();
    writer.run(near, async { ended.await.unwrap() }).await;
    let mut lines = BufReader::new(far).lines();
    for attempts in 0..600 {
        let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(line["attempts"], attempts);
    }
    assert_eq!(lines.next_line().await.unwrap(), None);
    assert_eq!(log.shared.written.get(), 600);
    assert_eq!(registry.gather().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_costs_records_and_never_a_wait() {
    let (_sender, receiver) = settings(true);
    let (log, writer) = AccessLog::new(receiver, Instant::now());
    // A pipe of one byte that nobody empties.
    let (near, far) = tokio::io::duplex(1);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(writer.run(near, async { ended.await.unwrap_or_default() }));
    for _ in 0..10_000 {
        log.try_send(record());
    }
    assert_eq!(log.shared.dropped.get(), 10_000 - RECORDS_MAX as u64);
    drop(far);
    // The reader is gone: what waits is dropped too, and the task goes on until its end.
    end.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(log.shared.dropped.get(), 10_000);
    assert_eq!(log.shared.written.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_a_reader_that_does_not_read() {
    let (_sender, receiver) = settings(true);
    let (log, writer) = AccessLog::new(receiver, Instant::now());
    let (near, _far) = tokio::io::duplex(1);
    for _ in 0..1_000 {
        log.try_send(record());
    }
    let begun = Instant::now();
    writer.run(near, std::future::ready(())).await;
    assert!(begun.elapsed() <= FLUSH_TIMEOUT * 2);
    assert_eq!(log.shared.dropped.get(), 1_000, "all of them are counted");
    log.try_send(record());
    assert_eq!(log.shared.dropped.get(), 1_001);
}

proptest! {
    /// Whatever texts a client makes up, a line is one line, and says just that.
    #[test]
    fn any_text_survives_as_one_line(path in "[^?]{0,200}", authority in "\\PC{0,50}|[\\x00-\\x1f\"\\\\]{0,50}") {
        let line = line_of(Record { path: path.clone(), authority: authority.clone(), request_id: String::new(), ..record() });
        prop_assert_eq!(line.get("path").and_then(Value::as_str).unwrap_or_default(), path);
        prop_assert_eq!(line.get("authority").and_then(Value::as_str).unwrap_or_default(), authority);
    }

    /// From the begin to any moment: never more than the burst and what the time brought.
    #[test]
    fn failures_never_exceed_their_rate(gaps in prop::collection::vec(0..300u64, 1..300)) {
        let (_sender, receiver) = settings(false);
        let start = Instant::now();
        let (log, _writer) = AccessLog::new(receiver, start);
        let (mut now, mut admitted) = (start, 0u32);
        for gap in gaps {
            now += Duration::from_millis(gap);
            admitted += u32::from(log.wants(Cause::Reset, now));
            prop_assert!(f64::from(admitted) <= 50.0 + 10.0 * (now - start).as_secs_f64() + 1e-6);
        }
    }
}
