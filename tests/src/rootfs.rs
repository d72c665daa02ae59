//! Root filesystems and images for tests, made of what the machine has.

use std::path::Path;
use std::process::Command;

const BLOCK_BYTES: usize = 512;
const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n\
    guest:x:1000:1000:guest:/home/guest:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nguest:x:1000:\nnogroup:x:65534:\n";

/// A tar archive of a root filesystem with BusyBox as every command, if the machine has one.
///
/// # Panics
///
/// When it cannot be read or run.
#[must_use]
pub fn busybox() -> Option<Vec<u8>> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())?;
    let binary = std::fs::read(program).expect("read busybox");
    let listed = Command::new(program)
        .arg("--list")
        .output()
        .expect("list the applets");
    let mut archive = Archive::default();
    for directory in ["bin", "etc", "tmp", "root", "home/guest", "var/www"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", 0o755, &binary);
    for applet in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
        if applet != "busybox" {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    archive.file("etc/passwd", 0o644, PASSWD);
    archive.file("etc/group", 0o644, GROUP);
    Some(archive.finish())
}

/// A tar archive in the making. Paths are written as they are given, escapes included.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, tar::EntryType::Directory, 0o755, "", &[]);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entry(path, tar::EntryType::Regular, mode, "", bytes);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, tar::EntryType::Symlink, 0o777, target, &[]);
    }

    /// Adds a hard link.
    pub fn hardlink(&mut self, path: &str, target: &str) {
        self.entry(path, tar::EntryType::Link, 0o644, target, &[]);
    }

    /// Adds a file with an extended attribute.
    pub fn file_with_xattr(&mut self, path: &str, bytes: &[u8], name: &str, value: &[u8]) {
        let key = format!("SCHILY.xattr.{name}");
        let mut extensions = tar::Builder::new(Vec::new());
        let added = extensions.append_pax_extensions([(key.as_str(), value)]);
        added.expect("writing to memory works");
        self.bytes.append(extensions.get_mut());
        self.file(path, 0o755, bytes);
    }

    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, target: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        // The crate refuses the names that tests of escapes need.
        for (field, text) in [(0, path), (157, target)] {
            assert!(text.len() < 100, "`{text}` fits into a header");
            header.as_mut_bytes()[field..field + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(bytes);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    }

    /// The bytes, with the two empty blocks that end an archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK_BYTES, 0);
        self.bytes
    }
}
