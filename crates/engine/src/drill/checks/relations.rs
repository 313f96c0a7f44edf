//! Tables, indexes and sequences, in all databases.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;
use walden_core::DrillCheck;

use super::{CATALOG_TIME, DATABASES_MAX, Questions, listed};
use crate::drill::session::{Said, Session, identifier};

/// How many tables are counted in each database.
const TABLES_COUNTED: i64 = 10;
/// How long the rows of one table are counted.
const COUNT_TIME: Duration = Duration::from_mins(1);
/// How long all counting takes at most.
const COUNT_TIME_ALL: Duration = Duration::from_mins(10);
/// How long the largest value of one sequence's column is looked for.
const SEQUENCE_TIME: Duration = Duration::from_secs(30);
/// How long all sequences take at most.
const SEQUENCE_TIME_ALL: Duration = Duration::from_mins(5);

/// What belongs to users.
const OF_USERS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'";

fn text(row: &Row, column: usize) -> Result<String, Said> {
    row.try_get(column).map_err(|error| Said::wrong(&error))
}

/// Indexes that are not valid: no query uses them, and a unique one keeps nothing unique.
pub(super) async fn indexes(questions: &Questions<'_>, databases: &[String]) -> Result<DrillCheck, Said> {
    const NAME: &str = "indexes";
    let (mut invalid, mut all) = (Vec::new(), 0_i64);
    for database in databases.iter().take(DATABASES_MAX) {
        let session = questions.in_database(database).await?;
        let rows = session
            .rows(
                "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), i.indisvalid AND i.indisready \
                 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'i'",
                CATALOG_TIME,
            )
            .await?;
        for row in &rows {
            all += 1;
            if !matches!(row.try_get(1), Ok(true)) {
                invalid.push(format!("{database}: {}", text(row, 0)?));
            }
        }
    }
    Ok(if invalid.is_empty() {
        DrillCheck::new(NAME, true, format!("all {all} are valid{}", not_all(databases)))
    } else {
        let detail = format!("{} of {all} are not valid: {}", invalid.len(), listed(&invalid));
        DrillCheck::new(NAME, false, detail)
    })
}

fn not_all(databases: &[String]) -> String {
    match databases.len().saturating_sub(DATABASES_MAX) {
        0 => String::new(),
        more => format!("; {more} more databases were not looked into"),
    }
}

/// Sequences that belong to a column and are behind it: the next row would get a number that is taken.
pub(super) async fn sequences(questions: &Questions<'_>, databases: &[String]) -> Result<DrillCheck, Said> {
    const NAME: &str = "sequences";
    let end = Instant::now() + SEQUENCE_TIME_ALL;
    let (mut behind, mut seen, mut unseen) = (Vec::new(), 0, 0);
    for database in databases.iter().take(DATABASES_MAX) {
        let session = questions.in_database(database).await?;
        for owned in owned_sequences(&session).await? {
            if Instant::now() >= end {
                unseen += 1;
                continue;
            }
            match session.one(&owned.question, SEQUENCE_TIME).await {
                Ok(row) => {
                    seen += 1;
                    let (last, largest): (Option<i64>, Option<i64>) = (
                        row.try_get(0).map_err(|error| Said::wrong(&error))?,
                        row.try_get(1).map_err(|error| Said::wrong(&error))?,
                    );
                    if let Some(largest) = largest.filter(|largest| last.is_none_or(|last| last < *largest)) {
                        let last = last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
                        behind.push(format!(
                            "{database}: {} gave {last}, the column has {largest}",
                            owned.name
                        ));
                    }
                }
                Err(said) if said.out_of_time => unseen += 1,
                Err(said) => behind.push(format!("{database}: {}: {said}", owned.name)),
            }
        }
    }
    let unseen = if unseen > 0 { format!("; for {unseen} there was not enough time") } else { String::new() };
    Ok(if behind.is_empty() {
        let detail = format!("all {seen} are at or beyond their columns{unseen}{}", not_all(databases));
        DrillCheck::new(NAME, true, detail)
    } else {
        let detail = format!("{} of {seen} are behind: {}{unseen}", behind.len(), listed(&behind));
        DrillCheck::new(NAME, false, detail)
    })
}

