//! SPIFFE ids and trust domains: the names of workloads, parsed by SPIFFE-ID §2 or not at all.
//!
//! Parsing is strict: what §2 does not allow (upper case, percent-encoding, ports, user info, queries, fragments, empty or dot
//! segments, a trailing slash) is refused and never normalised, so that two ids name the same workload exactly when their bytes
//! are equal.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Longest SPIFFE id in bytes (SPIFFE-ID §2.3).
pub const MAX_ID_BYTES: usize = 2048;

/// Longest trust domain name in bytes (SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The only scheme of a SPIFFE id, with the slashes before the trust domain (SPIFFE-ID §2.1).
const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE id or no trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("a spiffe id has at most {MAX_ID_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The text does not start with `spiffe://`.
    #[error("a spiffe id starts with `spiffe://`, in lower case")]
    Scheme,
    /// The trust domain is empty or longer than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("a trust domain has 1 to {MAX_TRUST_DOMAIN_BYTES} bytes, this one has {0}")]
    TrustDomainLength(usize),
    /// The trust domain has a character that SPIFFE-ID §2.1 does not allow.
    #[error("{0:?} is not allowed in a trust domain: use a-z, 0-9, `.`, `-` and `_` (no port, no user)")]
    TrustDomainCharacter(char),
    /// The path has a character that SPIFFE-ID §2.2 does not allow.
    #[error("{0:?} is not allowed in a path segment of a spiffe id: use a-z, A-Z, 0-9, `.`, `-` and `_` (no escapes, no query)")]
    PathCharacter(char),
    /// The path has an empty segment, or ends with a slash.
    #[error("a path segment of a spiffe id is not empty, and the path has no slash at its end")]
    EmptySegment,
    /// The path has a segment `.` or `..`.
    #[error("a path segment of a spiffe id is neither `.` nor `..`")]
    DotSegment,
}

/// The name of a trust domain: 1 to 255 bytes of `a-z 0-9 . - _` (SPIFFE-ID §2.1, §2.3).
///
/// Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Returns the name, such as `cluster.local`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainLength(name.len()));
        }
        match name.chars().find(|c| !is_trust_domain_character(*c)) {
            Some(c) => Err(SpiffeIdError::TrustDomainCharacter(c)),
            None => Ok(Self(name.into())),
        }
    }
}

impl TryFrom<&str> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(name: &str) -> Result<Self, SpiffeIdError> {
        name.parse()
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload, `spiffe://<trust domain>/<path>`, or of a trust domain itself (no path).
///
/// Equality, order and hash are those of the text. Cloning copies two pointers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    // First, so that the derived order is the text's order.
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Names a Kubernetes workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// When the namespace or the service account is not a single path segment of SPIFFE-ID §2.2. Names that Kubernetes accepts
    /// always are.
    pub fn workload(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let text = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        Ok(Self { text: text.into(), trust_domain: trust_domain.clone() })
    }

    /// Returns the whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the path with its leading slash, or the empty text for the id of a trust domain.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.trust_domain.as_str().len()..]
    }

    /// Returns the Kubernetes namespace, when the path has the form that [`SpiffeId::workload`] gives.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.workload_names().map(|(namespace, _)| namespace)
    }

    /// Returns the Kubernetes service account, when the path has the form that [`SpiffeId::workload`] gives.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.workload_names().map(|(_, account)| account)
    }

    fn workload_names(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let trust_domain = domain.parse()?;
        if let Some(path) = path {
            path.split('/').try_for_each(check_segment)?;
        }
        Ok(Self { text: text.into(), trust_domain })
    }
}

impl TryFrom<&str> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: &str) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Accepts one path segment by SPIFFE-ID §2.2.
fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    if segment.is_empty() {
        return Err(SpiffeIdError::EmptySegment);
    }
    if segment == "." || segment == ".." {
        return Err(SpiffeIdError::DotSegment);
    }
    match segment.chars().find(|c| !is_path_character(*c)) {
        Some(c) => Err(SpiffeIdError::PathCharacter(c)),
        None => Ok(()),
    }
}

fn is_trust_domain_character(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
}

