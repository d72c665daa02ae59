//! Images: archives of every kind come in, and containers see what is in them.

use std::process::Command;

use e2e::console::{Engine, output};
use e2e::rootfs::{self, Archive};
use e2e::{kernel_lacks, skip};
use serde_json::json;

/// What a layer's bytes are named by.
fn digest(engine: &Engine, bytes: &[u8]) -> String {
    let path = engine.file("digest", bytes);
    let sum = output(Command::new("sha256sum").arg(path)).stdout;
    sum.split(' ').next().expect("a sum").to_owned()
}

fn compressed(program: &str, engine: &Engine, bytes: &[u8]) -> Vec<u8> {
    let path = engine.file("plain", bytes);
    let output = Command::new(program).args(["-q", "-c", &path]).output();
    output.expect("start the compressor").stdout
}

fn config(diff_ids: &[String]) -> Vec<u8> {
    let layers: Vec<String> = diff_ids.iter().map(|id| format!("sha256:{id}")).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": ["cat", "/greeting"], "Env": ["PATH=/bin", "FROM_IMAGE=1"],
            "ExposedPorts": { "5000/tcp": {} }, "WorkingDir": "/tmp" },
        "rootfs": { "type": "layers", "diff_ids": layers },
    });
    config.to_string().into_bytes()
}

fn greeting() -> Vec<u8> {
    let mut layer = Archive::default();
    layer.file("greeting", 0o644, b"hello\n");
    layer.finish()
}

/// An archive as `docker save` wrote it until version 24.
fn docker_archive(engine: &Engine, reference: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(engine, layer)).collect();
    let config = config(&ids);
    let config_name = format!("{}.json", digest(engine, &config));
    let mut archive = Archive::default();
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        archive.directory(&format!("{number}layer"));
        archive.file(&format!("{number}layer/VERSION"), 0o644, b"1.0");
        names.push(format!("{number}layer/layer.tar"));
        archive.file(&names[number], 0o644, layer);
    }
    archive.file(&config_name, 0o644, &config);
    let manifest = json!([{ "Config": config_name, "RepoTags": [reference], "Layers": names }]);
    archive.file("manifest.json", 0o644, manifest.to_string().as_bytes());
    archive.finish()
}

/// An OCI layout in an archive; with `docker`, also the manifest that newer Docker adds.
fn oci_archive(
    engine: &Engine,
    reference: &str,
    layers: &[(Vec<u8>, &str)],
    docker: bool,
) -> Vec<u8> {
    let blob = |archive: &mut Archive, bytes: &[u8]| {
        let digest = digest(engine, bytes);
        archive.file(&format!("blobs/sha256/{digest}"), 0o644, bytes);
        digest
    };
    let mut archive = Archive::default();
    archive.directory("blobs");
    archive.directory("blobs/sha256");
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut ids = Vec::new();
    let mut described = Vec::new();
    let mut names = Vec::new();
    for (plain, compression) in layers {
        ids.push(digest(engine, plain));
        let (bytes, suffix) = match *compression {
            "" => (plain.clone(), String::new()),
            program => {
                let suffix = program.to_owned();
                (compressed(program, engine, plain), format!("+{suffix}"))
            }
        };
        let name = blob(&mut archive, &bytes);
        names.push(format!("blobs/sha256/{name}"));
        described.push(
            json!({ "digest": format!("sha256:{name}"), "size": bytes.len(),
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}") }),
        );
    }
    let config = config(&ids);
    let config_digest = blob(&mut archive, &config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_digest}"), "size": config.len() },
        "layers": described,
    });
    let manifest = manifest.to_string().into_bytes();
    let manifest_digest = blob(&mut archive, &manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": format!("sha256:{manifest_digest}"), "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "latest",
            "io.containerd.image.name": format!("docker.io/library/{reference}") } }] });
    archive.file("index.json", 0o644, index.to_string().as_bytes());
    if docker {
        let manifest = json!([{ "Config": format!("blobs/sha256/{config_digest}"),
            "RepoTags": [reference], "Layers": names }]);
        archive.file("manifest.json", 0o644, manifest.to_string().as_bytes());
    }
    archive.finish()
}

