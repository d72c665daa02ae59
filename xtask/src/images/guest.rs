//! Stand-ins for the images, made of the workspace's own static binary. They need no
//! package and no network, and speak a protocol of their own in place of SQL.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Context;
use tar::{Builder, EntryType, Header};

use super::{Config, archive};
use crate::workspace;

/// Programs that the tests call by name; one binary is all of them.
const APPLETS: [&str; 8] = ["cat", "connect", "db", "env", "sh", "sleep", "true", "web"];

/// Makes the three archives.
pub(super) fn make(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let layer = directory.join("layer.tar");
    write_layer(&layer)?;
    let path = "PATH=/bin".to_owned();
    let images: [(&str, &str, &[&str], Option<u16>); 3] = [
        ("busybox", "busybox:latest", &["sleep"], None),
        ("webapp", "training/webapp:latest", &["web"], Some(5000)),
        ("postgres", "training/postgres:latest", &["db"], Some(5432)),
    ];
    for (file, tag, command, port) in images {
        let config = Config {
            tag,
            environment: &[path.clone(), "PG_VERSION=guest".to_owned()],
            command,
            working_directory: "/",
            port,
            stop_signal: None,
        };
        archive::write(&directory.join(format!("{file}.tar")), &config, &[&layer])?;
    }
    Ok(())
}

fn write_layer(path: &Path) -> anyhow::Result<()> {
    let guest = workspace::binaries()?.join("linkspan-guest");
    let mut layer = Builder::new(File::create(path)?);
    let mut program = File::open(&guest).with_context(|| format!("open {}", guest.display()))?;
    for name in ["bin", "etc", "tmp"] {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        header.set_mode(if name == "tmp" { 0o1777 } else { 0o755 });
        layer.append_data(&mut header, name, std::io::empty())?;
    }
    let mut header = Header::new_ustar();
    header.set_size(program.metadata()?.len());
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/linkspan-guest", &mut program)?;
    for applet in APPLETS {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "linkspan-guest")?;
    }
    layer.finish()?;
    Ok(())
}
