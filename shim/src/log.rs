//! The log of a container: bounded, rotated, and never in the container's way.
//!
//! Each record is `RFC3339NANO stdout|stderr P|F TEXT`, as the CRI has it. `F` stands for
//! a line that ended with a newline, `P` for a piece that did not: of a line longer than
//! 16 KiB, or the last one of a stream. So the texts, with a newline after each `F`, are
//! exactly the bytes that the container wrote.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::spec;

/// Longest text of one record.
const MAX_TEXT: usize = 16 << 10;
const MODE: u32 = 0o640;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<u8>);

impl Line {
    /// Takes output in and gives out the records that are complete now.
    pub(crate) fn push(&mut self, stream: Stream, mut bytes: &[u8], now: Duration) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let room = MAX_TEXT - self.0.len();
            let (tag, text, rest) = match bytes.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => ('F', &bytes[..end], &bytes[end + 1..]),
                None if bytes.len() >= room => ('P', &bytes[..room], &bytes[room..]),
                None => {
                    self.0.extend_from_slice(bytes);
                    break;
                }
            };
            records.push(record(now, stream, tag, &[&self.0, text]));
            // A new buffer, not a cleared one: idle containers keep no memory for long lines.
            self.0 = Vec::new();
            bytes = rest;
        }
        records
    }

    /// Gives out what is left when the stream has ended.
    pub(crate) fn finish(&mut self, stream: Stream, now: Duration) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.0);
        (!rest.is_empty()).then(|| record(now, stream, 'P', &[&rest]))
    }
}

/// The files.
#[derive(Debug)]
pub(crate) struct Log {
    spec: spec::Log,
    file: Option<File>,
    bytes: u64,
    /// Records that could not be written; the container was not told.
    dropped: u64,
}

impl Log {
    /// Opens the log, or starts it.
    pub(crate) fn open(spec: spec::Log) -> io::Result<Self> {
        let file = open(&spec.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            spec,
            file: Some(file),
            bytes,
            dropped: 0,
        })
    }

    /// How many records were lost to a full or broken disk.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends records. What cannot be written is counted and dropped.
    pub(crate) fn append(&mut self, records: &[Vec<u8>]) {
        for record in records {
            if self.append_one(record).is_err() {
                self.dropped += 1;
            }
        }
    }

    fn append_one(&mut self, record: &[u8]) -> io::Result<()> {
        let length = record.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.spec.max_bytes {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.file = Some(open(&self.spec.path)?);
        }
        let Some(file) = self.file.as_mut() else {
            return Ok(());
        };
        if let Err(error) = file.write_all(record) {
            // Half a record would make the next one unreadable.
            file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.bytes = 0;
        let kept = self.spec.max_files.saturating_sub(1);
        if kept == 0 {
            fs::remove_file(&self.spec.path)?;
        }
        for number in (0..kept).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = Some(open(&self.spec.path)?);
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.spec.path.clone().into_os_string();
        if number > 0 {
            path.push(format!(".{number}"));
        }
        path.into()
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("open flags fit in an int");
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(no_follow)
        .open(path)
}

fn record(now: Duration, stream: Stream, tag: char, texts: &[&[u8]]) -> Vec<u8> {
    let length: usize = texts.iter().map(|text| text.len()).sum();
    let mut record = Vec::with_capacity(length + 48);
    record.extend_from_slice(rfc3339(now).as_bytes());
    record.push(b' ');
    record.extend_from_slice(stream.name().as_bytes());
    record.extend_from_slice(if tag == 'F' { b" F " } else { b" P " });
    for text in texts {
        record.extend_from_slice(text);
    }
    record.push(b'\n');
    record
}

/// The time since 1970, as the clock of the host has it.
pub(crate) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// `2026-01-02T03:04:05.000000006Z`.
fn rfc3339(time: Duration) -> String {
    let (days, seconds) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let nanos = time.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// The date of a day, counted from 1970-01-01. Years begin in March here, so that the
/// leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
