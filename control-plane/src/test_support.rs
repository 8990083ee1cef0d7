//! What the tests of several rooms share.

pub(crate) mod api;

use heddle_crds::Object;
use heddle_identity::{CertificateAuthority, TrustBundle, TrustDomain};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A new directory of its own, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!(
            "heddle-control-plane-{}-{}-{name}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a file with mode 0600, by a rename.
pub(crate) fn write_private(path: &Path, text: &str) {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// The objects of some YAML, which must have no mistake.
pub(crate) fn objects(yaml: &str) -> Vec<Object> {
    let read = heddle_crds::read_str(Path::new("test.yaml"), yaml);
    assert!(read.problems.is_empty(), "{}", read.problems[0]);
    read.objects.into_iter().map(|located| located.object).collect()
}

/// Some roots.
pub(crate) fn trust(trust_domain: &TrustDomain) -> Arc<TrustBundle> {
    Arc::new(CertificateAuthority::create(trust_domain, 1_800_000_000).unwrap().trust_bundle().clone())
}
