//! Random transactions of concurrent clients.
//!
//! Every transaction that writes leaves its id in [`TABLE`], so that the rows of a recovered server tell which
//! transactions it has: those whose commit was replayed, and no others.

use std::sync::atomic::{AtomicU64, Ordering};

use super::dice::Dice;
use crate::postgres::{PgServer, PgSession, Result};

/// The table with the id of every transaction.
pub(super) const TABLE: &str = "walden_history";

/// Makes the tables; its own transaction is in them.
pub(super) const CREATE: &str = "BEGIN;
    CREATE TABLE walden_history (label bigint, xid bigint);
    CREATE TABLE walden_filler (payload text);
    INSERT INTO walden_history VALUES (0, txid_current());
    COMMIT";

/// Numbers that are used once.
#[derive(Debug, Default)]
pub(super) struct Labels(AtomicU64);

impl Labels {
    /// The next one.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Runs clients until each has done its transactions, and returns how many they did. A client whose server goes
/// away ends early.
///
/// # Errors
/// When a client cannot connect.
pub(super) fn run(
    server: &PgServer,
    dice: &mut Dice,
    labels: &Labels,
    clients: u64,
    transactions: u64,
) -> Result<u64> {
    let sessions = (0..clients).map(|_| server.session()).collect::<Result<Vec<_>>>()?;
    let each: Vec<Dice> = sessions.iter().map(|_| dice.split()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .into_iter()
            .zip(each)
            .map(|(session, mut dice)| {
                scope.spawn(move || run_session(&session, &mut dice, labels, transactions))
            })
            .collect();
        Ok(threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum())
    })
}

/// Runs transactions until the server goes away, and returns how many were done.
pub(super) fn run_session(session: &PgSession, dice: &mut Dice, labels: &Labels, transactions: u64) -> u64 {
    if dice.percent(50) && session.execute("SET synchronous_commit = off").is_err() {
        return 0;
    }
    let mut done = 0;
    for _ in 0..transactions {
        let (sql, finish) = transaction(dice, labels);
        let outcome = session.execute(&sql).and_then(|()| finish.map_or(Ok(()), |sql| session.execute(&sql)));
        match outcome {
            Ok(()) => done += 1,
            // A refused statement leaves a failed transaction; a server that is gone refuses this, too.
            Err(_) if session.execute("ROLLBACK").is_ok() => {}
            Err(_) => break,
        }
    }
    done
}

/// The statement that leaves the transaction's id.
fn note(label: u64) -> String {
    format!("INSERT INTO {TABLE} VALUES ({label}, txid_current())")
}

/// Prepares a transaction under a name made of its label.
pub(super) fn prepare(dice: &mut Dice, labels: &Labels) -> String {
    let label = labels.next();
    let note = note(label);
    let inner = if dice.percent(50) {
        let filler = filler(dice);
        format!("SAVEPOINT a; {filler}; RELEASE a; SAVEPOINT b; {filler}; ROLLBACK TO b")
    } else {
        filler(dice)
    };
    format!("BEGIN; {note}; {inner}; PREPARE TRANSACTION 'p{label}'")
}

/// Rows of some kilobytes that do not shrink.
fn filler(dice: &mut Dice) -> String {
    let rows = dice.between(1, 60);
    format!(
        "INSERT INTO walden_filler SELECT array_to_string(ARRAY(SELECT md5(random()::text || n) \
         FROM generate_series(1, 12)), '') FROM generate_series(1, {rows}) AS n"
    )
}

/// One transaction, and the statement that finishes it where that must stand alone.
fn transaction(dice: &mut Dice, labels: &Labels) -> (String, Option<String>) {
    let label = labels.next();
    let note = note(label);
    let filler = filler(dice);
    let pause = format!("SELECT pg_sleep(0.001 * {})", dice.between(1, 15));
    let end = if dice.percent(80) { "COMMIT" } else { "ROLLBACK" };
    let sql = match dice.weighted(&[20, 20, 12, 6, 8, 8, 3, 8, 6, 3, 6, 3, 3, 2]) {
        0 => format!("BEGIN; {note}; COMMIT"),
        1 => note,
        2 => format!("BEGIN; {filler}; {note}; {end}"),
        3 => format!("BEGIN; {note}; {filler}; ROLLBACK"),
        4 => format!("BEGIN; {note}; SAVEPOINT a; {filler}; RELEASE a; {end}"),
        5 => format!("BEGIN; {note}; SAVEPOINT a; {filler}; ROLLBACK TO a; {pause}; {end}"),
        6 => format!("BEGIN; SAVEPOINT a; {filler}; SAVEPOINT b; {note}; ROLLBACK TO a; ROLLBACK"),
        7 => format!(
            "BEGIN; {note}; DO $$ BEGIN {filler}; RAISE 'no'; EXCEPTION WHEN others THEN NULL; END $$; {end}"
        ),
        8 => format!(
            "BEGIN; {note}; CREATE TABLE t{label} AS SELECT 1 AS a; CREATE INDEX ON t{label} (a); {end}"
        ),
        9 => format!(
            "BEGIN; {note}; CREATE TABLE t{label} (a int PRIMARY KEY, b text); TRUNCATE t{label}; DROP TABLE t{label}; {end}"
        ),
        10 => format!("BEGIN; {note}; {pause}; {end}"),
        11 => {
            let one = |n| format!("SAVEPOINT s{n}; {}; ", self::note(labels.next()));
            let many: Vec<String> = (0..70).map(one).collect();
            format!("BEGIN; {note}; {}{end}", many.concat())
        }
        12 => {
            format!("BEGIN; {note}; SELECT pg_logical_emit_message(true, 'walden', repeat('m', 5000)); {end}")
        }
        _ => {
            let verb = if end == "COMMIT" { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" };
            let prepare = format!("BEGIN; {note}; {filler}; PREPARE TRANSACTION 'q{label}'");
            return (prepare, Some(format!("{verb} 'q{label}'")));
        }
    };
    (sql, None)
}
