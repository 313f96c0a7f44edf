//! Checks of writing.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use walden_core::{ConditionalCreate, ErrorKind};
use walden_store::{CompressionLevel, CreateOutcome, Existing, Expected, IdentityHash, seal_bytes};

use super::{Bench, Failed, Verdict, budget, ensure, fields, key, noise, record, seal};

const NAME: &str = "000000010000000000000001";
const KEY: &str = "main/wal/00000001/00000000/000000010000000000000001.zst";

fn expected() -> Expected<'static> {
    Expected { name: NAME, max_plain_bytes: 64 << 20 }
}

fn is_conflict_with(outcome: &CreateOutcome, writer: &str) -> bool {
    matches!(outcome, CreateOutcome::Conflict(Existing::Sealed(header)) if header.writer.instance == writer)
}

pub(super) async fn one_request_creates_and_one_reads(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key(KEY)?);
    let object = seal(NAME, b"plain bytes", 1)?;
    let before = store.counters();
    let outcome = store.create_once(&key, &object, &budget).await?;
    ensure(outcome == CreateOutcome::Created, || format!("{outcome:?}"))?;
    let after = store.counters().since(&before);
    ensure(after.requests() == 1 && after.put.requests == 1, || format!("{after:?}"))?;
    ensure(after.put.bytes_sent == object.object_bytes(), || format!("{after:?}"))?;
    let before = store.counters();
    let opened = store.fetch_sealed(&key, expected(), || Ok(Vec::new()), &budget).await?;
    ensure(opened.plain == b"plain bytes", || "other bytes came back".to_owned())?;
    ensure(opened.header == *object.header(), || format!("{:?}", opened.header))?;
    let after = store.counters().since(&before);
    ensure(after.requests() == 1 && after.get.requests == 1, || format!("{after:?}"))?;
    ensure(after.get.bytes_received == object.object_bytes(), || format!("{after:?}"))
}

pub(super) async fn the_same_again_is_already_stored(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key(KEY)?);
    let plain = noise(50_000, 1);
    store.create_once(&key, &seal(NAME, &plain, 1)?, &budget).await?;
    // Another writer, another level: other bytes in the object, the same in the file.
    let level = CompressionLevel::new(7).unwrap_or(CompressionLevel::DEFAULT);
    let again = seal_bytes(level, IdentityHash::Plain, fields(NAME, 2)?, &plain, Some(b"index"))
        .map_err(|error| Failed(error.to_string()))?;
    let outcome = store.create_once(&key, &again, &budget).await?;
    let first = matches!(
        &outcome,
        CreateOutcome::AlreadyStored(Existing::Sealed(header)) if header.writer.instance == "writer 1"
    );
    ensure(first, || format!("{outcome:?}"))
}

pub(super) async fn a_retry_of_the_same_writer_is_created(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key(KEY)?);
    let object = seal(NAME, b"plain", 1)?;
    for _ in 0..2 {
        let outcome = store.create_once(&key, &object, &budget).await?;
        ensure(outcome == CreateOutcome::Created, || format!("{outcome:?}"))?;
    }
    Ok(())
}

pub(super) async fn different_bytes_are_a_conflict_that_names_the_writer(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key(KEY)?);
    let first = seal(NAME, b"first", 1)?;
    store.create_once(&key, &first, &budget).await?;
    let mut other_kind = fields(NAME, 4)?;
    other_kind.kind = walden_core::ObjectKind::Pack;
    let other_kind = seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, other_kind, b"first", None)
        .map_err(|error| Failed(error.to_string()))?;
    for other in [seal(NAME, b"secnd", 2)?, seal("another name", b"first", 3)?, other_kind] {
        let outcome = store.create_once(&key, &other, &budget).await?;
        ensure(is_conflict_with(&outcome, "writer 1"), || format!("{outcome:?}"))?;
    }
    let stored = store.get(&key, 1 << 20, &budget).await?;
    ensure(stored == first.to_vec(), || "the first object was changed".to_owned())
}

pub(super) async fn records_are_compared_byte_for_byte(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key("main/incarnation.json")?);
    let outcome = store.create_record_once(&key, &record("one"), &budget).await?;
    ensure(outcome == CreateOutcome::Created, || format!("{outcome:?}"))?;
    let outcome = store.create_record_once(&key, &record("one"), &budget).await?;
    let same = CreateOutcome::AlreadyStored(Existing::Record(record("one")));
    ensure(outcome == same, || format!("{outcome:?}"))?;
    for other in ["two", "longer", ""] {
        let outcome = store.create_record_once(&key, &record(other), &budget).await?;
        let conflict = CreateOutcome::Conflict(Existing::Record(record("one")));
        ensure(outcome == conflict, || format!("{other}: {outcome:?}"))?;
    }
    Ok(())
}

pub(super) async fn foreign_and_torn_objects_are_never_overwritten(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let object = seal(NAME, &noise(10_000, 3), 1)?;
    let whole = Bytes::from(object.to_vec());
    let longer = Bytes::from([&whole[..], b"tail"].concat());
    let strange = [
        ("foreign", Bytes::from_static(b"not one of ours")),
        ("empty", Bytes::new()),
        ("torn", whole.slice(..whole.len() - 1)),
        ("torn-header", whole.slice(..100)),
        ("longer", longer),
    ];
    for (name, bytes) in strange {
        let key = key(&format!("main/{name}.zst"))?;
        store.create_record_once(&key, &bytes, &budget).await?;
        let outcome = store.create_once(&key, &object, &budget).await?;
        let size = bytes.len() as u64;
        let refused = matches!(
            &outcome,
            CreateOutcome::Conflict(Existing::Unreadable { object_bytes, .. }) if *object_bytes == size
        );
        ensure(refused, || format!("{name}: {outcome:?}"))?;
        let stored = store.get(&key, 1 << 20, &budget).await?;
        ensure(stored == bytes, || format!("{name} was changed"))?;
    }
    Ok(())
}

