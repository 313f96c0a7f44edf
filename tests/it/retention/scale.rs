//! A hundred thousand objects out of a million: few requests, little memory. With `WALDEN_CAMPAIGN=1`.

use std::process::Command;

use bytes::Bytes;
use serde_json::Value;
use walden_core::{
    Capabilities, ConditionalCreate, RecordKind, RepositoryRecord, ServerLayout, encode_envelope,
    repository_key,
};
use walden_testkit::million::{BACKUPS, SEGMENTS, backup, record, writer};
use walden_testkit::stores::{VirtualBucket, VirtualObject};

use crate::scale::objects;
use crate::support::describe;

fn measured(bucket: &VirtualBucket, arguments: &[&str]) -> (Value, Vec<String>, u64) {
    let program =
        std::env::var("WALDEN_SCALE_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_walden").to_owned());
    let directory = tempfile::tempdir().unwrap();
    let usage = directory.path().join("usage");
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M %e %U %S", "-o"]).arg(&usage).arg(&program).args(arguments);
    command.args(["--output", "json"]).env("HOME", directory.path());
    let store = bucket.store();
    command.env("WALDEN_REPO", store.url).env("WALDEN_SERVER", "main").envs(store.environment);
    let _before = bucket.take_requests();
    let output = command.output().unwrap();
    let requests = bucket.take_requests();
    assert!(output.status.success(), "{}", describe(&output));
    let usage = std::fs::read_to_string(usage).unwrap();
    let peak_kib = usage.split(' ').next().unwrap().parse().unwrap();
    let of = |method: &str| requests.iter().filter(|line| line.starts_with(method)).count();
    println!(
        "{arguments:?}: {} requests ({} GET, {} PUT, {} POST, {} DELETE); peak KiB, s, user s, system s: {}",
        requests.len(),
        of("GET"),
        of("PUT"),
        of("POST"),
        of("DELETE"),
        usage.trim()
    );
    (serde_json::from_slice(&output.stdout).unwrap(), requests, peak_kib)
}

#[test]
fn a_hundred_thousand_objects_go_out_of_a_million() {
    if std::env::var_os("WALDEN_CAMPAIGN").is_none() {
        println!("only with WALDEN_CAMPAIGN=1");
        return;
    }
    let mut objects = objects();
    let capabilities = Capabilities {
        conditional_create: ConditionalCreate::Enforced,
        range_reads: true,
        list_after: true,
        probed_at: writer().at,
    };
    let repository = RepositoryRecord {
        repository_id: record().repository_id,
        format: 1,
        created_by: writer(),
        capabilities,
    };
    let text = encode_envelope(RecordKind::Repository, &repository).unwrap();
    objects.insert(repository_key().to_string(), VirtualObject::of(text.into()));
    // A backup of which objects are missing serves nothing, and stays.
    let layout = ServerLayout::new(record().server).incarnation(record().incarnation());
    for backup in (0..BACKUPS).map(backup) {
        let key = layout.backup(&backup.id).manifest().to_string();
        objects.insert(key, VirtualObject::of(Bytes::from_static(b"a manifest")));
    }
    let bucket = VirtualBucket::start(objects).unwrap();
    // The backup that is the 41st begins in segment 100,001: 40 go, and all WAL before it.
    let kept = (BACKUPS - 40).to_string();
    let policy = ["--window", "none", "--keep-full", &kept];
    let (plan, _, peak) = measured(&bucket, &[&["retention", "plan"], policy.as_slice()].concat());
    let removed = plan["removed"]["objects"].as_u64().unwrap();
    assert!((100_080..100_600).contains(&removed), "{removed}");
    assert!(peak < 384 << 10, "{peak} KiB");
    let before = bucket.objects();
    let (report, requests, peak) =
        measured(&bucket, &[&["retention", "apply", "--yes"], policy.as_slice()].concat());
    assert_eq!(report["outcome"], "finished");
    assert!(bucket.objects() + 100_000 < before, "{} {before}", bucket.objects());
    assert!(peak < 384 << 10, "{peak} KiB");
    let removals = requests.iter().filter(|line| line.starts_with("POST")).count();
    assert!(removals < 150, "{removals} removals");
    // Twice the listing of a million, the records of the backups, and little else.
    assert!(requests.len() < 4000, "{}", requests.len());
    let (window, _, _) = measured(&bucket, &["window"]);
    assert_eq!(window["timelines"][0]["segments"], SEGMENTS - 100_000);
    assert_eq!(window["timelines"][0]["gaps"], serde_json::json!([]));
}
