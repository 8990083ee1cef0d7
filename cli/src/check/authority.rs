//! Checks of the mesh's certificates: how many days they have left, by what can be read.

use super::Finding;
use super::control_plane::{bundles, trust_roots};
use crate::cluster::Cluster;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams};
use x509_parser::pem::Pem;

/// The first warning: time enough to order a new certificate from an outside authority.
const SOON_DAYS: u64 = 30;
/// A workload's certificate lives a day: from here on it may outlive its issuer.
const NOW_DAYS: u64 = 1;
const DAY_S: u64 = 86_400;

/// The issuing certificate and the roots.
pub(super) async fn certificates(cluster: &Cluster, namespace: &str) -> Vec<Finding> {
    let now = heddle_identity::unix_now();
    let api: Api<Secret> = Api::namespaced(cluster.client(), namespace);
    let (issuer, roots) = match api.get_opt("heddle-ca").await {
        Ok(Some(secret)) => {
            let data = secret.data.unwrap_or_default();
            let pem = |name: &str| data.get(name).map(|bytes| bytes.0.clone()).unwrap_or_default();
            (Some(pem("tls.crt")), pem("ca.crt"))
        }
        Ok(None) => (Some(Vec::new()), Vec::new()),
        // Few may read Secrets; the roots are public.
        Err(_) => (None, Vec::new()),
    };
    let mut findings = Vec::new();
    if let Some(issuer) = issuer {
        findings.push(issuing(&issuer, now));
    }
    let roots = if roots.is_empty() { trust_roots(cluster).await } else { roots };
    let roots = if roots.is_empty() { bundles(cluster).await } else { roots };
    findings.push(left("root certificates", &roots, now));
    findings
}

fn issuing(pem: &[u8], now: u64) -> Finding {
    if pem.is_empty() {
        let way_out = "the leader of the control plane makes it within seconds: see its log";
        return Finding::failure("issuing certificate", "Secret heddle-ca is empty", way_out);
    }
    left("issuing certificate", pem, now)
}

/// The days that the certificate has which lives longest.
fn left(check: &'static str, pem: &[u8], now: u64) -> Finding {
    let Some(latest) = expiries(pem).into_iter().max() else {
        return Finding::warning(check, "not found", "see the log of the control plane's leader");
    };
    let days = latest.saturating_sub(now) / DAY_S;
    let way_out = "the control plane renews its own; one from outside is renewed in Secret heddle-ca by whoever made it";
    if latest <= now {
        Finding::failure(check, "expired", way_out)
    } else if days < NOW_DAYS {
        Finding::failure(check, "less than a day left", way_out)
    } else if days < SOON_DAYS {
        Finding::warning(check, format!("{days} days left"), way_out)
    } else {
        Finding::good(check, format!("{days} days left"))
    }
}

/// When each certificate of a PEM text expires, in Unix seconds; what is no certificate is left out.
pub(super) fn expiries(pem: &[u8]) -> Vec<u64> {
    let certificates = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let expiry = |pem: Pem| pem.parse_x509().ok().map(|certificate| certificate.validity().not_after.timestamp());
    certificates.filter_map(expiry).filter_map(|seconds| u64::try_from(seconds).ok()).collect()
}

/// The roots that sidecars of some namespace trust, as PEM.
pub(super) async fn roots(cluster: &Cluster) -> Option<Vec<u8>> {
    let api: Api<ConfigMap> = Api::all(cluster.client());
    let found = api.list(&ListParams::default().fields("metadata.name=heddle-trust-roots").limit(1)).await.ok()?;
    let data = found.items.into_iter().next()?.data?;
    data.get("root.pem").map(|pem| pem.clone().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use heddle_identity::{CertificateAuthority, TrustDomain};

    const MADE: u64 = 1_795_226_400;

    fn pem() -> Vec<u8> {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        CertificateAuthority::create(&domain, MADE).unwrap().trust_bundle().to_pem(&domain).into_bytes()
    }

    #[test]
    fn days_are_counted_down() {
        let pem = pem();
        let expiry = expiries(&pem)[0];
        for (before_s, level, text) in [
            (40 * DAY_S, Level::Good, "40 days left"),
            (29 * DAY_S, Level::Warning, "29 days left"),
            (DAY_S - 1, Level::Failure, "less than a day left"),
            (0, Level::Failure, "expired"),
        ] {
            let finding = left("c", &pem, expiry - before_s);
            assert_eq!((finding.level, finding.text.as_str()), (level, text));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_days() {
        assert!(expiries(b"").is_empty() && expiries(b"-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n").is_empty());
        assert_eq!(left("c", b"x", 0).level, Level::Warning);
        assert_eq!(issuing(b"", 0).level, Level::Failure);
    }
}