pub(super) async fn of_two_racing_writers_one_wins(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let (a, b) = (seal(NAME, b"bytes of a", 1)?, seal(NAME, b"bytes of b", 2)?);
    for round in 0..bench.race_rounds {
        let key = key(&format!("race/{round:06}.zst"))?;
        let (first, second) =
            tokio::join!(store.create_once(&key, &a, &budget), store.create_once(&key, &b, &budget));
        let (first, second) = (first?, second?);
        let a_won = first == CreateOutcome::Created && is_conflict_with(&second, "writer 1");
        let b_won = second == CreateOutcome::Created && is_conflict_with(&first, "writer 2");
        ensure(a_won != b_won, || format!("round {round}: {first:?} {second:?}"))?;
        let opened = store.fetch_sealed(&key, expected(), || Ok(Vec::new()), &budget).await?;
        let winner: &[u8] = if a_won { b"bytes of a" } else { b"bytes of b" };
        ensure(opened.plain == winner, || format!("round {round}: the loser's bytes are stored"))?;
    }
    Ok(())
}

pub(super) async fn racing_writers_of_the_same_both_succeed(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let (a, b) = (seal(NAME, b"the same", 1)?, seal(NAME, b"the same", 2)?);
    for round in 0..bench.race_rounds / 5 {
        let key = key(&format!("race/{round:06}.zst"))?;
        let (first, second) =
            tokio::join!(store.create_once(&key, &a, &budget), store.create_once(&key, &b, &budget));
        let outcomes = [first?, second?];
        let created = outcomes.iter().filter(|outcome| **outcome == CreateOutcome::Created).count();
        let conflict = outcomes.iter().any(|outcome| matches!(outcome, CreateOutcome::Conflict(_)));
        ensure(created == 1 && !conflict, || format!("round {round}: {outcomes:?}"))?;
    }
    Ok(())
}

pub(super) async fn many_writers_at_once(bench: &Bench) -> Verdict {
    let budget = budget();
    let writes = (0..64_u32).map(|number| {
        let (store, budget) = (bench.store.clone(), budget.clone());
        async move {
            let key = key(&format!("many/{number:03}.zst"))?;
            let outcome = store
                .create_once(&key, &seal(NAME, &noise(100_000, number.into()), number)?, &budget)
                .await?;
            ensure(outcome == CreateOutcome::Created, || format!("{number}: {outcome:?}"))
        }
    });
    futures::stream::iter(writes).buffer_unordered(32).try_collect::<()>().await?;
    let level = bench.store.list_level("many", &budget).await?;
    ensure(level.objects.len() == 64, || format!("{} objects", level.objects.len()))
}

pub(super) async fn a_big_object_round_trips(bench: &Bench) -> Verdict {
    let (store, budget, key) = (&bench.store, budget(), key(KEY)?);
    let plain = noise(40 << 20, 9);
    let object = seal(NAME, &plain, 1)?;
    let outcome = store.create_once(&key, &object, &budget).await?;
    ensure(outcome == CreateOutcome::Created, || format!("{outcome:?}"))?;
    let opened = store.fetch_sealed(&key, expected(), || Ok(Vec::new()), &budget).await?;
    ensure(opened.plain == plain, || "other bytes came back".to_owned())?;
    let outcome = store.create_once(&key, &seal(NAME, &plain, 2)?, &budget).await?;
    ensure(matches!(outcome, CreateOutcome::AlreadyStored(_)), || format!("{outcome:?}"))
}

pub(super) async fn a_missing_bucket_is_said(bench: &Bench) -> Verdict {
    let Some(store) = &bench.missing_bucket else { return Ok(()) };
    let (budget, key) = (budget(), key(KEY)?);
    let says = |what: &str, error: walden_store::StoreError| {
        let ok =
            error.kind() == ErrorKind::NotFound && !error.is_object_not_found() && error.hint().is_some();
        ensure(ok, || format!("{what}: {error:?}"))
    };
    match store.create_once(&key, &seal(NAME, b"plain", 1)?, &budget).await {
        Err(error) => says("create", error)?,
        Ok(outcome) => return Err(Failed(format!("{outcome:?}"))),
    }
    match store.get_or_prove_absent(&key, &key, 1 << 20, &budget).await {
        Err(error) => says("get", error)?,
        Ok(found) => return Err(Failed(format!("{found:?}"))),
    }
    match store.list("", &budget).try_collect::<Vec<_>>().await {
        Err(error) => says("list", error),
        Ok(found) => Err(Failed(format!("{found:?}"))),
    }
}

pub(super) async fn the_probe_finds_conditional_create_and_cleans_up(bench: &Bench) -> Verdict {
    let (store, budget) = (&bench.store, budget());
    let found = store.probe("check", Timestamp::UNIX_EPOCH, &budget).await?;
    ensure(found.conditional_create == ConditionalCreate::Enforced, || format!("{found:?}"))?;
    ensure(found.range_reads, || format!("{found:?}"))?;
    let left: Vec<_> = store.list("", &budget).try_collect().await?;
    ensure(left.is_empty(), || format!("{left:?}"))
}
