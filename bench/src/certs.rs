//! Makes the certificates of one run: a root, and one leaf per side with a SPIFFE URI and a DNS name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};

/// Which proxy of the pair a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Proxy A, beside the client.
    Client,
    /// Proxy B, beside the server.
    Server,
}

impl Side {
    /// The DNS name, for the peers that verify names and not URIs.
    pub(crate) fn dns_name(self) -> &'static str {
        match self {
            Self::Client => "client.bench.heddle",
            Self::Server => "server.bench.heddle",
        }
    }

    /// The SPIFFE id.
    pub(crate) fn spiffe_id(self) -> &'static str {
        match self {
            Self::Client => "spiffe://bench.heddle/ns/bench/sa/client",
            Self::Server => "spiffe://bench.heddle/ns/bench/sa/server",
        }
    }

    fn file_stem(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Where the certificates of a run lie (PEM, ECDSA P-256). They are worth nothing outside it.
#[derive(Debug)]
pub(crate) struct Certs {
    folder: PathBuf,
}

impl Certs {
    /// Makes all keys and certificates and writes them to `folder`.
    pub(crate) fn write(folder: &Path) -> Result<Self> {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut root = CertificateParams::new(Vec::<String>::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        root.distinguished_name.push(DnType::CommonName, "heddle bench root");
        let issuer = CertifiedIssuer::self_signed(root, root_key)?;
        let certs = Self { folder: folder.to_owned() };
        write(&certs.root(), &issuer.pem())?;
        for side in [Side::Client, Side::Server] {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut leaf = CertificateParams::new(vec![side.dns_name().to_owned()])?;
            leaf.subject_alt_names.push(SanType::URI(Ia5String::try_from(side.spiffe_id())?));
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let leaf = leaf.signed_by(&key, &issuer)?;
            write(&certs.chain(side), &leaf.pem())?;
            write(&certs.key(side), &key.serialize_pem())?;
            write(&certs.combined(side), &(leaf.pem() + &key.serialize_pem()))?;
        }
        Ok(certs)
    }

    /// The root certificate.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root.crt")
    }

    /// The leaf of a side.
    pub(crate) fn chain(&self, side: Side) -> PathBuf {
        self.folder.join(format!("{}.crt", side.file_stem()))
    }

    /// The private key of a side.
    pub(crate) fn key(&self, side: Side) -> PathBuf {
        self.folder.join(format!("{}.key", side.file_stem()))
    }

    /// Leaf and key of a side in one file, as HAProxy wants it.
    pub(crate) fn combined(&self, side: Side) -> PathBuf {
        self.folder.join(format!("{}.pem", side.file_stem()))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
