//! What records say, in one canonical text for the scanner and for PostgreSQL's descriptions.

use std::fmt::Write as _;

use walden_pg::wal::decode::{
    CheckpointKind, Invalidation, Invalidations, Locators, RowChange, TransactionEnd, Xids,
};
use walden_pg::wal::{Payload, Record};
use walden_pg::{Fork, Oid, PgTimestamp, RelFileLocator};

/// What the scanner says of a record; `None` for the kinds that it does not look into.
pub(crate) fn facts_of(record: &Record<'_>) -> Option<String> {
    let payload = record.payload().unwrap_or_else(|fault| panic!("{fault}: {record:?}"));
    facts_of_wal(&payload).or_else(|| facts_of_data(&payload))
}

fn facts_of_data(payload: &Payload<'_>) -> Option<String> {
    Some(match *payload {
        Payload::Commit(end) => format!("commit {}", transaction_end(&end)),
        Payload::Abort(end) => format!("abort {}", transaction_end(&end)),
        Payload::Prepare(prepare) => format!(
            "prepare gid={} time={} commit_rels={} abort_rels={} subxacts={}",
            text(prepare.gid),
            time(prepare.time),
            files(prepare.files_deleted_on_commit),
            files(prepare.files_deleted_on_abort),
            xids(prepare.subxacts),
        ),
        Payload::Assignment(list) => {
            format!("assignment top={} subxacts={}", list.toplevel, xids(list.subxacts))
        }
        Payload::Invalidations(list) => format!("invalidations {}", invalidations(list)),
        Payload::RunningTransactions(running) => format!(
            "running next={} latest={} oldest={} xacts={}",
            running.next_xid,
            running.latest_completed,
            running.oldest_running,
            xids(running.xids),
        ),
        Payload::ExclusiveLocks(locks) => {
            let locks: Vec<_> = locks
                .iter()
                .map(|lock| format!("{}/{}/{}", lock.xid, lock.database, lock.relation))
                .collect();
            format!("locks {locks:?}")
        }
        Payload::StorageCreate(create) => format!("create {}", path(create.locator, create.fork)),
        Payload::StorageTruncate(cut) => {
            format!("truncate {} to {}", path(cut.locator, Fork::Main), cut.blocks)
        }
        Payload::DatabaseCreate(create) => match create.copied_from {
            Some((database, tablespace)) => {
                format!("database {}/{} from {tablespace}/{database}", create.tablespace, create.database)
            }
            None => format!("database {}/{}", create.tablespace, create.database),
        },
        Payload::DatabaseDrop(drop) => {
            let dirs: Vec<_> =
                drop.tablespaces.iter().map(|space| format!("{space}/{}", drop.database)).collect();
            format!("database drop {dirs:?}")
        }
        Payload::RelationMap(map) => {
            assert!(
                map.entries().any(|(catalog, _)| catalog == Oid::new(1259)) || map.database == Oid::new(0)
            );
            format!("map {}", map.database)
        }
        Payload::HeapChange(change) => match (change.change, change.offset) {
            (RowChange::Insert, Some(offset)) => format!("insert {offset}"),
            (RowChange::Insert, None) => format!("insert rows={}", change.rows),
            (RowChange::Update, offset) => format!("update {}", offset.unwrap_or_default()),
            (_, offset) => format!("delete {}", offset.unwrap_or_default()),
        },
        Payload::HeapTruncate(cut) => {
            let tables: Vec<_> = cut.tables.iter().map(Oid::get).collect();
            format!("heap truncate {tables:?}")
        }
        _ => return None,
    })
}

