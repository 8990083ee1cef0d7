//! Writes the generated protobuf code into the workspace.

fn main() -> anyhow::Result<()> {
    for file in heddle_protogen::generate()? {
        let path = heddle_protogen::root().join(&file.path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, file.content)?;
        eprintln!("wrote {}", file.path.display());
    }
    Ok(())
}
