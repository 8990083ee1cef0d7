//! Store and greeter with their client, without a mesh.

use super::client::{Options, run};
use super::{greeter, redis, store};
use crate::{AppError, Environment, Shutdown, Stop};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ROUNDS: Options = Options { rate: 200, count: Some(20) };

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A greeter, and who ends it.
async fn greeter() -> (String, Stop, Shutdown, JoinSet<Result<(), AppError>>) {
    let (stop, shutdown) = Shutdown::new();
    let (at, address) = listener().await;
    let mut apps = JoinSet::new();
    apps.spawn(greeter::serve(at, shutdown.clone()));
    (address, stop, shutdown, apps)
}

#[tokio::test]
async fn client_talks_to_our_store_and_the_greeter() {
    let (greeter, stop, shutdown, mut apps) = greeter().await;
    let (at, store) = listener().await;
    apps.spawn(store::serve(at, shutdown.clone()));
    run(&store, &greeter, ROUNDS, shutdown).await.unwrap();
    stop.tell();
    let ended = async {
        while let Some(ended) = apps.join_next().await {
            ended.unwrap().unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("idle connections must not hold up the end");
}

/// Only where Redis is installed; elsewhere there is nothing that could be wrong.
#[tokio::test]
async fn the_same_client_talks_to_redis() {
    let Some(program) = Environment::of_process().executable(redis::PROGRAM) else {
        eprintln!("redis-server is not installed: nothing tried");
        return;
    };
    let (greeter, _stop, shutdown, _apps) = greeter().await;
    let (at, store) = listener().await;
    let port = at.local_addr().unwrap().port();
    drop(at);
    let mut server = redis::command(&program, port).spawn().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), run(&store, &greeter, ROUNDS, shutdown)).await;
    server.kill().unwrap();
    server.wait().unwrap();
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn the_greeter_speaks_first() {
    let (greeter, _stop, _shutdown, _apps) = greeter().await;
    let mut line = String::new();
    BufReader::new(TcpStream::connect(greeter).await.unwrap()).read_line(&mut line).await.unwrap();
    assert_eq!(line, "220 greeter ready\r\n");
}

#[tokio::test]
async fn a_wrong_answer_ends_the_client() {
    let (greeter, _stop, shutdown, _apps) = greeter().await;
    let error = run(&greeter, &greeter, ROUNDS, shutdown).await.unwrap_err();
    assert!(matches!(error, AppError::WrongAnswer(_)), "{error}");
    assert!(error.to_string().contains("220 greeter ready"), "{error}");
}