/// The BusyBox of this machine, or none and a note of the skipped test.
fn base(test: &str) -> Option<Vec<u8>> {
    let base = rootfs::busybox();
    if base.is_none() {
        skip(test, "the machine has no static busybox");
    }
    base
}

#[test]
fn an_archive_of_docker_save_loads_and_runs() {
    let Some(base) = base("an_archive_of_docker_save_loads_and_runs") else {
        return;
    };
    let engine = Engine::bare();
    let archive = docker_archive(&engine, "greeter:v1", &[base, greeting()]);
    let path = engine.file("greeter.tar", &archive);
    assert_eq!(
        engine.ok(&format!("load -i {path}")),
        "Loaded image: greeter:v1"
    );
    assert_eq!(engine.ok("run --rm greeter:v1"), "hello");
    assert_eq!(
        engine.ok("run --rm greeter:v1 sh -c 'pwd; echo $FROM_IMAGE'"),
        "/tmp\n1"
    );
    assert_eq!(
        engine.feed("load", &archive).stdout,
        "Loaded image: greeter:v1\n"
    );
    engine.ok("run -d --name web -P greeter:v1 sleep 1000");
    assert!(engine.ok("port web").starts_with("5000/tcp -> 0.0.0.0:"));
}

#[test]
fn an_oci_archive_loads_and_runs_however_it_is_compressed() {
    let Some(base) = base("an_oci_archive_loads_and_runs_however_it_is_compressed") else {
        return;
    };
    let engine = Engine::bare();
    for (compression, docker) in [("", false), ("gzip", true), ("zstd", false)] {
        if compression == "zstd"
            && output(Command::new("sh").args(["-c", "command -v zstd"])).code != 0
        {
            skip(
                "an_oci_archive_loads_and_runs_however_it_is_compressed",
                "zstd is not installed",
            );
            continue;
        }
        let layers = [(base.clone(), compression), (greeting(), compression)];
        let archive = oci_archive(&engine, "greeter:latest", &layers, docker);
        let loaded = engine.feed("load", &archive);
        assert_eq!(loaded.code, 0, "{compression}: {}", loaded.stderr);
        assert!(
            loaded.stdout.contains("greeter:latest"),
            "{compression}: {}",
            loaded.stdout
        );
        assert_eq!(engine.ok("run --rm greeter"), "hello", "{compression}");
        engine.ok("rmi greeter");
        assert_eq!(engine.ok("images -q"), "", "{compression}");
    }
}

#[test]
fn a_compressed_archive_loads_from_a_pipe() {
    let Some(base) = base("a_compressed_archive_loads_from_a_pipe") else {
        return;
    };
    let engine = Engine::bare();
    let archive = docker_archive(&engine, "greeter:v1", &[base, greeting()]);
    let loaded = engine.feed("load", &compressed("gzip", &engine, &archive));
    assert_eq!(
        loaded.stdout, "Loaded image: greeter:v1\n",
        "{}",
        loaded.stderr
    );
    assert_eq!(engine.ok("run --rm greeter:v1"), "hello");
}

#[test]
fn a_layer_with_a_wrong_digest_is_refused() {
    let engine = Engine::bare();
    let archive = docker_archive(&engine, "greeter:v1", &[greeting()]);
    let at = archive
        .windows(6)
        .position(|bytes| bytes == b"hello\n")
        .expect("the greeting");
    let mut changed = archive;
    changed[at] = b'j';
    let sentence = engine.feed("load", &changed).sentence(1, "load");
    assert!(
        sentence.contains("digest") || sentence.contains("sha256"),
        "{sentence}"
    );
    assert_eq!(engine.ok("images -q"), "");
}

