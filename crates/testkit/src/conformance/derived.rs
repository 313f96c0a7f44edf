//! Checks of what is derived: indexes read alone, and objects that may be overwritten.

use futures::TryStreamExt;
use walden_core::{ErrorKind, ServerLayout};
use walden_pg::TimelineId;
use walden_store::{
    CompressionLevel, Expected, IdentityHash, IndexRead, StoreError, open_sealed, seal_bytes,
};

use super::{Bench, Failed, Verdict, budget, ensure, fields, key, noise, seal};

const NAME: &str = "000000010000000000000001";

pub(super) async fn indexes_are_read_alone(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let sizes = [Some(0), Some(10), Some(100_000), Some(1 << 20), None];
    for (number, index) in sizes.into_iter().enumerate() {
        let key = key(&format!("main/{number}.zst"))?;
        let index = index.map(|bytes| noise(bytes, 3));
        let plain = noise(500_000, 4);
        let object = seal_bytes(
            CompressionLevel::DEFAULT,
            IdentityHash::Plain,
            fields(NAME, 1)?,
            &plain,
            index.as_deref(),
        )
        .map_err(|error| Failed(error.to_string()))?;
        store.create_once(&key, &object, &budget).await?;
        let (object_bytes, index_bytes) = (object.object_bytes(), object.header().index_bytes);
        let wanted = IndexRead { index_bytes, plain: index };
        for known in [Some(index_bytes), None] {
            let before = store.counters();
            let read = store.get_index(&key, object_bytes, known, &budget).await?;
            ensure(read == wanted, || format!("index {number} differs, known {known:?}"))?;
            let cost = store.counters().since(&before);
            let one = known.is_some() || (1..100_200).contains(&index_bytes);
            let few = cost.requests() <= if one { 1 } else { 3 };
            ensure(few && cost.get.bytes_received <= index_bytes + (160 << 10), || {
                format!("{number}: {cost:?}")
            })?;
        }
        let expected = Expected { name: NAME, max_plain_bytes: 500_000 };
        let opened = store.fetch_sealed(&key, expected, || Ok(Vec::new()), &budget).await?;
        ensure(opened.plain == plain, || format!("the contents of {number}"))?;
    }
    Ok(())
}

pub(super) async fn a_wrong_length_is_no_index(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key("main/object.zst")?);
    let object = seal_bytes(
        CompressionLevel::DEFAULT,
        IdentityHash::Plain,
        fields(NAME, 1)?,
        &noise(1000, 1),
        Some(b"an index"),
    );
    let object = object.map_err(|error| Failed(error.to_string()))?;
    store.create_once(&key, &object, &budget).await?;
    let (object_bytes, index_bytes) = (object.object_bytes(), object.header().index_bytes);
    for (object_bytes, index_bytes) in [
        (object_bytes, index_bytes - 1),
        (object_bytes, index_bytes + 1),
        (object_bytes - 1, index_bytes),
        (object_bytes + 1, index_bytes),
        (object_bytes, object_bytes + 1),
        (object_bytes + 1000, 10),
    ] {
        match store.get_index(&key, object_bytes, Some(index_bytes), &budget).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            other => return Err(Failed(format!("{object_bytes}, {index_bytes}: {other:?}"))),
        }
    }
    let missing = super::key("main/missing.zst")?;
    match store.get_index(&missing, object_bytes, Some(index_bytes), &budget).await {
        Err(StoreError::ObjectNotFound { .. }) => Ok(()),
        other => Err(Failed(format!("{other:?}"))),
    }
}

pub(super) async fn derived_objects_are_replaced(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let server = "main".parse().map_err(|_| Failed("server name".to_owned()))?;
    let incarnation = "7401234567890123456-17".parse().map_err(|_| Failed("incarnation".to_owned()))?;
    let layout = ServerLayout::new(server).incarnation(incarnation);
    let rollup = layout.rollup(TimelineId::FIRST, 7);
    for (number, bytes) in [(1, 10), (2, 300_000), (3, 0), (4, 20)] {
        let object = seal("rollup", &noise(bytes, number), 1)?;
        let before = store.counters();
        store.replace_derived(&rollup, &object, &budget).await?;
        let cost = store.counters().since(&before);
        ensure(cost.requests() == 1, || format!("{cost:?}"))?;
        let read = store.get(rollup.key(), 1 << 20, &budget).await?;
        let opened = open_sealed(&read, Expected { name: "rollup", max_plain_bytes: 1 << 20 });
        let plain = opened.map_err(|error| Failed(error.to_string()))?.plain;
        ensure(plain == noise(bytes, number), || format!("after write {number}"))?;
    }
    let listed: Vec<_> = store.list(&layout.log_prefix(TimelineId::FIRST, 7), &budget).try_collect().await?;
    ensure(listed.len() == 1, || format!("{listed:?}"))?;
    let backups = layout.backup_rollup();
    store.replace_derived(&backups, &seal("backups", b"x", 1)?, &budget).await?;
    let level = store.list_level(&layout.backups_prefix(), &budget).await?;
    ensure(level.objects.len() == 1 && level.directories.is_empty(), || format!("{level:?}"))
}
