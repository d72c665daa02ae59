//! The exit record: how the container ended, for a runtimed that was not there to hear it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use linkspan_proto::shim_v1::Exit;
use prost::Message;

/// Writes the record so that after a crash it is there in full or not at all.
pub(crate) fn write(path: &Path, exit: &Exit) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(&exit.encode_to_vec())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exit");
        let exit = Exit {
            exit_code: 137,
            finished_at_ns: 5,
            oom_killed: true,
        };
        write(&path, &exit).unwrap();
        assert_eq!(
            Exit::decode(fs::read(&path).unwrap().as_slice()).unwrap(),
            exit
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
