//! Real hellos in every cut are read alike, and no bytes at all do harm.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// The first flight of a rustls client, as one would find it on the wire.
fn real_hello(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A hello from its extensions, in one handshake message.
fn hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        list.extend(content);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

/// Cuts a handshake message into records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1], &length[..], part].concat()
        })
        .collect()
}

fn sni(name: &[u8]) -> (u16, Vec<u8>) {
    let length = u16::try_from(name.len()).unwrap();
    let mut content = (length + 3).to_be_bytes().to_vec();
    content.push(0);
    content.extend(length.to_be_bytes());
    content.extend(name);
    (0, content)
}

fn alpn(names: &[&[u8]]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = names.iter().flat_map(|n| [&[u8::try_from(n.len()).unwrap()], *n].concat()).collect();
    let length = u16::try_from(list.len()).unwrap();
    (16, [&length.to_be_bytes(), &list[..]].concat())
}

#[track_caller]
fn reads(bytes: &[u8], sni: Option<&str>, alpn: &[&[u8]]) {
    let expected = ClientHello::Hello { sni: sni.map(str::to_owned), alpn: alpn.iter().map(|p| p.to_vec()).collect() };
    assert_eq!(peek(bytes), expected);
}

#[test]
fn real_hello_tells_sni_and_alpn() {
    let bytes = real_hello("Shop.Example", &[b"h2", b"http/1.1"]);
    assert!(bytes.len() > 1200, "a post-quantum key share is in it");
    reads(&bytes, Some("shop.example"), &[b"h2", b"http/1.1"]);
    assert!(!peek(&bytes).is_mesh());
    let mesh = real_hello("127.0.0.1", &[b"heddle/http1"]);
    reads(&mesh, None, &[b"heddle/http1"]);
    assert!(peek(&mesh).is_mesh());
}

#[test]
fn every_beginning_of_a_hello_asks_for_more() {
    let bytes = real_hello("shop.example", &[b"h2"]);
    for end in 0..bytes.len() {
        assert_eq!(peek(&bytes[..end]), ClientHello::NeedMore, "{end}");
    }
    let message = &bytes[5..];
    let cut = records(message, 3);
    for end in 0..cut.len() - 1 {
        assert_eq!(peek(&cut[..end]), ClientHello::NeedMore, "{end}");
    }
    reads(&cut, Some("shop.example"), &[b"h2"]);
}

#[test]
fn other_protocols_are_told_by_their_first_bytes() {
    for bytes in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0",
        b"SSH-2.0",
        &[0x80, 0x2e, 1], // an SSLv2 hello
        &[22, 2],
        &[22, 3, 1, 0, 0],             // an empty record
        &[22, 3, 1, 0x40, 1],          // a record of more than 2^14 bytes
        &[22, 3, 1, 0, 5, 2],          // a ServerHello
        &[22, 3, 1, 0, 4, 1, 1, 0, 1], // a message of more than 64 KiB
        &[21, 3, 1, 0, 2],             // an alert
    ] {
        assert_eq!(peek(bytes), ClientHello::NotTls, "{bytes:?}");
    }
}

#[test]
fn hello_larger_than_a_record_is_read() {
    let padding = |n| (21, vec![0; n]);
    let message = hello_with(&[padding(40_000), sni(b"a.b"), alpn(&[b"heddle/h2"])]);
    reads(&records(&message, MAX_RECORD), Some("a.b"), &[b"heddle/h2"]);
}

#[test]
fn bytes_without_a_hello_in_the_bound_are_refused() {
    // Records of one byte spend the window on headers.
    let message = hello_with(&[(21, vec![0; 30_000])]);
    let slow = records(&message, 1);
    assert_eq!(peek(&slow[..MAX_CLIENT_HELLO - 1]), ClientHello::NeedMore);
    assert_eq!(peek(&slow[..MAX_CLIENT_HELLO]), ClientHello::NotTls);
    assert_eq!(peek(&slow), ClientHello::NotTls);
}

#[test]
fn bytes_after_the_hello_are_ignored() {
    let mut bytes = records(&hello_with(&[alpn(&[b"heddle/opaque"])]), 100);
    bytes.extend([b'x'; 100]);
    reads(&bytes, None, &[b"heddle/opaque"]);
}

#[test]
fn hello_without_extensions_is_complete() {
    let mut message = hello_with(&[]);
    message.truncate(message.len() - 2);
    let body = message.len() - 4;
    message[3] = u8::try_from(body).unwrap();
    reads(&records(&message, 100), None, &[]);
}

#[test]
fn ambiguous_and_malformed_extensions_are_refused() {
    let refused: &[&[(u16, Vec<u8>)]] = &[
        &[alpn(&[b"h2"]), alpn(&[b"heddle/h2"])],
        &[sni(b"a"), sni(b"b")],
        &[alpn(&[b""])],
        &[alpn(&[])],
        &[(16, vec![0, 9, 1])],
        &[(0, vec![0, 0])],
        &[(0, vec![0, 4, 0, 0, 9, b'a'])],
        &[(0, vec![0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'])],
    ];
    for extensions in refused {
        let bytes = records(&hello_with(extensions), 1000);
        assert_eq!(peek(&bytes), ClientHello::NotTls, "{extensions:?}");
    }
    let mut trailing = hello_with(&[]);
    trailing.push(0);
    trailing[3] += 1;
    assert_eq!(peek(&records(&trailing, 1000)), ClientHello::NotTls);
}

#[test]
fn sni_that_is_no_host_name_counts_as_none() {
    for name in [&b"a b"[..], b"\xff", b"a\0", b"", &[b'a'; 256]] {
        reads(&records(&hello_with(&[sni(name)]), 1000), None, &[]);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = peek(&bytes);
        let _ = peek(&[&[22, 3, 1][..], &bytes].concat());
        let _ = peek(&records(&[&[1, 0, 0][..], &bytes].concat(), 100));
        let _ = parse_hello(&bytes);
    }

    #[test]
    fn damaged_hellos_do_no_harm_and_answers_are_stable(at in 0_usize..1500, to in any::<u8>()) {
        let mut bytes = records(&hello_with(&[sni(b"shop.example"), alpn(&[b"h2", b"heddle/h2"]), (51, vec![1; 1400])]), 700);
        let at = at % bytes.len();
        bytes[at] = to;
        // Once decided, more bytes change nothing.
        let mut decided: Option<ClientHello> = None;
        for end in (0..=bytes.len()).step_by(7).chain([bytes.len()]) {
            let now = peek(&bytes[..end]);
            match &decided {
                Some(before) => prop_assert_eq!(&now, before),
                None if now != ClientHello::NeedMore => decided = Some(now),
                None => {}
            }
        }
    }

    #[test]
    fn any_cut_into_records_reads_alike(
        size in 1_usize..2000, name in "[a-z0-9.-]{1,255}", protocols in proptest::collection::vec("[ -~]{1,255}", 1..5)
    ) {
        let names: Vec<&[u8]> = protocols.iter().map(String::as_bytes).collect();
        let message = hello_with(&[sni(name.as_bytes()), alpn(&names)]);
        let expected = ClientHello::Hello {
            sni: Some(name),
            alpn: names.iter().map(|n| n.to_vec()).collect(),
        };
        prop_assert_eq!(peek(&records(&message, size)), expected);
    }
}
