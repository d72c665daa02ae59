//! The text of `--link` and of `link add`.

use anyhow::{Context, bail};
use linkspan_proto::net_v1::Port;
use linkspan_proto::runtime_v1::{LinkConfig, LinkWait};

use super::port::parse_expose;

/// What a wrong option is told.
const OPTIONS: &str = "known are env=all|none|PATTERN, ports=PORT[+PORT…], wait=started|port|healthy and timeout=DURATION";

/// Reads `NAME[:ALIAS][,OPTION=VALUE…]`, or `/NAME:/CONSUMER/ALIAS` as inspect prints it.
pub(crate) fn parse(text: &str) -> anyhow::Result<LinkConfig> {
    let mut parts = text.split(',');
    let (source, alias) = names(parts.next().unwrap_or_default(), text)?;
    let mut link = LinkConfig {
        source,
        alias,
        ..LinkConfig::default()
    };
    for option in parts {
        match option.split_once('=') {
            Some((key, value)) if !value.is_empty() => {
                apply(&mut link, key, value).with_context(|| format!("invalid --link `{text}`"))?;
            }
            _ => bail!("invalid --link `{text}`: `{option}` is not an option; {OPTIONS}"),
        }
    }
    if link.timeout.is_some() && link.wait() == LinkWait::Unspecified {
        bail!("invalid --link `{text}`: a timeout needs wait=started, wait=port or wait=healthy");
    }
    Ok(link)
}

/// The source, and the alias if there is one.
fn names(link: &str, text: &str) -> anyhow::Result<(String, String)> {
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
    Ok((source.to_owned(), alias))
}

fn apply(link: &mut LinkConfig, key: &str, value: &str) -> anyhow::Result<()> {
    match (key, value) {
        ("env", _) => value.clone_into(&mut link.env),
        ("ports" | "port", _) => link.ports.extend(ports(value)?),
        ("wait", "started") => link.set_wait(LinkWait::Started),
        ("wait", "port") => link.set_wait(LinkWait::Port),
        ("wait", "healthy") => link.set_wait(LinkWait::Healthy),
        ("wait", _) => {
            bail!("`{value}` is nothing to wait for; known are started, port and healthy")
        }
        ("timeout", _) => link.timeout = Some(duration(value)?),
        _ => bail!("`{key}={value}` is not an option; {OPTIONS}"),
    }
    Ok(())
}

/// Reads ports that are joined by `+`, since the comma parts options.
fn ports(text: &str) -> anyhow::Result<Vec<Port>> {
    let mut ports = Vec::new();
    for part in text.split('+') {
        ports.extend(parse_expose(part)?);
    }
    Ok(ports)
}

/// Reads `500ms`, `60s`, `2m`, `1h`, or seconds.
pub(super) fn duration(text: &str) -> anyhow::Result<prost_types::Duration> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let unit = units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        Some((number, *factor))
    });
    let (number, factor) = unit.unwrap_or((text, 1000));
    let millis = number
        .parse::<u32>()
        .ok()
        .map(|number| i64::from(number) * factor);
    match millis {
        Some(millis) if millis > 0 => Ok(prost_types::Duration {
            seconds: millis / 1000,
            nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
        }),
        _ => bail!("`{text}` is no duration; write one such as 60s, 500ms or 2m"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_link_may_narrow_its_ports_and_wait() {
        let link = parse("db:db,ports=5432+53/udp,ports=80-81,wait=port,timeout=1500ms").unwrap();
        let ports: Vec<String> = link.ports.iter().map(Port::to_string).collect();
        assert_eq!(ports, ["5432/tcp", "53/udp", "80/tcp", "81/tcp"]);
        assert_eq!(link.wait(), LinkWait::Port);
        let timeout = link.timeout.unwrap();
        assert_eq!((timeout.seconds, timeout.nanos), (1, 500_000_000));
        assert_eq!(
            parse("db,wait=started,timeout=2m")
                .unwrap()
                .timeout
                .unwrap()
                .seconds,
            120
        );
    }

    #[test]
    fn what_is_no_link_is_refused_in_words() {
        for (text, part) in [
            ("", "empty"),
            ("a:b:c", "NAME[:ALIAS]"),
            (":db", "empty"),
            ("db:", "alias"),
            ("db,x=1", "x=1"),
            ("db,wait=soon", "soon"),
            ("db,wait=port,timeout=0", "duration"),
            ("db,wait=port,timeout=x", "duration"),
            ("db,timeout=1s", "needs wait"),
            ("db,ports=0", "port `0`"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn prop_no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            parse(&text).ok();
            parse(&format!("db,timeout={text}")).ok();
        }
    }
}
