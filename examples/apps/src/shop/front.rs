//! The front end: a page for people, and the same as JSON.

use super::client::{Good, Upstream};
use super::http::{Answer, Service, error, json, not_found, number, serve as serve_http, whole};
use super::trace;
use crate::{AppError, Shutdown};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tokio::net::TcpListener;

/// What the shop sells; the number of a product is its place here, from 1.
const PRODUCTS: [&str; 4] = ["Shuttle", "Bobbin", "Reed", "Heddle"];

/// Which version of reviews was asked on behalf of an answer.
const X_REVIEWS_VERSION: HeaderName = HeaderName::from_static("x-reviews-version");

/// Serves `GET /` and `GET /api/product/{1-4}` until the end; asks reviews at `reviews_url`.
pub(crate) async fn serve(listener: TcpListener, reviews_url: &str, version: String, shutdown: Shutdown) -> Result<(), AppError> {
    serve_http(listener, Front { version, reviews: Upstream::new("reviews", reviews_url) }, shutdown).await;
    Ok(())
}

struct Front {
    version: String,
    reviews: Upstream,
}

impl Service for Front {
    fn version(&self) -> &str {
        &self.version
    }

    async fn get(&self, path: &str, headers: &HeaderMap) -> Answer {
        if path == "/" {
            return self.page(headers).await;
        }
        let Some(product) = number(path, "/api/product/") else {
            return not_found(path);
        };
        let Some(name) = usize::try_from(product).ok().and_then(|n| PRODUCTS.get(n.checked_sub(1)?)) else {
            return error(StatusCode::NOT_FOUND, &format!("there is no product {product}, only 1 to {}", PRODUCTS.len()));
        };
        match self.reviews(product, headers).await {
            Ok(reviews) => {
                let body = json!({ "product": product, "name": name, "version": self.version, "reviews": reviews.body });
                with_reviews_version(json(StatusCode::OK, &body), &reviews)
            }
            Err(answer) => answer,
        }
    }
}

impl Front {
    async fn reviews(&self, product: u32, headers: &HeaderMap) -> Result<Good, Answer> {
        let reviews = self.reviews.get(&format!("/reviews/{product}"), trace::copied(headers)).await;
        reviews.map_err(|error| error.answer())
    }

    /// The first product with its reviews, as HTML.
    async fn page(&self, headers: &HeaderMap) -> Answer {
        let reviews = match self.reviews(1, headers).await {
            Ok(reviews) => reviews,
            Err(answer) => return answer,
        };
        let mut items = String::new();
        for review in reviews.body["reviews"].as_array().into_iter().flatten() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                items,
                "<li>{} <b>{}</b><br>{}</li>",
                stars(&review["stars"]),
                escape(review["reviewer"].as_str().unwrap_or_default()),
                escape(review["text"].as_str().unwrap_or_default()),
            );
        }
        let html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Shop</title></head><body>\n\
             <h1>{name}</h1>\n<ul>\n{items}</ul>\n<p>front {front}, reviews {version}</p>\n</body></html>\n",
            name = PRODUCTS[0],
            front = escape(&self.version),
            version = escape(&reviews.version),
        );
        with_reviews_version(whole(StatusCode::OK, "text/html; charset=utf-8", html), &reviews)
    }
}

fn with_reviews_version(mut answer: Answer, reviews: &Good) -> Answer {
    if let Ok(version) = HeaderValue::from_str(&reviews.version) {
        answer.headers_mut().insert(X_REVIEWS_VERSION, version);
    }
    answer
}

/// Up to five stars; nothing when there is no number.
fn stars(count: &Value) -> String {
    let count = count.as_u64().unwrap_or_default().min(5);
    (0..count).map(|_| '★').collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
