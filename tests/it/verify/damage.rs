//! Every kind of damage, one at a time, on copies of one archive.

use std::fs;
use std::path::{Path, PathBuf};

use walden_core::{BackupRecord, RecordKind, decode_envelope, decode_header_frame};
use walden_pg::PgMajor;

use super::archive::{Archive, Copy};
use super::forge;

const DAMAGE_FOUND: i32 = 27;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path, to: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..to]).unwrap();
}

/// What must be told: verdict and kind; of the object unless another key is said.
struct Expected<'a> {
    level: &'a str,
    verdict: &'a str,
    kind: &'a str,
    key: &'a Path,
}

impl Copy {
    /// That levels below say nothing, and that this level and those above tell what is wrong.
    fn assert_found(&self, what: &str, expected: &Expected<'_>) {
        let levels = ["presence", "hash", "deep"];
        let first = levels.iter().position(|level| *level == expected.level).unwrap();
        for (at, level) in levels.into_iter().enumerate() {
            if at < first {
                self.verify(&["--level", level]).assert_good(&format!("{what} at {level}"));
            } else {
                self.assert_told(what, level, expected);
            }
        }
    }

    /// That a level tells what is wrong.
    fn assert_told(&self, what: &str, level: &str, expected: &Expected<'_>) {
        let verified = self.verify(&["--level", level]);
        assert_eq!(verified.code, DAMAGE_FOUND, "{what} at {level}: {:#}", verified.report);
        let (told, key) = (verified.told(), self.key(expected.key));
        let is_told = told.iter().any(|(verdict, kind, of)| {
            verdict == expected.verdict && kind == expected.kind && of.starts_with(&key)
        });
        assert!(
            is_told,
            "{what} at {level}: expected {} {} {key}: {told:#?}",
            expected.verdict, expected.kind
        );
    }

    /// Flips a byte in each part of an object.
    fn assert_every_region(&self, path: &Path) {
        let whole = fs::read(path).unwrap();
        for (region, at) in regions(path) {
            flip(path, at);
            let kind = match region {
                "magic" => "unreadable",
                "index" => "index_damaged",
                _ => "hash_differs",
            };
            let expected = Expected { level: "hash", verdict: "damaged", kind, key: path };
            match region {
                "contents" | "index" => self.assert_found(region, &expected),
                _ => self.assert_told(region, "hash", &expected),
            }
            fs::write(path, &whole).unwrap();
        }
    }
}

/// Parts of a sealed object: its header, its contents, its index.
fn regions(path: &Path) -> Vec<(&'static str, usize)> {
    let bytes = fs::read(path).unwrap();
    let (header, frame) = decode_header_frame(&bytes).unwrap();
    let stored = usize::try_from(header.stored_bytes).unwrap();
    let mut regions = vec![
        ("magic", 1),
        ("header", 60),
        ("frame header", frame + 1),
        ("contents", frame + stored / 2),
        ("end of contents", frame + stored - 2),
    ];
    if header.index_bytes > 0 {
        regions.push(("index", bytes.len() - 9));
    }
    regions
}

fn backup_directory(copy: &Copy, id: &str) -> PathBuf {
    copy.objects(&format!("/backup/{id}/backup.json"))[0].parent().unwrap().to_owned()
}

fn largest(paths: &[PathBuf]) -> PathBuf {
    paths.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap().clone()
}

#[test]
fn damaged_segments_are_found_on_postgresql_13() {
    segments(&Archive::local(PgMajor::V13));
}

#[test]
fn damaged_segments_and_backups_are_found_on_postgresql_18() {
    let archive = Archive::local(PgMajor::V18);
    segments(&archive);
    backups(&archive);
    small_objects(&archive);
}

fn segments(archive: &Archive) {
    let segment = |copy: &Copy| copy.segments(1)[2].clone();
    let copy = archive.copy();
    let path = segment(&copy);
    let whole = fs::read(&path).unwrap();
    copy.assert_every_region(&path);
    truncate(&path, whole.len() / 2);
    copy.assert_found("cut", &Expected { level: "hash", verdict: "damaged", kind: "truncated", key: &path });
    fs::write(&path, []).unwrap();
    copy.assert_found(
        "empty",
        &Expected { level: "presence", verdict: "damaged", kind: "truncated", key: &path },
    );
    fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
    copy.assert_found(
        "tail",
        &Expected { level: "hash", verdict: "damaged", kind: "trailing_bytes", key: &path },
    );
    let other = copy.segments(1)[3].clone();
    fs::write(&path, fs::read(&other).unwrap()).unwrap();
    fs::write(&other, &whole).unwrap();
    copy.assert_found(
        "swapped",
        &Expected { level: "hash", verdict: "damaged", kind: "wrong_object", key: &path },
    );
    copy.assert_found(
        "swapped",
        &Expected { level: "hash", verdict: "damaged", kind: "wrong_object", key: &other },
    );
    deleted_segment(archive);
    inside_segments(archive);
}

