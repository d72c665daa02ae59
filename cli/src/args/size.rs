//! Sizes and fractions as people write them.

use anyhow::bail;

/// Bytes: `512`, `64k`, `10m`, `1g`, with powers of 1024, and perhaps a `b`.
pub(crate) fn parse_bytes(text: &str) -> anyhow::Result<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower
        .strip_suffix("ib")
        .or_else(|| lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let (number, shift) = match bare.as_bytes().last() {
        Some(b'k') => (bare.trim_end_matches('k'), 10),
        Some(b'm') => (bare.trim_end_matches('m'), 20),
        Some(b'g') => (bare.trim_end_matches('g'), 30),
        Some(b't') => (bare.trim_end_matches('t'), 40),
        _ => (bare, 0),
    };
    let bytes = number
        .parse::<i64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if bytes >= 0 => Ok(bytes),
        _ => bail!("`{text}` is no size; write a number of bytes, or with k, m or g"),
    }
}

/// Billionths: `1.5` is 1,500,000,000.
pub(crate) fn parse_nano(text: &str) -> anyhow::Result<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let nano = || {
        let whole: i64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
        whole.checked_mul(1_000_000_000)?.checked_add(fraction)
    };
    match nano() {
        Some(nano)
            if !text.is_empty()
                && text != "."
                && fraction.len() <= 9
                && digits(whole)
                && digits(fraction) =>
        {
            Ok(nano)
        }
        _ => bail!("`{text}` is no number of CPUs; write one such as 1.5"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_fractions_are_read() {
        assert_eq!(parse_bytes("64m").unwrap(), 64 << 20);
        assert_eq!(parse_bytes("1GiB").unwrap(), 1 << 30);
        assert_eq!(parse_nano(".5").unwrap(), 500_000_000);
        assert_eq!(parse_nano("2").unwrap(), 2_000_000_000);
    }

    #[test]
    fn what_is_none_is_named() {
        for text in ["", "x", "-1", "1x", "99999999999t"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for text in ["", ".", "1.5.5", "-1", "a", "1.0000000001"] {
            assert!(parse_nano(text).is_err(), "{text}");
        }
    }
}
