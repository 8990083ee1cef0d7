//! The authority's key and certificate as two PEM files in a directory that only its owner can use.
//!
//! The key file is written last: where it exists, the authority is complete. Each file is written under another name and then linked
//! to its own, so that a reader and a crash see all of it or nothing. A link, unlike a rename, never replaces a file: of two
//! processes that make a root in one directory, one fails instead of both going on with different roots.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use heddle_model::spiffe_id::TrustDomain;

use super::{AuthorityError, AuthorityPem, CertificateAuthority};

/// The private key, PKCS #8 in PEM, mode 0600.
const KEY_FILE: &str = "ca.key";

/// The certificate in PEM: not secret, but kept beside the key.
const CERTIFICATE_FILE: &str = "ca.crt";

/// Largest file that is read: a key and a certificate have about 1 KiB each.
const MAX_FILE_BYTES: u64 = 64 * 1024;

impl CertificateAuthority {
    /// Loads the authority from a directory, or makes a new root and saves it there when the directory has none.
    ///
    /// # Errors
    /// As [`CertificateAuthority::load`] and [`CertificateAuthority::save`].
    pub fn load_or_create(directory: &Path, trust_domain: &TrustDomain, now: u64) -> Result<Self, AuthorityError> {
        if exists(&directory.join(KEY_FILE))? || exists(&directory.join(CERTIFICATE_FILE))? {
            return Self::load(directory, trust_domain);
        }
        let authority = Self::create(trust_domain, now)?;
        authority.save(directory)?;
        Ok(authority)
    }

    /// Loads the authority from the directory where [`CertificateAuthority::save`] has put it.
    ///
    /// # Errors
    /// When one of the files is missing or unusable, when others than the owner can use the key file, or when others can write to
    /// the directory and so could put another key there.
    pub fn load(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let (key_path, certificate_path) = paths(directory);
        let missing = |path: &Path, other: &str| AuthorityError::Unsafe {
            path: path.to_owned(),
            reason: format!("is missing: restore it, or remove {other} beside it to have a new root made"),
        };
        if !exists(&key_path)? {
            return Err(missing(&key_path, CERTIFICATE_FILE));
        }
        if !exists(&certificate_path)? {
            return Err(missing(&certificate_path, KEY_FILE));
        }
        refuse_mode(directory, &metadata(directory)?, 0o022, "0700")?;
        let key = read_private(&key_path)?;
        let certificate = read(&certificate_path, open(&certificate_path)?)?;
        Self::from_pem(trust_domain, &key, &certificate)
    }

    /// Saves the authority into a directory, which is made with mode 0700 when it is not there. The key file gets mode 0600.
    ///
    /// # Errors
    /// When the directory already holds an authority (it is never overwritten), when others can write to it, or when a file
    /// cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), AuthorityError> {
        let (key_path, certificate_path) = paths(directory);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        refuse_mode(directory, &metadata(directory)?, 0o022, "0700")?;
        for path in [&key_path, &certificate_path] {
            if exists(path)? {
                return Err(AuthorityError::Unsafe {
                    path: path.clone(),
                    reason: "exists: load it, or remove it together with the one beside it".into(),
                });
            }
        }
        let AuthorityPem { key, certificate } = self.to_pem();
        write(&certificate_path, 0o644, &certificate)?;
        write(&key_path, 0o600, &key)?;
        // The names themselves must survive a power cut.
        let directory_file = File::open(directory).map_err(at(directory))?;
        directory_file.sync_all().map_err(at(directory))
    }
}

fn paths(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join(KEY_FILE), directory.join(CERTIFICATE_FILE))
}

fn at(path: &Path) -> impl Fn(io::Error) -> AuthorityError + '_ {
    |source| AuthorityError::Io { path: path.to_owned(), source }
}

fn exists(path: &Path) -> Result<bool, AuthorityError> {
    path.try_exists().map_err(at(path))
}

fn metadata(path: &Path) -> Result<fs::Metadata, AuthorityError> {
    fs::metadata(path).map_err(at(path))
}

fn open(path: &Path) -> Result<File, AuthorityError> {
    File::open(path).map_err(at(path))
}

/// Refuses a file or directory whose mode has one of the `forbidden` bits, and says how to put it right.
fn refuse_mode(path: &Path, metadata: &fs::Metadata, forbidden: u32, wanted: &str) -> Result<(), AuthorityError> {
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(AuthorityError::Unsafe {
        path: path.to_owned(),
        reason: format!(
            "mode {mode:04o} lets others than the owner use it: run `chmod {wanted} {}`, and make a new root if others may have had it",
            path.display()
        ),
    })
}

/// Reads the key file. The mode is that of the opened file, so that nobody can swap it between the check and the reading.
fn read_private(path: &Path) -> Result<String, AuthorityError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(at(path))?;
    refuse_mode(path, &metadata, 0o077, "0600")?;
    read(path, file)
}

fn read(path: &Path, file: File) -> Result<String, AuthorityError> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE_BYTES), &mut text).map_err(at(path))?;
    Ok(text)
}

/// Writes beside the path, with the mode from the first byte on, and gives it its name, which must be free.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), AuthorityError> {
    let mut temporary = path.as_os_str().to_owned();
    // Random, because process ids repeat between containers that share a volume.
    temporary.push(format!(".{}.new", super::random_serial()?));
    let temporary = PathBuf::from(temporary);
    let linked = write_new(&temporary, mode, text).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    linked.and(removed).map_err(at(path))
}

fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
