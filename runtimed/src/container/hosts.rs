//! The hosts file of a container.
//!
//! Renders the file at a start, and later rewrites only the lines of links. The engine
//! knows its lines by what it wrote, never by looking for names in the text, so a user's
//! own lines and other aliases are never touched. Everything but [`rewrite`] is pure.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::record::{Addresses, HostsLine, NetworkSettings, Record};

/// What every file has below the container's own lines; hosts(5).
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The largest file that is read back.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Renders the whole file.
pub(crate) fn render(own: &[HostsLine], extra: &[(String, IpAddr)], links: &[HostsLine]) -> String {
    let mut text = String::new();
    for line in own {
        text.push_str(&line.text);
        text.push('\n');
    }
    text.push_str(LOOPBACK);
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for line in links {
        text.push_str(&line.text);
        text.push('\n');
    }
    text
}

/// The lines of the container itself: one for each address on each of its networks.
pub(crate) fn own_lines(record: &Record, networks: &[NetworkSettings]) -> Vec<HostsLine> {
    let names = own_names(record.hostname(), &record.config.domainname);
    networks
        .iter()
        .flat_map(|network| {
            lines(
                &format!("@{}", network.network),
                &names,
                network.addresses(),
            )
        })
        .collect()
}

/// The lines of one link: address, alias, the source's host name, and its name if it is
/// not the alias.
pub(crate) fn link_lines(
    alias: &str,
    source_hostname: &str,
    source_name: &str,
    addresses: Addresses,
) -> Vec<HostsLine> {
    let mut names = format!("{alias} {source_hostname}");
    if source_name != alias {
        names.push(' ');
        names.push_str(source_name);
    }
    lines(alias, &names, addresses)
}

/// A line for each address.
fn lines(alias: &str, names: &str, Addresses { ipv4, ipv6 }: Addresses) -> Vec<HostsLine> {
    [Some(IpAddr::V4(ipv4)), ipv6.map(IpAddr::V6)]
        .into_iter()
        .flatten()
        .map(|address| HostsLine {
            alias: alias.to_owned(),
            text: format!("{address}\t{names}"),
        })
        .collect()
}

/// The text with the lines `old` replaced by the lines `new`. A line of an alias that was
/// there stays where it was; others are added at the end. Lines that are not the engine's
/// are kept as they are.
pub(crate) fn replace_links(text: &str, old: &[HostsLine], new: &[HostsLine]) -> String {
    let mut owned: Vec<&HostsLine> = old.iter().collect();
    let mut waiting: Vec<&HostsLine> = new.iter().collect();
    let mut result = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        let Some(position) = owned.iter().position(|known| known.text == bare) else {
            result.push_str(line);
            continue;
        };
        let known = owned.remove(position);
        if let Some(next) = waiting.iter().position(|line| line.alias == known.alias) {
            result.push_str(&waiting.remove(next).text);
            result.push('\n');
        }
    }
    if !waiting.is_empty() && !result.is_empty() && !result.ends_with('\n') {
        result.push('\n');
    }
    for line in waiting {
        result.push_str(&line.text);
        result.push('\n');
    }
    result
}

/// Applies [`replace_links`] to a file, in place: the container has this inode mounted.
pub(crate) fn rewrite(path: &Path, old: &[HostsLine], new: &[HostsLine]) -> io::Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the hosts file was made larger than 1 MiB",
        ));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes);
    let changed = replace_links(&text, old, new);
    if changed == text {
        return Ok(());
    }
    // Written first and cut last: a reader in between sees no empty file.
    file.write_all_at(changed.as_bytes(), 0)?;
    file.set_len(changed.len() as u64)
}

/// `FQDN SHORT` when the name has a domain, else the name.
fn own_names(hostname: &str, domainname: &str) -> String {
    match (hostname.split_once('.'), domainname) {
        (Some((short, _)), "") => format!("{hostname} {short}"),
        (_, "") => hostname.to_owned(),
        (_, domain) => format!("{hostname}.{domain} {hostname}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn at(last: u8) -> Addresses {
        Addresses {
            ipv4: Ipv4Addr::new(172, 17, 0, last),
            ipv6: None,
        }
    }

    fn own(hostname: &str, addresses: Addresses) -> Vec<HostsLine> {
        lines("@bridge", hostname, addresses)
    }

    /// Rows S51, S52 and S53.
    #[test]
    fn the_file_begins_with_the_own_line_and_ends_with_the_links() {
        let links = link_lines("webdb", "6e5cdeb2d300", "db", at(5));
        let text = render(
            &own("aed84ee21bde", at(7)),
            &[("x".into(), "10.9.8.7".parse().unwrap())],
            &links,
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "172.17.0.7\taed84ee21bde");
        assert_eq!(lines[1], "127.0.0.1\tlocalhost");
        assert_eq!(lines[lines.len() - 2], "10.9.8.7\tx");
        assert_eq!(lines[lines.len() - 1], "172.17.0.5\twebdb 6e5cdeb2d300 db");
    }

    #[test]
    fn a_name_that_is_the_alias_stands_once() {
        assert_eq!(
            link_lines("db", "c3ff0eb1de15", "db", at(2))[0].text,
            "172.17.0.2\tdb c3ff0eb1de15"
        );
    }

    #[test]
    fn a_host_name_with_a_domain_has_both_forms() {
        assert_eq!(own_names("foo.example.com", ""), "foo.example.com foo");
        assert_eq!(own_names("foo", "example.com"), "foo.example.com foo");
    }

    #[test]
    fn an_alias_never_touches_what_only_looks_like_it() {
        let old = link_lines("db", "aaa", "db", at(2));
        let text = "172.17.0.2\tdb aaa\n172.17.0.9\tdb.slave bbb\n10.0.0.1 db # mine\n";
        let text = replace_links(text, &old, &link_lines("db", "aaa", "db", at(3)));
        assert_eq!(
            text,
            "172.17.0.3\tdb aaa\n172.17.0.9\tdb.slave bbb\n10.0.0.1 db # mine\n"
        );
    }

    /// Rows S56, S57 and S58: the line follows in place, on the same inode.
    #[test]
    fn a_rewrite_keeps_the_inode_and_the_lines_of_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let old = link_lines("db", "aaaaaaaaaaaa", "database-with-a-long-name", at(2));
        std::fs::write(
            file.path(),
            render(&own("me", at(7)), &[], &old) + "1.2.3.4\tuser",
        )
        .unwrap();
        let inode = file.path().metadata().unwrap().ino();
        rewrite(file.path(), &old, &[]).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains("aaaaaaaaaaaa") && text.ends_with("1.2.3.4\tuser"));
        let new = link_lines("db", "b", "n", at(3));
        rewrite(file.path(), &[], &new).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(
            text.ends_with("1.2.3.4\tuser\n172.17.0.3\tdb b n\n"),
            "{text}"
        );
        assert_eq!(file.path().metadata().unwrap().ino(), inode);
    }

    proptest! {
        #[test]
        fn prop_foreign_lines_survive_every_change(
            foreign in proptest::collection::vec("[ -~]{0,20}", 0..6), from in 0_u8..9, to in 0_u8..9,
        ) {
            let old = link_lines("db", "h", "db", at(from));
            let new = link_lines("db", "h", "db", at(to));
            let mut text = render(&own("me", at(99)), &[], &old);
            for line in &foreign {
                text.push_str(line);
                text.push('\n');
            }
            let changed = replace_links(&text, &old, &new);
            prop_assert_eq!(replace_links(&changed, &new, &old), text.clone());
            for line in &foreign {
                prop_assert!(changed.lines().any(|l| l == line));
            }
        }
    }
}
