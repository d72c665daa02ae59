//! Netlink messages: a builder, and an iterator over attributes.
//!
//! The layout is that of `linux/netlink.h`: a 16-byte header, a fixed part that the
//! message type defines, then attributes padded to four bytes. Values from the kernel
//! are read with bounds checks; a truncated attribute ends the iteration.

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER_LENGTH: usize = 16;

const ATTRIBUTE_HEADER_LENGTH: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// One message under construction. Sequence and port are filled in by the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Starts a message; `NLM_F_REQUEST` is always among its flags.
    pub(crate) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).expect("netlink flags have 16 bits");
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE_HEADER_LENGTH + value.len())
            .expect("attributes are built in chunks that fit");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// Adds one byte.
    pub(crate) fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Adds a number in the byte order of the machine, as rtnetlink wants it.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, as netfilter wants it.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a text that ends with a NUL byte.
    pub(crate) fn put_text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds an attribute made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start)
            .expect("attributes are built in chunks that fit");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Adds raw bytes, padded: the fixed part of a nested message.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        pad(&mut self.bytes);
        self
    }

    /// Asks for an acknowledgement of this message.
    pub(crate) fn acknowledged(mut self) -> Self {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | ACKNOWLEDGE;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// The message without its header: what it says, whatever its number.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LENGTH..]
    }

    /// Completes the header and returns the message as it goes on the wire.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message is far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

const ACKNOWLEDGE: u16 = 4;

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, each with its type and value.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_LENGTH..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A text attribute without its closing NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Two bytes in machine order.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

/// Four bytes in machine order.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_wire() {
        let mut message = Message::new(7, 0, &[1, 2, 3, 4]);
        message.put_u8(1, 9).put_text(2, "lo").nest(3, |inner| {
            inner.put_be32(4, 0x0102_0304);
        });
        let bytes = message.finish(42);
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
        assert_eq!(u32_at(&bytes, 8), Some(42));
        let found: Vec<_> = attributes(&bytes[HEADER_LENGTH + 4..]).collect();
        assert_eq!(found[0], (1, &[9][..]));
        assert_eq!(text(found[1].1), "lo");
        assert_eq!(attribute(found[2].1, 4), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn a_truncated_attribute_ends_the_iteration() {
        for bytes in [
            &[8, 0, 1][..],
            &[8, 0, 1, 0, 5][..],
            &[2, 0, 1, 0][..],
            &[][..],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
