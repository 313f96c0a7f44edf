//! A store that fails by a seed: whatever it does within its word, nothing good is called damaged or missing, and nothing that
//! was not read is called good.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use walden_core::{
    HEADER_FRAME_BYTES_MAX, IncarnationRecord, ObjectKind, RecordKind, ServerLayout, VerifyLevel, Writer,
    encode_envelope,
};
use walden_pg::{ArchiveFileName, PgMajor, SystemId, WalSegmentSize};
use walden_store::{
    CompressionLevel, Environment, HeaderFields, IdentityHash, RetryBudget, Store, StoreConfig, seal_bytes,
};
use walden_testkit::fault::{FaultRates, FaultStore};

use super::{Verdict, VerifyOptions, verify};
use crate::clock::SystemClock;
use crate::context::Context;
use crate::progress::NoProgress;

/// Files of an archive.
const FILES: u32 = 8;

/// An archive of backup history files, which are small and may hold anything.
async fn archive(directory: &std::path::Path) -> (Context, IncarnationRecord) {
    let url = format!("file://{}", directory.display()).parse().unwrap();
    let ctx = Context {
        store: Store::open(&url, &StoreConfig::default(), &Environment::default()).unwrap(),
        server: "main".parse().unwrap(),
        clock: Arc::new(SystemClock),
        progress: Arc::new(NoProgress),
        state_directory: None,
        // Some calls succeed within it, and some do not.
        store_deadline: Duration::from_millis(120),
        host: "here".into(),
    };
    let record = IncarnationRecord {
        server: ctx.server.clone(),
        repository_id: "0".repeat(32),
        system_id: SystemId::new(7_401_234_567_890_123_456),
        major: PgMajor::V17,
        segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        created_by: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
    };
    let layout = ServerLayout::new(ctx.server.clone()).incarnation(record.incarnation());
    let budget = RetryBudget::new(Duration::from_secs(30));
    let marker = encode_envelope(RecordKind::Incarnation, &record).unwrap();
    ctx.store.create_record_once(&layout.marker(), &marker.into(), &budget).await.unwrap();
    for number in 0..FILES {
        let name: ArchiveFileName = format!("0000000100000000{number:08X}.00000028.backup").parse().unwrap();
        let fields = HeaderFields {
            kind: ObjectKind::BackupHistory,
            name: name.to_string(),
            server: ctx.server.clone(),
            incarnation: record.incarnation(),
            writer: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
            wal: None,
        };
        let plain = vec![u8::try_from(number).unwrap(); HEADER_FRAME_BYTES_MAX + 100];
        let level = CompressionLevel::new(1).unwrap();
        let object = seal_bytes(level, IdentityHash::Plain, fields, &plain, None).unwrap();
        ctx.store.create_once(&layout.archive_file(name), &object, &budget).await.unwrap();
    }
    (ctx, record)
}

#[tokio::test]
async fn a_failing_store_is_never_damage() {
    let directory = tempfile::tempdir().unwrap();
    let (ctx, record) = archive(directory.path()).await;
    let mut injected = 0;
    for seed in 0..4 {
        let inner = Arc::new(std::sync::Mutex::new(None));
        let kept = Arc::clone(&inner);
        let store = ctx.store.wrapped(|under| {
            let faulty = Arc::new(FaultStore::new(under, FaultRates::UNRELIABLE, seed));
            *kept.lock().unwrap() = Some(Arc::clone(&faulty));
            faulty
        });
        let ctx = Context { store, ..ctx.clone() };
        let options = VerifyOptions::new(VerifyLevel::Hash);
        // A listing that can't be finished is an error and no finding.
        let Ok(report) = verify(&ctx, &record, &options, std::future::pending()).await else { continue };
        let harm = report.counts.damaged + report.counts.missing;
        assert_eq!(harm, 0, "seed {seed}: {:?}", report.findings);
        assert_eq!(report.proven.objects + report.counts.not_proven, u64::from(FILES), "seed {seed}");
        let expected = if report.counts.not_proven > 0 { Verdict::NotProven } else { Verdict::Good };
        assert_eq!(report.verdict, expected, "seed {seed}");
        injected += inner.lock().unwrap().as_ref().map_or(0, |faulty| faulty.injected().len());
    }
    assert!(injected > 0, "nothing went wrong, so nothing was shown");
    let whole = verify(&ctx, &record, &VerifyOptions::new(VerifyLevel::Hash), std::future::pending()).await;
    assert_eq!(whole.unwrap().verdict, Verdict::Good);
}

#[tokio::test]
async fn a_run_that_is_stopped_at_once_tells_that_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (ctx, record) = archive(directory.path()).await;
    let report =
        verify(&ctx, &record, &VerifyOptions::new(VerifyLevel::Deep), std::future::ready(())).await.unwrap();
    assert!(report.stopped.is_some() && !report.complete);
    assert_eq!(report.counts.damaged + report.counts.missing, 0);
}
