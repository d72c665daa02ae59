//! Unpacks a layer where nothing else can be written.
//!
//! The work runs on a thread of its own that gives up, by Landlock, every right to files
//! outside of the target directory, and ends with the work. Where the kernel has no
//! Landlock the path resolution of [`super::layer`] stands alone.

use std::io::Read;
use std::path::Path;
use std::sync::Once;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use super::layer::{self, LayerError};

/// Unpacks the uncompressed archive `source` into `target`; returns the sum of the sizes
/// of its regular files.
pub(crate) fn unpack(source: &mut (impl Read + Send), target: &Path) -> Result<u64, LayerError> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            confine(target);
            layer::unpack(source, target)
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn confine(target: &Path) {
    static WARNED: Once = Once::new();
    let warn =
        |why: &str| WARNED.call_once(|| tracing::warn!(why, "no landlock for unpacking, ignoring"));
    match restrict(target) {
        Ok(RulesetStatus::NotEnforced) => warn("the kernel does not offer it"),
        Ok(_) => {}
        Err(error) => warn(&error.to_string()),
    }
}

fn restrict(target: &Path) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(ABI::V3);
    let target = match PathFd::new(target) {
        Ok(target) => target,
        Err(_missing) => return Ok(RulesetStatus::NotEnforced),
    };
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(target, all))?
        .restrict_self()?;
    Ok(status.ruleset)
}
