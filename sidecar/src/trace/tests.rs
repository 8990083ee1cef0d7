//! What the specifications say, case by case, and properties over arbitrary contexts and bytes.

use super::*;
use fastrand::Rng;
use proptest::prelude::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traceparent(value: &str) -> Incoming {
    TraceHeaders { traceparent: Some(value.as_bytes()), ..TraceHeaders::default() }.read()
}

fn b3(value: &str) -> Incoming {
    TraceHeaders { b3: Some(value.as_bytes()), ..TraceHeaders::default() }.read()
}

fn headers(context: &TraceContext) -> Vec<(&'static str, String)> {
    context.headers().map(|(name, value)| (name, String::from_utf8(value.as_bytes().to_vec()).unwrap())).collect()
}

#[test]
fn a_traceparent_is_continued() {
    let incoming = traceparent(&format!("00-{TRACE}-{SPAN}-01"));
    assert!(incoming.continues() && incoming.keeps_tracestate());
    let context = TraceContext::begin(&incoming, 0, &mut Rng::with_seed(1));
    assert_eq!(format!("{:032x}", context.trace_id), TRACE);
    assert_eq!(format!("{:016x}", context.parent), SPAN);
    assert!(context.sampled);
    let child = context.child(&mut Rng::with_seed(2));
    assert_eq!(headers(&child), [("traceparent", format!("00-{TRACE}-{:016x}-01", child.parent))]);
    assert_ne!(child.parent, context.parent);
}

#[test]
fn an_unsampled_caller_decides_for_all_after_it() {
    let incoming = traceparent(&format!("00-{TRACE}-{SPAN}-00"));
    assert!(!TraceContext::begin(&incoming, PPM, &mut Rng::with_seed(1)).sampled);
}

#[test]
fn the_random_flag_is_kept_and_unknown_flags_are_not() {
    let out = |flags: &str| {
        let incoming = traceparent(&format!("00-{TRACE}-{SPAN}-{flags}"));
        headers(&TraceContext::begin(&incoming, 0, &mut Rng::with_seed(1)))[0].1[53..].to_owned()
    };
    assert_eq!((out("03"), out("02"), out("ff"), out("fc")), ("03".into(), "02".into(), "03".into(), "00".into()));
}

