//! Edits of files, and what they mean for the objects in force.

use super::*;
use crate::test_support::Folder;
use std::fs;

fn service(name: &str, port: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
}

/// A directory, and the source that reads it.
struct Case {
    folder: Folder,
    held: Held,
}

impl Case {
    fn new(name: &str) -> Self {
        Self { folder: Folder::new(name), held: Held::default() }
    }

    fn write(&self, file: &str, text: &str) {
        // By a rename, so that the inode tells the change however coarse the clock is.
        let path = self.folder.path().join(file);
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// Reads, and compares the changes (`+Service/default/a`, `-…`) and the number of problems of each severity.
    #[track_caller]
    fn check(&mut self, expected: &[&str], problems: &[&str]) {
        let found = look(&[self.folder.path().to_owned()]);
        let Batch { changes, problems: reported } = self.held.take_in(found);
        let changes: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Apply(object) => format!("+{}", object.id()),
                Change::Pod(key, _) => format!("+Pod/{key}"),
                Change::Delete(id) => format!("-{id}"),
            })
            .collect();
        assert_eq!(changes, expected);
        assert_eq!(reported.len(), problems.len(), "{reported:#?}");
        for (problem, part) in reported.iter().zip(problems) {
            assert!(problem.text.contains(part), "{part} is not in {}", problem.text);
        }
        let is_current = self.held.is_current(&look(&[self.folder.path().to_owned()]));
        assert!(is_current, "nothing is read twice");
    }
}

#[test]
fn edits_become_changes_of_single_objects() {
    let mut case = Case::new("edits");
    case.write("a.yaml", &(service("one", "80") + &service("two", "80")));
    case.check(&["+Service/default/one", "+Service/default/two"], &[]);
    case.write("a.yaml", &(service("one", "80") + &service("two", "81")));
    case.check(&["+Service/default/two"], &[]);
    case.write("a.yaml", &service("two", "81"));
    case.check(&["-Service/default/one"], &[]);
    case.write("b.yaml", &service("three", "80"));
    case.check(&["+Service/default/three"], &[]);
    fs::remove_file(case.folder.path().join("a.yaml")).unwrap();
    case.check(&["-Service/default/two"], &[]);
}

#[test]
fn an_object_may_move_between_files() {
    let mut case = Case::new("moves");
    case.write("a.yaml", &service("one", "80"));
    case.check(&["+Service/default/one"], &[]);
    case.write("a.yaml", "# moved\n");
    case.write("b.yaml", &service("one", "80"));
    case.check(&[], &[]);
}

#[test]
fn a_bad_document_leaves_its_last_good_version_and_the_others_in_force() {
    let mut case = Case::new("bad");
    case.write("a.yaml", &(service("one", "80") + &service("two", "80")));
    case.check(&["+Service/default/one", "+Service/default/two"], &[]);
    case.write("a.yaml", &(service("one", "eighty") + &service("two", "81")));
    case.check(&["+Service/default/two"], &["a.yaml:4:", "last good version of Service/default/one"]);
    case.write("a.yaml", &(service("one", "82") + &service("two", "81")));
    case.check(&["+Service/default/one"], &[]);
}

#[test]
fn a_misspelt_kind_or_broken_syntax_removes_nothing() {
    let mut case = Case::new("syntax");
    let route = |kind: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: one}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: one}}]}}\n---\n"
        )
    };
    case.write("a.yaml", &(route("HTTPRoute") + &service("two", "80")));
    case.check(&["+HTTPRoute/default/one", "+Service/default/two"], &[]);
    case.write("a.yaml", &(route("HTPPRoute") + &service("two", "80")));
    case.check(&[], &["HTPPRoute", "last good version of HTTPRoute/default/one"]);
    case.write("a.yaml", "apiVersion: v1\nkind: [Service\n");
    case.check(&[], &["a.yaml:", "HTTPRoute/default/one, Service/default/two"]);
}

#[test]
fn an_emptied_file_removes_nothing_and_says_so() {
    let mut case = Case::new("empty");
    case.write("a.yaml", &service("one", "80"));
    case.check(&["+Service/default/one"], &[]);
    case.write("a.yaml", "");
    case.check(&[], &["is empty: the last version of Service/default/one stays in force"]);
    case.write("a.yaml", "# nothing any more\n");
    case.check(&["-Service/default/one"], &[]);
}

#[test]
fn of_duplicates_the_first_file_counts() {
    let mut case = Case::new("duplicates");
    case.write("b.yaml", &service("one", "81"));
    case.check(&["+Service/default/one"], &[]);
    case.write("a.yaml", &service("one", "80"));
    case.check(&["+Service/default/one"], &["b.yaml: Service/default/one: is there already, in"]);
    case.write("b.yaml", &service("one", "82"));
    case.check(&[], &["b.yaml: Service/default/one: is there already, in"]);
    fs::remove_file(case.folder.path().join("a.yaml")).unwrap();
    case.check(&["+Service/default/one"], &[]);
}

#[test]
fn a_directory_that_vanishes_leaves_everything_in_force() {
    let mut case = Case::new("vanishes");
    case.write("a.yaml", &service("one", "80"));
    case.check(&["+Service/default/one"], &[]);
    let away = case.folder.path().with_extension("away");
    fs::rename(case.folder.path(), &away).unwrap();
    case.check(&[], &["cannot be read"]);
    fs::rename(away, case.folder.path()).unwrap();
    case.check(&[], &[]);
}

#[tokio::test]
async fn a_file_that_is_written_in_pieces_never_loses_its_objects() {
    let folder = Folder::new("pieces");
    let path = folder.path().join("a.yaml");
    let text = |port: &str| service("one", port) + &service("two", port);
    fs::write(&path, text("80")).unwrap();
    let (sender, mut batches) = mpsc::channel(1);
    let watching = tokio::spawn(watch_directories(vec![folder.path().to_owned()], sender));
    assert_eq!(batches.recv().await.unwrap().changes.len(), 2);

    let writer = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            for port in 81..90 {
                // As an editor does: truncate, then write, here with pauses between the pieces.
                let mut file = fs::File::create(&path).unwrap();
                for piece in text(&port.to_string()).as_bytes().chunks(64) {
                    std::io::Write::write_all(&mut file, piece).unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    });
    let is_last =
        |change: &Change| matches!(change, Change::Apply(o) if o.meta().name.as_deref() == Some("two") && format!("{o:?}").contains("89"));
    let mut is_done = false;
    while !is_done {
        let batch = batches.recv().await.unwrap();
        for change in &batch.changes {
            assert!(matches!(change, Change::Apply(_)), "{change:?}");
            is_done |= is_last(change);
        }
    }
    writer.await.unwrap();
    watching.abort();
}
