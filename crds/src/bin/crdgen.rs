//! Writes `crds/yaml` anew. A test fails when its files are not those that this would write.

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    match write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("crdgen: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Writes each definition into `directory`, and removes files that belong to none.
fn write(directory: &Path) -> Result<(), String> {
    let files = heddle_crds::crd::files().map_err(|error| error.to_string())?;
    let place = |error: std::io::Error| format!("{}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(place)?;
    for entry in fs::read_dir(directory).map_err(place)? {
        let entry = entry.map_err(place)?;
        if !files.iter().any(|file| entry.file_name() == *file.name) {
            fs::remove_file(entry.path()).map_err(place)?;
        }
    }
    for file in files {
        fs::write(directory.join(file.name), file.yaml).map_err(place)?;
    }
    Ok(())
}
