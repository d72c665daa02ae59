//! Writes the Rust code of the contracts to `proto/src/generated`.
//!
//! The contracts are compiled by protox, so no machine needs `protoc`, and no crate
//! needs a build script. The result is committed; `--check` tells whether it is fresh.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use prost::Message;

/// The contracts, relative to `proto/`.
const CONTRACTS: [&str; 9] = [
    "linkspan/net/v1/keeper.proto",
    "linkspan/net/v1/network.proto",
    "linkspan/runtime/v1/container.proto",
    "linkspan/runtime/v1/image.proto",
    "linkspan/runtime/v1/link.proto",
    "linkspan/runtime/v1/network.proto",
    "linkspan/runtime/v1/port.proto",
    "linkspan/runtime/v1/system.proto",
    "linkspan/shim/v1/shim.proto",
];

/// Writes the generated code, or compares it with what is committed.
pub(crate) fn run(check: bool) -> anyhow::Result<ExitCode> {
    let proto = crate_root().join("proto");
    let committed = proto.join("src/generated");
    let fresh_dir = crate_root().join("target/codegen");
    fs::create_dir_all(&fresh_dir)?;
    generate(&proto, &fresh_dir)?;
    let fresh = read_all(&fresh_dir)?;
    if check {
        let stale: Vec<&String> = {
            let old = read_all(&committed)?;
            fresh
                .iter()
                .filter(|(name, text)| old.get(*name) != Some(text))
                .map(|(n, _)| n)
                .collect()
        };
        if stale.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        anyhow::bail!("proto/src/generated is stale ({stale:?}); run: cargo xtask codegen");
    }
    fs::create_dir_all(&committed)?;
    for (name, bytes) in fresh {
        fs::write(committed.join(&name), bytes).with_context(|| format!("write {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(proto: &Path, out: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(out)? {
        fs::remove_file(entry?.path())?;
    }
    let descriptors = protox::compile(CONTRACTS, [proto]).context("compile the contracts")?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(out)
        .compile_fds(descriptors)
        .context("generate the code")
}

fn read_all(directory: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}

fn crate_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
