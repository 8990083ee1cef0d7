//! What an application learns from its environment variables: where to listen, and where its upstreams are.

use crate::AppError;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::net::TcpListener;

/// A copy of the environment variables.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect())
    }

    /// Listens on 127.0.0.1 at `$PORT`.
    ///
    /// # Errors
    ///
    /// `PORT` missing or not 1 to 65535; the port in use.
    pub(crate) async fn listen(&self) -> Result<TcpListener, AppError> {
        let value = self.variable("PORT", "the port of 127.0.0.1 on which this application listens, as in PORT=8080")?;
        let port = value.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| AppError::Environment(format!("PORT is {value:?}, but must be a number from 1 to 65535")))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })
    }

    /// `$<SERVICE>_URL` without a slash at its end, checked to be `http://host[:port]`; or else what `$<SERVICE>_ADDR` says.
    pub(crate) fn url(&self, service: &str) -> Result<String, AppError> {
        let name = variable_name(service, "URL");
        let Some(value) = self.find(&name) else {
            return Ok(format!("http://{}", self.address(service)?));
        };
        let uri: Option<http::Uri> = value.parse().ok();
        match uri {
            Some(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => Ok(value.trim_end_matches('/').to_owned()),
            Some(_) | None => Err(AppError::Environment(format!("{name} is {value:?}, but must look like http://127.0.0.1:8080"))),
        }
    }

    /// `$<SERVICE>_ADDR`, checked to be `host:port`.
    pub(crate) fn address(&self, service: &str) -> Result<String, AppError> {
        let name = variable_name(service, "ADDR");
        let value = self.variable(&name, &format!("where {service} is, as in {name}=127.0.0.1:8080"))?;
        match value.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => Ok(value.to_owned()),
            Some(_) | None => Err(AppError::Environment(format!("{name} is {value:?}, but must look like 127.0.0.1:8080"))),
        }
    }

    /// The first file called `program` in a directory of `$PATH`.
    pub(crate) fn executable(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(self.0.get("PATH")?).map(|directory| directory.join(program)).find(|file| file.is_file())
    }

    fn variable(&self, name: &str, meaning: &str) -> Result<&str, AppError> {
        self.find(name).ok_or_else(|| AppError::Environment(format!("{name} is not set: {meaning}")))
    }

    /// An empty variable is none.
    fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

fn variable_name(service: &str, what: &str) -> String {
    format!("{}_{what}", service.to_ascii_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_become_variable_names() {
        let environment = Environment::from_iter([("MY_SHOP_URL", "http://127.0.0.1:1/"), ("MY_SHOP_ADDR", "127.0.0.1:1")]);
        assert_eq!(environment.url("my-shop").unwrap(), "http://127.0.0.1:1");
        assert_eq!(environment.address("my-shop").unwrap(), "127.0.0.1:1");
    }

    #[test]
    fn an_address_makes_a_url() {
        let environment = Environment::from_iter([("REVIEWS_ADDR", "127.0.0.1:1"), ("REVIEWS_URL", "")]);
        assert_eq!(environment.url("reviews").unwrap(), "http://127.0.0.1:1");
        let missing = Environment::default().url("reviews").unwrap_err();
        assert!(missing.to_string().starts_with("REVIEWS_ADDR is not set"), "{missing}");
    }

    #[test]
    fn wrong_values_are_refused_with_their_name() {
        let environment = Environment::from_iter([("A_URL", "127.0.0.1:1"), ("A_ADDR", "http://a")]);
        for error in [environment.url("a").unwrap_err(), environment.address("a").unwrap_err()] {
            assert!(error.to_string().starts_with("A_") && error.exit_code() == 64, "{error}");
        }
    }
}
