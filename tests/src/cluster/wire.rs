//! What packets between pods carry: captured on the bridge that all of them pass, by tcpdump in the node's network namespace, and read here.

use super::script::node_pid;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The bridge of the node (`tests/cluster`, cni.conflist).
const BRIDGE: &str = "cni0";
/// The longest packet: whole segments of the sender's, before they are cut for a wire that is not there.
const LONGEST: &str = "65535";
/// The kernel's buffer has a place of the longest packet's size for each: a thousand, so that none is lost while this machine is busy.
const BUFFER_KIB: &str = "65536";
/// The global header of the format (draft-ietf-opsawg-pcap).
const HEADER: usize = 24;
/// Before each packet.
const RECORD: usize = 16;
/// Of a capture: some thousand requests.
const CAPTURE_MAX: usize = 32 * 1024 * 1024;
/// Ethernet.
const LINK: usize = 14;

/// A capture that goes on; dropped, it ends.
#[derive(Debug)]
pub struct Capture {
    _tcpdump: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

/// One direction of a connection: its ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The sender.
    pub from: (IpAddr, u16),
    /// The receiver.
    pub to: (IpAddr, u16),
}

impl Capture {
    /// Begins to capture TCP; returns when tcpdump listens.
    ///
    /// # Panics
    /// When tcpdump cannot be started.
    pub async fn start() -> Self {
        let mut command = Command::new("nsenter");
        // Without a fork, so that the child is tcpdump itself.
        command.args([
            "-t",
            &node_pid(),
            "-n",
            "tcpdump",
            "-i",
            BRIDGE,
            "--immediate-mode",
            "-U",
            "-s",
            LONGEST,
            "-B",
            BUFFER_KIB,
            "-w",
            "-",
            "tcp",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("nsenter and tcpdump: {e}"));
        let mut lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("listening on") {
                    return true;
                }
            }
            false
        };
        assert!(timeout(Duration::from_secs(20), listening).await == Ok(true), "tcpdump does not listen: is the package tcpdump there?");
        let mut stdout = child.stdout.take().expect("standard output");
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (kept, mut chunk) = (seen.clone(), vec![0; 64 * 1024]);
        tokio::spawn(async move {
            while let Ok(n @ 1..) = stdout.read(&mut chunk).await {
                let mut kept = kept.lock().expect("no panic while keeping");
                if kept.len() < CAPTURE_MAX {
                    kept.extend_from_slice(&chunk[..n]);
                }
            }
        });
        Self { _tcpdump: child, seen }
    }

    /// What was sent so far in each direction of each connection, in the order of the sender's bytes.
    ///
    /// # Panics
    /// Never, unless the reader did.
    pub fn flows(&self) -> BTreeMap<Flow, Vec<u8>> {
        flows(&self.seen.lock().expect("no panic while keeping"))
    }
}

/// A segment's place in its direction, and its payload.
type Segment<'a> = (u32, &'a [u8]);

/// Reads a capture of Ethernet; what is not TCP over IPv4 is left out, and so is a last packet that is cut.
///
/// Packets may be captured in another order than they were sent in (each processor notes its own), and be sent twice: the sequence
/// numbers tell.
fn flows(capture: &[u8]) -> BTreeMap<Flow, Vec<u8>> {
    let mut segments: BTreeMap<Flow, Vec<Segment<'_>>> = BTreeMap::new();
    let mut rest = capture.get(HEADER..).unwrap_or_default();
    while let Some(length) = rest.get(8..12).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) {
        let end = RECORD + usize::try_from(length).unwrap_or(usize::MAX);
        let Some(packet) = rest.get(RECORD..end) else { break };
        if let Some((flow, segment)) = segment(packet) {
            segments.entry(flow).or_default().push(segment);
        }
        rest = &rest[end..];
    }
    segments.into_iter().map(|(flow, segments)| (flow, in_order(segments))).collect()
}

/// The payloads in the order of their sequence numbers, each byte once.
fn in_order(mut segments: Vec<Segment<'_>>) -> Vec<u8> {
    let Some(&(origin, _)) = segments.first() else { return Vec::new() };
    // Far less than 2 GiB is captured: differences are small, and negative for what was captured late.
    let place = |sequence: u32| i64::from(sequence.wrapping_sub(origin).cast_signed());
    segments.sort_by_key(|(sequence, _)| place(*sequence));
    let (mut bytes, mut end) = (Vec::new(), i64::MIN);
    for (sequence, payload) in segments {
        let (start, length) = (place(sequence), i64::try_from(payload.len()).unwrap_or(i64::MAX));
        let known = usize::try_from((end.max(start) - start).min(length)).unwrap_or_default();
        bytes.extend_from_slice(&payload[known..]);
        end = end.max(start + length);
    }
    bytes
}

/// A packet's ends and payload.
fn segment(packet: &[u8]) -> Option<(Flow, Segment<'_>)> {
    let ip = packet.get(LINK..)?;
    if packet.get(12..14)? != [0x08, 0x00] || ip.get(9)? != &6 {
        return None;
    }
    let header = usize::from(ip[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let tcp = ip.get(header..total)?;
    let address = |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?)));
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    if payload.is_empty() {
        return None;
    }
    Some((Flow { from: (address(12)?, port(0)?), to: (address(16)?, port(2)?) }, (sequence, payload)))
}

/// Whether bytes begin with a TLS record of a handshake (RFC 8446 §5.1).
pub fn begins_with_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x16, 0x03])
}

/// Whether `needle` is in `bytes`.
pub fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_put_payloads_in_order_and_drop_repetitions() {
        let late: u32 = 2;
        let segments: Vec<Segment<'_>> = vec![(late, b"cd"), (late.wrapping_sub(4), b"wxyz"), (late, b"cd"), (late + 1, b"de")];
        assert_eq!(in_order(segments), b"wxyzcde");
        assert_eq!(in_order(Vec::new()), b"");
    }

    #[test]
    fn payloads_are_found_by_their_flow() {
        let mut packet = vec![0; LINK];
        packet[12..14].copy_from_slice(&[0x08, 0x00]);
        let mut ip = vec![0x45, 0, 0, 42, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut tcp = vec![0; 20];
        tcp[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        tcp[12] = 0x50;
        ip.extend(tcp);
        ip.extend(b"hi");
        packet.extend(ip);
        // Ethernet fills short frames up.
        packet.extend([0; 6]);
        let mut capture = vec![0; HEADER];
        capture.extend([0; 8]);
        capture.extend(u32::try_from(packet.len()).unwrap().to_le_bytes());
        capture.extend([0; 4]);
        capture.extend(&packet);
        capture.extend([0; 7]);
        let flows = flows(&capture);
        let flow = Flow { from: ([10, 0, 0, 1].into(), 0x1234), to: ([10, 0, 0, 2].into(), 80) };
        assert_eq!(flows, BTreeMap::from([(flow, b"hi".to_vec())]));
    }
}
