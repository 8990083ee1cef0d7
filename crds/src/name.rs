//! The rules for names that Kubernetes enforces and a directory of files has nobody to enforce.

/// The longest DNS label (RFC 1123), which is the limit of most names.
pub const MAX_LABEL: usize = 63;
/// The longest DNS subdomain (RFC 1123).
pub const MAX_SUBDOMAIN: usize = 253;

/// Whether `text` is a DNS label of RFC 1123: 1 to 63 lower-case letters, digits and `-`, with no `-` at either end.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-')
        && bytes.first().is_some_and(|&byte| alphanumeric(byte))
        && bytes.last().is_some_and(|&byte| alphanumeric(byte))
}

/// Whether `text` is a DNS subdomain of RFC 1123: labels with dots between, 253 characters in all.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_label)
}

/// Whether `text` can be the name of an environment variable: letters, digits and `_`, not starting with a digit.
#[must_use]
pub fn is_variable(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "0", "reviews-v1", "a1-b2", &"x".repeat(63)] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "Reviews", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(!is_label(bad), "{bad}");
        }
    }

    #[test]
    fn subdomains_follow_rfc_1123() {
        for good in ["a", "a.b", "kube-root-ca.crt"] {
            assert!(is_subdomain(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "A.b", &["abcdefg"; 33].join(".")] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn variables_are_those_of_posix() {
        for good in ["PATH", "_x", "A1"] {
            assert!(is_variable(good), "{good}");
        }
        for bad in ["", "1A", "A-B", "A.B", "A B", "Ä"] {
            assert!(!is_variable(bad), "{bad}");
        }
    }
}