/// A segment that is gone is told with what can't be restored without it.
fn deleted_segment(archive: &Archive) {
    let copy = archive.copy();
    let path = copy.segments(1)[3].clone();
    fs::remove_file(&path).unwrap();
    copy.assert_found(
        "deleted",
        &Expected { level: "presence", verdict: "missing", kind: "gap", key: &path },
    );
    let verified = copy.verify(&["--level", "presence"]);
    let consequences = &verified.report["consequences"];
    assert_eq!(consequences["served_by"], archive.backups[1].as_str(), "{:#}", verified.report);
    assert!(!consequences["windows"].as_array().unwrap().is_empty(), "{consequences:#}");
    assert_eq!(consequences["newest_before"], consequences["newest_after"]);
    // The same by the words of the planner alone.
    let window = copy.walden.json(&["window"]);
    assert_eq!(window["newest"], consequences["newest_after"]);
    // Nothing of it matters to the newest backup.
    copy.verify(&["--latest"]).assert_good("latest");
}

/// What only a look into the WAL finds.
fn inside_segments(archive: &Archive) {
    let copy = archive.copy();
    let segments = copy.segments(1);
    // Not the first one that is there: nothing is before it to be linked to.
    let (path, changed) = segments[1..segments.len() - 1]
        .iter()
        .find_map(|path| Some((path.clone(), forge::relinked(&forge::open(path).plain)?)))
        .unwrap();
    let opened = forge::open(&path);
    forge::seal(&path, &opened.header, &changed, Some(&forge::index_of(&opened, &changed)));
    copy.assert_found(
        "chain",
        &Expected { level: "deep", verdict: "damaged", kind: "chain_broken", key: &path },
    );

    let mut stale = opened.index.clone().unwrap();
    stale.summary.facts.commits += 1;
    forge::seal(&path, &opened.header, &opened.plain, Some(&stale));
    copy.assert_found(
        "stale index",
        &Expected { level: "deep", verdict: "damaged", kind: "index_disagrees", key: &path },
    );
    let foreign = forge::open(&segments[3]).index.unwrap();
    forge::seal(&path, &opened.header, &opened.plain, Some(&foreign));
    copy.assert_found(
        "foreign index",
        &Expected { level: "hash", verdict: "damaged", kind: "index_disagrees", key: &path },
    );

    let mut bad = opened.plain.clone();
    let middle = bad.len() / 2 + 333;
    bad[middle] ^= 1;
    forge::seal(&path, &opened.header, &bad, opened.index.as_ref());
    copy.assert_found(
        "record",
        &Expected { level: "deep", verdict: "damaged", kind: "wal_damaged", key: &path },
    );
    let verified = copy.verify(&["--level", "deep"]);
    assert!(verified.findings()[0]["lsn"].is_string(), "{:#}", verified.report);

    // Of another cluster, under the same name.
    let mut header = opened.header.clone();
    header.incarnation = format!("7000000000000000001-{}", header.incarnation.major).parse().unwrap();
    forge::seal(&path, &header, &opened.plain, opened.index.as_ref());
    copy.assert_found(
        "foreign",
        &Expected { level: "hash", verdict: "damaged", kind: "foreign_writer", key: &path },
    );
    forge::seal(&path, &opened.header, &opened.plain, opened.index.as_ref());
    copy.verify(&["--level", "deep"]).assert_good("mended");
}

fn backups(archive: &Archive) {
    let copy = archive.copy();
    let backup = backup_directory(&copy, &archive.backups[1]);
    let pack = largest(&copy.objects(&format!("{}/pack/", archive.backups[1])));
    let whole = fs::read(&pack).unwrap();
    copy.assert_every_region(&pack);
    truncate(&pack, whole.len() - 100);
    copy.assert_found(
        "cut",
        &Expected { level: "presence", verdict: "damaged", kind: "size_differs", key: &backup },
    );
    fs::remove_file(&pack).unwrap();
    copy.assert_found(
        "deleted",
        &Expected { level: "presence", verdict: "missing", kind: "absent", key: &pack },
    );
    let verified = copy.verify(&["--level", "presence"]);
    let consequences = &verified.report["consequences"];
    assert_eq!(consequences["backups_lost"][0], archive.backups[1].as_str(), "{consequences:#}");
    assert_eq!(consequences["served_by"], archive.backups[0].as_str(), "{consequences:#}");
    assert_eq!(consequences["newest_before"], consequences["newest_after"]);
    fs::write(&pack, &whole).unwrap();
    files(archive);
}

