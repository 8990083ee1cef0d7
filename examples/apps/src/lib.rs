//! The applications of the examples, called as `heddle example NAME`: ordinary programs that know nothing of the mesh.
//!
//! Each listens on 127.0.0.1 at `$PORT` and finds its upstreams in `<SERVICE>_ADDR` (`host:port`). The shop copies the trace
//! headers of an incoming request to the requests that it makes, as every instrumented application does; that is all a mesh asks.

mod complaints;
mod environment;
mod error;
mod grpc;
mod server;
mod shop;
mod shutdown;
mod tcp;

pub use environment::Environment;
pub use error::AppError;
pub use shutdown::{Shutdown, Stop};

use clap::{Parser, Subcommand};

/// The command line of `heddle example`.
#[derive(Debug, Parser)]
#[command(name = "heddle example", no_binary_name = true, disable_help_subcommand = true, about = "Runs an application of the examples")]
struct Arguments {
    #[command(subcommand)]
    app: App,
}

/// One variant for each application.
#[derive(Debug, Subcommand)]
enum App {
    /// Web page and API of the shop; calls reviews ($PORT, $REVIEWS_ADDR)
    Front {
        /// What it says in the header x-version
        #[arg(long, default_value = "v1")]
        version: String,
    },
    /// Reviews of products, with stars from v2 on; calls ratings ($PORT, $RATINGS_ADDR)
    Reviews {
        /// v1 or v2
        #[arg(long, default_value = "v1")]
        version: shop::reviews::Version,
    },
    /// Stars of the reviewers ($PORT)
    Ratings {
        /// What it says in the header x-version
        #[arg(long, default_value = "v1")]
        version: String,
    },
    /// Sends requests to the front at a steady rate until it is stopped ($FRONT_ADDR)
    Load(shop::load::Options),
    /// gRPC echo with all four kinds of call ($PORT)
    EchoServer {
        /// What it says in its replies
        #[arg(long, default_value = "v1")]
        version: String,
    },
    /// Makes and checks all four kinds of call until it is stopped ($ECHO_ADDR)
    EchoClient(grpc::client::Options),
    /// A key-value store: redis-server when installed, otherwise our own line-based one ($PORT)
    TcpServer {
        /// Our own server even when redis-server is installed
        #[arg(long)]
        own: bool,
    },
    /// A server that speaks first, as MySQL and SMTP do ($PORT)
    Greeter,
    /// Talks to the store and the greeter, and checks the answers, until it is stopped ($STORE_ADDR, $GREETER_ADDR)
    TcpClient(tcp::client::Options),
}

/// Runs the application that `args` name (the name first, then its options) until it ends, or until SIGTERM or SIGINT and what is in
/// flight has been answered (at most ten seconds later).
///
/// Reads the environment of the process. Needs a tokio runtime with I/O and time.
///
/// # Errors
///
/// Wrong arguments or environment, a port in use, a wrong answer of an upstream: one sentence, to be printed by the caller, who then exits
/// with [`AppError::exit_code`]. Help that was asked for (`--help`) is printed here and is no error.
pub async fn run(args: Vec<String>) -> Result<(), AppError> {
    let (stop, shutdown) = Shutdown::new();
    let environment = Environment::of_process();
    tokio::select! {
        // A signal that comes first only triggers the stop: the application is polled to its own end.
        ended = start(args, &environment, shutdown) => ended,
        failed = stop.on_signal() => Err(AppError::Signals(failed)),
    }
}

/// Like [`run`], with the environment and the end given by the caller.
///
/// Not cancel safe: a dropped future drops what is in flight.
///
/// # Errors
///
/// As [`run`].
pub async fn start(args: Vec<String>, environment: &Environment, shutdown: Shutdown) -> Result<(), AppError> {
    let app = match Arguments::try_parse_from(args) {
        Ok(Arguments { app }) => app,
        Err(error) if !error.use_stderr() => return error.print().map_err(AppError::Print),
        Err(error) => return Err(AppError::usage(&error)),
    };
    match app {
        App::Front { version } => {
            let reviews = environment.url("reviews")?;
            let listener = environment.listen().await?;
            shop::front::serve(listener, &reviews, version, shutdown).await
        }
        App::Reviews { version } => {
            let ratings = environment.url("ratings")?;
            let listener = environment.listen().await?;
            shop::reviews::serve(listener, &ratings, version, shutdown).await
        }
        App::Ratings { version } => shop::ratings::serve(environment.listen().await?, version, shutdown).await,
        App::Load(options) => shop::load::run(&environment.url("front")?, options, shutdown).await,
        App::EchoServer { version } => grpc::server::serve(environment.listen().await?, version, shutdown).await,
        App::EchoClient(options) => grpc::client::run(&environment.url("echo")?, options, shutdown).await,
        App::TcpServer { own } => match environment.executable(tcp::redis::PROGRAM) {
            Some(program) if !own => Err(tcp::redis::become_redis(&program, environment.listen().await?)),
            Some(_) | None => tcp::store::serve(environment.listen().await?, shutdown).await,
        },
        App::Greeter => tcp::greeter::serve(environment.listen().await?, shutdown).await,
        App::TcpClient(options) => {
            let (store, greeter) = (environment.address("store")?, environment.address("greeter")?);
            tcp::client::run(&store, &greeter, options, shutdown).await
        }
    }
}

#[cfg(test)]
mod manifests;

#[cfg(test)]
mod tests {
    use super::*;

    async fn failure(args: &[&str], environment: &Environment) -> AppError {
        let (_stop, shutdown) = Shutdown::new();
        let args = args.iter().map(ToString::to_string).collect();
        start(args, environment, shutdown).await.expect_err("must not start")
    }

    #[tokio::test]
    async fn wrong_name_lists_the_names() {
        for args in [&["shoe"][..], &[]] {
            let error = failure(args, &Environment::default()).await;
            let text = error.to_string();
            for name in ["front", "reviews", "ratings", "load", "echo-server", "echo-client", "tcp-server", "greeter", "tcp-client"] {
                assert!(text.contains(name), "{name} is missing in: {text}");
            }
            assert_eq!((error.exit_code(), text.lines().count()), (64, 1), "{text}");
        }
    }

    #[tokio::test]
    async fn wrong_option_is_one_sentence_that_names_it() {
        let error = failure(&["reviews", "--version", "v3"], &Environment::default()).await;
        assert_eq!((error.exit_code(), error.to_string().lines().count()), (64, 1), "{error}");
        assert!(error.to_string().contains("v3") && error.to_string().contains("v1, v2"), "{error}");
    }

    #[tokio::test]
    async fn missing_variable_is_named_with_an_example() {
        let error = failure(&["ratings"], &Environment::default()).await;
        assert_eq!(error.exit_code(), 64);
        assert!(error.to_string().contains("PORT is not set"), "{error}");
        let error = failure(&["tcp-client"], &Environment::default()).await;
        assert!(error.to_string().contains("STORE_ADDR is not set"), "{error}");
    }

    #[tokio::test]
    async fn port_in_use_is_named() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let error = failure(&["ratings"], &Environment::from_iter([("PORT", port.as_str())])).await;
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }
}
