//! One process that the shim has started, or is starting: the first, or one of exec.

use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::log::Log;
use crate::parent::Stage;
use crate::stdio::Stdio;

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Never used twice; the first process has [`Process::FIRST`].
    pub(crate) key: u64,
    /// The name of an exec process; empty for the first.
    pub(crate) exec_id: String,
    /// The connection and the request that asked for it.
    pub(crate) asked_by: (u64, u64),
    /// There until it is known whether the program runs.
    pub(crate) stage: Option<Stage>,
    /// There from when it is cloned until it is reaped and its end was told.
    pub(crate) child: Option<(Pid, OwnedFd)>,
    /// The exit code, once it is reaped.
    pub(crate) status: Option<i32>,
    pub(crate) stdio: Stdio,
}

impl Process {
    pub(crate) const FIRST: u64 = 0;

    pub(crate) fn is_first(&self) -> bool {
        self.key == Self::FIRST
    }

    /// Whether this is its PID. Before the report of it has been read, none is.
    pub(crate) fn is(&self, pid: Pid) -> bool {
        self.status.is_none() && self.child.as_ref().is_some_and(|(child, _)| *child == pid)
    }

    /// Moves what can be moved. Only the first process is logged.
    pub(crate) fn pump(&mut self, log: Option<&mut Log>) {
        self.stdio.pump(log.filter(|_log| self.key == Self::FIRST));
    }

    /// It has ended: its output goes to those whom it is for.
    pub(crate) fn end(&mut self, log: Option<&mut Log>) {
        let mut log = log.filter(|_log| self.key == Self::FIRST);
        self.stdio.end(log.as_deref_mut());
        if self.is_first() {
            // Nothing of the container is left that could write.
            self.stdio.close(log);
        }
    }

    /// Whether a client still waits for some of its output.
    pub(crate) fn is_owed(&self) -> bool {
        self.stdio.is_owed()
    }

    /// Whether there is nothing more to do for it. What an exec process left running keeps
    /// a reader, so that it is not killed for writing.
    pub(crate) fn is_done(&self) -> bool {
        let ended = self.stage.is_none() && self.child.is_none();
        ended && !self.stdio.is_owed() && !self.stdio.is_open()
    }
}
