//! The rules as messages of nf_tables over netlink (`linux/netfilter/nf_tables.h`), which is all that a static binary needs of `nft`.
//!
//! Numbers of the protocol are in network order, registers hold values as the packet or the host has them.

use super::config::Cidr;
use super::rules::{Chain, Match, Rule, Verdict};
use std::net::IpAddr;

/// The table; its family is `inet`, which is IPv4 and IPv6 in one.
const TABLE: &str = "heddle";
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// An address that this host has (`RTN_LOCAL` of `linux/rtnetlink.h`).
const RTN_LOCAL: u32 = 2;
/// The longest interface name, with its end.
const IFNAMSIZ: usize = 16;

/// Message types: the subsystem is the high byte (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

/// The hook's priority of destination NAT (`NF_IP_PRI_NAT_DST`).
const PRIORITY_DSTNAT: i32 = -100;
const NF_ACCEPT: u32 = 1;
const NFT_RETURN: i32 = -5;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The begin of the transaction, where the right to change rules is checked.
    Begin,
    /// The table.
    Table,
    /// A chain of it.
    Chain,
    /// A rule in a chain.
    Rule,
    /// The end of the transaction, which puts it in force.
    End,
}

/// One message of a transaction.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) step: Step,
    /// What it brings, for people.
    pub(super) what: String,
    kind: u16,
    flags: u16,
    /// Everything after the netlink header.
    body: Vec<u8>,
}

impl Message {
    fn new(step: Step, what: &str, kind: u16, flags: u16, attributes: Attributes) -> Self {
        let mut body = vec![NFPROTO_INET, 0, 0, 0];
        body.extend(attributes.0);
        Self { step, what: what.to_owned(), kind, flags: NLM_F_REQUEST | flags, body }
    }

    fn frame(step: Step, what: &str, kind: u16) -> Self {
        let mut body = vec![0, 0];
        body.extend(SUBSYSTEM.to_be_bytes());
        Self { step, what: what.to_owned(), kind, flags: NLM_F_REQUEST, body }
    }

