//! Variables and labels from flags and files.

use anyhow::{Context, bail};

/// The longest line of a file of variables.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Entries of `-e`: `NAME=VALUE`, or `NAME`, which takes the caller's value and, if the
/// caller has none, removes the variable.
pub(crate) fn entries(texts: &[String]) -> anyhow::Result<Vec<String>> {
    texts.iter().map(|text| entry(text)).collect()
}

fn entry(text: &str) -> anyhow::Result<String> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() {
        bail!("invalid --env `{text}`: the variable has no name");
    }
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    Ok(match std::env::var(name) {
        Ok(value) => format!("{name}={value}"),
        Err(_unset) => name.to_owned(),
    })
}

/// Entries of `--env-private`, which must have a value.
pub(crate) fn private(texts: &[String]) -> anyhow::Result<Vec<String>> {
    let entries = entries(texts)?;
    match entries.iter().find(|entry| !entry.contains('=')) {
        None => Ok(entries),
        Some(name) => {
            bail!("invalid --env-private `{name}`: it has no value here; write {name}=VALUE")
        }
    }
}

/// Of several entries for one name the last counts, at the place of the first.
pub(crate) fn last_wins(entries: Vec<String>) -> Vec<String> {
    let name = |entry: &str| {
        entry
            .split_once('=')
            .map_or(entry.to_owned(), |(name, _)| name.to_owned())
    };
    let mut result: Vec<String> = Vec::new();
    for entry in entries {
        match result.iter_mut().find(|known| name(known) == name(&entry)) {
            Some(known) => *known = entry,
            None => result.push(entry),
        }
    }
    result
}

/// Reads a file of variables: one a line, `#` begins a comment line, nothing is expanded
/// or unquoted.
pub(crate) fn read_file(path: &str) -> anyhow::Result<Vec<String>> {
    let bytes = std::fs::read(path).with_context(|| format!("read --env-file `{path}`"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("read --env-file `{path}`"))?;
    parse_file(&text).with_context(|| format!("invalid --env-file `{path}`"))
}

fn parse_file(text: &str) -> anyhow::Result<Vec<String>> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if line.len() > MAX_LINE_BYTES {
            bail!("line {number} is longer than 64 KiB");
        }
        if name.is_empty() {
            bail!("line {number} has no name before `=`");
        }
        if name.contains(char::is_whitespace) {
            bail!("line {number}: the name `{name}` contains white space");
        }
        match (line.contains('='), std::env::var(name)) {
            (true, _) => entries.push(line.to_owned()),
            (false, Ok(value)) => entries.push(format!("{name}={value}")),
            (false, Err(_unset)) => {}
        }
    }
    Ok(entries)
}

/// A label: `KEY=VALUE`, or `KEY` with an empty value.
pub(crate) fn label(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_literally() {
        let text = "\u{feff}A=1\r\n\n # comment\n  B=\"x\" # no\nC=$HOME\nUNSET_FOR_SURE\n";
        assert_eq!(
            parse_file(text).unwrap(),
            ["A=1", "B=\"x\" # no", "C=$HOME"]
        );
        for bad in ["=x", "A B=1"] {
            parse_file(bad).unwrap_err();
        }
    }

    #[test]
    fn the_last_entry_of_a_name_counts() {
        let entries = ["A=1", "B=2", "A=3"].map(str::to_owned).to_vec();
        assert_eq!(last_wins(entries), ["A=3", "B=2"]);
        super::entries(&["=foo".to_owned()]).unwrap_err();
        assert_eq!(
            super::entries(&["UNSET_FOR_SURE".to_owned()]).unwrap(),
            ["UNSET_FOR_SURE"]
        );
    }
}
