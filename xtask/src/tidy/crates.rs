//! Rules about crates: who may depend on whom, and under which licences.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::Value;

use crate::workspace;

/// What each crate of ours may depend on of ours: daemons meet on the wire only.
const DIRECTION: &[(&str, &[&str])] = &[
    ("e2e", &["linkspan-proto"]),
    ("linkspan-cli", &["linkspan-proto"]),
    ("linkspan-netd", &["linkspan-proto", "linkspan-sys"]),
    ("linkspan-proto", &[]),
    ("linkspan-runtimed", &["linkspan-proto", "linkspan-sys"]),
    ("linkspan-shim", &["linkspan-proto", "linkspan-sys"]),
    ("linkspan-sys", &[]),
    ("xtask", &[]),
];

/// Licences that ask for no more than their text to be kept.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks the crates of the workspace and all that they depend on.
pub(super) fn check() -> anyhow::Result<Vec<String>> {
    let mut command = workspace::cargo();
    let text = workspace::output(command.args(["metadata", "--format-version=1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let rules: BTreeMap<&str, &[&str]> = DIRECTION.iter().copied().collect();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !allowed(licence) {
            findings.push(format!("{name} has the licence `{licence}`"));
        }
        // Only packages of the workspace have no source.
        if !package["source"].is_null() {
            continue;
        }
        seen.insert(name);
        let Some(allowed) = rules.get(name) else {
            findings.push(format!("{name} has no rule for what it may depend on"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if rules.contains_key(other) && !allowed.contains(&other) {
                findings.push(format!("{name} must not depend on {other}"));
            }
        }
    }
    for name in rules.keys().filter(|name| !seen.contains(*name)) {
        findings.push(format!("{name} is in a rule and not in the workspace"));
    }
    Ok(findings)
}

/// Whether an SPDX expression can be met: one of each `OR`, and all of each `AND`.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        part.trim_matches(['(', ')', ' '])
            .split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim_matches(['(', ')', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn one_alternative_and_every_conjunct_must_be_allowed() {
        assert!(allowed("MIT OR Apache-2.0"));
        assert!(allowed("GPL-2.0 OR MIT"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(!allowed("MIT AND GPL-3.0"));
        assert!(!allowed(""));
    }
}