    /// The message's bytes with its sequence number.
    pub(super) fn bytes(&self, sequence: u32) -> Vec<u8> {
        const HEADER: usize = 16;
        let length = u32::try_from(HEADER + self.body.len()).expect("a rule has some hundred bytes");
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The kernel fills in the sender's port.
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

/// The transaction that puts these rules in the place of all earlier ones. Its last message but the end asks for an answer.
pub(super) fn replace(rules: &[Rule]) -> Vec<Message> {
    let named = || Attributes::default().text(1, TABLE);
    let mut messages = vec![
        Message::frame(Step::Begin, "a change of the rules", BATCH_BEGIN),
        // Made first, so that there is one to delete.
        Message::new(Step::Table, "the table inet heddle", NEWTABLE, NLM_F_CREATE, named()),
        Message::new(Step::Table, "the table inet heddle", DELTABLE, 0, named()),
        Message::new(Step::Table, "the table inet heddle", NEWTABLE, NLM_F_CREATE, named()),
    ];
    messages.extend([Chain::Inbound, Chain::Outbound].map(chain));
    messages.extend(rules.iter().map(rule));
    if let Some(last) = messages.last_mut() {
        last.flags |= NLM_F_ACK;
    }
    messages.push(Message::frame(Step::End, "the rules", BATCH_END));
    messages
}

fn chain(chain: Chain) -> Message {
    let number = match chain {
        Chain::Inbound => 0u32, // NF_INET_PRE_ROUTING
        Chain::Outbound => 3,   // NF_INET_LOCAL_OUT
    };
    let attributes = Attributes::default()
        .text(1, TABLE)
        .text(3, &chain.to_string())
        .nested(4, Attributes::default().number(1, number).number(2, PRIORITY_DSTNAT.cast_unsigned()))
        .number(5, NF_ACCEPT)
        .text(7, "nat");
    Message::new(Step::Chain, &format!("the NAT chain {chain}"), NEWCHAIN, NLM_F_CREATE, attributes)
}

fn rule(rule: &Rule) -> Message {
    let conditions = rule.conditions.iter().flat_map(condition);
    let list = conditions.chain(verdict(rule.verdict)).fold(Attributes::default(), |list, expression| list.nested(1, expression));
    let attributes = Attributes::default().text(1, TABLE).text(2, &rule.chain.to_string()).nested(4, list).bytes(7, &comment(rule.why));
    Message::new(Step::Rule, &format!("the rule \"{rule}\""), NEWRULE, NLM_F_CREATE | NLM_F_APPEND, attributes)
}

/// The comment that `nft list ruleset` shows: libnftnl's type (0), length and text with its end.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(text.len() + 1).expect("reasons are a few words")];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

fn condition(condition: &Match) -> Vec<Attributes> {
    const META_IIFNAME: u32 = 6;
    const META_OIFNAME: u32 = 7;
    const META_SKUID: u32 = 10;
    const META_L4PROTO: u32 = 16;
    let mut loopback = [0; IFNAMSIZ];
    loopback[..2].copy_from_slice(b"lo");
    match condition {
        Match::NotTcp => vec![meta(META_L4PROTO), compare(Comparison::Differs, &[IPPROTO_TCP])],
        Match::Forwarded => vec![destination_type(), compare(Comparison::Differs, &RTN_LOCAL.to_ne_bytes())],
        Match::FromLoopback => vec![meta(META_IIFNAME), compare(Comparison::Equals, &loopback)],
        Match::ToLoopback => vec![meta(META_OIFNAME), compare(Comparison::Equals, &loopback)],
        Match::User(uid) => vec![meta(META_SKUID), compare(Comparison::Equals, &uid.to_ne_bytes())],
        Match::Port(port) => vec![payload(Base::Transport, 2, 2), compare(Comparison::Equals, &port.to_be_bytes())],
        Match::Network(cidr) => network(cidr),
    }
}

fn network(cidr: &Cidr) -> Vec<Attributes> {
    const META_NFPROTO: u32 = 15;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // Where the destination is in the header: RFC 791 §3.1, RFC 8200 §3.
    let (protocol, offset, length) = if cidr.network.is_ipv4() { (NFPROTO_IPV4, 16, 4) } else { (NFPROTO_IPV6, 24, 16) };
    vec![
        meta(META_NFPROTO),
        compare(Comparison::Equals, &[protocol]),
        payload(Base::Network, offset, length),
        masked(&octets(cidr.mask())),
        compare(Comparison::Equals, &octets(cidr.network)),
    ]
}

fn verdict(verdict: Verdict) -> Vec<Attributes> {
    match verdict {
        Verdict::LeftAlone => {
            let code = Attributes::default().number(1, NFT_RETURN.cast_unsigned());
            vec![immediate(REGISTER_VERDICT, Attributes::default().nested(2, code))]
        }
        Verdict::Redirected(port) => {
            let port = Attributes::default().bytes(1, &port.to_be_bytes());
            vec![immediate(REGISTER, port), expression("redir", Attributes::default().number(1, REGISTER))]
        }
    }
}

/// An expression: its name and its attributes.
fn expression(name: &str, attributes: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, attributes)
}

/// Loads a fact about the packet.
fn meta(key: u32) -> Attributes {
    expression("meta", Attributes::default().number(1, REGISTER).number(2, key))
}

/// Loads what kind of address the destination is, as this host's routes say.
fn destination_type() -> Attributes {
    const RESULT_ADDRTYPE: u32 = 3;
    const FLAG_DADDR: u32 = 2;
    expression("fib", Attributes::default().number(1, REGISTER).number(2, RESULT_ADDRTYPE).number(3, FLAG_DADDR))
}

#[derive(Debug, Clone, Copy)]
enum Base {
    Network = 1,
    Transport = 2,
}

/// Loads bytes of a header.
fn payload(base: Base, offset: u32, length: u32) -> Attributes {
    expression("payload", Attributes::default().number(1, REGISTER).number(2, base as u32).number(3, offset).number(4, length))
}

/// Keeps the bits of a mask.
fn masked(mask: &[u8]) -> Attributes {
    let length = u32::try_from(mask.len()).expect("an address");
    let data = |bytes: &[u8]| Attributes::default().bytes(1, bytes);
    let attributes = Attributes::default()
        .number(1, REGISTER)
        .number(2, REGISTER)
        .number(3, length)
        .nested(4, data(mask))
        .nested(5, data(&vec![0; mask.len()]));
    expression("bitwise", attributes)
}

#[derive(Debug, Clone, Copy)]
enum Comparison {
    Equals = 0,
    Differs = 1,
}

/// Goes on with the rule where the comparison holds.
fn compare(comparison: Comparison, value: &[u8]) -> Attributes {
    let data = Attributes::default().bytes(1, value);
    expression("cmp", Attributes::default().number(1, REGISTER).number(2, comparison as u32).nested(3, data))
}

/// Loads a constant, or gives a verdict.
fn immediate(register: u32, data: Attributes) -> Attributes {
    expression("immediate", Attributes::default().number(1, register).nested(2, data))
}

/// A list of netlink attributes: length, type, value, padded to four bytes (`linux/netlink.h`).
#[derive(Debug, Clone, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("an attribute has some hundred bytes");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let inner = Attributes::default().text(1, "nat").number(2, 1);
        #[cfg(target_endian = "little")]
        assert_eq!(
            Attributes::default().nested(4, inner).bytes(7, &[9]).0,
            [20, 0, 4, 0x80, 8, 0, 1, 0, b'n', b'a', b't', 0, 8, 0, 2, 0, 0, 0, 0, 1, 5, 0, 7, 0, 9, 0, 0, 0]
        );
    }

    #[test]
    fn a_transaction_is_framed_and_asks_for_one_answer() {
        let rules = super::super::rules::rules(&super::super::RedirectConfig::default());
        let messages = replace(&rules);
        let steps: Vec<_> = messages.iter().map(|m| m.step).collect();
        assert_eq!((steps[0], steps[steps.len() - 1]), (Step::Begin, Step::End));
        assert_eq!(messages.len(), 7 + rules.len());
        let asking: Vec<_> = messages.iter().enumerate().filter(|(_, m)| m.flags & NLM_F_ACK != 0).map(|(n, _)| n).collect();
        assert_eq!(asking, [messages.len() - 2]);
        for message in &messages {
            let bytes = message.bytes(7);
            assert_eq!(bytes.len() % 4, 0, "{}", message.what);
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        }
    }
}
