//! Rules about source files: their heads, their length, their tests, their excuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use crate::workspace;

/// A longer file has more than one subject. Tests are apart.
const LONGEST: usize = 600;

/// How the reason of an unsafe block begins.
const SAFETY: &str = "// SAFETY:";
/// Reasons that fit every unsafe block, and so say nothing about one.
const STOCK_PHRASES: &[&str] = &[
    "this is safe",
    "is safe to call",
    "safe because",
    "trust me",
    "the caller guarantees",
    "no invariants",
];

/// Rows of the specification that a test can show, each named by one.
const ROWS: &[u8] = &[
    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 21, 22, 24, 25, 26, 29, 30, 34, 36, 37,
    38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 53, 54, 55, 56, 57, 58,
];

/// Checks every source file that is, or would be, committed.
pub(super) fn check() -> anyhow::Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]);
    let listed = workspace::output(git.current_dir(workspace::root()))?;
    let mut findings = Vec::new();
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for path in listed.lines().filter(|path| !path.contains("/generated/")) {
        // A file that is deleted but not yet committed is listed too.
        let Ok(text) = fs::read_to_string(workspace::root().join(path)) else {
            continue;
        };
        file(path, &text, &mut findings);
        for reason in safety_comments(&text) {
            if let Some(other) = reasons.insert(reason.clone(), path.to_owned()) {
                findings.push(format!(
                    "{path}: the SAFETY comment of {other} again: {reason}"
                ));
            }
        }
        // The list above would name every row by itself.
        if is_test(path, &text) && !path.ends_with("tidy/sources.rs") {
            rows(&text, &mut named);
        }
    }
    for row in ROWS.iter().filter(|row| !named.contains(*row)) {
        findings.push(format!("no test names S{row} of the specification"));
    }
    Ok(findings)
}

fn file(path: &str, text: &str, findings: &mut Vec<String>) {
    if !text.starts_with("//!") {
        findings.push(format!("{path}: begins with no module documentation"));
    }
    if path.ends_with("/mod.rs") {
        findings.push(format!("{path}: is named mod.rs"));
    }
    let lines = text.lines().count();
    let is_tests = path.contains("/tests/") || path.ends_with("/tests.rs");
    if lines > LONGEST && !is_tests {
        findings.push(format!("{path}: has {lines} lines, more than {LONGEST}"));
    }
    let mut after_attribute = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let at = format!("{path}:{}", index + 1);
        if line.starts_with("#[ignore") || line.starts_with("#[should_panic") {
            findings.push(format!("{at}: {line}"));
        }
        let declaration = line.trim_start_matches("async ");
        if after_attribute && declaration.starts_with("fn test_") {
            findings.push(format!(
                "{at}: a test is named by what it shows, without `test_`"
            ));
        }
        after_attribute = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let excuse = line.strip_prefix(SAFETY).map(str::to_lowercase);
        if excuse.is_some_and(|text| STOCK_PHRASES.iter().any(|stock| text.contains(stock))) {
            findings.push(format!("{at}: a stock phrase in place of a reason"));
        }
    }
}

/// The text of each SAFETY comment, its lines joined.
fn safety_comments(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(first) = line.strip_prefix(SAFETY) {
            found.push(first.trim().to_owned());
            inside = true;
        } else if let (true, Some(more)) = (inside, line.strip_prefix("// ")) {
            if let Some(last) = found.last_mut() {
                last.push(' ');
                last.push_str(more.trim());
            }
        } else {
            inside = false;
        }
    }
    found
}

fn is_test(path: &str, text: &str) -> bool {
    path.starts_with("tests/tests/") || text.contains("#[test]") || text.contains("#[tokio::test")
}

/// Collects `S12`, and all of `S6-S9` or `S6–S9`.
fn rows(text: &str, named: &mut BTreeSet<u8>) {
    let mut previous: Option<(u8, usize)> = None;
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('S') {
        let digits: String = text[at + 1..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let starts_word = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        let Ok(row) = digits.parse::<u8>() else {
            continue;
        };
        let end = at + 1 + digits.len();
        let ends_word = bytes
            .get(end)
            .is_none_or(|next| !next.is_ascii_alphanumeric());
        if !(starts_word && ends_word) {
            continue;
        }
        named.insert(row);
        if let Some((first, after)) = previous
            && matches!(&text[after..at], "-" | "–")
        {
            named.extend(first..row);
        }
        previous = Some((row, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_alone_and_in_ranges() {
        let mut named = BTreeSet::new();
        rows("/// S4: shows. S6–S8, S12. AS55 S7x", &mut named);
        assert_eq!(named, BTreeSet::from([4, 6, 7, 8, 12]));
    }

    #[test]
    fn a_safety_comment_of_two_lines_is_one_reason() {
        let text = "// SAFETY: the descriptor\n// is owned.\nunsafe {}\n// other";
        assert_eq!(safety_comments(text), ["the descriptor is owned."]);
    }

    #[test]
    fn a_file_that_breaks_rules_is_found() {
        let mut findings = Vec::new();
        file(
            "a/src/mod.rs",
            "fn a() {}\n#[test]\nfn test_a() {}\n",
            &mut findings,
        );
        assert_eq!(findings.len(), 3, "{findings:?}");
    }
}
