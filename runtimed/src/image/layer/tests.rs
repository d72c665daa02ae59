//! Layers of every kind, honest and hostile.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::*;

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        let name = path.as_bytes();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn unpack(self) -> (tempfile::TempDir, Result<u64>) {
        let bytes = self.0.into_inner().unwrap();
        let target = tempfile::tempdir().unwrap();
        let result = unpack(bytes.as_slice(), target.path());
        (target, result)
    }
}

#[test]
fn files_links_and_directories_come_out_as_they_went_in() {
    let (target, result) = Archive::new()
        .add("a", EntryType::Directory, "", b"")
        .add("a/file", EntryType::Regular, "", b"hello")
        .add("a/hard", EntryType::Link, "a/file", b"")
        .add("a/soft", EntryType::Symlink, "file", b"")
        .unpack();
    assert_eq!(result.unwrap(), 5);
    let file = target.path().join("a/file").metadata().unwrap();
    assert_eq!(file.nlink(), 2);
    assert_eq!(file.mtime(), 1_000_000);
    assert_eq!(
        target.path().join("a").metadata().unwrap().mtime(),
        1_000_000
    );
    assert_eq!(
        std::fs::read(target.path().join("a/soft")).unwrap(),
        b"hello"
    );
}

#[test]
fn no_entry_leads_out_of_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().to_str().unwrap();
    let cases = [
        Archive::new().add("../x", EntryType::Regular, "", b"x"),
        Archive::new().add("a/../../x", EntryType::Regular, "", b"x"),
        Archive::new()
            .add("d", EntryType::Symlink, outside, b"")
            .add("d/x", EntryType::Regular, "", b"x"),
        Archive::new()
            .add("d", EntryType::Symlink, outside, b"")
            .add("e", EntryType::Symlink, "d", b"")
            .add("e/x", EntryType::Regular, "", b"x"),
        Archive::new().add("h", EntryType::Link, "../../../../etc/passwd", b""),
        Archive::new()
            .add("d", EntryType::Symlink, "/etc", b"")
            .add("h", EntryType::Link, "d/passwd", b""),
        Archive::new().add(".wh...", EntryType::Regular, "", b""),
        Archive::new().add("c", EntryType::Char, "", b""),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let (_target, result) = case.unpack();
        let error = result.expect_err(&format!("case {number} is refused"));
        assert!(
            matches!(error, LayerError::Refused { .. } | LayerError::Write { .. }),
            "{error}"
        );
    }
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn an_absolute_path_stays_inside() {
    let (target, result) = Archive::new()
        .add("/etc/motd", EntryType::Regular, "", b"hi")
        .unpack();
    result.unwrap();
    assert_eq!(
        std::fs::read(target.path().join("etc/motd")).unwrap(),
        b"hi"
    );
}

#[test]
fn a_link_is_replaced_and_never_written_through() {
    let (target, result) = Archive::new()
        .add("victim", EntryType::Regular, "", b"keep")
        .add("x", EntryType::Symlink, "victim", b"")
        .add("x", EntryType::Regular, "", b"new")
        .unpack();
    result.unwrap();
    assert_eq!(
        std::fs::read(target.path().join("victim")).unwrap(),
        b"keep"
    );
    assert_eq!(std::fs::read(target.path().join("x")).unwrap(), b"new");
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let (target, result) = Archive::new()
        .add("d/.wh.gone", EntryType::Regular, "", b"")
        .add("d/.wh..wh..opq", EntryType::Regular, "", b"")
        .unpack();
    result.unwrap();
    let whiteout = target.path().join("d/gone").symlink_metadata().unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(
        target.path().join("d"),
        "trusted.overlay.opaque",
        &mut value,
    )
    .unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn a_cut_archive_is_refused() {
    let archive = Archive::new().add("f", EntryType::Regular, "", &[7; 4096]);
    let bytes = archive.0.into_inner().unwrap();
    let target = tempfile::tempdir().unwrap();
    unpack(&bytes[..1024], target.path()).unwrap_err();
}
