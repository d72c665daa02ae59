//! Tests that cannot run here say so by name; `cargo xtask test` counts them.

use std::env;
use std::fs::File;
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
