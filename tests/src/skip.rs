//! Tests that cannot run here say so by name; `cargo xtask test` counts them.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};

/// Ends a test that runs outside of a sandbox, before it touches the machine.
#[track_caller]
pub fn sandbox_required() {
    assert!(
        env::var_os("LINKSPAN_SANDBOX").is_some(),
        "this test needs the sandbox; run: cargo xtask test"
    );
}

/// Says why a test does nothing; the test returns after it.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    drop(io::stderr().write_all(line.as_bytes()));
    if let Some(path) = env::var_os("LINKSPAN_SKIPS") {
        let file = File::options().append(true).create(true).open(path);
        let recorded = file.and_then(|mut file| file.write_all(line.as_bytes()));
        recorded.expect("record the skip");
    }
}

/// Whether the kernel is older than what brought something; says so if it is.
pub fn kernel_lacks(test: &str, what: &str, since: (u32, u32)) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    let version = (next().unwrap_or(0), next().unwrap_or(0));
    if version >= since {
        return false;
    }
    let reason = format!("Linux {} has no {what}", release.trim());
    skip(test, &reason);
    true
}
