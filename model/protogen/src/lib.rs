//! Generates the Rust code of `model/proto`, so that building the workspace needs no protobuf compiler.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// One generated file: where it belongs, relative to the workspace's root, and its content.
#[derive(Debug)]
pub struct Generated {
    /// Relative to the workspace's root.
    pub path: PathBuf,
    /// Rust source.
    pub content: String,
}

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Generates messages for the model, the client for the sidecar and the server for the control plane, into memory.
pub fn generate() -> Result<Vec<Generated>> {
    let proto = root().join("model/proto");
    let descriptors = protox::compile(["heddle/v1/discovery.proto"], [&proto]).context("discovery.proto does not compile")?;
    let scratch = tempdir()?;
    let read = |name: &str, path: &str| -> Result<Generated> {
        let content = std::fs::read_to_string(scratch.join(name)).with_context(|| format!("nothing was generated for {path}"))?;
        Ok(Generated { path: path.into(), content })
    };
    let mut generated = Vec::new();
    prost_build::Config::new().out_dir(&scratch).compile_fds(descriptors.clone())?;
    generated.push(read("heddle.v1.rs", "model/src/gen/heddle.v1.rs")?);
    for (client, path) in [(true, "sidecar/src/gen/heddle.v1.rs"), (false, "control-plane/src/gen/heddle.v1.rs")] {
        tonic_prost_build::configure()
            .build_client(client)
            .build_server(!client)
            .build_transport(false)
            .extern_path(".heddle.v1", "::heddle_model::proto")
            .out_dir(&scratch)
            .compile_fds(descriptors.clone())?;
        generated.push(read("heddle.v1.rs", path)?);
    }
    std::fs::remove_dir_all(&scratch)?;
    Ok(generated)
}

fn tempdir() -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("heddle-protogen-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_code_is_fresh() {
        for Generated { path, content } in generate().unwrap() {
            let committed = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
            assert!(committed == content, "{} is stale: run `cargo run -p heddle-protogen`", path.display());
        }
    }
}
