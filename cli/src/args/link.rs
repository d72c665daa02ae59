//! The text of `--link`.

use anyhow::bail;
use linkspan_proto::runtime_v1::LinkConfig;

/// Reads `NAME[:ALIAS][,env=all|none|PATTERN]`, or `/NAME:/CONSUMER/ALIAS` as inspect prints it.
pub(crate) fn parse(text: &str) -> anyhow::Result<LinkConfig> {
    let mut parts = text.split(',');
    let link = parts.next().unwrap_or_default();
    let mut env = String::new();
    for option in parts {
        match option.split_once('=') {
            Some(("env", value)) if !value.is_empty() => value.clone_into(&mut env),
            _ => bail!(
                "invalid --link `{text}`: `{option}` is not an option; known is env=all, env=none or env=PATTERN"
            ),
        }
    }
    let names: Vec<&str> = link.split(':').collect();
    let (source, alias) = match names.as_slice() {
        [source] => (*source, None),
        [source, alias] => (*source, Some(*alias)),
        _ => bail!("invalid --link `{text}`: expected NAME[:ALIAS]"),
    };
    if source.is_empty() {
        bail!("invalid --link `{text}`: the name of the container is empty");
    }
    let alias = match alias {
        None => String::new(),
        Some("") => bail!(
            "invalid --link `{text}`: the alias is empty; leave the colon away to use the container's name"
        ),
        Some(path) if source.starts_with('/') => {
            path.rsplit('/').next().unwrap_or_default().to_owned()
        }
        Some(alias) => alias.to_owned(),
    };
    let source = source.strip_prefix('/').unwrap_or(source);
    Ok(LinkConfig {
        source: source.to_owned(),
        alias,
        env,
        ..LinkConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String) {
        let link = parse(text).unwrap();
        (link.source, link.alias, link.env)
    }

    /// Rows S22, S23, S24 and S25.
    #[test]
    fn a_link_is_a_name_and_perhaps_an_alias() {
        assert_eq!(
            parts("db:webdb"),
            ("db".into(), "webdb".into(), String::new())
        );
        assert_eq!(parts("db"), ("db".into(), String::new(), String::new()));
        assert_eq!(
            parts("/db:/web/alias"),
            ("db".into(), "alias".into(), String::new())
        );
        assert_eq!(parts("db:db,env=PG*").2, "PG*");
    }

    #[test]
    fn what_is_no_link_is_refused_in_words() {
        for (text, part) in [
            ("", "empty"),
            ("a:b:c", "NAME[:ALIAS]"),
            (":db", "empty"),
            ("db:", "alias"),
            ("db,x=1", "x=1"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
