//! The authority signs exactly what was authenticated, and its files are the owner's alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::CustomExtension;
use x509_parser::certificate::X509Certificate;

use super::*;
use crate::csr::csr;

const NOW: u64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&domain(), "shop", account).unwrap()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::create(&domain(), NOW).unwrap()
}

/// A directory of this test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("heddle-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn mode(&self, file: &str) -> u32 {
        fs::metadata(self.0.join(file)).unwrap().permissions().mode() & 0o7777
    }

    fn chmod(&self, file: &str, mode: u32) {
        fs::set_permissions(self.0.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A request signed by a fresh key with whatever the edit asks for.
fn request(algorithm: &'static rcgen::SignatureAlgorithm, edit: impl Fn(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![crate::csr::uri(&id("web")).unwrap()];
    edit(&mut params);
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[track_caller]
fn refuses(csr: &[u8], reason: &str) {
    let error = authority().sign(csr, &id("web"), HOUR, NOW).unwrap_err();
    let expected = format!("the certificate signing request for {} is refused: {reason}", id("web"));
    assert_eq!(error.to_string(), expected);
}

#[test]
fn leaf_has_the_id_and_nothing_more() {
    let (_, csr) = csr(&id("web")).unwrap();
    let signed = authority().sign(&csr, &id("web"), HOUR, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&signed.chain()[0]).unwrap();
    assert_eq!(signed.id(), &id("web"));
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject().iter_rdn().count(), 0);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature only");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && purposes.server_auth && !purposes.any);
    assert_eq!(signed.not_before(), NOW - 60);
    assert_eq!(signed.not_after(), NOW + 3600);
}

#[test]
fn lifetimes_of_seconds_work_and_serials_differ() {
    let authority = authority();
    let (_, csr) = csr(&id("web")).unwrap();
    let sign = || authority.sign(&csr, &id("web"), Duration::from_secs(2), NOW).unwrap();
    let (a, b) = (sign(), sign());
    assert_eq!(a.remaining(NOW), Duration::from_secs(2));
    let serial = |c: &Certificate| {
        let (_, leaf) = X509Certificate::from_der(&c.chain()[0]).unwrap();
        leaf.raw_serial().to_vec()
    };
    assert_ne!(serial(&a), serial(&b));
}

#[test]
fn leaf_never_outlives_its_signer() {
    let authority = authority();
    let end = authority.not_after();
    assert_eq!(end, NOW + ROOT_LIFETIME.as_secs());
    let (_, csr) = csr(&id("web")).unwrap();
    let late = authority.sign(&csr, &id("web"), HOUR, end - 10).unwrap();
    assert_eq!(late.not_after(), end);
    let first = authority.sign(&csr, &id("web"), HOUR, NOW - 60).unwrap();
    assert_eq!(first.not_before(), NOW - 60, "nor is it older");
    assert!(matches!(authority.sign(&csr, &id("web"), HOUR, end), Err(AuthorityError::Expired { .. })));
}

#[test]
fn request_must_ask_for_the_authenticated_id_only() {
    let p256 = &PKCS_ECDSA_P256_SHA256;
    let (_, other) = csr(&id("admin")).unwrap();
    refuses(&other, "it asks for another name than this id");
    let two = request(p256, |p| {
        p.subject_alt_names.push(crate::csr::uri(&id("admin")).unwrap());
    });
    refuses(&two, "it asks for another name than this id");
    let dns = request(p256, |p| {
        p.subject_alt_names.push(rcgen::SanType::DnsName("a.b".try_into().unwrap()));
    });
    refuses(&dns, "it asks for another name than this id");
    let none = request(p256, |p| p.subject_alt_names.clear());
    refuses(&none, "it asks for no name: put the spiffe id into a uri san");
}

#[test]
fn request_must_be_signed_by_its_own_p256_key() {
    let (_, mut tampered) = csr(&id("web")).unwrap();
    *tampered.last_mut().unwrap() ^= 1;
    refuses(&tampered, "its signature is not by its own key");
    let p384 = request(&rcgen::PKCS_ECDSA_P384_SHA384, |_| ());
    refuses(&p384, "its key is not ECDSA P-256");
    refuses(b"junk", "it is not a pkcs #10 request in der form");
    let (_, mut trailing) = csr(&id("web")).unwrap();
    trailing.push(0);
    refuses(&trailing, "it is not a pkcs #10 request in der form");
    refuses(&[0x30; MAX_CSR_BYTES + 1], "it is larger than 8 KiB");
}

#[test]
fn other_requested_extensions_are_ignored() {
    let greedy = request(&PKCS_ECDSA_P256_SHA256, |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    });
    let signed = authority().sign(&greedy, &id("web"), HOUR, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&signed.chain()[0]).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
    assert!(!leaf.extended_key_usage().unwrap().unwrap().value.code_signing);
    assert!(leaf.extensions().iter().all(|e| e.oid.to_id_string() != "1.2.3.4"));
}

#[test]
fn refuses_ids_of_other_trust_domains_and_empty_lifetimes() {
    let foreign: SpiffeId = "spiffe://other/ns/a/sa/b".parse().unwrap();
    let (_, request) = csr(&foreign).unwrap();
    assert!(authority().sign(&request, &foreign, HOUR, NOW).is_err());
    let (_, request) = csr(&id("web")).unwrap();
    let short = Duration::from_millis(999);
    assert!(authority().sign(&request, &id("web"), short, NOW).is_err());
}

#[test]
fn files_are_private_and_load_again() {
    let scratch = Scratch::new("ca-files");
    let made = CertificateAuthority::load_or_create(&scratch.0, &domain(), NOW).unwrap();
    assert_eq!(scratch.mode(""), 0o700);
    assert_eq!(scratch.mode("ca.key"), 0o600);
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "no leftovers");
    let again = CertificateAuthority::load_or_create(&scratch.0, &domain(), NOW + 9).unwrap();
    assert_eq!(again.trust_bundle(), made.trust_bundle());
    let (_, request) = csr(&id("web")).unwrap();
    assert!(again.sign(&request, &id("web"), HOUR, NOW).is_ok());
    assert!(made.save(&scratch.0).unwrap_err().to_string().contains("exists: load it"), "a root is never overwritten");
}