fn is_path_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn refuses(text: &str, error: SpiffeIdError) {
        assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text}");
    }

    #[test]
    fn workload_id_names_namespace_and_service_account() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let id = SpiffeId::workload(&domain, "shop", "reviews.v1").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/reviews.v1");
        assert_eq!(id.trust_domain(), &domain);
        assert_eq!(id.namespace(), Some("shop"));
        assert_eq!(id.service_account(), Some("reviews.v1"));
    }

    #[test]
    fn id_of_another_form_names_no_workload() {
        for text in
            ["spiffe://a", "spiffe://a/b", "spiffe://a/ns/b", "spiffe://a/ns/b/sa/c/d", "spiffe://a/ns/b/so/c", "spiffe://a/ns/b/sa"]
        {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.namespace(), id.service_account()), (None, None));
        }
    }

    #[test]
    fn trust_domain_id_has_an_empty_path() {
        let id: SpiffeId = "spiffe://example.org".parse().unwrap();
        assert_eq!(id.path(), "");
        assert_eq!(id.trust_domain().as_str(), "example.org");
    }

    #[test]
    fn refuses_what_the_standard_does_not_allow() {
        use SpiffeIdError as E;
        refuses("", E::Scheme);
        refuses("SPIFFE://a/b", E::Scheme);
        refuses("https://a/b", E::Scheme);
        refuses("spiffe:/a/b", E::Scheme);
        refuses("spiffe://", E::TrustDomainLength(0));
        refuses("spiffe:///b", E::TrustDomainLength(0));
        refuses("spiffe://A/b", E::TrustDomainCharacter('A'));
        refuses("spiffe://a:443/b", E::TrustDomainCharacter(':'));
        refuses("spiffe://u@a/b", E::TrustDomainCharacter('@'));
        refuses("spiffe://a%20b/c", E::TrustDomainCharacter('%'));
        refuses("spiffe://a?q", E::TrustDomainCharacter('?'));
        refuses("spiffe://é/b", E::TrustDomainCharacter('é'));
        refuses("spiffe://a/", E::EmptySegment);
        refuses("spiffe://a/b/", E::EmptySegment);
        refuses("spiffe://a//b", E::EmptySegment);
        refuses("spiffe://a/./b", E::DotSegment);
        refuses("spiffe://a/b/..", E::DotSegment);
        refuses("spiffe://a/b?q=1", E::PathCharacter('?'));
        refuses("spiffe://a/b#c", E::PathCharacter('#'));
        refuses("spiffe://a/b%2fc", E::PathCharacter('%'));
        refuses("spiffe://a/b c", E::PathCharacter(' '));
        refuses("spiffe://a/b\0", E::PathCharacter('\0'));
    }

    #[test]
    fn lengths_are_bounded_exactly() {
        let domain = "a".repeat(MAX_TRUST_DOMAIN_BYTES);
        assert!(format!("{SCHEME}{domain}/b").parse::<SpiffeId>().is_ok());
        refuses(&format!("{SCHEME}{domain}a/b"), SpiffeIdError::TrustDomainLength(MAX_TRUST_DOMAIN_BYTES + 1));
        let longest = format!("{SCHEME}a/{}", "b".repeat(MAX_ID_BYTES - SCHEME.len() - 2));
        assert_eq!(longest.len(), MAX_ID_BYTES);
        assert!(longest.parse::<SpiffeId>().is_ok());
        refuses(&format!("{longest}b"), SpiffeIdError::TooLong(MAX_ID_BYTES + 1));
    }

    #[test]
    fn workload_refuses_names_that_are_not_one_segment() {
        let domain: TrustDomain = "a".parse().unwrap();
        for (namespace, account) in [("", "b"), ("b", ""), ("a/b", "c"), ("a", "b/c"), ("..", "a")] {
            assert!(SpiffeId::workload(&domain, namespace, account).is_err());
        }
        assert_eq!(SpiffeId::workload(&domain, "n", &"s".repeat(MAX_ID_BYTES)), Err(SpiffeIdError::TooLong(MAX_ID_BYTES + 19)));
    }

    proptest! {
        #[test]
        fn workload_ids_survive_text(
            domain in "[a-z0-9._-]{1,255}",
            namespace in "[a-z0-9][a-z0-9-]{0,62}",
            account in "[a-z0-9][a-z0-9.-]{0,252}",
        ) {
            let domain: TrustDomain = domain.parse().unwrap();
            let id = SpiffeId::workload(&domain, &namespace, &account).unwrap();
            let read: SpiffeId = id.to_string().parse().unwrap();
            prop_assert_eq!(&read, &id);
            prop_assert_eq!(read.trust_domain(), &domain);
            prop_assert_eq!(read.namespace(), Some(namespace.as_str()));
            prop_assert_eq!(read.service_account(), Some(account.as_str()));
        }

        #[test]
        fn what_parses_prints_unchanged_and_within_the_standard(
            text in "(spiffe://)?[ -~é/.]{0,40}|spiffe://[a-z.]{0,5}(/[a-zA-Z.]{0,3}){0,5}"
        ) {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text.clone());
                prop_assert_eq!(format!("{SCHEME}{}{}", id.trust_domain(), id.path()), text.clone());
                prop_assert!(!text.contains(['%', '?', '#', ':', '@']) || text.matches(':').count() == 1);
                prop_assert!(id.path().split('/').skip(1).all(|s| !matches!(s, "" | "." | "..")));
            }
        }

        #[test]
        fn order_is_that_of_the_text(a in "spiffe://[a-c.]{1,3}(/[a-c]{1,2}){0,2}", b in "spiffe://[a-c.]{1,3}(/[a-c]{1,2}){0,2}") {
            let (x, y) = (a.parse::<SpiffeId>().unwrap(), b.parse::<SpiffeId>().unwrap());
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
        }
    }
}
