//! Backups that lie, are torn, or were changed: refused, and nothing outside of the target is touched.

use walden_core::{
    BackupKind, ErrorKind, Extent, ManifestEntry, ManifestHeader, ManifestPath, ManifestTotals, Tablespace,
};

use super::fixture::{Fixture, noise, sha256};
use super::is_there;
use crate::error::EngineError;
use crate::restore::{IN_PROGRESS_MARKER, execute};

fn text(path: &str) -> ManifestPath {
    ManifestPath::Text(path.into())
}

/// Restores a manifest of these lines, which must be refused before anything is written.
async fn refusal(fixture: &mut Fixture, lines: &[ManifestEntry]) -> EngineError {
    let plan = fixture.publish_lines(lines);
    let error = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
    assert!(!is_there(&fixture.target()), "{error}");
    assert!(!is_there(&fixture.path("evil")), "{error}");
    error
}

/// The lines of a good backup with one more entry, the totals set right again.
fn with(fixture: &Fixture, entry: ManifestEntry) -> Vec<ManifestEntry> {
    let mut lines = fixture.lines();
    let Some(ManifestEntry::Totals(mut totals)) = lines.pop() else { panic!() };
    match &entry {
        ManifestEntry::File(file) => {
            totals.files += 1;
            totals.bytes = totals.bytes.saturating_add(file.bytes);
        }
        ManifestEntry::Directory { .. } => totals.directories += 1,
        _ => {}
    }
    lines.push(entry);
    lines.push(ManifestEntry::Totals(totals));
    lines
}

/// A file of one extent.
fn file(fixture: &mut Fixture, path: ManifestPath) -> ManifestEntry {
    fixture.file("zz", b"evil");
    let entry = fixture.entry("zz").clone();
    fixture.entries.remove(b"zz".as_slice());
    ManifestEntry::File(walden_core::FileEntry { path, ..entry })
}

#[tokio::test]
async fn paths_that_lead_outside_are_refused() {
    let hex = |bytes: &[u8]| ManifestPath::Hex { hex: super::fixture::hex(bytes) };
    let paths = [
        text("../evil"),
        text("/tmp/evil"),
        text("zz/../../evil"),
        text("zz//evil"),
        text("zz\0evil"),
        text(""),
        hex(b"../evil"),
        ManifestPath::Hex { hex: "zz".into() },
        text(&"z".repeat(300)),
        text(&format!("zz/{}", "z/".repeat(3000))),
    ];
    for path in paths {
        let mut fixture = Fixture::new();
        let entry = file(&mut fixture, path.clone());
        let lines = with(&fixture, entry);
        assert_eq!(refusal(&mut fixture, &lines).await.kind(), ErrorKind::Corrupt, "{path}");
        let lines = with(&fixture, ManifestEntry::Directory { path: path.clone(), mode: 0o700 });
        assert_eq!(refusal(&mut fixture, &lines).await.kind(), ErrorKind::Corrupt, "{path}");
    }
}

