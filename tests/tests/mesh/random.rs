//! Messages of every shape and size, cut into pieces anywhere: what one side sends the other gets.

use fastrand::Rng;
use heddle_tests::http1::{self, ADDED, Message, without};
use heddle_tests::http2::{self, Client, Exchanged};
use heddle_tests::{App, Mesh, Wire, wait};
use std::sync::Arc;

/// Text of up to `most` of these characters.
fn text(rng: &mut Rng, of: &[u8], most: usize) -> String {
    let len = rng.usize(..=most);
    (0..len).filter_map(|_| rng.choice(of).copied().map(char::from)).collect()
}

/// Bytes of any values.
fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.u8(..)).collect()
}

const VISIBLE: &[u8] = b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCXYZ[\\]^_`abcxyz{|}~";

/// A message as raw bytes, after its first line: fields, an empty line, a body.
fn message(rng: &mut Rng, fields: &str, may_have_body: bool) -> Vec<u8> {
    let mut head = fields.to_owned();
    for n in 0..rng.usize(..20) {
        let name = text(rng, b"aAzZ09-_.~!", 30);
        let value = text(rng, VISIBLE, 200);
        head.push_str(&format!("X{n}{name}: {}\r\n", value.trim()));
    }
    // Small ones, those about the size of buffers, and large ones.
    let len = match rng.u8(..4) {
        0 => 0,
        1 => rng.usize(..300),
        2 => rng.usize(16_000..17_000),
        _ => rng.usize(..200_000),
    };
    let body = bytes(rng, len);
    match (may_have_body, rng.u8(..3)) {
        (false, _) => {
            head.push_str("\r\n");
            head.into_bytes()
        }
        (true, 0) => {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            let mut bytes = head.into_bytes();
            chunked(rng, &body, &mut bytes);
            bytes
        }
        (true, _) => {
            head.push_str(&format!("Content-Length: {len}\r\n\r\n"));
            [head.as_bytes(), &body].concat()
        }
    }
}

fn chunked(rng: &mut Rng, mut body: &[u8], bytes: &mut Vec<u8>) {
    while !body.is_empty() {
        let (chunk, rest) = body.split_at(rng.usize(1..=body.len().min(40_000)));
        let zeros = "0".repeat(rng.usize(..3));
        let extension = if rng.u8(..5) == 0 { ";a=\"b c\";d" } else { "" };
        let size = if rng.bool() {
            format!("{zeros}{:x}{extension}\r\n", chunk.len())
        } else {
            format!("{zeros}{:X}{extension}\r\n", chunk.len())
        };
        bytes.extend_from_slice(size.as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        body = rest;
    }
    let trailers = if rng.u8(..4) == 0 { "X-Sum: 1\r\nx-other:\r\n" } else { "" };
    bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
}

fn request(seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let (method, body) = *rng.choice(&[("GET", false), ("HEAD", false), ("POST", true), ("PUT", true), ("DELETE", true)]).unwrap();
    let target = text(&mut rng, b"ab/%2F?&=;:@!$'()*+,~", 100);
    let fields = format!("{method} /{target} HTTP/1.1\r\nHost: echo\r\nX-Seed: {seed}\r\n");
    message(&mut rng, &fields, body)
}

fn response(seed: u64, to_head: bool) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed ^ 0xffff);
    let status = *rng.choice(&[200, 201, 204, 304, 404, 500, 599]).unwrap();
    let body = !to_head && !matches!(status, 204 | 304);
    let reason = text(&mut rng, VISIBLE, 30);
    message(&mut rng, &format!("HTTP/1.1 {status} {reason}\r\n"), body)
}

/// Writes in pieces of random sizes, some of which arrive alone.
async fn send(rng: &mut Rng, wire: &mut Wire, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let most = if rng.u8(..4) == 0 { 20 } else { 50_000 };
        let (piece, rest) = bytes.split_at(rng.usize(1..=bytes.len().min(most)));
        wire.send(piece).await;
        tokio::task::yield_now().await;
        bytes = rest;
    }
}

#[tokio::test]
async fn random_http1_messages_arrive_as_they_were_sent() {
    let app = App::serve(|mut wire, number| async move {
        let mut rng = Rng::with_seed(number as u64);
        while let Some(got) = http1::request(&mut wire).await {
            let seed = got.header("x-seed").expect("a seed").parse().expect("a number");
            let sent = request(seed);
            // Compared as a whole: what differs first is what to look at.
            let (got_bytes, to_head) = (without(&got.raw(), &ADDED), got.method() == "HEAD");
            assert!(got_bytes == sent, "seed {seed}: {:?}\nbecame\n{:?}", Message::parse(&sent[..sent.len().min(3000)]), got.start);
            send(&mut rng, &mut wire, &response(seed, to_head)).await;
        }
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let address = mesh.outbound("client", "echo:80");
    let base = fastrand::u64(..1 << 40);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        clients.spawn(async move {
            let mut rng = Rng::with_seed(client);
            let mut wire = Wire::connect(address).await;
            for n in 0..60 {
                let seed = base + client * 1000 + n;
                let sent = request(seed);
                let method = if sent.starts_with(b"HEAD") { "HEAD" } else { "GET" };
                send(&mut rng, &mut wire, &sent).await;
                let got = http1::response(&mut wire, method).await;
                let expected = response(seed, method == "HEAD");
                assert!(got.raw() == expected, "the response of seed {seed} became {} {:?}", got.start, got.headers);
            }
        });
    }
    wait::soon("all clients", clients.join_all()).await;
}

#[tokio::test]
async fn random_http2_messages_arrive_as_they_were_sent() {
    /// Field names and values, and a body, that both sides make of the same seed.
    fn parts(seed: u64) -> (Vec<(String, String)>, Vec<u8>, bool) {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(..20);
        let fields = (0..count).map(|n| (format!("x-{n}"), text(&mut rng, &VISIBLE[1..], 300)));
        let fields = fields.collect();
        let len = if rng.bool() { rng.usize(..300) } else { rng.usize(..300_000) };
        let body = bytes(&mut rng, len);
        (fields, body, rng.bool())
    }
    fn assert_parts(seed: u64, headers: &http::HeaderMap, body: &[u8], trailers: Option<&http::HeaderMap>) {
        let (fields, expected, with_trailers) = parts(seed);
        for (name, value) in &fields {
            assert_eq!(headers[name].to_str().unwrap(), value, "seed {seed}");
        }
        assert!(body == expected, "seed {seed}: the body of {} bytes has {}", expected.len(), body.len());
        assert_eq!(trailers.is_some_and(|t| t.contains_key("x-sum")), with_trailers, "seed {seed}");
    }
    async fn send(seed: u64, stream: &mut h2::SendStream<bytes::Bytes>) {
        let (_, body, with_trailers) = parts(seed);
        let mut rng = Rng::with_seed(seed + 1);
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rng.usize(1..=rest.len().min(70_000)));
            http2::write(stream, piece, false).await.unwrap();
            tokio::task::yield_now().await;
            rest = after;
        }
        if with_trailers {
            stream.send_trailers(http2::trailers(&[("x-sum", "1")])).unwrap();
        } else {
            stream.send_data(bytes::Bytes::new(), true).unwrap();
        }
    }
    fn as_str(fields: &[(String, String)]) -> Vec<(&str, &str)> {
        fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
    }
    let app = http2::serve(|request, mut respond| async move {
        let seed: u64 = request.headers()["x-seed"].to_str().unwrap().parse().unwrap();
        let (head, mut body) = request.into_parts();
        let (data, trailers) = http2::read(&mut body).await.unwrap();
        assert_parts(seed, &head.headers, &data, trailers.as_ref());
        let answer = seed ^ 0xffff;
        let mut stream = respond.send_response(http2::response(200, &as_str(&parts(answer).0)), false).unwrap();
        send(answer, &mut stream).await;
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http2").await;
    let client = Arc::new(Client::connect(mesh.outbound("client", "echo:80")).await);
    let base = fastrand::u64(..1 << 40);
    let mut streams = tokio::task::JoinSet::new();
    for seed in base..base + 200 {
        let client = client.clone();
        streams.spawn(async move {
            let text = seed.to_string();
            let fields = parts(seed).0;
            let fields = [as_str(&fields), vec![("x-seed", text.as_str())]].concat();
            let (response, mut stream) = client.send(http2::request("POST", "/", &fields), false).await.unwrap();
            send(seed, &mut stream).await;
            let got = Exchanged::of(wait::soon("a response", response).await.unwrap()).await.unwrap();
            assert_parts(seed ^ 0xffff, got.head.headers(), &got.body, got.trailers.as_ref());
        });
    }
    wait::soon("all streams", streams.join_all()).await;
}
