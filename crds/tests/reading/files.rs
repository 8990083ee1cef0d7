//! Directories: which files are read, and what is said about the others.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use heddle_crds::{Manifests, read_dir};

use crate::{in_force, problems};

/// A directory that is removed at the end of its test.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("heddle-crds-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn service(&self, name: &str, service: &str) -> &Self {
        self.write(name, format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\n"))
    }

    /// The problems, with paths from this directory.
    fn problems(&self, manifests: &Manifests) -> Vec<String> {
        let prefix = format!("{}/", self.0.display());
        problems(manifests).into_iter().map(|line| line.replace(&prefix, "")).collect()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_are_read_recursively_in_the_order_of_their_paths() {
    let dir = TempDir::new();
    dir.service("b.yaml", "b").service("a/z.yml", "z").service("c.json", "c").service("d.YAML", "d");
    dir.service("notes.txt", "no").service(".hidden.yaml", "no").service(".git/x.yaml", "no").service("yaml", "no");
    let manifests = read_dir(&dir.0);
    assert_eq!(problems(&manifests), Vec::<String>::new());
    assert_eq!(in_force(&manifests), ["Service/default/z", "Service/default/b", "Service/default/c", "Service/default/d"]);
    assert_eq!(&*manifests.objects[1].file, dir.0.join("b.yaml"));
}

#[test]
fn a_single_file_is_read_whatever_it_is_called() {
    let dir = TempDir::new();
    dir.service("manifest", "a");
    assert_eq!(in_force(&read_dir(&dir.0.join("manifest"))), ["Service/default/a"]);
}

#[test]
fn a_bad_file_does_not_hide_the_others() {
    let dir = TempDir::new();
    dir.write("a.yaml", [0x61, 0xff]).write("b.yaml", "{").service("c.yaml", "c").write("d.yaml", vec![b' '; (4 << 20) + 1]);
    dir.service("e/e.yaml", "c");
    let manifests = read_dir(&dir.0);
    assert_eq!(in_force(&manifests), ["Service/default/c"]);
    let found = dir.problems(&manifests);
    assert_eq!(found[0], "a.yaml: is not UTF-8: byte 2 is not part of any text");
    assert!(found[1].starts_with("b.yaml:"), "{}", found[1]);
    assert_eq!(found[2], "d.yaml: is larger than 4 MiB; it is not read");
    assert_eq!(found[3], "e/e.yaml:1:1: Service/default/c: is there already, in c.yaml:1:1; this one is not in force");
    assert_eq!(found.len(), 4);
    assert!(manifests.has_errors());
}

#[test]
fn a_directory_that_is_not_there_is_a_problem() {
    let manifests = read_dir(Path::new("/nowhere/at/all"));
    assert_eq!(problems(&manifests), ["/nowhere/at/all: does not exist"]);
}

#[cfg(unix)]
#[test]
fn symbolic_links_stay_within_the_directory() {
    use std::os::unix::fs::symlink;

    let outside = TempDir::new();
    outside.service("secret.yaml", "secret");
    let dir = TempDir::new();
    dir.service("..data/mounted.yaml", "mounted").service("plain.yaml", "plain");
    symlink("..data/mounted.yaml", dir.0.join("mounted.yaml")).unwrap();
    symlink("plain.yaml", dir.0.join("again.yaml")).unwrap();
    symlink(outside.0.join("secret.yaml"), dir.0.join("out.yaml")).unwrap();
    symlink(&outside.0, dir.0.join("outside")).unwrap();
    symlink(".", dir.0.join("loop")).unwrap();
    symlink("gone.yaml", dir.0.join("broken.yaml")).unwrap();
    let manifests = read_dir(&dir.0);
    assert_eq!(in_force(&manifests), ["Service/default/mounted", "Service/default/plain"]);
    assert_eq!(
        dir.problems(&manifests),
        ["broken.yaml: warning: does not exist", "out.yaml: warning: is a symbolic link that leads out of the directory; it is not read",]
    );
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_opened() {
    let dir = TempDir::new();
    let socket = std::os::unix::net::UnixListener::bind(dir.0.join("socket.yaml")).unwrap();
    dir.service("a.yaml", "a");
    assert_eq!(in_force(&read_dir(&dir.0)), ["Service/default/a"]);
    assert_eq!(problems(&read_dir(&dir.0.join("socket.yaml"))).len(), 1);
    drop(socket);
}
