//! Checks of removing many objects, and of what a store tells of itself.

use futures::TryStreamExt;
use walden_core::ErrorKind;
use walden_store::{Removal, StoreError};

use super::list::{fill, listed};
use super::{Bench, Failed, Verdict, budget, ensure, key, record};

pub(super) async fn many_objects_are_removed_and_no_others(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    // More than any store takes at once.
    let names = |from: usize, to: usize| (from..to).map(|n| format!("wal/{:04X}/{n:08X}.zst", n / 100));
    let most = bench.listed_objects / 2;
    fill(store, names(0, most).collect()).await?;
    fill(store, vec!["wal-other/a".to_owned(), "wal/0000/00000000".to_owned()]).await?;
    // Some of them, and some that were never there.
    let gone: Vec<_> = names(5, most + 20).map(|name| key(&name)).collect::<Result<_, _>>()?;
    for _ in 0..2 {
        let before = store.counters();
        let removal = store.delete_many(&gone, &budget).await?;
        let expected = Removal { removed: gone.len() as u64, kept: Vec::new() };
        ensure(removal == expected, || format!("{removal:?}"))?;
        let used = store.counters().since(&before);
        ensure(used.requests() == used.delete.requests && used.delete.requests <= gone.len() as u64, || {
            format!("{used:?}")
        })?;
        let mut left: Vec<_> = names(0, 5).collect();
        left.extend(["wal-other/a".to_owned(), "wal/0000/00000000".to_owned()]);
        left.sort();
        let found = listed(store, "").await?;
        ensure(found == left, || format!("{} objects are left", found.len()))?;
    }
    let none = store.delete_many(&[], &budget).await?;
    ensure(none == Removal::default(), || format!("{none:?}"))
}

pub(super) async fn a_removal_from_a_missing_bucket_is_an_error(bench: &Bench) -> Verdict {
    let Some(store) = &bench.missing_bucket else { return Ok(()) };
    let keys = [key("a/b")?, key("a/c")?];
    match store.delete_many(&keys, &budget()).await {
        Err(StoreError::RemovalStopped { so_far, source }) => {
            ensure(source.kind() == ErrorKind::NotFound, || format!("{source:?}"))?;
            ensure(so_far.kept.is_empty(), || format!("{so_far:?}"))
        }
        other => Err(Failed(format!("{other:?}"))),
    }
}

pub(super) async fn the_stores_clock_is_not_behind_its_objects(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    store.create_record_once(&key("now")?, &record("now"), &budget).await?;
    let now = store.now(&budget).await?;
    let listed: Vec<_> = store.list("", &budget).try_collect().await?;
    let [object] = listed.as_slice() else { return Err(Failed(format!("{listed:?}"))) };
    // To the second: that is what the Date of an answer tells.
    ensure(now.as_second() >= object.modified.as_second(), || format!("{now} {object:?}"))?;
    ensure(now.as_second() - object.modified.as_second() < 600, || format!("{now} {object:?}"))
}

pub(super) async fn buckets_tell_or_do_not_tell(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    store.bucket_settings(&budget).await?;
    match store.open_uploads("", &budget).await {
        Ok(uploads) => ensure(uploads.is_empty(), || format!("{uploads:?}")),
        Err(StoreError::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
