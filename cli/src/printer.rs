//! The only place that writes to standard output and standard error.

use std::io::{self, Write};

/// Writes a line of data.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes data as it is.
pub(crate) fn out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a process's standard error.
pub(crate) fn err(bytes: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(bytes)
}

/// Writes a line for the person at the keyboard. If nobody can read it, nothing is lost.
pub(crate) fn talk(text: &str) {
    err(format!("{text}\n").as_bytes()).ok();
}

/// Lays out a table: columns as wide as their content, three spaces between, the last not
/// padded. Rows have as many cells as the header.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (position, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if position + 1 < columns {
                let pad = width + 3 - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push('\n');
    }
    text
}

/// A duration as people say it; `go-units` has the same steps.
pub(crate) fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 730 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// A size in powers of a thousand with four significant digits at most.
pub(crate) fn human_size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let (mut whole, mut rest) = (bytes, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        rest = whole % 1000;
        whole /= 1000;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    match (unit, whole) {
        (0, _) => format!("{whole}{name}"),
        (_, ..10) => format!("{whole}.{:02}{name}", rest / 10),
        (_, 10..100) => format!("{whole}.{}{name}", rest / 100),
        _ => format!("{whole}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 20, "2 weeks"),
            (86400 * 100, "3 months"),
            (86400 * 800, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn sizes_have_four_digits_at_most() {
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(1_980_000), "1.98MB");
        assert_eq!(human_size(155_000_000), "155MB");
    }

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let rows = vec![
            vec!["ID".to_owned(), "NAMES".to_owned()],
            vec!["abc".to_owned(), "web".to_owned()],
        ];
        assert_eq!(table(&rows), "ID    NAMES\nabc   web\n");
    }
}
