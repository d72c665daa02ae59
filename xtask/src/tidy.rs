//! House rules that no other tool knows. Each finding says where and what.

mod crates;
mod sources;

use anyhow::Context;

use crate::tools::say;

/// Checks the tree; every finding is told before the error.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut findings = sources::check().context("look at the sources")?;
    findings.extend(crates::check().context("look at the crates")?);
    for finding in &findings {
        say(&format!("tidy: {finding}"));
    }
    anyhow::ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(())
}
