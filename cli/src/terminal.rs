//! The user's terminal: raw mode, its size, and the keys that detach.

use std::io::IsTerminal;

use anyhow::bail;
use linkspan_proto::runtime_v1::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The keys that detach when nothing else is said.
pub(crate) const DEFAULT_DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Raw mode; the former mode comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Turns raw mode on.
    pub(crate) fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// The size of the terminal; none where there is none.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdout())
        .or_else(|_| tcgetwinsize(std::io::stdin()))
        .ok()?;
    (size.ws_row > 0).then_some(TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// Finds the keys that detach in what is typed.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// What a piece of input means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the process.
    pub(crate) bytes: Vec<u8>,
    /// The keys were typed.
    pub(crate) detach: bool,
}

impl DetachKeys {
    /// Reads a list such as `ctrl-p,ctrl-q` or `a,b`; empty means that no key detaches.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            keys.push(match (part.strip_prefix("ctrl-"), part.as_bytes()) {
                (Some(control), _) => match control.as_bytes() {
                    [c @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => c & 0x1f,
                    _ => bail!("unknown key `{part}` in --detach-keys: after ctrl- comes a-z, @, [, \\, ], ^ or _"),
                },
                (None, [single]) => *single,
                _ => bail!("unknown key `{part}` in --detach-keys: name single characters or ctrl-X, joined by commas"),
            });
        }
        Ok(Self { keys, matched: 0 })
    }

    /// Takes input in; keys that began to match are held back until it is clear.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(input.len());
        for byte in input {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return Typed {
                        bytes,
                        detach: true,
                    };
                }
                continue;
            }
            bytes.extend_from_slice(self.keys.get(..self.matched).unwrap_or_default());
            self.matched = usize::from(self.keys.first() == Some(byte));
            if self.matched == 0 {
                bytes.push(*byte);
            }
        }
        Typed {
            bytes,
            detach: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_detach_even_in_pieces() {
        let mut keys = DetachKeys::parse(DEFAULT_DETACH_KEYS).unwrap();
        assert_eq!(
            keys.feed(b"ab\x10"),
            Typed {
                bytes: b"ab".to_vec(),
                detach: false
            }
        );
        assert!(keys.feed(b"\x11").detach);
    }

    #[test]
    fn what_only_begins_like_the_keys_is_passed_on() {
        let mut keys = DetachKeys::parse(DEFAULT_DETACH_KEYS).unwrap();
        assert!(keys.feed(b"\x10").bytes.is_empty());
        assert_eq!(keys.feed(b"x").bytes, b"\x10x");
        assert_eq!(
            keys.feed(b"\x10\x10\x11"),
            Typed {
                bytes: b"\x10".to_vec(),
                detach: true
            }
        );
    }

    #[test]
    fn unknown_keys_are_named() {
        assert!(
            DetachKeys::parse("ctrl-1")
                .unwrap_err()
                .to_string()
                .contains("`ctrl-1`")
        );
        DetachKeys::parse("ab").unwrap_err();
    }
}
