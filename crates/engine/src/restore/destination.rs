//! Looking at the places that a restore will write to, before it writes.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use walden_core::{BackupId, ErrorKind, Tablespace, postgres_time};

use super::inventory::Inventory;
use super::request::TablespaceMapping;
use super::{IN_PROGRESS_MARKER, MAPPING_OPTION};
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// What [`IN_PROGRESS_MARKER`] holds: enough to tell a person what to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InProgress {
    /// Schema of the file: 1.
    pub(super) schema: u32,
    /// The backup that was being restored.
    pub(super) backup: BackupId,
    /// When that began.
    pub(super) started_at: jiff::Timestamp,
    /// All directories that were being filled, the data directory first.
    pub(super) directories: Vec<PathBuf>,
}

/// One directory to be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Absolute; links above it are resolved.
    pub(super) path: PathBuf,
    /// Who owns it, when it is there already (and empty).
    pub(super) existing: Option<(u32, u32)>,
}

/// Where one tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TablespacePlace {
    pub(super) oid: u32,
    pub(super) original: PathBuf,
    /// It goes elsewhere than it was.
    pub(super) mapped: bool,
    pub(super) place: Place,
}

/// Looks at the target directory: absent, or empty and ours.
///
/// # Errors
/// Of kind `config` when anything is in it, with what it is; `local_io` when it can't be looked at.
pub(super) fn look_at_data_directory(path: &Path) -> Result<Place> {
    let place = look_at(path, "the target directory")?;
    match place.path.ancestors().skip(1).find(|above| above.join("PG_VERSION").is_file()) {
        None => Ok(place),
        Some(above) => Err(config(
            format!(
                "the target directory lies inside another data directory path={} inside={}",
                place.path.display(),
                above.display()
            ),
            "name a directory outside of it: that server may be running",
        )),
    }
}

