//! Readers for bytes from strangers: they decompress, count, hash, and stop at a limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The most that one archive may unpack to.
pub(crate) const MAX_UNPACKED_BYTES: u64 = 32 << 30;
/// From here on an archive must not be larger than [`MAX_RATIO`] times its compressed size.
const RATIO_FROM_BYTES: u64 = 1 << 30;
/// The greatest expansion that is taken for honest beyond [`RATIO_FROM_BYTES`].
const MAX_RATIO: u64 = 200;
/// The largest window that a zstd frame may ask for: 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The message of the error that a reader gives at its limit.
pub(crate) const TOO_LARGE: &str = "the archive unpacks to more than the limit allows";

/// Counts what passes.
pub(crate) struct Counting<R> {
    inner: R,
    count: Arc<std::sync::atomic::AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count
            .fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(length)
    }
}

/// Decompresses gzip and zstd by their magic numbers, passes all else through, and ends
/// with an error of kind `FileTooLarge` at the limits above.
pub(crate) fn decompress<'a>(
    source: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    decompress_within(source, RATIO_FROM_BYTES)
}

fn decompress_within<'a>(
    source: impl Read + Send + 'a,
    ratio_from_bytes: u64,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Counting {
        inner: source,
        count: Arc::clone(&count),
    };
    let mut source = BufReader::with_capacity(128 << 10, counted);
    let head = source.fill_buf()?;
    let inner: Box<dyn Read + Send + 'a> = if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(source))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(source)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Box::new(decoder)
    } else {
        Box::new(source)
    };
    Ok(Box::new(Bounded {
        inner,
        compressed: count,
        passed: 0,
        ratio_from_bytes,
    }))
}

struct Bounded<R> {
    inner: R,
    compressed: Arc<std::sync::atomic::AtomicU64>,
    passed: u64,
    ratio_from_bytes: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.passed += length as u64;
        let compressed = self.compressed.load(std::sync::atomic::Ordering::Relaxed);
        let bomb = self.passed > self.ratio_from_bytes && self.passed / MAX_RATIO > compressed;
        if bomb || self.passed > MAX_UNPACKED_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, TOO_LARGE));
        }
        Ok(length)
    }
}

/// Hashes what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    /// Reads to the end and returns the digest of everything, as `sha256:…`.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(digest_text(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

/// The digest of some bytes, as `sha256:…`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

fn digest_text(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in digest {
        write!(text, "{byte:02x}").expect("a String takes every write");
    }
    text
}

/// A part of a file, read without moving the file's own position.
#[derive(Debug)]
pub(crate) struct Section {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Section {
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self {
            file,
            offset,
            end: offset.saturating_add(length),
        }
    }

    /// How many bytes are left.
    pub(crate) fn size(&self) -> u64 {
        self.end - self.offset
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end - self.offset;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let length = self
            .file
            .read_at(buffer.get_mut(..most).unwrap_or_default(), self.offset)?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short",
            ));
        }
        self.offset += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn every_compression_reads_back_as_it_was() {
        let plain = b"ustar and more".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for bytes in [plain.clone(), gzip.finish().unwrap(), zstd] {
            let mut read = Vec::new();
            decompress(bytes.as_slice())
                .unwrap()
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read, plain);
        }
    }

    #[test]
    fn a_bomb_is_stopped_early() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = gzip.finish().unwrap();
        let mut reader = decompress_within(bomb.as_slice(), 64 << 10).unwrap();
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn the_digest_is_that_of_the_whole_stream() {
        let hashing = Hashing::new(b"abc".as_slice());
        assert_eq!(hashing.finish().unwrap(), sha256(b"abc"));
        assert!(sha256(b"abc").starts_with("sha256:ba7816bf"));
    }
}
