//! Times as people give them, and as tables show them.

use anyhow::bail;
use jiff::Timestamp;
use prost_types::Timestamp as WireTime;

/// Reads RFC 3339, seconds since 1970, or a duration before now such as `1h30m`.
pub(crate) fn parse(text: &str) -> anyhow::Result<WireTime> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(to_wire(time));
    }
    if let Some((seconds, nanos)) = unix_seconds(text) {
        return Ok(WireTime { seconds, nanos });
    }
    match duration_seconds(text) {
        Some(seconds) => Ok(to_wire(
            Timestamp::now() - jiff::SignedDuration::from_secs(seconds),
        )),
        None => bail!(
            "`{text}` is no time; write RFC 3339, seconds since 1970, or a duration such as 10m"
        ),
    }
}

/// Seconds since then; 0 for a time to come.
pub(crate) fn seconds_since(time: Option<&WireTime>) -> i64 {
    let Some(time) = time else { return 0 };
    let then = time.seconds * 1000 + i64::from(time.nanos) / 1_000_000;
    (Timestamp::now().as_millisecond() - then).max(0) / 1000
}

/// RFC 3339 with nanoseconds; the zero time of Go where there is none.
pub(crate) fn rfc3339(time: Option<&WireTime>) -> String {
    time.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| format!("{t:.9}"))
}

fn to_wire(time: Timestamp) -> WireTime {
    WireTime {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

fn unix_seconds(text: &str) -> Option<(i64, i32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = if fraction.is_empty() {
        0
    } else {
        format!("{fraction:0<9}").get(..9)?.parse().ok()?
    };
    Some((seconds.parse().ok()?, nanos))
}

fn duration_seconds(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut number = String::new();
    for character in text.chars() {
        let unit = match character {
            '0'..='9' => {
                number.push(character);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        total = total.checked_add(
            std::mem::take(&mut number)
                .parse::<i64>()
                .ok()?
                .checked_mul(unit)?,
        )?;
    }
    (number.is_empty() && !text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_time_is_read() {
        assert_eq!(
            parse("2026-01-02T03:04:05Z").unwrap().seconds,
            1_767_323_045
        );
        assert_eq!(
            parse("1700000000.5").unwrap(),
            WireTime {
                seconds: 1_700_000_000,
                nanos: 500_000_000
            }
        );
        assert_eq!(duration_seconds("1h30m"), Some(5400));
        for bad in ["", "x", "5x", "h"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
