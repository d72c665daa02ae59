//! Names of containers: which are allowed, and how one is made up.

/// The longest name.
const MAX_LENGTH: usize = 128;

const ADJECTIVES: &str = "admiring agile amber ample bold brave breezy bright brisk calm candid \
charming cheerful clever cool cosmic crisp curious daring dazzling eager earnest easy elated \
elegant epic fair fearless festive fleet focused fond gallant gentle gifted golden graceful \
grand happy hardy hearty honest hopeful humble inspiring jolly jovial keen kind lively loving \
loyal lucid lucky magical mellow merry mighty modest nautical neat nimble noble nostalgic \
optimistic patient peaceful placid plucky polite proud quick quiet quirky radiant relaxed \
resolute romantic serene sharp silent sleepy smooth snug stoic sturdy sunny sweet swift tender \
thirsty tidy tranquil trusting upbeat vibrant vigilant vigorous warm wise witty wonderful zealous zen";

const SURNAMES: &str = "agnesi allen archimedes babbage banach bardeen bartik bell bhabha bhaskara \
blackwell bohr booth borg bose brahmagupta brattain brown carson cerf chandrasekhar clarke colden \
cori cray curie darwin davinci diffie dijkstra dirac easley edison einstein elion ellis engelbart \
euclid euler faraday fermat fermi feynman franklin gagarin galileo galois gates gauss germain \
goldberg goldstine goodall haibt hamilton hawking heisenberg hellman hertz hodgkin hoover hopper \
hugle hypatia jackson jang jennings jepsen johnson joliot jones kalam kare keller kepler khorana \
kilby kirch knuth kowalevski lalande lamarr lamport leakey leavitt lewin liskov lovelace lumiere \
mahavira mayer mccarthy mcclintock mclean mcnulty meitner mendel mestorf mirzakhani morse murdock \
napier nash neumann newton nightingale nobel noether northcutt noyce panini pare pascal pasteur \
payne perlman pike poincare poitras ptolemy raman ramanujan rhodes ride ritchie roentgen rosalind \
rubin saha sammet shannon shaw shockley shtern sinoussi snyder spence stonebraker swanson \
swartz swirles tesla thompson torvalds turing varahamihira visvesvaraya volhard wescoff wiles \
williams wilson wing wozniak wright yalow yonath";

/// A name that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid container name `{name}`: a name has 1 to {MAX_LENGTH} letters, digits, `_`, `.` and `-`, and begins with a letter or digit"
)]
pub(crate) struct NameError {
    name: String,
}

/// Accepts a name; one leading `/` is taken off, since inspect prints it.
pub(crate) fn parse(text: &str) -> Result<&str, NameError> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let valid = name.len() <= MAX_LENGTH
        && name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid {
        Ok(name)
    } else {
        Err(NameError {
            name: text.chars().take(MAX_LENGTH).collect(),
        })
    }
}

/// Makes up `adjective_surname` from a random number; from the second attempt on a digit
/// is added, so that a crowded host still finds a free one.
pub(crate) fn generate(random: u64, attempt: u32) -> String {
    let adjectives: Vec<&str> = ADJECTIVES.split_whitespace().collect();
    let surnames: Vec<&str> = SURNAMES.split_whitespace().collect();
    let pick = |list: &[&'static str], number: u64| {
        let index = usize::try_from(number % list.len() as u64).unwrap_or(0);
        list.get(index).copied().unwrap_or("linkspan")
    };
    let name = format!(
        "{}_{}",
        pick(&adjectives, random & 0xffff_ffff),
        pick(&surnames, random >> 32)
    );
    if attempt == 0 {
        name
    } else {
        format!("{name}{}", random % 10_u64.pow(attempt.min(9)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows S10 and S11.
    #[test]
    fn names_follow_the_rule() {
        assert_eq!(parse("/web"), Ok("web"));
        for bad in [
            "",
            "/",
            "-a",
            ".a",
            "a b",
            "a/b",
            "ä",
            "a\n",
            &"x".repeat(129),
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn prop_a_generated_name_is_allowed(random: u64, attempt in 0_u32..5) {
            let name = generate(random, attempt);
            prop_assert_eq!(parse(&name), Ok(name.as_str()));
            prop_assert!(name.contains('_'));
        }
    }
}