struct OwnedSequence {
    name: String,
    question: String,
}

/// Rising sequences that belong to a column of whole numbers.
async fn owned_sequences(session: &Session) -> Result<Vec<OwnedSequence>, Said> {
    let sql = "SELECT sn.nspname::text, s.relname::text, tn.nspname::text, t.relname::text, a.attname::text \
               FROM pg_catalog.pg_depend d \
               JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
               JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace \
               JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid \
               JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND t.relkind IN ('r', 'p') AND t.relpersistence = 'p' \
               JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid AND NOT a.attisdropped \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
               AND d.deptype IN ('a', 'i') AND s.relpersistence = 'p' AND q.seqincrement > 0 AND NOT q.seqcycle \
               AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) ORDER BY s.oid";
    let rows = session.rows(sql, CATALOG_TIME).await?;
    rows.iter()
        .map(|row| {
            let (sequence, table) = (
                format!("{}.{}", identifier(&text(row, 0)?), identifier(&text(row, 1)?)),
                format!("{}.{}", identifier(&text(row, 2)?), identifier(&text(row, 3)?)),
            );
            let column = identifier(&text(row, 4)?);
            // A sequence that gave no number stands before its first one.
            let question = format!(
                "SELECT (SELECT CASE WHEN is_called THEN last_value END FROM {sequence}), \
                 (SELECT max({column})::int8 FROM {table})"
            );
            Ok(OwnedSequence { name: sequence, question })
        })
        .collect()
}

/// Counts the rows of the largest tables: whoever counts them reads every page.
pub(super) async fn row_counts(questions: &Questions<'_>, databases: &[String]) -> Result<DrillCheck, Said> {
    const NAME: &str = "row counts";
    let end = Instant::now() + COUNT_TIME_ALL;
    let (mut counted, mut unreadable, mut uncounted) = (Vec::new(), Vec::new(), 0);
    for database in databases.iter().take(DATABASES_MAX) {
        let session = questions.in_database(database).await?;
        let sql = format!(
            "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND {OF_USERS} \
             ORDER BY pg_catalog.pg_relation_size(c.oid) DESC, 1, 2 LIMIT {TABLES_COUNTED}"
        );
        for row in session.rows(&sql, CATALOG_TIME).await? {
            let (schema, table) = (text(&row, 0)?, text(&row, 1)?);
            let shown = format!("{database}.{schema}.{table}");
            if Instant::now() >= end {
                uncounted += 1;
                continue;
            }
            let sql =
                format!("SELECT pg_catalog.count(*) FROM {}.{}", identifier(&schema), identifier(&table));
            match session.one(&sql, COUNT_TIME).await {
                Ok(row) => {
                    let rows: i64 = row.try_get(0).map_err(|error| Said::wrong(&error))?;
                    counted.push(format!("{shown}: {rows}"));
                }
                Err(said) if said.out_of_time => uncounted += 1,
                Err(said) => unreadable.push(format!("{shown}: {said}")),
            }
        }
    }
    let late =
        if uncounted > 0 { format!("; for {uncounted} there was not enough time") } else { String::new() };
    Ok(match (unreadable.is_empty(), counted.is_empty()) {
        (false, _) => {
            DrillCheck::new(NAME, false, format!("tables can't be read: {}{late}", listed(&unreadable)))
        }
        (true, true) if uncounted > 0 => DrillCheck::skipped(NAME, late.trim_start_matches("; ").to_owned()),
        (true, true) => DrillCheck::new(NAME, true, "there is no table".to_owned()),
        (true, false) => {
            let detail = format!("{}{late}{}", counted.join(", "), not_all(databases));
            DrillCheck::new(NAME, true, detail)
        }
    })
}