#[test]
fn invalid_traceparents_begin_a_new_trace() {
    let zero = "0".repeat(32);
    for value in [
        String::new(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-0"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-01-extra"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("FF-{TRACE}-{SPAN}-01"),
        format!("0g-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
        format!("00-{zero}-{SPAN}-01"),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00_{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-0x"),
        format!("cc-{TRACE}-{SPAN}-01.future"),
        format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
    ] {
        let incoming = traceparent(&value);
        assert_eq!(incoming, Incoming::default(), "{value}");
        let context = TraceContext::begin(&incoming, 0, &mut Rng::with_seed(1));
        assert_ne!(context.trace_id, 0);
        assert_eq!((context.parent, context.formats.w3c), (0, true));
    }
}

#[test]
fn later_versions_are_read_by_what_is_known() {
    for value in [format!("cc-{TRACE}-{SPAN}-01"), format!("01-{TRACE}-{SPAN}-01-what the-future-brings")] {
        let context = TraceContext::begin(&traceparent(&value), 0, &mut Rng::with_seed(1));
        assert_eq!(headers(&context), [("traceparent", format!("00-{TRACE}-{SPAN}-01"))], "written as version 00");
    }
}

#[test]
fn b3_in_gives_b3_out() {
    for (value, out) in [
        (format!("{TRACE}-{SPAN}-1"), format!("{TRACE}-{SPAN}-1")),
        (format!("{TRACE}-{SPAN}-0"), format!("{TRACE}-{SPAN}-0")),
        (format!("{TRACE}-{SPAN}-d"), format!("{TRACE}-{SPAN}-d")),
        (format!("{TRACE}-{SPAN}-1-{SPAN}"), format!("{TRACE}-{SPAN}-1")),
        (format!("{TRACE}-{SPAN}"), format!("{TRACE}-{SPAN}-0")),
        (format!("{SPAN}-{SPAN}-1"), format!("{SPAN}-{SPAN}-1")),
        (format!("{}-{SPAN}-1", TRACE.to_uppercase()), format!("{TRACE}-{SPAN}-1")),
        (format!("0000000000000000{SPAN}-{SPAN}-1"), format!("0000000000000000{SPAN}-{SPAN}-1")),
    ] {
        let incoming = b3(&value);
        assert!(incoming.continues() && !incoming.keeps_tracestate(), "{value}");
        assert_eq!(headers(&TraceContext::begin(&incoming, 0, &mut Rng::with_seed(1))), [("b3", out)], "{value}");
    }
}

#[test]
fn b3_without_ids_only_decides() {
    for (value, decision) in [("0", Decision::Deny), ("1", Decision::Accept), ("d", Decision::Debug)] {
        let incoming = b3(value);
        assert_eq!((incoming.decision(), incoming.continues()), (decision, false));
        let context = TraceContext::begin(&incoming, PPM / 2, &mut Rng::with_seed(1)).child(&mut Rng::with_seed(2));
        assert_eq!(context.sampled, decision != Decision::Deny);
        let out = headers(&context);
        assert!(out.len() == 1 && out[0].0 == "b3" && out[0].1.ends_with(value), "{out:?}");
    }
}

#[test]
fn invalid_b3_is_absent() {
    for value in [
        String::new(),
        "2".to_owned(),
        TRACE.to_owned(),
        format!("{TRACE}-"),
        format!("{TRACE}-{SPAN}-"),
        format!("{TRACE}-{SPAN}-2"),
        format!("{TRACE}-{SPAN}-1-x"),
        format!("{TRACE}-{SPAN}-1-{SPAN}-"),
        format!("{TRACE}-0000000000000000-1"),
        format!("{}-{SPAN}-1", "0".repeat(32)),
        format!("{TRACE}0-{SPAN}-1"),
    ] {
        assert_eq!(b3(&value), Incoming::default(), "{value}");
    }
}

#[test]
fn b3_multi_in_gives_b3_multi_out() {
    let read = |trace: &'static str, sampled: Option<&'static str>, flags: Option<&'static str>| {
        TraceHeaders {
            x_b3_traceid: Some(trace.as_bytes()),
            x_b3_spanid: Some(SPAN.as_bytes()),
            x_b3_sampled: sampled.map(str::as_bytes),
            x_b3_flags: flags.map(str::as_bytes),
            ..TraceHeaders::default()
        }
        .read()
    };
    for (incoming, trace, state) in [
        (read(TRACE, Some("1"), None), TRACE, ("x-b3-sampled", "1")),
        (read(TRACE, Some("true"), None), TRACE, ("x-b3-sampled", "1")),
        (read(TRACE, Some("0"), Some("0")), TRACE, ("x-b3-sampled", "0")),
        (read(SPAN, Some("0"), Some("1")), SPAN, ("x-b3-flags", "1")),
        (read(SPAN, None, None), SPAN, ("x-b3-sampled", "0")),
    ] {
        let out = headers(&TraceContext::begin(&incoming, 0, &mut Rng::with_seed(1)));
        let expected = [("x-b3-traceid", trace.to_owned()), ("x-b3-spanid", SPAN.to_owned()), (state.0, state.1.to_owned())];
        assert_eq!(out, expected);
    }
}

#[test]
fn b3_multi_sampling_alone_only_decides() {
    let incoming = TraceHeaders { x_b3_sampled: Some(b"0"), ..TraceHeaders::default() }.read();
    assert_eq!((incoming.decision(), incoming.continues()), (Decision::Deny, false));
    assert!(incoming.formats().b3_multi);
    let half = TraceHeaders { x_b3_traceid: Some(TRACE.as_bytes()), ..TraceHeaders::default() }.read();
    assert_eq!(half, Incoming::default(), "a trace id without a span id is no context");
}

#[test]
fn all_forms_in_give_all_forms_out_and_w3c_names_the_trace() {
    let other = "1".repeat(32);
    let value = format!("00-{TRACE}-{SPAN}-00");
    let single = format!("{other}-{SPAN}-d");
    let incoming = TraceHeaders {
        traceparent: Some(value.as_bytes()),
        b3: Some(single.as_bytes()),
        x_b3_sampled: Some(b"1"),
        ..TraceHeaders::default()
    }
    .read();
    let out = headers(&TraceContext::begin(&incoming, 0, &mut Rng::with_seed(1)));
    assert_eq!(
        out,
        [
            ("traceparent", format!("00-{TRACE}-{SPAN}-01")),
            ("b3", format!("{TRACE}-{SPAN}-d")),
            ("x-b3-traceid", TRACE.to_owned()),
            ("x-b3-spanid", SPAN.to_owned()),
            ("x-b3-flags", "1".to_owned()),
        ]
    );
}

#[test]
fn an_open_decision_follows_the_rate() {
    let mut rng = Rng::with_seed(7);
    let mut sampled = |ppm| (0..10_000).filter(|_| TraceContext::begin(&Incoming::default(), ppm, &mut rng).sampled).count();
    assert_eq!((sampled(0), sampled(PPM)), (0, 10_000));
    // 1 %: 100 expected, standard deviation 10; ten of those never happens.
    assert!((1..=200).contains(&sampled(PPM / 100)));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        trace in 1u128.., parent in 1u64.., seed: u64, ppm in 0..=PPM, w3c: bool, b3_single: bool, b3_multi: bool, decision in 0u8..4, short: bool,
    ) {
        prop_assume!(w3c || b3_single || b3_multi);
        let formats = Formats { w3c, b3_single, b3_multi };
        // Debug exists in B3 only.
        let decision = match decision {
            0 => Decision::Deny,
            1 => Decision::Accept,
            2 if b3_single || b3_multi => Decision::Debug,
            _ => Decision::Defer,
        };
        let trace = if short { trace & u128::from(u64::MAX) | 1 } else { trace };
        let ids = Some(Ids { trace, span: parent });
        let incoming = Incoming { ids, decision, formats, random: false, short: short && !w3c };
        let context = TraceContext::begin(&incoming, ppm, &mut Rng::with_seed(seed));
        let out = headers(&context);
        prop_assert!(out.iter().all(|(name, value)| HEADERS.contains(name) && !value.is_empty()));
        let value = |name: &str| out.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes());
        let read = TraceHeaders {
            traceparent: value("traceparent"),
            b3: value("b3"),
            x_b3_traceid: value("x-b3-traceid"),
            x_b3_spanid: value("x-b3-spanid"),
            x_b3_sampled: value("x-b3-sampled"),
            x_b3_flags: value("x-b3-flags"),
        }
        .read();
        let again = TraceContext::begin(&read, ppm, &mut Rng::with_seed(seed));
        prop_assert_eq!(again, context);
    }

    #[test]
    fn no_bytes_break_it_and_what_comes_out_is_valid(
        traceparent in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..70)),
        b3 in proptest::option::of("[0-9a-fd-]{0,70}"),
        trace in proptest::option::of("[0-9a-fA-F]{14,34}"),
        span in proptest::option::of("[0-9a-f]{15,17}"),
        seed: u64,
    ) {
        let headers_in = TraceHeaders {
            traceparent: traceparent.as_deref(),
            b3: b3.as_deref().map(str::as_bytes),
            x_b3_traceid: trace.as_deref().map(str::as_bytes),
            x_b3_spanid: span.as_deref().map(str::as_bytes),
            ..TraceHeaders::default()
        };
        let mut rng = Rng::with_seed(seed);
        let context = TraceContext::begin(&headers_in.read(), 0, &mut rng).child(&mut rng);
        let out = headers(&context);
        prop_assert!(!out.is_empty());
        let written = context.traceparent();
        let again = parse_traceparent(&written).expect("what is written is valid");
        prop_assert_eq!(again.ids, Some(Ids { trace: context.trace_id, span: context.parent }));
    }

    #[test]
    fn a_changed_traceparent_is_valid_or_refused_but_never_misread(at in 0usize..55, byte: u8) {
        let mut text = format!("00-{TRACE}-{SPAN}-01").into_bytes();
        text[at] = byte;
        if let Some(incoming) = parse_traceparent(&text) {
            let Ids { trace, span } = incoming.ids.unwrap();
            let (trace, span) = (format!("{trace:032x}"), format!("{span:016x}"));
            prop_assert_eq!(trace.as_bytes(), &text[3..35]);
            prop_assert_eq!(span.as_bytes(), &text[36..52]);
            prop_assert_ne!(&text[0..2], b"ff");
        }
    }
}
