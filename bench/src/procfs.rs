//! Reads what the kernel says about a process: CPU time, resident memory, children.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Length of a kernel tick as `/proc` reports it: `USER_HZ` is 100 on every Linux architecture that Rust's std supports.
const TICK: Duration = Duration::from_millis(10);

/// Reads user plus system time of a process with all its threads, those that have ended included (resolution 10 ms).
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the process ended?"))?;
    parse_stat(&stat).map(|stat| stat.cpu_time).with_context(|| format!("cannot make sense of {path}"))
}

/// Sums [`cpu_time`] over processes.
pub(crate) fn cpu_time_of(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_time(*pid)).sum()
}

/// Reads the resident memory of a process, in KiB (`VmRSS`).
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the process ended?"))?;
    parse_resident_kib(&status).with_context(|| format!("{path} has no VmRSS"))
}

/// Finds all descendants of `root`, with the arguments of each.
///
/// Processes that end while they are looked at are left out.
pub(crate) fn descendants(root: u32) -> Result<Vec<(u32, Vec<String>)>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(stat) = parse_stat(&text) {
            parents.push((pid, stat.parent));
        }
    }
    let mut found = below(root, &parents);
    found.sort_unstable();
    Ok(found.into_iter().filter_map(|pid| Some((pid, arguments(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)))).collect())
}

/// Finds which of `pids` listens on `port` of any IPv4 address.
pub(crate) fn listener(pids: &[u32], port: u16) -> Result<Option<u32>> {
    let table = fs::read_to_string("/proc/net/tcp").context("cannot read /proc/net/tcp")?;
    let wanted: Vec<String> = parse_listeners(&table, port).map(|inode| format!("socket:[{inode}]")).collect();
    for pid in pids {
        let folder = format!("/proc/{pid}/fd");
        let open = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}: has the process ended?"))?;
        // A descriptor that is closed meanwhile is not a listener's.
        let mut links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        if links.any(|link| wanted.iter().any(|wanted| link.as_os_str() == wanted.as_str())) {
            return Ok(Some(*pid));
        }
    }
    Ok(None)
}

/// Parses `/proc/net/tcp` (proc(5)) for the inodes of sockets in state LISTEN (0A) on `port`.
fn parse_listeners(table: &str, port: u16) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?.rsplit_once(':')?.1;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        (state == "0A" && u16::from_str_radix(local, 16) == Ok(port)).then_some(inode)
    })
}

struct Stat {
    parent: u32,
    cpu_time: Duration,
}

/// Parses `/proc/PID/stat` (proc(5)): the name in parentheses may itself hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let after_name = text.get(text.rfind(')')? + 1..)?;
    let mut fields = after_name.split_ascii_whitespace();
    // After the name: state (field 3), ppid (4), …, utime (14), stime (15).
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u32 = fields.nth(9)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Stat { parent, cpu_time: TICK * user.checked_add(system)? })
}

fn parse_resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn below(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

fn arguments(cmdline: &[u8]) -> Vec<String> {
    cmdline
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4242 (a) b (c) S 17 4242 4242 0 -1 4194560 1309 0 0 0 123 45 0 0 20 0 3 0 8812 11132928 1409 \
                        18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";

    #[test]
    fn reads_cpu_time_past_a_name_with_parentheses() {
        let stat = parse_stat(STAT).unwrap();
        assert_eq!(stat.parent, 17);
        assert_eq!(stat.cpu_time, Duration::from_millis(1680));
    }

    #[test]
    fn refuses_a_stat_that_is_cut_short() {
        assert!(parse_stat("4242 (sh) S 17 4242").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn reads_resident_memory() {
        let status = "Name:\tsh\nVmPeak:\t    2580 kB\nVmRSS:\t    1652 kB\nRssAnon:\t      96 kB\n";
        assert_eq!(parse_resident_kib(status), Some(1652));
        assert_eq!(parse_resident_kib("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn finds_children_of_children() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 9)];
        let mut found = below(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert!(below(6, &parents).is_empty());
    }

    #[test]
    fn finds_who_listens_on_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0\n\
                     1: 0100007F:1F90 0100007F:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0\n";
        assert_eq!(parse_listeners(table, 8080).collect::<Vec<_>>(), ["4711"]);
        assert_eq!(parse_listeners(table, 8081).count(), 0);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = std::process::id();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(listener(&[own], port).unwrap(), Some(own));
    }

    #[test]
    fn reads_its_own_process() {
        let own = std::process::id();
        assert!(resident_kib(own).unwrap() > 100);
        assert!(cpu_time_of(&[own, own]).unwrap() < Duration::from_secs(86_400));
        assert!(cpu_time(u32::MAX).is_err());
    }
}