fn facts_of_wal(payload: &Payload<'_>) -> Option<String> {
    Some(match *payload {
        Payload::Checkpoint(kind, point) => {
            let level = point.wal_level.map_or(String::new(), |level| format!(" wal_level={}", level.name()));
            let kind = if kind == CheckpointKind::Online { "online" } else { "shutdown" };
            format!(
                "checkpoint redo={} tli={} prev={} fpw={}{level} xid={}:{} oid={} multi={} offset={} oldest={}/{} multi={}/{} ts={}/{} running={} {kind}",
                point.redo,
                point.timeline,
                point.previous_timeline,
                point.full_page_writes,
                point.next_xid.get() >> 32,
                point.next_xid.xid(),
                point.next_oid,
                point.next_multi,
                point.next_multi_offset,
                point.oldest_xid,
                point.oldest_xid_database,
                point.oldest_multi,
                point.oldest_multi_database,
                point.oldest_commit_ts_xid,
                point.newest_commit_ts_xid,
                point.oldest_active_xid,
            )
        }
        Payload::RestorePoint(point) => format!("restore point {}", text(point.name)),
        Payload::EndOfRecovery(end) => {
            format!(
                "end of recovery tli={} prev={} time={}",
                end.timeline,
                end.previous_timeline,
                time(end.time)
            )
        }
        Payload::ParameterChange(change) => format!(
            "parameters {} {} {} {} {} {} {} {}",
            change.maxima.max_connections,
            change.maxima.max_worker_processes,
            change.maxima.max_wal_senders,
            change.maxima.max_prepared_transactions,
            change.maxima.max_locks_per_transaction,
            change.wal_level.name(),
            on_off(change.wal_log_hints),
            on_off(change.track_commit_timestamp),
        ),
        Payload::FullPageWrites(on) => format!("full page writes {on}"),
        Payload::BackupEnd(start) => format!("backup end {start}"),
        Payload::Switch => "switch".to_owned(),
        Payload::OverwrittenRecord(over) => format!("overwritten {} time={}", over.lsn, time(over.time)),
        Payload::NextOid(oid) => format!("next oid {oid}"),
        _ => return None,
    })
}

