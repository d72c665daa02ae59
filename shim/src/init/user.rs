//! Who the process runs as, from the image's own `/etc/passwd` and `/etc/group`.
//!
//! Both files come from a stranger: lines that make no sense are passed over, and no
//! number or name in them reaches further than the ids of this container. Pure.

use std::collections::BTreeSet;

use crate::failure::{Failure, Kind};

/// The ids of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the first one too; sorted.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// One line of `/etc/passwd`.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of `/etc/group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Finds the ids for `USER`, `UID`, `USER:GROUP` or `UID:GID`; empty means root.
pub(crate) fn look_up(
    user: &str,
    additional: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, Failure> {
    let (user, chosen_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| id(user) == Some(entry.uid)));
    let (uid, gid, home) = match (&entry, id(user)) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home),
        (None, Some(uid)) => (uid, 0, ""),
        (None, None) => return Err(unknown("user", user, "/etc/passwd")),
    };
    let gid = chosen_group.map_or(Ok(gid), |name| group_id(name, group))?;
    let mut all = BTreeSet::from([gid]);
    if let (None, Some(entry)) = (chosen_group, &entry) {
        let of_user = groups(group).filter(|group| {
            group
                .members
                .split(',')
                .any(|member| member.trim() == entry.name)
        });
        all.extend(of_user.map(|group| group.gid));
    }
    for name in additional {
        all.insert(group_id(name, group)?);
    }
    let home = if home.starts_with('/') { home } else { "/" };
    Ok(Identity {
        uid,
        gid,
        groups: all.into_iter().collect(),
        home: home.to_owned(),
    })
}

fn group_id(name: &str, file: &str) -> Result<u32, Failure> {
    groups(file)
        .find(|group| group.name == name)
        .map(|group| group.gid)
        .or_else(|| id(name))
        .ok_or_else(|| unknown("group", name, "/etc/group"))
}

fn users(file: &str) -> impl Iterator<Item = User<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        Some(User {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or_default(),
        })
    })
}

fn groups(file: &str) -> impl Iterator<Item = Group<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some(Group {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

/// An id: decimal digits only, and never the number that means "unchanged" to the kernel.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id != u32::MAX)
}

fn unknown(what: &str, name: &str, file: &str) -> Failure {
    let message = format!("{what} \"{name}\" is not in {file} of the image");
    Failure::of(Kind::UnknownUser, "look up user", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# comment
broken
web:x:33:34:Web:/srv/www:/bin/false
1000:x:5:6::/by-name:
bad:x:-1:0::/:
huge:x:4294967295:0::/:
nohome:x:7:7::relative:
";
    const GROUP: &str =
        "root:x:0:\nwww:x:34:\nlog:x:4:root,web\naudio:x:29: web\nempty:x:9:\n:x:1:web\n";

    fn find(user: &str, additional: &[&str]) -> Result<Identity, Failure> {
        let additional: Vec<_> = additional.iter().map(|&name| name.to_owned()).collect();
        look_up(user, &additional, PASSWD, GROUP)
    }

    #[test]
    fn every_form_of_a_user_is_understood() {
        let table = [
            ("", 0, 0, vec![0, 4], "/root"),
            ("root", 0, 0, vec![0, 4], "/root"),
            ("web", 33, 34, vec![4, 29, 34], "/srv/www"),
            ("33", 33, 34, vec![4, 29, 34], "/srv/www"),
            ("web:empty", 33, 9, vec![9], "/srv/www"),
            ("web:77", 33, 77, vec![77], "/srv/www"),
            ("web:", 33, 34, vec![4, 29, 34], "/srv/www"),
            ("555", 555, 0, vec![0], "/"),
            ("555:666", 555, 666, vec![666], "/"),
            ("1000", 5, 6, vec![6], "/by-name"),
            ("nohome", 7, 7, vec![7], "/"),
        ];
        for (user, uid, gid, groups, home) in table {
            let home = home.to_owned();
            assert_eq!(
                find(user, &[]),
                Ok(Identity {
                    uid,
                    gid,
                    groups,
                    home
                }),
                "{user}"
            );
        }
    }

    #[test]
    fn additional_groups_come_on_top() {
        assert_eq!(
            find("web:www", &["audio", "1234"]).unwrap().groups,
            [29, 34, 1234]
        );
    }

    #[test]
    fn names_that_the_image_does_not_have_are_refused() {
        for user in [
            "nosuch",
            "bad",
            "huge",
            "4294967295",
            "-1",
            "web:nosuch",
            "99999999999",
        ] {
            assert_eq!(
                find(user, &[]).unwrap_err().kind,
                Kind::UnknownUser,
                "{user}"
            );
        }
        let error = find("root", &["nosuch"]).unwrap_err();
        assert_eq!(
            error.message,
            "group \"nosuch\" is not in /etc/group of the image"
        );
    }

    proptest! {
        #[test]
        fn prop_no_file_breaks_the_lookup(user in ".{0,20}", passwd in "[a-z0-9:,#\n-]{0,200}", group in "(?s).{0,60}") {
            if let Ok(identity) = look_up(&user, &[], &passwd, &group) {
                prop_assert!(identity.groups.contains(&identity.gid));
                prop_assert!(identity.home.starts_with('/'));
            }
        }

        #[test]
        fn prop_a_written_entry_is_found(name in "[a-z][a-z0-9-]{0,12}", uid in 0..u32::MAX, gid in 0..u32::MAX, junk in "[^\n]{0,40}") {
            let passwd = format!("#{junk}\n{name}:x:{uid}:{gid}::/home/{name}:/bin/sh\n");
            let identity = look_up(&name, &[], &passwd, "").unwrap();
            prop_assert_eq!((identity.uid, identity.gid), (uid, gid));
        }
    }
}
