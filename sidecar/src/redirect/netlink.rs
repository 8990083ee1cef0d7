//! One transaction with netfilter over a netlink socket: all messages in one datagram, and the kernel's answer.

use super::RedirectError;
use super::nftables::{Message, Step};
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::time::Duration;

/// Loading a kernel module takes some of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A transaction is one datagram: at most some 800 rules of less than half a KiB.
const SEND_BYTES: usize = 512 * 1024;
/// Answers repeat the header of the message that they are about, or all of one that was refused.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// An answer about one message (`NLMSG_ERROR`); its error is 0 where all is well.
const NLMSG_ERROR: u16 = 2;
/// A netlink header.
const HEADER: usize = 16;

/// Whether a transaction is put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// It is.
    Yes,
    /// The kernel checks every message and forgets them: a transaction without its end is none.
    No,
}

/// Sends a transaction and waits until the kernel has answered.
pub(super) fn transact(messages: &[Message], commit: Commit) -> Result<(), RedirectError> {
    let unreachable = |errno| RedirectError::Unreachable { errno };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER)).map_err(unreachable)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(unreachable)?;
    // Where the right to it is missing, so is the right to what follows, and the kernel says that better.
    let _ = set_socket_send_buffer_size_force(&socket, SEND_BYTES);
    let sent = messages.iter().filter(|m| commit == Commit::Yes || m.step != Step::End).zip(1u32..);
    let datagram: Vec<u8> = sent.flat_map(|(message, sequence)| message.bytes(sequence)).collect();
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &datagram, SendFlags::empty(), &kernel).map_err(unreachable)?;

    // The last message before the end is the one that asks for an answer; each that is refused gets one unasked, and comes before.
    let last = messages.iter().filter(|m| m.step != Step::End).count();
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty()).map_err(unreachable)?;
        let mut rest = buffer.get(..length).ok_or(RedirectError::Answer("it is too long"))?;
        while !rest.is_empty() {
            let (sequence, errno, next) = answer(rest)?;
            rest = next;
            let about = usize::try_from(sequence).ok().and_then(|n| n.checked_sub(1)).and_then(|n| messages.get(n));
            match (errno, about) {
                (Some(errno), Some(message)) => {
                    return Err(RedirectError::Refused { what: message.what.clone(), step: message.step, errno });
                }
                (Some(errno), None) => return Err(unreachable(errno)),
                (None, _) if sequence as usize == last => return Ok(()),
                (None, _) => {}
            }
        }
    }
}

/// Takes one answer from the front: the number of the message that it is about, and the error.
fn answer(bytes: &[u8]) -> Result<(u32, Option<Errno>, &[u8]), RedirectError> {
    let short = || RedirectError::Answer("it is too short");
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(short);
    let length = u32::from_ne_bytes(word(0)?) as usize;
    let kind = bytes.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(short)?;
    if kind != NLMSG_ERROR {
        return Err(RedirectError::Answer("it is no answer to a change"));
    }
    let error = i32::from_ne_bytes(word(HEADER)?);
    let sequence = u32::from_ne_bytes(word(8)?);
    let errno = (error != 0).then(|| Errno::from_raw_os_error(error.saturating_neg()));
    let next = length.next_multiple_of(4).max(HEADER + 4).min(bytes.len());
    Ok((sequence, errno, &bytes[next..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let mut bytes = Vec::new();
        for (sequence, error) in [(3u32, 0i32), (4, -2)] {
            bytes.extend(36u32.to_ne_bytes());
            bytes.extend(NLMSG_ERROR.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(error.to_ne_bytes());
            bytes.extend([0; 16]);
        }
        let (first, ok, rest) = answer(&bytes).unwrap();
        let (second, error, rest) = answer(rest).unwrap();
        assert_eq!((first, ok, second, error, rest.len()), (3, None, 4, Some(Errno::NOENT), 0));
        assert!(answer(&bytes[..10]).is_err());
    }
}
