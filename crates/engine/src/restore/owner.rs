//! Whom restored files belong to.

use nix::unistd::{Gid, Group, Uid, User, geteuid};
use walden_core::ManifestHeader;

use super::destination::Place;
use super::report::RestoredOwner;

/// The user and the group that every restored file is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
}

/// Decides who owns what root restores; `None` for any other user, whose files are its own.
///
/// An empty directory that somebody prepared says it best; then the names that the backup knows, if this host knows
/// them too; then the owner of the directory above.
pub(super) fn decide(place: &Place, header: Option<&ManifestHeader>) -> Option<(Owner, RestoredOwner)> {
    if !geteuid().is_root() {
        return None;
    }
    let prepared = place.existing.filter(|(uid, _)| *uid != 0);
    let (owner, reason) = match (prepared, header.and_then(by_name), by_parent(place)) {
        (Some((uid, gid)), _, _) => {
            let owner = Owner { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) };
            (owner, "the empty target directory belongs to it".to_owned())
        }
        (None, Some(owner), _) => {
            (owner, "the source's data directory belonged to a user of this name".to_owned())
        }
        (None, None, Some(owner)) => {
            let unknown = header.and_then(|header| header.user.as_deref());
            let why = unknown.map_or_else(
                || "the backup does not say whose the source was".to_owned(),
                |user| format!("this host has no user {user:?}"),
            );
            (owner, format!("the directory above belongs to it, and {why}"))
        }
        (None, None, None) => {
            (Owner { uid: geteuid(), gid: nix::unistd::getegid() }, "nothing else is known".to_owned())
        }
    };
    let user = User::from_uid(owner.uid).ok().flatten().map(|user| user.name);
    let report = RestoredOwner { uid: owner.uid.as_raw(), gid: owner.gid.as_raw(), user, reason };
    Some((owner, report))
}

fn by_name(header: &ManifestHeader) -> Option<Owner> {
    let user = User::from_name(header.user.as_deref()?).ok().flatten()?;
    let group = header.group.as_deref().and_then(|name| Group::from_name(name).ok().flatten());
    Some(Owner { uid: user.uid, gid: group.map_or(user.gid, |group| group.gid) })
        .filter(|owner| !owner.uid.is_root())
}

fn by_parent(place: &Place) -> Option<Owner> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(place.path.parent()?).ok()?;
    Some(Owner { uid: Uid::from_raw(metadata.uid()), gid: Gid::from_raw(metadata.gid()) })
}

/// The name that a process of this owner would have, for `sudo -u` and for the role to ask as.
pub(crate) fn user_name(owner: Option<Owner>) -> Option<String> {
    let uid = owner.map_or_else(geteuid, |owner| owner.uid);
    User::from_uid(uid).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_directory_says_whose_it_is() {
        let top = tempfile::tempdir().unwrap();
        let place = |existing| Place { path: top.path().join("data"), existing };
        let decided = decide(&place(Some((12345, 23456))), None);
        if geteuid().is_root() {
            let (owner, report) = decided.unwrap();
            assert_eq!((owner.uid.as_raw(), owner.gid.as_raw()), (12345, 23456));
            assert!(report.reason.contains("empty target directory"), "{}", report.reason);
            let (owner, report) = decide(&place(None), None).unwrap();
            assert!(owner.uid.is_root() && report.reason.contains("directory above"), "{}", report.reason);
        } else {
            assert_eq!(decided, None);
        }
    }
}
