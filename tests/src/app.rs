//! Applications in this process: servers whose every byte a test decides, and which keep every byte that they receive.

use crate::http1::{self, Message};
use crate::wire::{Received, Wire};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A server on a port of its own; it is gone when this is dropped.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Received>>>,
    task: AbortHandle,
}

impl App {
    /// A server that calls `handle` for each connection, with its number.
    ///
    /// # Panics
    /// When there is no port left.
    pub async fn serve<F, Fut>(handle: F) -> Self
    where
        F: Fn(Wire, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::listen(bind().await, handle)
    }

    /// As [`App::serve`], on a listener that is there already.
    ///
    /// # Panics
    /// When the listener fails.
    pub fn listen<F, Fut>(listener: TcpListener, handle: F) -> Self
    where
        F: Fn(Wire, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let connections: Arc<Mutex<Vec<Received>>> = Arc::default();
        let kept = connections.clone();
        Self::accept(listener, connections, move |stream, number| {
            let received = kept.lock().expect("no panic while recording")[number].clone();
            handle(Wire::new(stream).recording(received), number)
        })
    }

    /// A server that calls `handle` with each bare connection; nothing is recorded but their number.
    ///
    /// # Panics
    /// When there is no port left.
    pub async fn streams<F, Fut>(handle: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::accept(bind().await, Arc::default(), move |stream, _| handle(stream))
    }

    fn accept<F, Fut>(listener: TcpListener, connections: Arc<Mutex<Vec<Received>>>, handle: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().expect("the address of a listener");
        let kept = connections.clone();
        let task = tokio::spawn(async move {
            // Dropped with this task, and all its connections with it.
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut kept = kept.lock().expect("no panic while recording");
                    kept.push(Received::default());
                    kept.len() - 1
                };
                tasks.spawn(handle(stream, number));
                while tasks.try_join_next().is_some() {}
            }
        });
        Self { address, connections, task: task.abort_handle() }
    }

    /// An HTTP/1 server that answers each request with the bytes that `answer` makes of it, and ends the connection when those are empty.
    pub async fn http1(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::serve(move |mut wire, _| {
            let answer = answer.clone();
            async move {
                while let Some(request) = http1::request(&mut wire).await {
                    let bytes = answer(&request);
                    if bytes.is_empty() || wire.try_send(bytes).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// An HTTP/1 server that says its name in `X-App` and gives the request's head back as the body.
    pub async fn named(name: &'static str) -> Self {
        Self::http1(move |request| http1::answer(200, &format!("X-App: {name}\r\n"), &request.head)).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What each connection has received so far, in the order in which they came.
    ///
    /// # Panics
    /// Never, unless a connection's task did.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let connections = self.connections.lock().expect("no panic while recording");
        connections.iter().map(|received| received.lock().expect("no panic while recording").clone()).collect()
    }

    /// The connections so far.
    ///
    /// # Panics
    /// Never, unless a connection's task did.
    pub fn connections(&self) -> usize {
        self.connections.lock().expect("no panic while recording").len()
    }

    /// The requests that all connections have received so far, in the order in which these came.
    ///
    /// # Panics
    /// When what came is no series of requests without bodies.
    pub fn heads(&self) -> Vec<Message> {
        let all = self.received().concat();
        let text = String::from_utf8_lossy(&all);
        text.split_inclusive("\r\n\r\n").map(|head| Message::parse(head.as_bytes())).collect()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener on a free port.
///
/// # Panics
/// When there is none.
pub async fn bind() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port")
}