#[tokio::test]
async fn entries_that_contradict_each_other_are_refused() {
    type Entries = fn(&mut Fixture) -> Vec<ManifestEntry>;
    let cases: [(&str, Entries); 10] = [
        ("listed twice", |fixture| {
            let entry = file(fixture, text("postgresql.conf"));
            with(fixture, entry)
        }),
        ("below something", |fixture| {
            let entry = file(fixture, text("postgresql.conf/x"));
            with(fixture, entry)
        }),
        ("below something", |fixture| {
            let entry = file(fixture, text("unlisted/x"));
            with(fixture, entry)
        }),
        ("below something", |fixture| {
            // A link that does not become a directory.
            fixture.directory("zdir", 0o700);
            fixture.link("zdir/link", "/tmp");
            let entry = file(fixture, text("zdir/link/evil"));
            with(fixture, entry)
        }),
        ("a tablespace is listed as a file", |fixture| {
            fixture.tablespaces =
                vec![Tablespace { oid: 16385, path: fixture.path("space").display().to_string() }];
            fixture.file("pg_tblspc/16385", b"x");
            fixture.lines()
        }),
        ("something else than the directory of the backup's major", |fixture| {
            fixture.tablespaces =
                vec![Tablespace { oid: 16385, path: fixture.path("space").display().to_string() }];
            fixture.directory("pg_tblspc/16385/PG_16_202307071", 0o700);
            fixture.lines()
        }),
        ("something else than the directory of the backup's major", |fixture| {
            fixture.tablespaces =
                vec![Tablespace { oid: 16385, path: fixture.path("space").display().to_string() }];
            fixture.file("pg_tblspc/16385/.bashrc", b"x");
            fixture.lines()
        }),
        ("a file stands where a tablespace has its directory", |fixture| {
            fixture.tablespaces =
                vec![Tablespace { oid: 16385, path: fixture.path("space").display().to_string() }];
            fixture.file("pg_tblspc/16385/PG_17_202406281", b"x");
            fixture.lines()
        }),
        ("a tablespace is listed as a link", |fixture| {
            fixture.link("pg_tblspc/16399", "/tmp");
            fixture.lines()
        }),
        ("the name of a file of ours", |fixture| {
            fixture.directory("recovery.signal", 0o700);
            fixture.lines()
        }),
    ];
    for (says, entries) in cases {
        let mut fixture = Fixture::new();
        let lines = entries(&mut fixture);
        let error = refusal(&mut fixture, &lines).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[tokio::test]
async fn extents_that_can_not_be_are_refused() {
    let good = Extent { file_offset: 0, bytes: 100, pack: 0, frame_offset: 4096, frame_bytes: 50, skip: 0 };
    let cases: [(&str, Vec<Extent>); 8] = [
        ("overlap", vec![good, Extent { file_offset: 99, ..good }]),
        ("overlap", vec![Extent { file_offset: 100, ..good }, good]),
        ("overlap", vec![Extent { bytes: 0, ..good }]),
        ("beyond the end", vec![Extent { file_offset: 250, ..good }]),
        ("beyond the end", vec![Extent { file_offset: u64::MAX - 10, ..good }]),
        ("a pack that the backup does not have", vec![Extent { pack: 1, ..good }]),
        ("absurd size", vec![Extent { frame_bytes: 1 << 40, ..good }]),
        ("absurd size", vec![Extent { skip: u64::MAX, ..good }]),
    ];
    for (says, extents) in cases {
        let mut fixture = Fixture::new();
        fixture.file_of("zz", &[7; 300], extents);
        let lines = fixture.lines();
        let error = refusal(&mut fixture, &lines).await;
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[tokio::test]
async fn torn_and_foreign_manifests_are_refused() {
    let mut fixture = Fixture::new();
    let good = fixture.lines();
    let without_totals = &good[..good.len() - 1];
    assert!(refusal(&mut fixture, without_totals).await.to_string().contains("ends before its totals"));
    let without_header = &good[1..];
    assert!(refusal(&mut fixture, without_header).await.to_string().contains("first line is not the header"));
    let twice = [&good[..1], &good[..]].concat();
    assert!(refusal(&mut fixture, &twice).await.to_string().contains("two headers"));
    let more = [&good[..], &good[1..2]].concat();
    assert!(refusal(&mut fixture, &more).await.to_string().contains("lines follow its totals"));
    let fewer: Vec<ManifestEntry> = good
        .iter()
        .filter(|line| !matches!(line, ManifestEntry::File(file) if file.path == text("pg_hba.conf")))
        .cloned()
        .collect();
    assert!(refusal(&mut fixture, &fewer).await.to_string().contains("does not hold what its totals say"));
    let header = |schema, backup: &str| {
        let backup = backup.parse().unwrap();
        ManifestEntry::Header(ManifestHeader { schema, backup, user: None, group: None })
    };
    let other = [&[header(1, "20261118T110640Z-0000")], &good[1..]].concat();
    assert!(refusal(&mut fixture, &other).await.to_string().contains("belongs to another backup"));
    let newer = [&[header(2, "20261118T110640Z-7f3a")], &good[1..]].concat();
    assert_eq!(refusal(&mut fixture, &newer).await.kind(), ErrorKind::Unsupported);

    for plain in [b"{\"type\":\"header\"".as_slice(), b"", b"\n", b"{\"type\":\"socket\"}\n", b"\xff\n"] {
        let plan = fixture.publish_manifest(plain);
        let error = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(!is_there(&fixture.target()));
    }
}

#[tokio::test]
async fn a_manifest_that_was_exchanged_is_refused() {
    let mut fixture = Fixture::new();
    let _ = fixture.publish();
    let first = std::fs::read(fixture.manifest()).unwrap();
    fixture.file("zz", b"more");
    let plan = fixture.publish();
    std::fs::write(fixture.manifest(), &first).unwrap();
    let error = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let mut changed = first;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(fixture.manifest(), &changed).unwrap();
    assert_eq!(execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!is_there(&fixture.target()));
}

#[tokio::test]
async fn a_backup_that_contradicts_its_record_is_refused() {
    type Change = fn(&mut Fixture);
    let cases: [(&str, ErrorKind, Change); 8] = [
        ("backup_label", ErrorKind::Corrupt, |fixture| {
            drop(fixture.entries.remove(b"backup_label".as_slice()));
        }),
        ("global/pg_control", ErrorKind::Corrupt, |fixture| {
            drop(fixture.entries.remove(b"global/pg_control".as_slice()));
        }),
        ("global/pg_control", ErrorKind::Corrupt, |fixture| {
            fixture.file("global/pg_control", &noise(8192, 1));
        }),
        ("PG_VERSION", ErrorKind::Corrupt, |fixture| fixture.file("PG_VERSION", b"16\n")),
        ("starts elsewhere", ErrorKind::Corrupt, |fixture| {
            let label = String::from_utf8(fixture.contents[b"backup_label".as_slice()].clone()).unwrap();
            let checkpoint = fixture.record.checkpoint_lsn.to_string();
            fixture.file("backup_label", label.replace(&checkpoint, "0/1").as_bytes());
        }),
        ("incremental", ErrorKind::Corrupt, |fixture| {
            let mut label = fixture.contents[b"backup_label".as_slice()].clone();
            label.extend_from_slice(b"INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
            fixture.file("backup_label", &label);
        }),
        ("names a tablespace", ErrorKind::Corrupt, |fixture| fixture.file("tablespace_map", b"16385 /old\n")),
        ("is incremental", ErrorKind::Unsupported, |fixture| fixture.record.kind = BackupKind::Incremental),
    ];
    for (says, kind, change) in cases {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        let plan = fixture.publish();
        let error = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{says}: {error}");
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert!(!is_there(&fixture.target()));
    }
}

#[tokio::test]
async fn sizes_that_no_disk_holds_are_refused_before_anything_is_written() {
    let mut fixture = Fixture::new();
    fixture.file_of("zz", b"", Vec::new());
    fixture.entry("zz").bytes = 1 << 61;
    let lines = fixture.lines();
    let error = refusal(&mut fixture, &lines).await;
    assert!(error.to_string().starts_with("not enough room"), "{error}");
    fixture.entry("zz").bytes = u64::MAX;
    let mut lines = fixture.lines();
    assert!(refusal(&mut fixture, &lines).await.to_string().contains("larger than any file system"));
    lines.pop();
    lines.push(ManifestEntry::Totals(ManifestTotals::default()));
    assert_eq!(refusal(&mut fixture, &lines).await.kind(), ErrorKind::Corrupt);
}

/// Restores a backup whose pack is not what its manifest says.
async fn damage(fixture: &mut Fixture, change: impl FnOnce(&Fixture)) -> EngineError {
    let plan = fixture.publish();
    change(fixture);
    let error = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let target = fixture.target();
    assert!(!is_there(&target.join("global/pg_control")));
    assert!(is_there(&target.join(IN_PROGRESS_MARKER)));
    assert!(error.hint().unwrap().contains("restore again"), "{:?}", error.hint());
    error
}

#[tokio::test]
async fn a_damaged_frame_is_found() {
    let mut fixture = Fixture::new();
    fixture.file("zz", &noise(100_000, 1));
    let at = fixture.entry("zz").extents[0].frame_offset;
    let error = damage(&mut fixture, |fixture| {
        let mut pack = std::fs::read(fixture.pack()).unwrap();
        pack[usize::try_from(at).unwrap() + 5000] ^= 1;
        std::fs::write(fixture.pack(), pack).unwrap();
    })
    .await;
    assert!(error.to_string().contains("pack/00000000.zst"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_what_was_backed_up_is_found() {
    let mut fixture = Fixture::new();
    fixture.file("base/5/16390", &noise(100_000, 1));
    fixture.entry("base/5/16390").sha256 = sha256(b"something else");
    let error = damage(&mut fixture, |_| {}).await.to_string();
    assert!(error.contains("its SHA-256 differs file=base/5/16390 packs=0"), "{error}");
}

#[tokio::test]
async fn a_pack_that_is_cut_off_or_missing_is_found() {
    let mut fixture = Fixture::new();
    fixture.file("zz", &noise(100_000, 1));
    let error = damage(&mut fixture, |fixture| {
        let pack = std::fs::read(fixture.pack()).unwrap();
        std::fs::write(fixture.pack(), &pack[..pack.len() - 10]).unwrap();
    })
    .await;
    assert!(
        error.to_string().contains("missing or cut off") && error.to_string().contains("pack=0"),
        "{error}"
    );
}

#[tokio::test]
async fn frames_that_lie_about_their_size_take_no_memory() {
    // A frame that says a terabyte: only its header is needed for that.
    let says_huge = {
        let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0xE0];
        frame.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        frame.extend_from_slice(&[1, 0, 0]);
        frame
    };
    // A mebibyte of zeros behind a header that says 100 bytes.
    let mut bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    let window = zstd::bulk::compress(&[7; 100], 1).unwrap();
    bomb.splice(..6, window[..6].iter().copied());
    // A skippable frame holds nothing.
    let skippable = vec![0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 1, 2];
    for (frame, says) in [
        (says_huge, "it says that it has 1099511627776 plain bytes"),
        (bomb, "frame at "),
        (b"no frame at all".to_vec(), "not a zstd frame"),
        (skippable, "a frame of the backup is shorter"),
    ] {
        let mut fixture = Fixture::new();
        let (frame_offset, frame_bytes) = fixture.raw_frame(&frame);
        let extent = Extent { file_offset: 0, bytes: 100, pack: 0, frame_offset, frame_bytes, skip: 0 };
        fixture.file_of("zz", &[7; 100], vec![extent]);
        let error = damage(&mut fixture, |_| {}).await;
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[tokio::test]
async fn a_run_beyond_its_frame_is_found() {
    let mut fixture = Fixture::new();
    fixture.file("zz", &noise(1000, 1));
    fixture.entry("zz").extents[0].skip = 1;
    assert!(
        damage(&mut fixture, |_| {}).await.to_string().contains("shorter than the manifest says file=zz")
    );
}
