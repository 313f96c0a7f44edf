//! Checks of reading.

use bytes::Bytes;
use walden_core::ErrorKind;
use walden_store::{Expected, HeaderRead, StoreError};

use super::{Bench, Failed, Verdict, budget, ensure, key, noise, record, seal};

const NAME: &str = "000000010000000000000001";

fn failed<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Result<StoreError, Failed> {
    match result {
        Err(error) => Ok(error),
        Ok(value) => Err(Failed(format!("it should have failed: {value:?}"))),
    }
}

pub(super) async fn ranges_are_exact(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key("main/object")?);
    let bytes = noise(100_000, 5);
    store.create_record_once(&key, &Bytes::from(bytes.clone()), &budget).await?;
    for range in [0..1, 0..100_000, 99_999..100_000, 12_345..54_321, 0..99_999, 1..100_000] {
        let read = store.get_range(&key, range.clone(), &budget).await?;
        let at = usize::try_from(range.start).unwrap_or(usize::MAX)
            ..usize::try_from(range.end).unwrap_or(usize::MAX);
        ensure(bytes.get(at) == Some(read.as_ref()), || format!("{range:?}"))?;
    }
    for range in [99_999..100_001, 100_000..100_001, 200_000..300_000, 5..5] {
        let error = failed(store.get_range(&key, range.clone(), &budget).await)?;
        ensure(error.kind() == ErrorKind::Corrupt, || format!("{range:?}: {error:?}"))?;
    }
    Ok(())
}

pub(super) async fn headers_of_small_empty_and_missing_objects(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    for (name, plain) in [("small", noise(10, 1)), ("large", noise(100_000, 1)), ("empty", Vec::new())] {
        let key = key(&format!("main/{name}.zst"))?;
        let object = seal(NAME, &plain, 1)?;
        store.create_once(&key, &object, &budget).await?;
        let before = store.counters();
        let found = store.get_header(&key, &budget).await?;
        let header = Box::new(object.header().clone());
        let right = found == HeaderRead::Found { header, object_bytes: object.object_bytes() };
        ensure(right, || format!("{name}: {found:?}"))?;
        let cost = store.counters().since(&before);
        ensure(cost.requests() == 1 && cost.get.bytes_received <= 8192, || format!("{name}: {cost:?}"))?;
    }
    let missing = store.get_header(&key("main/missing.zst")?, &budget).await?;
    ensure(missing == HeaderRead::Missing, || format!("{missing:?}"))?;
    let strange = key("main/strange.zst")?;
    store.create_record_once(&strange, &record("not sealed"), &budget).await?;
    let error = failed(store.get_header(&strange, &budget).await)?;
    ensure(error.kind() == ErrorKind::Corrupt, || format!("{error:?}"))
}

pub(super) async fn empty_objects_are_objects(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key("main/empty")?);
    store.create_record_once(&key, &Bytes::new(), &budget).await?;
    let read = store.get(&key, 100, &budget).await?;
    ensure(read.is_empty(), || format!("{read:?}"))?;
    // There is something, even though no byte of it can be read.
    store.prove_visible(&key, &budget).await?;
    let error = failed(store.get_header(&key, &budget).await)?;
    ensure(error.kind() == ErrorKind::Corrupt, || format!("{error:?}"))?;
    let error = failed(store.get_range(&key, 0..1, &budget).await)?;
    ensure(error.kind() == ErrorKind::Corrupt, || format!("{error:?}"))
}

pub(super) async fn size_limits_hold(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key("main/object.zst")?);
    let object = seal(NAME, &noise(3 << 20, 1), 1)?;
    store.create_once(&key, &object, &budget).await?;
    let error = failed(store.get(&key, object.object_bytes() - 1, &budget).await)?;
    ensure(matches!(error, StoreError::Size { .. }), || format!("{error:?}"))?;
    let expected = Expected { name: NAME, max_plain_bytes: (3 << 20) - 1 };
    let error = failed(store.fetch_sealed(&key, expected, || Ok(Vec::new()), &budget).await)?;
    ensure(error.kind() == ErrorKind::Corrupt, || format!("{error:?}"))?;
    store.get(&key, object.object_bytes(), &budget).await?;
    Ok(())
}

pub(super) async fn absence_is_proved_by_the_marker(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let (object, marker) = (key("main/wal/object.zst")?, key("main/incarnation.json")?);
    let error = failed(store.get_or_prove_absent(&object, &marker, 100, &budget).await)?;
    let unproved = matches!(error, StoreError::MarkerNotFound { .. }) && error.kind() == ErrorKind::NotFound;
    ensure(unproved, || format!("{error:?}"))?;
    store.create_record_once(&marker, &record("marker"), &budget).await?;
    let before = store.counters();
    let absent = store.get_or_prove_absent(&object, &marker, 100, &budget).await?;
    ensure(absent.is_none(), || format!("{absent:?}"))?;
    let cost = store.counters().since(&before);
    ensure(cost.requests() == 2, || format!("{cost:?}"))?;
    store.create_record_once(&object, &record("object"), &budget).await?;
    let found = store.get_or_prove_absent(&object, &marker, 100, &budget).await?;
    ensure(found == Some(record("object")), || format!("{found:?}"))
}

pub(super) async fn a_wrong_name_is_not_the_object(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key("main/object.zst")?);
    store.create_once(&key, &seal("another", b"plain", 1)?, &budget).await?;
    let expected = Expected { name: NAME, max_plain_bytes: 100 };
    let error = failed(store.fetch_sealed(&key, expected, || Ok(Vec::new()), &budget).await)?;
    ensure(error.kind() == ErrorKind::Corrupt, || format!("{error:?}"))
}
