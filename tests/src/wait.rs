//! Waits for what must come true, as an outsider can: by looking again.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

/// Longer than anything takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Looks until there is something, and gives it; a panic at the deadline says what was
/// waited for.
#[track_caller]
#[expect(clippy::panic, reason = "it ends a test")]
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() > end {
            panic!("{what} did not come within {deadline:?}");
        }
        // An outsider gets no event for most of what is looked at.
        poll(&mut [], PollTimeout::from(10_u8)).expect("wait");
    }
}