fn transaction_end(end: &TransactionEnd<'_>) -> String {
    let prepared = if end.was_prepared { format!("prepared={} ", end.xid) } else { String::new() };
    let stats: Vec<_> = end
        .dropped
        .iter()
        .map(|object| format!("{}/{}/{}", object.kind, object.database, object.object))
        .collect();
    format!(
        "{prepared}time={} rels={} subxacts={} stats={stats:?} {}",
        time(end.time),
        files(end.deleted_files),
        xids(end.subxacts),
        invalidations(end.invalidations)
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn time(time: PgTimestamp) -> i64 {
    time.unix_micros()
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn xids(list: Xids<'_>) -> String {
    format!("{:?}", list.iter().map(|xid| xid.to_string()).collect::<Vec<_>>())
}

fn files(list: Locators<'_>) -> String {
    format!("{:?}", list.iter().map(|locator| path(locator, Fork::Main)).collect::<Vec<_>>())
}

fn invalidations(list: Invalidations<'_>) -> String {
    let mut text = String::from("inval=[");
    for message in list.iter() {
        let _ = match message {
            Invalidation::CatalogCache { cache, .. } => write!(text, "catcache {cache},"),
            Invalidation::Catalog { catalog, .. } => write!(text, "catalog {catalog},"),
            Invalidation::Relation { relation, .. } => write!(text, "relcache {relation},"),
            _ => write!(text, "other,"),
        };
    }
    text + "]"
}

/// The name of a relation's file in the data directory.
fn path(locator: RelFileLocator, fork: Fork) -> String {
    let place = match locator.tablespace {
        Oid::PG_GLOBAL => format!("global/{}", locator.relation),
        _ => format!("base/{}/{}", locator.database, locator.relation),
    };
    if fork == Fork::Main { place } else { format!("{place}_{}", fork.name()) }
}

/// What PostgreSQL's description of a record says, in the same words.
pub(crate) fn facts_of_text(manager: &str, kind: &str, text: &str) -> Option<String> {
    let kind = kind.split('+').next().unwrap_or(kind);
    match manager {
        "XLOG" => xlog_text(kind, text),
        "Transaction" => transaction_text(kind, text),
        "Standby" => standby_text(kind, text),
        "Storage" if kind == "CREATE" => Some(format!("create {text}")),
        "Storage" if kind == "TRUNCATE" => {
            let words: Vec<_> = text.split(' ').collect();
            Some(format!("truncate {} to {}", words[0], words[2]))
        }
        "Database" => Some(database_text(kind, text)),
        "RelMap" => Some(format!("map {}", word_after(text, "database"))),
        "Heap" | "Heap2" => heap_text(kind, text),
        _ => None,
    }
}

/// The word after `name`, without punctuation.
fn word_after<'a>(text: &'a str, name: &str) -> &'a str {
    let words: Vec<_> =
        text.split([' ', ';', ',', '[', ']', '=', ':']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("no {name} in {text}"));
    words[at + 1]
}

fn xlog_text(kind: &str, text: &str) -> Option<String> {
    Some(match kind {
        "CHECKPOINT_ONLINE" | "CHECKPOINT_SHUTDOWN" => {
            let parts: Vec<_> = text.split("; ").collect();
            let value = |name: &str| {
                let part = parts.iter().find_map(|part| part.strip_prefix(name));
                part.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
            };
            let pair = |name: &str| value(name).replace(" in DB ", "/");
            let level = parts
                .iter()
                .find_map(|part| part.strip_prefix("wal_level "))
                .map_or(String::new(), |level| format!(" wal_level={level}"));
            let multis: Vec<_> = parts.iter().filter_map(|part| part.strip_prefix("multi ")).collect();
            format!(
                "checkpoint redo={} tli={} prev={} fpw={}{level} xid={} oid={} multi={} offset={} oldest={} multi={} ts={} running={} {}",
                value("redo "),
                value("tli "),
                value("prev tli "),
                value("fpw "),
                value("xid "),
                value("oid "),
                multis[0],
                value("offset "),
                pair("oldest xid "),
                pair("oldest multi "),
                value("oldest/newest commit timestamp xid: "),
                value("oldest running xid "),
                parts.last().unwrap_or(&""),
            )
        }
        "RESTORE_POINT" => format!("restore point {text}"),
        "END_OF_RECOVERY" => format!(
            "end of recovery tli={} prev={} time={}",
            word_after(text, "tli"),
            word_after(text.split_once("prev").map_or("", |(_, rest)| rest), "tli"),
            time_text(text.split_once("time ").map_or("", |(_, rest)| rest)),
        ),
        "PARAMETER_CHANGE" => {
            let values: Vec<_> =
                text.split(' ').filter_map(|part| part.split_once('=')).map(|(_, value)| value).collect();
            format!("parameters {}", values.join(" "))
        }
        "FPW_CHANGE" => format!("full page writes {text}"),
        "BACKUP_END" => format!("backup end {text}"),
        "SWITCH" => "switch".to_owned(),
        "OVERWRITE_CONTRECORD" => {
            let (lsn, when) = text.split_once("; time ").expect("a time");
            format!("overwritten {} time={}", lsn.trim_start_matches("lsn "), time_text(when))
        }
        "NEXTOID" => format!("next oid {text}"),
        _ => return None,
    })
}

fn transaction_text(kind: &str, text: &str) -> Option<String> {
    let section = |name: &str| -> Vec<String> {
        let found = text.split("; ").find_map(|part| part.strip_prefix(name)).unwrap_or("");
        found.split_whitespace().map(str::to_owned).collect()
    };
    let end = |word: &str, prepared: bool| {
        let (prepared, rest) = match text.split_once(": ") {
            Some((xid, rest)) if prepared => (format!("prepared={xid} "), rest),
            _ => (String::new(), text),
        };
        format!(
            "{word} {prepared}time={} rels={:?} subxacts={:?} stats={:?} {}",
            time_text(rest),
            section("rels: "),
            section("subxacts: "),
            section("dropped stats: "),
            invalidations_text(text),
        )
    };
    Some(match kind {
        "COMMIT" => end("commit", false),
        "COMMIT_PREPARED" => end("commit", true),
        "ABORT" => end("abort", false),
        "ABORT_PREPARED" => end("abort", true),
        "PREPARE" => {
            let (gid, rest) = text.trim_start_matches("gid ").split_once(": ").expect("a gid");
            format!(
                "prepare gid={gid} time={} commit_rels={:?} abort_rels={:?} subxacts={:?}",
                time_text(rest),
                section("rels(commit): "),
                section("rels(abort): "),
                section("subxacts: "),
            )
        }
        "ASSIGNMENT" => {
            let (top, list) = text.split_once(": subxacts:").expect("subxacts");
            let list: Vec<_> = list.split_whitespace().collect();
            format!("assignment top={} subxacts={list:?}", top.trim_start_matches("xtop "))
        }
        "INVALIDATION" => format!("invalidations {}", invalidations_text(text)),
        _ => return None,
    })
}

fn invalidations_text(text: &str) -> String {
    let mut facts = String::from("inval=[");
    let list = text.split_once("inval msgs:").map_or("", |(_, list)| list);
    let list = list.split(';').next().unwrap_or_default().replace("relmap db", "relmap");
    let mut words = list.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let number = words.next_if(|word| word.parse::<u64>().is_ok());
        let _ = match (word, number) {
            ("catcache" | "catalog" | "relcache", Some(number)) => write!(facts, "{word} {number},"),
            _ => write!(facts, "other,"),
        };
    }
    facts + "]"
}

