//! Archives of every kind, and what is left after one that is refused.

use std::io::Write as _;

use super::*;

struct Fixture {
    _root: tempfile::TempDir,
    _run: tempfile::TempDir,
    images: Images,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let run = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path(), run.path()).unwrap());
    let images = Images::open(root.path(), store).unwrap();
    Fixture {
        _root: root,
        _run: run,
        images,
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn config_of(diff_ids: &[String]) -> Vec<u8> {
    let ids = diff_ids
        .iter()
        .map(|id| format!("\"{id}\""))
        .collect::<Vec<_>>()
        .join(",");
    format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","config":{{
        "Env":["PGDATA=/data"],"Cmd":["run"],"ExposedPorts":{{"5432/tcp":{{}}}}}},
        "rootfs":{{"type":"layers","diff_ids":[{ids}]}},"history":[]}}"#
    )
    .into_bytes()
}

fn docker_archive(layer: &[u8], reference: &str) -> Vec<u8> {
    let config = config_of(&[sha256(layer)]);
    let name = sha256(&config).trim_start_matches("sha256:").to_owned() + ".json";
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":["{reference}"],"Layers":["l/layer.tar"]}}]"#);
    tar_of(&[
        (&name, &config),
        ("l/layer.tar", layer),
        ("manifest.json", manifest.as_bytes()),
    ])
}

fn oci_archive(layer: &[u8], stored: &[u8]) -> Vec<u8> {
    let config = config_of(&[sha256(layer)]);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &sha256(bytes)[7..]);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",
        "digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",
        "digest":"{}","size":{}}}]}}"#,
        sha256(&config),
        config.len(),
        sha256(stored),
        stored.len()
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"a/b:1"}}}}]}}"#,
        sha256(manifest.as_bytes()),
        manifest.len()
    );
    tar_of(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(&config), &config),
        (&blob(stored), stored),
    ])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn layer_count(images: &Images) -> usize {
    fs::read_dir(images.directory.join("layers"))
        .unwrap()
        .count()
}

#[test]
fn an_archive_of_docker_save_is_loaded_and_removed_again() {
    let fixture = fixture();
    let layer = tar_of(&[("bin/run", b"#!")]);
    let archive = gzip(&docker_archive(&layer, "training/postgres:latest"));
    let loaded = fixture.images.load(archive.as_slice()).unwrap();
    assert_eq!(loaded[0].references, ["training/postgres:latest"]);
    let image = fixture.images.find("training/postgres").unwrap();
    assert_eq!(image.config.exposed, ["5432".parse().unwrap()]);
    let lower = fixture.images.lower_dirs(&image);
    assert_eq!(
        fs::read(Path::new(&lower[0]).join("bin/run")).unwrap(),
        b"#!"
    );
    let removed = fixture
        .images
        .remove("training/postgres", false, |_| None)
        .unwrap();
    assert_eq!(removed.untagged, ["training/postgres:latest"]);
    assert_eq!(layer_count(&fixture.images), 0);
    assert!(matches!(
        fixture.images.find("training/postgres"),
        Err(ImageError::NotFound { .. })
    ));
}

#[test]
fn an_oci_archive_is_loaded_whatever_its_compression() {
    let layer = tar_of(&[("f", b"x")]);
    for stored in [
        layer.clone(),
        gzip(&layer),
        zstd::encode_all(layer.as_slice(), 1).unwrap(),
    ] {
        let fixture = fixture();
        let loaded = fixture
            .images
            .load(oci_archive(&layer, &stored).as_slice())
            .unwrap();
        assert_eq!(loaded[0].references, ["a/b:1"]);
    }
}

#[test]
fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let fixture = fixture();
    let layer = tar_of(&[("f", b"x")]);
    let mut archive = docker_archive(&layer, "a:1");
    let at = archive
        .windows(4)
        .position(|w| w == b"ustar"[..4].as_ref())
        .unwrap();
    assert!(at > 0);
    let position = archive.windows(3).rposition(|w| w == b"x\0\0").unwrap();
    archive[position] = b'y';
    let error = fixture.images.load(archive.as_slice()).unwrap_err();
    assert!(
        matches!(error, ImageError::LayerDigest { number: 1, .. }),
        "{error:?}"
    );
    assert_eq!(layer_count(&fixture.images), 0);
    assert!(fixture.images.list().is_empty());
}

#[test]
fn a_cut_archive_is_refused_and_leaves_nothing() {
    let layer = tar_of(&[("f", &[9; 5000])]);
    let archive = docker_archive(&layer, "a:1");
    let fixture = fixture();
    // The last member ends before its padding and the two blocks of zeros.
    for length in (0..=archive.len() - 1536).step_by(256) {
        fixture
            .images
            .load(&archive[..length])
            .expect_err("a cut archive is refused");
    }
    assert_eq!(layer_count(&fixture.images), 0);
}

#[test]
fn a_document_that_is_too_large_is_refused_before_it_is_read() {
    let fixture = fixture();
    let archive = tar_of(&[("manifest.json", &vec![b' '; 5 << 20])]);
    let error = fixture.images.load(archive.as_slice()).unwrap_err();
    let ImageError::Archive {
        source: ArchiveError::DocumentTooLarge { .. },
    } = error
    else {
        panic!("{error:?}");
    };
}

#[test]
fn an_image_that_is_needed_stays() {
    let fixture = fixture();
    fixture
        .images
        .load(docker_archive(&tar_of(&[("f", b"")]), "a:1").as_slice())
        .unwrap();
    let error = fixture
        .images
        .remove("a:1", true, |_| Some("web".to_owned()))
        .unwrap_err();
    assert!(matches!(error, ImageError::InUse { .. }));
    fixture.images.tag("a:1", &"b".parse().unwrap()).unwrap();
    let removed = fixture
        .images
        .remove("a:1", false, |_| Some("web".to_owned()))
        .unwrap();
    assert!(removed.deleted.is_empty());
    fixture.images.find("b:latest").unwrap();
}

#[test]
fn a_root_filesystem_is_imported_with_changes() {
    let fixture = fixture();
    let changes = ["CMD [\"sh\"]".to_owned(), "EXPOSE 80".to_owned()];
    let reference = "box".parse().unwrap();
    let archive = tar_of(&[("bin/sh", b"#!")]);
    let id = fixture
        .images
        .import(archive.as_slice(), Some(&reference), &changes, "")
        .unwrap();
    let image = fixture.images.find(&id[7..19]).unwrap();
    assert_eq!(image.config.command, ["sh"]);
    assert_eq!(fixture.images.references_of(&id), ["box:latest"]);
}

#[test]
fn what_a_crash_left_is_gone_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let run = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path(), run.path()).unwrap());
    drop(Images::open(root.path(), Arc::clone(&store)).unwrap());
    fs::create_dir(root.path().join("images/layers/orphan")).unwrap();
    fs::create_dir(root.path().join("images/tmp/half")).unwrap();
    let images = Images::open(root.path(), store).unwrap();
    assert_eq!(layer_count(&images), 0);
    assert!(!root.path().join("images/tmp/half").exists());
}