#[test]
fn layers_stack_with_whiteouts_hard_links_and_attributes() {
    let Some(base) = base("layers_stack_with_whiteouts_hard_links_and_attributes") else {
        return;
    };
    let engine = Engine::bare();
    let mut lower = Archive::default();
    lower.directory("data");
    lower.directory("opaque");
    for file in ["data/gone", "data/stays", "opaque/below"] {
        lower.file(file, 0o644, b"lower\n");
    }
    lower.hardlink("data/linked", "data/stays");
    lower.file_with_xattr("data/marked", b"x\n", "user.mark", b"yes");
    let mut upper = Archive::default();
    upper.file("data/.wh.gone", 0o644, b"");
    upper.file("opaque/.wh..wh..opq", 0o644, b"");
    upper.file("opaque/above", 0o644, b"upper\n");
    let layers = [base, lower.finish(), upper.finish()];
    let loaded = engine.feed("load", &docker_archive(&engine, "stack:v1", &layers));
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    assert_eq!(
        engine.ok("run --rm stack:v1 ls /data /opaque"),
        "/data:\nlinked\nmarked\nstays\n\n/opaque:\nabove"
    );
    assert_eq!(
        engine.ok("run --rm stack:v1 stat -c %h /data/stays /data/linked"),
        "2\n2"
    );
    engine.ok("run -d --name web stack:v1 sleep 1000");
    let pid = engine.inspect("web", "{{.State.Pid}}");
    // A tmpfs takes attributes of users since then.
    let name = "layers_stack_with_whiteouts_hard_links_and_attributes (the attributes)";
    if kernel_lacks(name, "attributes in a tmpfs", (6, 6)) {
        return;
    }
    let path = format!("/proc/{pid}/root/data/marked");
    let mark = output(Command::new("python3").args([
        "-c",
        "import os, sys; print(os.getxattr(sys.argv[1], 'user.mark').decode())",
        &path,
    ]));
    assert_eq!(mark.stdout, "yes\n", "{}", mark.stderr);
}

#[test]
fn an_imported_root_has_what_the_changes_say() {
    let Some(base) = base("an_imported_root_has_what_the_changes_say") else {
        return;
    };
    let engine = Engine::bare();
    let changes =
        r#"-c 'CMD ["env"]' -c 'ENV A=1' -c 'WORKDIR /tmp' -c 'EXPOSE 80 53/udp' -c 'USER 65534'"#;
    let output = engine.feed(&format!("import {changes} - mine:v2"), &base);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.starts_with("sha256:"), "{}", output.stdout);
    assert!(engine.ok("run --rm mine:v2").contains("A=1\n"));
    assert_eq!(
        engine.ok("run --rm mine:v2 sh -c 'pwd; id -u'"),
        "/tmp\n65534"
    );
    engine.ok("run -d --name web mine:v2 sleep 1000");
    assert_eq!(engine.ok("ps --format '{{.Ports}}'"), "53/udp, 80/tcp");
}

#[test]
fn a_tag_names_an_image_until_the_last_is_removed() {
    let engine = Engine::with_busybox();
    engine.ok("tag busybox mine:v1");
    let table = engine.ok("images");
    let header: Vec<&str> = table
        .lines()
        .next()
        .expect("a header")
        .split("  ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    assert_eq!(header, ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    engine.ok("run -d --name web mine:v1 sleep 1000");
    assert_eq!(engine.ok("rmi busybox"), "Untagged: busybox:latest");
    let sentence = engine.fails(1, "rmi mine:v1");
    assert!(sentence.contains("web"), "{sentence}");
    engine.ok("rm -f web");
    assert!(engine.ok("rmi mine:v1").contains("Deleted: sha256:"));
    assert_eq!(engine.ok("images -q"), "");
}

#[test]
fn an_archive_of_skopeo_loads_and_runs() {
    const NAME: &str = "an_archive_of_skopeo_loads_and_runs";
    let Some(base) = base(NAME) else { return };
    let engine = Engine::bare();
    if output(Command::new("sh").args(["-c", "command -v skopeo"])).code != 0 {
        return skip(NAME, "skopeo is not installed");
    }
    let archive = docker_archive(&engine, "greeter:v1", &[base, greeting()]);
    let from = engine.file("from.tar", &archive);
    let to = engine.directory().join("to.tar");
    let target = format!("oci-archive:{}:greeter:v1", to.display());
    let mut skopeo = Command::new("skopeo");
    skopeo
        .args(["--insecure-policy", "--tmpdir"])
        .arg(engine.directory());
    let copied = output(skopeo.args(["copy", &format!("docker-archive:{from}"), &target]));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    let loaded = engine.ok(&format!("load -i {}", to.display()));
    assert!(loaded.contains("greeter:v1"), "{loaded}");
    assert_eq!(engine.ok("run --rm greeter:v1"), "hello");
}
