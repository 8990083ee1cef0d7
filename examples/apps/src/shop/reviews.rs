//! Reviews: what people wrote about a product; the new version v2 adds their stars.

use super::client::Upstream;
use super::http::{Answer, Service, json, not_found, number, serve as serve_http};
use super::trace;
use crate::{AppError, Shutdown};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the reviewers wrote, about any product.
const TEXTS: [(&str, &str); 2] =
    [("Mira", "Holds what it promises; the second one is for my brother."), ("Jonas", "Good work, though the parcel took its time.")];

/// The two versions between which the canary example splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// Only tells how many ratings there are.
    V1,
    /// Shows the stars.
    V2,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Serves `GET /reviews/{product}` until the end; asks ratings at `ratings_url`.
pub(crate) async fn serve(listener: TcpListener, ratings_url: &str, version: Version, shutdown: Shutdown) -> Result<(), AppError> {
    serve_http(listener, Reviews { version, ratings: Upstream::new("ratings", ratings_url) }, shutdown).await;
    Ok(())
}

struct Reviews {
    version: Version,
    ratings: Upstream,
}

impl Service for Reviews {
    fn version(&self) -> &str {
        self.version.name()
    }

    async fn get(&self, path: &str, headers: &HeaderMap) -> Answer {
        let Some(product) = number(path, "/reviews/") else {
            return not_found(path);
        };
        let ratings = match self.ratings.get(&format!("/ratings/{product}"), trace::copied(headers)).await {
            Ok(ratings) => ratings.body,
            Err(error) => return error.answer(),
        };
        let stars = &ratings["stars"];
        let reviews: Vec<Value> = TEXTS
            .into_iter()
            .map(|(reviewer, text)| match self.version {
                Version::V1 => json!({ "reviewer": reviewer, "text": text }),
                Version::V2 => json!({ "reviewer": reviewer, "text": text, "stars": stars[reviewer] }),
            })
            .collect();
        let count = stars.as_object().map_or(0, serde_json::Map::len);
        json(
            StatusCode::OK,
            &json!({ "product": product, "version": self.version.name(), "rating_count": count, "ratings_version": ratings["version"], "reviews": reviews }),
        )
    }
}
