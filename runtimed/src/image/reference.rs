//! References to images: `[REGISTRY/]NAME[:TAG]`, as people write them.
//!
//! A reference is kept in its familiar form: `docker.io/library/busybox` and `busybox`
//! are both `busybox:latest`. Grammar: the distribution specification, "Pulling manifests".

use std::fmt;
use std::str::FromStr;

/// A reference with its tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reference {
    repository: String,
    tag: String,
}

/// A text that is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference `{text}`: {rule}")]
pub(crate) struct ReferenceError {
    text: String,
    rule: &'static str,
}

impl Reference {
    /// The name without the tag.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |rule| {
            Err(ReferenceError {
                text: text.chars().take(128).collect(),
                rule,
            })
        };
        if text.contains('@') {
            return fail("digests are not supported yet, name a tag");
        }
        let (repository, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, "latest"),
        };
        let familiar = repository.strip_prefix("docker.io/").unwrap_or(repository);
        let familiar = familiar.strip_prefix("library/").unwrap_or(familiar);
        if familiar.is_empty() || familiar.len() > 255 {
            return fail("the name must have 1 to 255 characters");
        }
        let mut components = familiar.split('/').peekable();
        let mut first = true;
        while let Some(component) = components.next() {
            let is_registry = first
                && components.peek().is_some()
                && component.starts_with(|c: char| c.is_ascii_alphanumeric())
                && (component.contains(['.', ':']) || component == "localhost");
            first = false;
            if !is_registry && !is_path_component(component) {
                return fail(
                    "a name consists of lower-case letters and digits, joined by `.`, `_`, `-` or `/`",
                );
            }
            if is_registry
                && !component
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".:-".contains(&b))
            {
                return fail("the registry is no host name");
            }
        }
        let tag_rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let tag_valid = tag.len() <= 128
            && tag.bytes().all(tag_rest)
            && tag
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !tag_valid {
            return fail("a tag has 1 to 128 letters, digits, `_`, `.` and `-`");
        }
        Ok(Self {
            repository: familiar.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

fn is_path_component(component: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(component.bytes().next())
        && edge(component.bytes().last())
        && component
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_is_kept_in_its_familiar_form() {
        for (text, familiar) in [
            ("busybox", "busybox:latest"),
            ("docker.io/library/busybox", "busybox:latest"),
            ("training/webapp:2", "training/webapp:2"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry.example.com/a:x_1", "registry.example.com/a:x_1"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), familiar);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            ":x",
            "a b",
            "UPPER",
            "a//b",
            "../x",
            "a:",
            "a:b c",
            "-a",
            "a@sha256:0",
            "a/\n",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn prop_a_reference_reads_back_as_itself(text in "\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
