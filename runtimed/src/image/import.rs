//! Makes an image configuration for the archive of a root filesystem, from the
//! instructions of `--change`, which are those of a Dockerfile.

use oci_spec::image::{
    Arch, Config, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder, Os, RootFsBuilder,
};

use crate::port::parse_exposed;

/// An instruction that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid change `{text}`: {rule}")]
pub(crate) struct ChangeError {
    text: String,
    rule: String,
}

/// Reads the instructions into a configuration.
pub(crate) fn parse_changes(changes: &[String]) -> Result<Config, ChangeError> {
    let mut config = Config::default();
    for change in changes {
        apply(&mut config, change).map_err(|rule| ChangeError {
            text: change.clone(),
            rule,
        })?;
    }
    Ok(config)
}

/// The configuration of an image of one layer.
pub(crate) fn image_configuration(
    config: Config,
    diff_id: &str,
    created: &str,
    comment: &str,
) -> Result<ImageConfiguration, oci_spec::OciSpecError> {
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![diff_id.to_owned()])
        .build()?;
    let history = HistoryBuilder::default()
        .created(created)
        .comment(comment)
        .build()?;
    ImageConfigurationBuilder::default()
        .created(created)
        .architecture(Arch::from(super::goarch()))
        .os(Os::Linux)
        .config(config)
        .rootfs(rootfs)
        .history(vec![history])
        .build()
}

fn apply(config: &mut Config, change: &str) -> Result<(), String> {
    let (instruction, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .ok_or("expected INSTRUCTION VALUE")?;
    let rest = rest.trim();
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.set_cmd(Some(command(rest)?)).unit(),
        "ENTRYPOINT" => config.set_entrypoint(Some(command(rest)?)).unit(),
        "USER" => config.set_user(Some(rest.to_owned())).unit(),
        "WORKDIR" => config.set_working_dir(Some(rest.to_owned())).unit(),
        "STOPSIGNAL" => config.set_stop_signal(Some(rest.to_owned())).unit(),
        "ENV" => {
            let mut env = config.env().clone().unwrap_or_default();
            for (name, value) in pairs(rest)? {
                env.retain(|entry| !entry.starts_with(&format!("{name}=")));
                env.push(format!("{name}={value}"));
            }
            config.set_env(Some(env)).unit();
        }
        "LABEL" => {
            let mut labels = config.labels().clone().unwrap_or_default();
            labels.extend(pairs(rest)?);
            config.set_labels(Some(labels)).unit();
        }
        "EXPOSE" => {
            let mut exposed = config.exposed_ports().clone().unwrap_or_default();
            for word in rest.split_whitespace() {
                let ports = parse_exposed(word).map_err(|e| e.to_string())?;
                exposed.extend(ports.iter().map(ToString::to_string));
            }
            exposed.sort();
            exposed.dedup();
            config.set_exposed_ports(Some(exposed)).unit();
        }
        other => {
            return Err(format!(
                "`{other}` is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, WORKDIR"
            ));
        }
    }
    Ok(())
}

/// The setters of oci-spec return the object; here it is not needed.
trait Unit {
    fn unit(&self) {}
}
impl<T> Unit for T {}

/// `["a", "b"]` is a command; anything else is for a shell.
fn command(text: &str) -> Result<Vec<String>, String> {
    if text.starts_with('[') {
        return serde_json::from_str(text)
            .map_err(|e| format!("no valid JSON list of strings ({e})"));
    }
    Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// `A=1 B="two words"`, or `A the rest`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    let Some(first) = words.first() else {
        return Err("expected NAME=VALUE".to_owned());
    };
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or("expected NAME=VALUE")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("`{word}` is not NAME=VALUE")),
        })
        .collect()
}

/// Splits at white space outside of quotes; a backslash keeps the next character.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', Some('"') | None) => word.extend(characters.next()),
            (c, Some(open)) if c == open => quote = None,
            (c @ ('"' | '\''), None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(list: &[&str]) -> Result<Config, ChangeError> {
        parse_changes(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_instruction_has_its_effect() {
        let config = changes(&[
            "CMD [\"python\", \"app.py\"]",
            "ENTRYPOINT exec it",
            "ENV A=1 B=\"two words\"",
            "ENV A 3",
            "EXPOSE 5000 53/udp",
            "WORKDIR /opt/webapp",
            "user nobody",
            "LABEL x=y",
        ])
        .unwrap();
        assert_eq!(config.cmd().clone().unwrap(), ["python", "app.py"]);
        assert_eq!(
            config.entrypoint().clone().unwrap(),
            ["/bin/sh", "-c", "exec it"]
        );
        assert_eq!(config.env().clone().unwrap(), ["B=two words", "A=3"]);
        assert_eq!(
            config.exposed_ports().clone().unwrap(),
            ["5000/tcp", "53/udp"]
        );
        assert_eq!(config.user().clone().unwrap(), "nobody");
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (change, part) in [
            ("RUN ls", "`RUN`"),
            ("CMD [oops", "JSON"),
            ("ENV", "expected"),
            ("EXPOSE 99999", "99999"),
            ("ENV A=\"open", "quote"),
        ] {
            let error = changes(&[change]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