/// Pages and files that are wrong inside of packs whose hashes are right.
fn files(archive: &Archive) {
    let copy = archive.copy();
    let backup = backup_directory(&copy, &archive.backups[1]);
    let is_table =
        |path: &str, bytes: u64| path.starts_with("base/") && path.ends_with("/1259") && bytes >= 8192;
    let path = forge::change_file(&backup, is_table, |bytes| bytes[8192 + 4000] ^= 1);
    let pack = backup.join("pack");
    copy.assert_found(
        "page",
        &Expected { level: "deep", verdict: "damaged", kind: "page_checksum", key: &pack },
    );
    let verified = copy.verify(&["--level", "deep"]);
    let finding = &verified.findings()[0];
    assert_eq!(
        (finding["file"].as_str(), &finding["blocks"]),
        (Some(path.as_str()), &serde_json::json!([1]))
    );

    let copy = archive.copy();
    let backup = backup_directory(&copy, &archive.backups[1]);
    forge::change_file(&backup, |path, _| path == "global/pg_control", |bytes| bytes[3] ^= 1);
    let manifest = backup.join("manifest.zst");
    copy.assert_found(
        "control",
        &Expected { level: "deep", verdict: "damaged", kind: "control_file", key: &manifest },
    );

    let copy = archive.copy();
    let backup = backup_directory(&copy, &archive.backups[1]);
    let later = |bytes: &mut [u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let at = text.find("CHECKPOINT LOCATION: 0/").unwrap() + "CHECKPOINT LOCATION: 0/".len();
        bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
    };
    forge::change_file(&backup, |path, _| path == "backup_label", later);
    let manifest = backup.join("manifest.zst");
    copy.assert_found(
        "label",
        &Expected { level: "deep", verdict: "damaged", kind: "label_differs", key: &manifest },
    );
}

fn small_objects(archive: &Archive) {
    let copy = archive.copy();
    let backup = backup_directory(&copy, &archive.backups[1]);
    let restore = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap();
    let manifest = backup.join("manifest.zst");
    let whole = fs::read(&manifest).unwrap();
    copy.assert_every_region(&manifest);
    fs::remove_file(&manifest).unwrap();
    copy.assert_found(
        "manifest",
        &Expected { level: "presence", verdict: "missing", kind: "absent", key: &manifest },
    );
    restore(&manifest, &whole);

    let commit = backup.join("backup.json");
    let whole = fs::read(&commit).unwrap();
    for at in [2, 40, whole.len() / 2] {
        flip(&commit, at);
        copy.assert_found(
            "record",
            &Expected { level: "presence", verdict: "damaged", kind: "record_damaged", key: &commit },
        );
        restore(&commit, &whole);
    }
    fs::remove_file(&commit).unwrap();
    copy.assert_found(
        "no record",
        &Expected { level: "presence", verdict: "missing", kind: "absent", key: &commit },
    );
    let verified = copy.verify(&["--level", "presence"]);
    assert_eq!(
        verified.report["consequences"]["backups_lost"][0],
        archive.backups[1].as_str(),
        "{:#}",
        verified.report
    );
    restore(&commit, &whole);
    let record: BackupRecord = decode_envelope(RecordKind::Backup, &whole).unwrap();
    assert_eq!(record.id.as_str(), archive.backups[1]);

    let history = copy.objects("/history/00000002")[0].clone();
    let whole = fs::read(&history).unwrap();
    let (_, middle) = regions(&history)[3];
    flip(&history, middle);
    copy.assert_found(
        "history",
        &Expected { level: "presence", verdict: "damaged", kind: "record_damaged", key: &history },
    );
    fs::remove_file(&history).unwrap();
    copy.assert_found(
        "no history",
        &Expected { level: "presence", verdict: "missing", kind: "history_missing", key: &history },
    );
    restore(&history, &whole);

    let stray = history.with_file_name("notes.txt");
    restore(&stray, b"who put this here?");
    let verified = copy.verify(&["--level", "presence"]);
    verified.assert_good("a stray does no harm");
    assert_eq!(verified.findings()[0]["kind"], "foreign");
}
