//! Checks of listing and removing.

use futures::{StreamExt, TryStreamExt};
use walden_store::{HeaderRead, Store};

use super::{Bench, Failed, Verdict, budget, ensure, key, record};

pub(super) async fn fill(store: &Store, keys: Vec<String>) -> Verdict {
    let budget = budget();
    let writes = keys.into_iter().map(|text| {
        let (store, budget) = (store.clone(), budget.clone());
        async move {
            store.create_record_once(&key(&text)?, &record(&text), &budget).await?;
            Ok::<_, Failed>(())
        }
    });
    futures::stream::iter(writes).buffer_unordered(32).try_collect().await
}

pub(super) async fn listed(store: &Store, prefix: &str) -> Result<Vec<String>, Failed> {
    Ok(store.list(prefix, &budget()).map_ok(|listed| listed.key).try_collect().await?)
}

async fn listed_after(store: &Store, prefix: &str, after: &str) -> Result<Vec<String>, Failed> {
    Ok(store.list_after(prefix, after, &budget()).map_ok(|listed| listed.key).try_collect().await?)
}

pub(super) async fn listings_are_complete_and_in_order(bench: &Bench) -> Verdict {
    let store = &bench.store;
    let keys: Vec<_> = (0..bench.listed_objects).map(|n| format!("wal/{:04X}/{n:08X}.zst", n / 3)).collect();
    fill(store, keys.clone()).await?;
    let all = listed(store, "wal").await?;
    ensure(all == keys, || format!("{} of {} keys, or not in order", all.len(), keys.len()))?;
    let middle = keys.len() / 2;
    for at in [0, middle, keys.len() - 1] {
        let Some(after) = keys.get(at) else { continue };
        let rest = listed_after(store, "wal", after).await?;
        ensure(Some(rest.as_slice()) == keys.get(at + 1..), || {
            format!("after {after}: {} keys", rest.len())
        })?;
    }
    // After a key that is not there.
    let Some(after) = keys.get(middle).map(|key| format!("{key}x")) else { return Ok(()) };
    let rest = listed_after(store, "", &after).await?;
    ensure(Some(rest.as_slice()) == keys.get(middle + 1..), || {
        format!("after {after}: {} keys", rest.len())
    })?;
    let level = store.list_level("wal", &budget()).await?;
    let directories = bench.listed_objects.div_ceil(3);
    ensure(level.directories.len() == directories && level.objects.is_empty(), || {
        format!("{} directories of {directories}, {} objects", level.directories.len(), level.objects.len())
    })?;
    let first = store.list("wal", &budget()).boxed().try_next().await?;
    let bytes = record("wal/0000/00000000.zst").len() as u64;
    ensure(first.is_some_and(|listed| listed.bytes == bytes), || "a listed size is wrong".to_owned())
}

pub(super) async fn a_level_has_directories_and_objects(bench: &Bench) -> Verdict {
    let store = &bench.store;
    let keys = ["a/b/c", "a/b/d/e", "a/f", "a/g/h", "i"].map(str::to_owned);
    fill(store, keys.to_vec()).await?;
    let level = async |prefix: &str| {
        let level = store.list_level(prefix, &budget()).await?;
        let objects: Vec<_> = level.objects.into_iter().map(|listed| listed.key).collect();
        Ok::<_, Failed>((level.directories.join(" "), objects.join(" ")))
    };
    for (prefix, directories, objects) in [
        ("", "a/", "i"),
        ("a", "a/b/ a/g/", "a/f"),
        ("a/", "a/b/ a/g/", "a/f"),
        ("a/b", "a/b/d/", "a/b/c"),
        ("nowhere", "", ""),
    ] {
        let found = level(prefix).await?;
        ensure(found == (directories.to_owned(), objects.to_owned()), || format!("{prefix:?}: {found:?}"))?;
    }
    let none = listed(store, "nowhere").await?;
    ensure(none.is_empty(), || format!("{none:?}"))
}

pub(super) async fn prefixes_are_whole_parts(bench: &Bench) -> Verdict {
    let store = &bench.store;
    let keys = ["w/1/a", "w/10/a", "w/1-1", "w-1/a"].map(str::to_owned);
    fill(store, keys.to_vec()).await?;
    for (prefix, expected) in [("w/1", vec!["w/1/a"]), ("w/1/", vec!["w/1/a"]), ("w/10", vec!["w/10/a"])] {
        let found = listed(store, prefix).await?;
        ensure(found == expected, || format!("{prefix}: {found:?}"))?;
    }
    let found = listed(store, "w").await?;
    ensure(found == ["w/1-1", "w/1/a", "w/10/a"], || format!("{found:?}"))
}

pub(super) async fn every_character_of_a_key_survives(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let mut keys = vec![
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ/abcdefghijklmnopqrstuvwxyz/0123456789".to_owned(),
        "-leading/_under/trailing-/a..b/...c/d.".to_owned(),
        ".hidden/.file".to_owned(),
        format!("long/{}", "x".repeat(100)),
    ];
    fill(store, keys.clone()).await?;
    keys.sort();
    let found = listed(store, "").await?;
    ensure(found == keys, || format!("{found:?}"))?;
    for text in &keys {
        let read = store.get(&key(text)?, 1000, &budget).await?;
        ensure(read == record(text), || text.clone())?;
    }
    Ok(())
}

pub(super) async fn removed_objects_are_gone(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    fill(store, vec!["a/b/c".to_owned(), "a/b/d".to_owned()]).await?;
    for _ in 0..2 {
        // The second time it is gone already, which is as good.
        store.delete(&key("a/b/c")?, &budget).await?;
        let found = listed(store, "").await?;
        ensure(found == ["a/b/d"], || format!("{found:?}"))?;
        let header = store.get_header(&key("a/b/c")?, &budget).await?;
        ensure(header == HeaderRead::Missing, || format!("{header:?}"))?;
    }
    store.delete(&key("a/b/d")?, &budget).await?;
    let level = store.list_level("", &budget).await?;
    ensure(level.directories.is_empty(), || format!("{level:?}"))
}
