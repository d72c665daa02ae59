//! Reads the log of a container, while the shim writes it.
//!
//! Knows the format (each line `RFC3339NANO stream P|F TEXT`, as the CRI has it) and the
//! names of rotated files: `PATH`, then `PATH.1`, which is older, and so on.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use linkspan_proto::time::from_unix_nanos;

/// How many rotated files are looked for.
const MAX_FILES: u32 = 16;

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: Stream,
    pub(crate) time: SystemTime,
    /// With its line end, if it ended a line.
    pub(crate) text: Vec<u8>,
}

/// Follows a log from file to file.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    current: Option<BufReader<File>>,
    /// A line whose end is not written yet.
    partial: Vec<u8>,
    /// Older files that are still to be read, oldest last.
    older: Vec<PathBuf>,
}

impl LogReader {
    /// A reader at the beginning of the oldest file.
    pub(crate) fn open(path: &Path) -> Self {
        let rotated = (1..MAX_FILES).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
        let older = rotated.take_while(|path| path.exists()).collect();
        Self {
            path: path.to_owned(),
            current: None,
            partial: Vec::new(),
            older,
        }
    }

    /// The next entry; none at the present end of the log. Blocks on the disk only.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if self.current.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(reader) = &mut self.current else {
                return Ok(None);
            };
            reader.read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                match parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            if !self.older.is_empty() || self.was_rotated() {
                self.partial.clear();
                self.current = None;
                continue;
            }
            return Ok(None);
        }
    }

    fn open_next(&mut self) -> io::Result<bool> {
        let path = self.older.pop().unwrap_or_else(|| self.path.clone());
        match File::open(&path) {
            Ok(file) => {
                self.current = Some(BufReader::new(file));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.older.is_empty() => {
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.open_next(),
            Err(error) => Err(error),
        }
    }

    /// Whether the file being read is no longer the one at the path.
    fn was_rotated(&self) -> bool {
        let open = self
            .current
            .as_ref()
            .and_then(|reader| reader.get_ref().metadata().ok());
        let named = self.path.metadata().ok();
        match (open, named) {
            (Some(open), Some(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
            _ => false,
        }
    }
}

/// Reads one line of the format; none if it is not one.
fn parse(line: &[u8]) -> Option<Entry> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time: jiff::Timestamp = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let full = parts.next()? == b"F";
    let mut text = parts.next()?.to_vec();
    if full {
        text.push(b'\n');
    }
    Some(Entry {
        stream,
        time: system_time(time)?,
        text,
    })
}

fn system_time(time: jiff::Timestamp) -> Option<SystemTime> {
    i64::try_from(time.as_nanosecond())
        .ok()
        .map(from_unix_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000001Z";

    fn read_all(reader: &mut LogReader) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            texts.push(String::from_utf8(entry.text).unwrap());
        }
        texts
    }

    #[test]
    fn rotated_files_are_read_oldest_first_and_growth_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("container.log");
        let line = |text: &str| format!("{TIME} stdout F {text}\n");
        std::fs::write(directory.path().join("container.log.2"), line("one")).unwrap();
        std::fs::write(directory.path().join("container.log.1"), line("two")).unwrap();
        std::fs::write(&path, line("three") + &format!("{TIME} stderr P par")).unwrap();
        let mut reader = LogReader::open(&path);
        assert_eq!(read_all(&mut reader), ["one\n", "two\n", "three\n"]);
        let mut file = File::options().append(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"tial\n").unwrap();
        assert_eq!(read_all(&mut reader), ["partial"]);
        std::fs::rename(&path, directory.path().join("container.log.1")).unwrap();
        std::fs::write(&path, line("four")).unwrap();
        assert_eq!(read_all(&mut reader), ["four\n"]);
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        for line in ["", "x", "2026 stdout F a", &format!("{TIME} other F a")] {
            assert_eq!(parse(line.as_bytes()), None);
        }
        assert_eq!(
            parse(format!("{TIME} stdout F ").as_bytes()).unwrap().text,
            b"\n"
        );
    }
}