fn standby_text(kind: &str, text: &str) -> Option<String> {
    Some(match kind {
        "LOCK" => {
            let words: Vec<_> = text.split_whitespace().collect();
            let locks: Vec<_> = words.chunks(6).map(|w| format!("{}/{}/{}", w[1], w[3], w[5])).collect();
            format!("locks {locks:?}")
        }
        "RUNNING_XACTS" => {
            let list = text.split_once("xacts:").map_or("", |(_, list)| list);
            let list: Vec<_> = list.split(';').next().unwrap_or_default().split_whitespace().collect();
            format!(
                "running next={} latest={} oldest={} xacts={list:?}",
                word_after(text, "nextXid"),
                word_after(text, "latestCompletedXid"),
                word_after(text, "oldestRunningXid"),
            )
        }
        "INVALIDATIONS" => format!("invalidations {}", invalidations_text(text)),
        _ => return None,
    })
}

fn database_text(kind: &str, text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    match kind {
        "CREATE" | "CREATE_FILE_COPY" => format!("database {} from {}", words[4], words[2]),
        "CREATE_WAL_LOG" => format!("database {}", words[2]),
        _ => format!("database drop {:?}", &words[1..]),
    }
}

fn heap_text(kind: &str, text: &str) -> Option<String> {
    let before_new = text.split("new").next().unwrap_or(text);
    let offset = || {
        let words: Vec<_> = before_new.split([' ', ',', ':', ';']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| matches!(*word, "off" | "old_off")).expect("an offset");
        words[at + 1].to_owned()
    };
    Some(match kind {
        "INSERT" => format!("insert {}", offset()),
        "UPDATE" | "HOT_UPDATE" => format!("update {}", offset()),
        "DELETE" => format!("delete {}", offset()),
        "MULTI_INSERT" => {
            let rows = match text.split_once(" tuples") {
                Some((rows, _)) => rows,
                None => word_after(text, "ntuples"),
            };
            format!("insert rows={rows}")
        }
        "TRUNCATE" => {
            let list = text
                .split_once("relids ")
                .or_else(|| text.split_once(", relids: "))
                .map_or("", |(_, list)| list);
            let list = list.split_once("relids ").map_or(list, |(_, list)| list);
            let tables: Vec<u32> =
                list.split([' ', '[', ']', ',']).filter_map(|word| word.parse().ok()).collect();
            format!("heap truncate {tables:?}")
        }
        _ => return None,
    })
}

/// Microseconds since 1970 of a time such as `2026-11-20 10:54:59.123 UTC` at the start of a text. The
/// tools are told to write UTC.
fn time_text(text: &str) -> i64 {
    let number = |text: &str| text.parse::<i64>().unwrap_or_else(|_| panic!("a number: {text:?}"));
    let (date, rest) = text.split_once(' ').unwrap_or_else(|| panic!("a time: {text:?}"));
    let clock = rest.split([' ', '+', ';']).next().unwrap_or_default();
    let date: Vec<i64> = date.split('-').map(number).collect();
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let clock: Vec<i64> = clock.split(':').map(number).collect();
    let micros = number(&format!("{fraction:0<6}"));
    let (year, month, day) = (date[0], date[1], date[2]);
    // Days from civil, for years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + clock[0]) * 3600 + clock[1] * 60 + clock[2]) * 1_000_000 + micros
}
