//! A server that speaks first, as MySQL, SMTP and FTP do: the client says nothing before it has read the banner.

use super::line;
use crate::{AppError, Shutdown, server};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What every client reads first.
pub(crate) const BANNER: &str = "220 greeter ready";

/// Serves banner, `HELO name` and `QUIT` until the end.
pub(crate) async fn serve(listener: TcpListener, shutdown: Shutdown) -> Result<(), AppError> {
    server::serve(listener, shutdown, connection).await;
    Ok(())
}

async fn connection(mut stream: TcpStream, mut shutdown: Shutdown) {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut answer = format!("{BANNER}\r\n");
    let mut last = false;
    loop {
        if writer.write_all(answer.as_bytes()).await.is_err() || last {
            return;
        }
        let read = tokio::select! {
            // The line that is lost has not been answered, and the connection ends.
            () = shutdown.told() => return,
            read = line::read(&mut reader) => read,
        };
        (answer, last) = match read {
            Ok(Some(line)) => match line.split_once(' ') {
                Some(("HELO", name)) => (format!("250 hello {name}\r\n"), false),
                None if line == "QUIT" => ("221 bye\r\n".to_owned(), true),
                Some(_) | None => ("500 only HELO name and QUIT are known here\r\n".to_owned(), false),
            },
            Ok(None) => return,
            Err(error) => (format!("500 {error}\r\n"), true),
        };
    }
}