fn look_at(path: &Path, what: &str) -> Result<Place> {
    let absolute = std::path::absolute(path).map_err(|source| EngineError::local("resolve", path, source))?;
    if absolute.components().any(|part| part == Component::ParentDir) {
        return Err(config(
            format!("{what} must be named without .. path={}", path.display()),
            "name it directly",
        ));
    }
    match std::fs::metadata(&absolute) {
        Ok(metadata) => {
            let path = resolve(&absolute)?;
            look_at_existing(&path, what, &metadata)?;
            Ok(Place { path, existing: Some((metadata.uid(), metadata.gid())) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => look_at_parent(&absolute, what),
        Err(source) => Err(EngineError::local("look at", &absolute, source)),
    }
}

fn look_at_parent(path: &Path, what: &str) -> Result<Place> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(config(
            format!("{what} can't be / path={}", path.display()),
            "name a directory of its own",
        ));
    };
    if path.symlink_metadata().is_ok() {
        let message = format!("{what} is a link that leads nowhere path={}", path.display());
        return Err(config(message, "remove the link, or make the directory that it names"));
    }
    match std::fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => Ok(Place { path: resolve(parent)?.join(name), existing: None }),
        Ok(_) => {
            Err(config(format!("{what} lies below a file path={}", path.display()), "choose another place"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(config(
            format!("the directory above {what} does not exist path={}", parent.display()),
            "make it first: walden makes only the last directory of a path",
        )),
        Err(source) => Err(EngineError::local("look at", parent, source)),
    }
}

fn look_at_existing(path: &Path, what: &str, metadata: &Metadata) -> Result<()> {
    if !metadata.is_dir() {
        return Err(config(format!("{what} is a file path={}", path.display()), "name a directory"));
    }
    if !geteuid().is_root() && geteuid().as_raw() != metadata.uid() {
        let uid = metadata.uid();
        let message = format!("{what} belongs to another user uid={uid} path={}", path.display());
        return Err(config(message, "run walden as that user, or as root"));
    }
    let failed = |source| EngineError::local("list", path, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort_unstable();
    let has = |name: &str| names.iter().any(|found| found == name);
    if names.is_empty() {
        return Ok(());
    }
    if has(IN_PROGRESS_MARKER) {
        return Err(interrupted(path));
    }
    let at = path.display();
    if has("postmaster.pid") {
        let hint = "restore into an empty directory; nothing here was touched";
        return Err(config(
            format!("a server runs, or ran, in {what}: it has a postmaster.pid path={at}"),
            hint,
        ));
    }
    if has("PG_VERSION") || has("global") {
        let hint = "restore into an empty directory, or move this one away; nothing here was touched";
        return Err(config(format!("{what} holds a PostgreSQL data directory already path={at}"), hint));
    }
    if has("lost+found") {
        let hint = "it is the top of a file system: make a directory below it and restore there";
        return Err(config(format!("{what} is not empty: it has a lost+found path={at}"), hint));
    }
    let shown: Vec<String> = names.iter().take(3).map(|name| name.to_string_lossy().into_owned()).collect();
    let message =
        format!("{what} is not empty: it has {} ({} in all) path={at}", shown.join(", "), names.len());
    Err(config(message, "restore into an empty directory; nothing here was touched"))
}

fn interrupted(path: &Path) -> EngineError {
    let marker = path.join(IN_PROGRESS_MARKER);
    let marker = read_if_present(&marker, 1 << 20).ok().flatten();
    let marker: Option<InProgress> = marker.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let (what, directories) = match marker {
        Some(marker) => (
            format!("of backup {} begun at {}", marker.backup, postgres_time(marker.started_at)),
            marker.directories,
        ),
        None => ("whose marker can't be read".to_owned(), Vec::new()),
    };
    let listed: Vec<String> = if directories.is_empty() {
        vec![path.display().to_string()]
    } else {
        directories.iter().map(|directory| directory.display().to_string()).collect()
    };
    let message = format!(
        "the target directory holds an unfinished restore {what}: it can't be started path={}",
        path.display()
    );
    config(
        message,
        format!("if no restore is running there, remove {} and restore again", listed.join(" and ")),
    )
}

fn resolve(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|source| EngineError::local("resolve", path, source))
}

fn config(message: impl Into<String>, hint: impl Into<String>) -> EngineError {
    EngineError::failed(ErrorKind::Config, message).with_hint(hint)
}

/// Finds a place for every tablespace and looks at all of them.
///
/// # Errors
/// Of kind `config` when a mapping names no tablespace, and when a place is taken, relative, or lies inside of
/// another one.
pub(super) fn look_at_tablespaces(
    tablespaces: &[Tablespace],
    mapping: &[TablespaceMapping],
    data_directory: &Place,
) -> Result<Vec<TablespacePlace>> {
    for one in mapping {
        let matches = tablespaces.iter().filter(|space| maps(one, space)).count();
        if matches != 1 {
            let known: Vec<String> =
                tablespaces.iter().map(|space| format!("{}={}", space.oid, space.path)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message =
                format!("no tablespace of the backup is named by {MAPPING_OPTION} from={:?}", one.from);
            return Err(config(message, format!("the backup has these tablespaces: {known}")));
        }
    }
    let mut places: Vec<TablespacePlace> = Vec::with_capacity(tablespaces.len());
    for space in tablespaces {
        let mapped = mapping.iter().find(|one| maps(one, space));
        let path = mapped.map_or_else(|| PathBuf::from(&space.path), |one| one.to.clone());
        if !path.is_absolute() {
            let message =
                format!("a tablespace needs an absolute path oid={} path={}", space.oid, path.display());
            return Err(config(
                message,
                format!("give it one with {MAPPING_OPTION} {}=/new/path", space.oid),
            ));
        }
        let what = format!("the place of tablespace {}", space.oid);
        let place =
            look_at(&path, &what).map_err(|error| with_mapping_hint(error, space, mapped.is_some()))?;
        let others = places.iter().map(|other| &other.place.path).chain([&data_directory.path]);
        for other in others {
            if place.path.starts_with(other) || other.starts_with(&place.path) {
                let message = format!(
                    "{what} overlaps another directory path={} other={}",
                    place.path.display(),
                    other.display()
                );
                return Err(config(
                    message,
                    format!("give it its own place with {MAPPING_OPTION} {}=/new/path", space.oid),
                ));
            }
        }
        places.push(TablespacePlace {
            oid: space.oid,
            original: PathBuf::from(&space.path),
            mapped: mapped.is_some(),
            place,
        });
    }
    Ok(places)
}

fn maps(mapping: &TablespaceMapping, space: &Tablespace) -> bool {
    mapping.from == space.path || mapping.from == space.oid.to_string()
}

/// The old place of a tablespace may belong to the server that runs beside us: say how to choose another.
fn with_mapping_hint(error: EngineError, space: &Tablespace, mapped: bool) -> EngineError {
    if mapped {
        return error;
    }
    let hint = format!(
        "this is where the source had it, and it may still be in use there: choose another place with \
         {MAPPING_OPTION} {}=/new/path",
        space.oid
    );
    match error {
        EngineError::Failed { kind, message, .. } => EngineError::Failed { kind, message, hint: Some(hint) },
        error => EngineError::failed(error.kind(), error.to_string()).with_hint(hint),
    }
}

/// Room that recovery itself needs for the WAL that it fetches, in segments.
const SPARE_SEGMENTS: u64 = 4;

/// Checks that everything fits on the file systems it goes to.
///
/// # Errors
/// Of kind `local_io` when it does not; a file system that can't be asked is not held against the restore.
pub(super) fn check_space(
    data_directory: &Place,
    tablespaces: &[TablespacePlace],
    inventory: &Inventory,
    segment_bytes: u64,
) -> Result<()> {
    let mut needs: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    let spaces = tablespaces.iter().map(|space| (Some(space.oid), &space.place));
    for (oid, place) in std::iter::once((None, data_directory)).chain(spaces) {
        let there = if place.existing.is_some() { Some(place.path.as_path()) } else { place.path.parent() };
        let Some(there) = there else { continue };
        let device =
            std::fs::metadata(there).map_err(|source| EngineError::local("look at", there, source))?.dev();
        let mut bytes = inventory.bytes.get(&oid).copied().unwrap_or_default();
        if oid.is_none() {
            bytes = bytes.saturating_add(segment_bytes.saturating_mul(SPARE_SEGMENTS));
        }
        let need = needs.entry(device).or_insert_with(|| (there.to_owned(), 0));
        need.1 = need.1.saturating_add(bytes);
    }
    for (there, need) in needs.into_values() {
        let Ok(found) = statvfs(&there) else { continue };
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        if free < need {
            let message = format!(
                "not enough room: {} needed, {} free; need={need} free={free} path={}",
                human_bytes(need),
                human_bytes(free),
                there.display()
            );
            let hint = format!(
                "make room, or choose another file system (--pgdata, {MAPPING_OPTION}); nothing was written"
            );
            return Err(EngineError::failed(ErrorKind::LocalIo, message).with_hint(hint));
        }
    }
    Ok(())
}

/// A size as a person reads it.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    for unit in UNITS {
        if tenths < 10_240 || unit == "PiB" {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        tenths /= 1024;
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<Place>) -> (ErrorKind, String, String) {
        let error = result.unwrap_err();
        (error.kind(), error.to_string(), error.hint().unwrap_or_default())
    }

    #[test]
    fn only_an_absent_or_empty_directory_is_taken() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("data");
        assert_eq!(look_at_data_directory(&path).unwrap().existing, None);
        std::fs::create_dir(&path).unwrap();
        assert!(look_at_data_directory(&path).unwrap().existing.is_some());
        for (file, says) in [
            ("a", "is not empty: it has a (1 in all)"),
            ("lost+found", "lost+found"),
            ("PG_VERSION", "holds a PostgreSQL data directory"),
            ("postmaster.pid", "a server runs, or ran"),
            (IN_PROGRESS_MARKER, "an unfinished restore"),
        ] {
            std::fs::write(path.join(file), "x").unwrap();
            let (kind, text, hint) = message(look_at_data_directory(&path));
            assert_eq!(kind, ErrorKind::Config);
            assert!(text.contains(says) && !hint.is_empty(), "{text}");
        }
        let (_, text, _) = message(look_at_data_directory(&path.join("a")));
        assert!(text.contains("is a file"), "{text}");
        let (_, text, hint) = message(look_at_data_directory(&path.join("x/y")));
        assert!(text.contains("does not exist") && hint.contains("make it first"), "{text}");
        std::os::unix::fs::symlink("nowhere", top.path().join("link")).unwrap();
        let (_, text, _) = message(look_at_data_directory(&top.path().join("link")));
        assert!(text.contains("leads nowhere"), "{text}");
    }

    #[test]
    fn a_place_inside_another_data_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("PG_VERSION"), "17\n").unwrap();
        let (kind, said, _) = message(look_at_data_directory(&directory.path().join("copy")));
        assert_eq!(kind, ErrorKind::Config);
        assert!(said.contains("inside another data directory"), "{said}");
    }

    #[test]
    fn an_unfinished_restore_names_all_that_must_go() {
        let top = tempfile::tempdir().unwrap();
        let marker = InProgress {
            schema: 1,
            backup: "20261120T103905Z-7f3a".parse().unwrap(),
            started_at: "2026-11-20T12:00:00Z".parse().unwrap(),
            directories: vec!["/restore/main".into(), "/restore/space".into()],
        };
        std::fs::write(top.path().join(IN_PROGRESS_MARKER), serde_json::to_vec(&marker).unwrap()).unwrap();
        let (_, text, hint) = message(look_at_data_directory(top.path()));
        assert!(
            text.contains("of backup 20261120T103905Z-7f3a begun at 2026-11-20 12:00:00.000000+00"),
            "{text}"
        );
        assert!(hint.contains("remove /restore/main and /restore/space and restore again"), "{hint}");
    }

    fn space(oid: u32, path: &Path) -> Tablespace {
        Tablespace { oid, path: path.display().to_string() }
    }

    fn map(from: &str, to: &Path) -> TablespaceMapping {
        TablespaceMapping { from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn tablespaces_are_mapped_by_path_or_oid() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().canonicalize().unwrap().join(name);
        let data = look_at_data_directory(&at("data")).unwrap();
        let spaces = [space(16385, &at("one")), space(16386, &at("two")), space(16387, &at("three"))];
        let mapping = [map("16385", &at("new-one")), map(&at("two").display().to_string(), &at("new-two"))];
        let found = look_at_tablespaces(&spaces, &mapping, &data).unwrap();
        let paths: Vec<&Path> = found.iter().map(|space| space.place.path.as_path()).collect();
        assert_eq!(paths, [at("new-one"), at("new-two"), at("three")]);

        let error = look_at_tablespaces(&spaces, &[map("16399", &at("x"))], &data).unwrap_err();
        assert!(error.hint().unwrap().contains("16385="), "{error}");
    }

    #[test]
    fn taken_and_overlapping_places_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().canonicalize().unwrap().join(name);
        let data = look_at_data_directory(&at("data")).unwrap();
        std::fs::create_dir_all(at("live/PG_17_202406281")).unwrap();
        let error = look_at_tablespaces(&[space(16385, &at("live"))], &[], &data).unwrap_err();
        assert!(error.hint().unwrap().contains("--tablespace-mapping 16385=/new/path"), "{error}");

        std::fs::create_dir(at("data")).unwrap();
        let data = look_at_data_directory(&at("data")).unwrap();
        let refused =
            |spaces: &[Tablespace]| look_at_tablespaces(spaces, &[], &data).unwrap_err().to_string();
        assert!(refused(&[space(1, &at("data"))]).contains("overlaps"));
        assert!(refused(&[space(1, &at("data/inside"))]).contains("overlaps"));
        assert!(refused(&[space(1, &at("s")), space(2, &at("s"))]).contains("overlaps"));
        assert!(refused(&[space(1, Path::new("relative"))]).contains("absolute"));
    }

    #[test]
    fn sizes_read_well() {
        let all: Vec<String> =
            [0, 1023, 1024, 1536, 1 << 20, (5 << 30) + (1 << 29), u64::MAX].map(human_bytes).into();
        assert_eq!(all, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.5 GiB", "16383.9 PiB"]);
    }

    #[test]
    fn what_can_not_fit_is_refused_before_anything_is_written() {
        let top = tempfile::tempdir().unwrap();
        let data = look_at_data_directory(&top.path().join("data")).unwrap();
        let mut inventory = Inventory::default();
        check_space(&data, &[], &inventory, 1 << 20).unwrap();
        inventory.bytes.insert(None, 1 << 60);
        let error = check_space(&data, &[], &inventory, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LocalIo);
        assert!(error.to_string().starts_with("not enough room: 1024.0 PiB needed"), "{error}");
    }
}
