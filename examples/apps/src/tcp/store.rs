//! Our own key-value store, for machines without Redis: PING, SET, GET and QUIT as Redis's inline commands, answered as Redis does.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/#inline-commands>

use super::line;
use crate::{AppError, Shutdown, server};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// With values of at most a line, no more than a few megabytes.
const MAX_KEYS: usize = 4096;

type Values = Arc<Mutex<HashMap<String, String>>>;

/// Serves the store until the end; nothing is kept.
pub(crate) async fn serve(listener: TcpListener, shutdown: Shutdown) -> Result<(), AppError> {
    let values = Values::default();
    server::serve(listener, shutdown, |stream, shutdown| connection(stream, Arc::clone(&values), shutdown)).await;
    Ok(())
}

async fn connection(mut stream: TcpStream, values: Values, mut shutdown: Shutdown) {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let read = tokio::select! {
            // The line that is lost has not been answered, and the connection ends.
            () = shutdown.told() => return,
            read = line::read(&mut reader) => read,
        };
        let (answer, last) = match read {
            Ok(Some(line)) => (answer(&line, &values), line.eq_ignore_ascii_case("quit")),
            Ok(None) => return,
            Err(error) => (format!("-ERR {error}\r\n"), true),
        };
        if writer.write_all(answer.as_bytes()).await.is_err() || last {
            return;
        }
    }
}

fn answer(line: &str, values: &Values) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let Some((command, arguments)) = words.split_first() else {
        return String::new();
    };
    // A panic elsewhere leaves a map of strings whole.
    let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
    match (command.to_ascii_uppercase().as_str(), arguments) {
        ("PING", []) => "+PONG\r\n".to_owned(),
        ("QUIT", []) => "+OK\r\n".to_owned(),
        ("SET", [key, _]) if values.len() >= MAX_KEYS && !values.contains_key(*key) => {
            format!("-ERR the store is full, {MAX_KEYS} keys are its limit\r\n")
        }
        ("SET", [key, value]) => {
            values.insert((*key).to_owned(), (*value).to_owned());
            "+OK\r\n".to_owned()
        }
        ("GET", [key]) => match values.get(*key) {
            Some(value) => format!("${}\r\n{value}\r\n", value.len()),
            None => "$-1\r\n".to_owned(),
        },
        ("PING" | "QUIT" | "SET" | "GET", _) => {
            format!("-ERR wrong number of arguments for '{}' command\r\n", command.to_ascii_lowercase())
        }
        (other, _) => format!("-ERR unknown command '{other}'\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_redis_does() {
        let values = Values::default();
        for (line, wanted) in [
            ("ping", "+PONG\r\n"),
            ("GET k", "$-1\r\n"),
            ("SET k value", "+OK\r\n"),
            ("GET k", "$5\r\nvalue\r\n"),
            ("SET k", "-ERR wrong number of arguments for 'set' command\r\n"),
            ("FLY", "-ERR unknown command 'FLY'\r\n"),
            ("", ""),
        ] {
            assert_eq!(answer(line, &values), wanted, "{line}");
        }
    }

    #[test]
    fn a_full_store_takes_known_keys_only() {
        let values = Values::default();
        for n in 0..MAX_KEYS {
            assert_eq!(answer(&format!("SET k{n} v"), &values), "+OK\r\n");
        }
        assert!(answer("SET one-more v", &values).starts_with("-ERR the store is full"));
        assert_eq!(answer("SET k0 w", &values), "+OK\r\n");
    }
}
