//! Writes an image as `docker save` does: layers, a configuration, a manifest.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use super::{Config, digest, hex};

/// Writes an archive of the layers, the lowest first.
pub(super) fn write(path: &Path, config: &Config<'_>, layers: &[&Path]) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let file = File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
    let mut archive = Builder::new(io::BufWriter::new(file));
    let mut digests = Vec::new();
    for layer in layers {
        let sum = file_digest(layer)?;
        let mut file = File::open(layer)?;
        archive.append_file(layer_name(&sum), &mut file)?;
        digests.push(sum);
    }
    let configuration = configuration(config, &digests).to_string();
    let name = format!("{}.json", digest(configuration.as_bytes()));
    append(&mut archive, &name, configuration.as_bytes())?;
    let names: Vec<String> = digests.iter().map(|sum| layer_name(sum)).collect();
    let manifest = json!([{"Config": name, "RepoTags": [config.tag], "Layers": names}]);
    append(
        &mut archive,
        "manifest.json",
        manifest.to_string().as_bytes(),
    )?;
    archive.into_inner()?.flush()?;
    std::fs::rename(&partial, path).with_context(|| format!("name {}", path.display()))
}

fn configuration(config: &Config<'_>, digests: &[String]) -> Value {
    let mut container = json!({
        "Env": config.environment,
        "Cmd": config.command,
        "WorkingDir": config.working_directory,
    });
    if let Some(port) = config.port {
        container["ExposedPorts"] = json!({format!("{port}/tcp"): {}});
    }
    if let Some(signal) = config.stop_signal {
        container["StopSignal"] = json!(signal);
    }
    let diff_ids: Vec<String> = digests.iter().map(|sum| format!("sha256:{sum}")).collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        // A fixed time, so that the same recipe gives the same image.
        "created": "2026-01-01T00:00:00Z",
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": digests.iter().map(|_| json!({"created_by": "xtask images"})).collect::<Vec<_>>(),
    })
}

/// The architecture by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer_name(sum: &str) -> String {
    format!("{sum}/layer.tar")
}

fn append(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, bytes)
}

fn file_digest(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..length]);
    }
}