#[test]
fn key_that_others_can_read_is_refused_with_the_way_out() {
    let scratch = Scratch::new("ca-mode");
    authority().save(&scratch.0).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        scratch.chmod("ca.key", mode);
        let error = CertificateAuthority::load(&scratch.0, &domain()).unwrap_err();
        let path = scratch.0.join("ca.key");
        assert!(error.to_string().contains(&format!("run `chmod 0600 {}`", path.display())), "{error}");
    }
    scratch.chmod("ca.key", 0o600);
    assert!(CertificateAuthority::load(&scratch.0, &domain()).is_ok());
    scratch.chmod("", 0o770);
    let error = CertificateAuthority::load(&scratch.0, &domain()).unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
}

#[test]
fn half_an_authority_is_refused_and_not_replaced() {
    for (gone, kept) in [("ca.key", "ca.crt"), ("ca.crt", "ca.key")] {
        let scratch = Scratch::new(&format!("half-{gone}"));
        authority().save(&scratch.0).unwrap();
        fs::remove_file(scratch.0.join(gone)).unwrap();
        let error = CertificateAuthority::load_or_create(&scratch.0, &domain(), NOW).unwrap_err();
        assert!(error.to_string().contains(&format!("remove {kept}")), "{error}");
    }
}

#[test]
fn of_many_that_make_a_root_at_once_only_one_has_its_way() {
    let scratch = Scratch::new("race");
    let made: Vec<_> = std::thread::scope(|scope| {
        let make = || CertificateAuthority::load_or_create(&scratch.0, &domain(), NOW).ok();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    let kept = CertificateAuthority::load(&scratch.0, &domain()).unwrap();
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "no leftovers");
    assert!(!made.is_empty());
    assert!(made.iter().all(|m| m.trust_bundle() == kept.trust_bundle()));
}

#[test]
fn key_and_certificate_must_belong_together() {
    let (a, b) = (Scratch::new("pair-a"), Scratch::new("pair-b"));
    authority().save(&a.0).unwrap();
    authority().save(&b.0).unwrap();
    fs::copy(a.0.join("ca.crt"), b.0.join("ca.crt")).unwrap();
    let error = CertificateAuthority::load(&b.0, &domain()).unwrap_err();
    assert!(error.to_string().contains("of another key"), "{error}");
    let elsewhere = "other".parse().unwrap();
    let error = CertificateAuthority::load(&a.0, &elsewhere).unwrap_err();
    assert!(error.to_string().contains("another trust domain"), "{error}");
}

#[test]
fn debug_shows_no_key() {
    let authority = authority();
    let shown = format!("{authority:?}");
    assert_eq!(shown, format!("CertificateAuthority {{ trust_domain: cluster.local, not_after: {}, .. }}", authority.not_after()));
}
