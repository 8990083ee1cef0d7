//! Looks whether a replica can be used: its application accepts connections, and its sidecar says that it is ready.

use super::event::Event;
use crate::fetch::fetch;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It can be used.
    Ready,
    /// The sidecar is ready, and nobody listens there.
    Silent(SocketAddr),
    /// The sidecar's own words.
    SidecarNotReady(String),
}

/// What to look at.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The replica, as `namespace/pod`.
    pub(crate) pod: String,
    /// Where its application listens.
    pub(crate) application: Vec<SocketAddr>,
    /// Its sidecar's admin port.
    pub(crate) admin: SocketAddr,
}

/// How often to look while somebody waits for it: an edit is to be seen within a second.
const WAITING: Duration = Duration::from_millis(50);
/// How often to look when it is ready. The end of a process is known without a look; this is for those of somebody else.
const READY: Duration = Duration::from_millis(500);
/// How often to look at what has not been ready for long.
const SLOW: Duration = Duration::from_millis(250);
/// After as many looks in vain, it is slow.
const SLOW_AFTER: u32 = 100;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks again and again, and tells what was found whenever it changed or a new life began.
///
/// Ends with the sender of lives. Cancel safe.
pub(crate) async fn watch(places: Places, mut lives: watch::Receiver<u64>, events: mpsc::Sender<Event>) {
    let mut told = None;
    let mut in_vain = 0;
    loop {
        let life = *lives.borrow_and_update();
        let health = look(&places).await;
        in_vain = if health == Health::Ready { 0 } else { in_vain + 1 };
        let pause = match &health {
            Health::Ready => READY,
            Health::Silent(_) | Health::SidecarNotReady(_) if in_vain < SLOW_AFTER => WAITING,
            Health::Silent(_) | Health::SidecarNotReady(_) => SLOW,
        };
        if told.as_ref() != Some(&(life, health.clone())) {
            told = Some((life, health.clone()));
            if events.send(Event::Probed { pod: places.pod.clone(), life, health }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            changed = lives.changed() => match changed {
                Ok(()) => in_vain = 0,
                Err(_) => return,
            },
        }
    }
}

/// The sidecar first: an application is started when its sidecar is ready, as in a Pod.
async fn look(places: &Places) -> Health {
    match fetch(places.admin, "/ready", PATIENCE).await {
        Ok(fetched) if fetched.success => {}
        Ok(fetched) => return Health::SidecarNotReady(fetched.body.lines().next().unwrap_or_default().trim().to_owned()),
        Err(error) => return Health::SidecarNotReady(error.to_string()),
    }
    for address in &places.application {
        if !accepts(*address).await {
            return Health::Silent(*address);
        }
    }
    Health::Ready
}

/// Whether somebody listens there.
///
/// Only a refusal is a no. A server whose queue of connections is full lets us wait, and taking it out of balance then would send its load to
/// the others, until all are out.
async fn accepts(address: SocketAddr) -> bool {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Err(error)) => matches!(error.kind(), ErrorKind::TimedOut),
        Ok(Ok(_)) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> (u64, Health) {
        let event = events.recv().await.unwrap();
        let Event::Probed { life, health, .. } = event else { panic!("{event:?}") };
        (life, health)
    }

    /// A sidecar's admin port that gives `status` to everybody.
    fn admin(listener: TcpListener, status: &'static str) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 1024];
                let _request = stream.read(&mut request).await;
                let _sent = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nwait").as_bytes()).await;
            }
        })
    }

    #[tokio::test]
    async fn a_replica_is_ready_when_both_of_its_processes_are() {
        let (application, sidecar) = (free().await, free().await);
        let places = Places { pod: "default/a-0".to_owned(), application: vec![application], admin: sidecar };
        let (life, lives) = watch::channel(1);
        let (sender, mut events) = mpsc::channel(8);
        let probe = tokio::spawn(watch(places, lives, sender));
        assert!(matches!(next(&mut events).await, (1, Health::SidecarNotReady(_))));
        let waiting = admin(TcpListener::bind(sidecar).await.unwrap(), "503 Service Unavailable");
        assert_eq!(next(&mut events).await, (1, Health::SidecarNotReady("wait".to_owned())));
        waiting.abort();
        let _cancelled = waiting.await;
        let _ready = admin(TcpListener::bind(sidecar).await.unwrap(), "200 OK");
        // Between the two, nobody may have listened.
        while next(&mut events).await.1 != Health::Silent(application) {}
        let _application = TcpListener::bind(application).await.unwrap();
        assert_eq!(next(&mut events).await, (1, Health::Ready));
        life.send(2).unwrap();
        assert_eq!(next(&mut events).await, (2, Health::Ready));
        drop(life);
        probe.await.unwrap();
    }
}
