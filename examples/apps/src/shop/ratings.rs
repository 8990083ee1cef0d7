//! Ratings: how many stars each reviewer gave.

use super::http::{Answer, Service, json, not_found, number, serve as serve_http};
use crate::{AppError, Shutdown};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;

/// Serves `GET /ratings/{product}` until the end.
pub(crate) async fn serve(listener: TcpListener, version: String, shutdown: Shutdown) -> Result<(), AppError> {
    serve_http(listener, Ratings { version }, shutdown).await;
    Ok(())
}

struct Ratings {
    version: String,
}

impl Service for Ratings {
    fn version(&self) -> &str {
        &self.version
    }

    async fn get(&self, path: &str, _headers: &HeaderMap) -> Answer {
        let Some(product) = number(path, "/ratings/") else {
            return not_found(path);
        };
        // From 3 to 5 stars, differing by product and always the same.
        let (mira, jonas) = (3 + product % 3, 3 + product / 3 % 3);
        json(StatusCode::OK, &json!({ "product": product, "version": self.version, "stars": { "Mira": mira, "Jonas": jonas } }))
    }
}
