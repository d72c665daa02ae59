//! What is asked, and the page that answers it.

use std::net::IpAddr;

use crate::network::model::Port;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Party {
    /// A container, by a name or by an alias of a link.
    Container(String),
    /// The host.
    Host,
    /// Somebody else.
    Address(IpAddr),
}

/// A connection that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Who would connect.
    pub(crate) from: Party,
    /// To whom.
    pub(crate) to: Party,
    /// The port; none means an ICMP echo request.
    pub(crate) port: Option<Port>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it is.
    pub(crate) subject: &'static str,
    /// What was found.
    pub(crate) finding: String,
    /// Whether the packet goes on.
    pub(crate) passes: bool,
}

/// Whether and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// What was looked at.
    pub(crate) steps: Vec<Step>,
    /// What to do about it.
    pub(crate) hint: String,
}

impl Explanation {
    /// Whether a connection would be made.
    pub(crate) fn is_reachable(&self) -> bool {
        self.steps.iter().all(|step| step.passes)
    }

    /// The packet goes on.
    pub(super) fn passes(&mut self, subject: &'static str, finding: String) {
        self.steps.push(Step {
            subject,
            finding,
            passes: true,
        });
    }

    /// The packet ends here; the hint says what to do about it.
    pub(super) fn stops(&mut self, subject: &'static str, finding: String, hint: String) {
        self.steps.push(Step {
            subject,
            finding,
            passes: false,
        });
        self.hint = hint;
    }
}
