//! Whether indexes and tables are sound inside: by the program `pg_amcheck` where it is installed, else by the
//! extension `amcheck`, which it uses too.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::time::Instant;
use walden_core::DrillCheck;
use walden_pg::PgMajor;

use super::{CATALOG_TIME, DATABASES_MAX, Questions, listed};
use crate::drill::isolation::PORT;
use crate::drill::session::{Said, Session};

const NAME: &str = "amcheck";
/// How long it may take; it reads everything once, and a drill of a large server has better things to do all night.
const TIME: Duration = Duration::from_mins(30);
/// So much of what the program says is read, in bytes.
const SAID_BYTES_MAX: u64 = 64 << 10;
/// `pg_amcheck` ends so when it found something (`src/bin/pg_amcheck/pg_amcheck.c`).
const FOUND_SOMETHING: i32 = 2;

pub(super) async fn amcheck(questions: &Questions<'_>, databases: &[String]) -> Result<DrillCheck, Said> {
    let end = questions.door.deadline.min(Instant::now() + TIME);
    let program = questions.programs.directory.join("pg_amcheck");
    if questions.major >= PgMajor::V14 && program.is_file() {
        return by_program(questions, &program, end).await;
    }
    by_extension(questions, databases, end).await
}

async fn by_program(
    questions: &Questions<'_>,
    program: &std::path::Path,
    end: Instant,
) -> Result<DrillCheck, Said> {
    let failed = |error: std::io::Error| Said { message: format!("pg_amcheck: {error}"), out_of_time: false };
    let mut command = tokio::process::Command::new(program);
    command.args(["--all", "--install-missing", "--no-password"]).arg("--host").arg(&questions.door.socket);
    command.args(["--port", &PORT.to_string(), "--username", &questions.door.role]);
    for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSERVICE", "PGOPTIONS"] {
        command.env_remove(name);
    }
    if let Some(owner) = questions.owner {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("PGOPTIONS", &questions.door.options);
    command.env("LC_ALL", "C").current_dir(&questions.door.socket);
    let mut child = command.spawn().map_err(failed)?;
    let read = |pipe: Option<Box<dyn tokio::io::AsyncRead + Unpin + Send>>| async move {
        let mut text = Vec::new();
        let Some(pipe) = pipe else { return text };
        let mut pipe = BufReader::new(pipe);
        drop((&mut pipe).take(SAID_BYTES_MAX).read_to_end(&mut text).await);
        // It must not wait for somebody to read the rest.
        drop(tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await);
        text
    };
    let stdout =
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn tokio::io::AsyncRead + Unpin + Send>);
    let stderr =
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn tokio::io::AsyncRead + Unpin + Send>);
    let work = async { tokio::join!(child.wait(), read(stdout), read(stderr)) };
    let Ok((status, stdout, stderr)) = tokio::time::timeout_at(end, work).await else {
        return Ok(DrillCheck::skipped(
            NAME,
            "pg_amcheck was stopped for want of time; it had found nothing to tell",
        ));
    };
    let status = status.map_err(failed)?;
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    Ok(match status.code() {
        Some(0) => {
            DrillCheck::new(NAME, true, "pg_amcheck found all tables and indexes of all databases sound")
        }
        Some(FOUND_SOMETHING) => {
            DrillCheck::new(NAME, false, format!("pg_amcheck found damage: {}", listed(&lines(&stdout))))
        }
        _ => DrillCheck::skipped(NAME, format!("pg_amcheck could not look: {}", listed(&lines(&stderr)))),
    })
}

async fn by_extension(
    questions: &Questions<'_>,
    databases: &[String],
    end: Instant,
) -> Result<DrillCheck, Said> {
    let mut damage = Vec::new();
    let (mut indexes, mut tables, mut unseen) = (0_u64, 0_u64, 0_u64);
    for database in databases.iter().take(DATABASES_MAX) {
        let session = questions.door.open(database, false).await?;
        if let Some(why) = install(&session).await? {
            return Ok(DrillCheck::skipped(NAME, why));
        }
        for (what, sql) in questions_in(questions.major) {
            for row in session.rows(sql, CATALOG_TIME).await? {
                let (name, ask): (String, String) = (
                    row.try_get(0).map_err(|error| Said::wrong(&error))?,
                    row.try_get(1).map_err(|error| Said::wrong(&error))?,
                );
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    unseen += 1;
                    continue;
                }
                match session.rows(&ask, left).await {
                    Ok(found) => {
                        *(if what == "index" { &mut indexes } else { &mut tables }) += 1;
                        let first =
                            found.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten());
                        damage.extend(
                            first
                                .filter(|text| !text.is_empty())
                                .map(|text| format!("{database}: {what} {name}: {text}")),
                        );
                    }
                    Err(said) if said.out_of_time => unseen += 1,
                    Err(said) => damage.push(format!("{database}: {what} {name}: {said}")),
                }
            }
        }
    }
    let seen = format!("{indexes} indexes and {tables} tables");
    let late = if unseen > 0 { format!("; for {unseen} there was not enough time") } else { String::new() };
    Ok(if damage.is_empty() {
        DrillCheck::new(NAME, true, format!("the extension amcheck found {seen} sound{late}"))
    } else {
        let detail = format!("the extension amcheck found damage: {}{late}", listed(&damage));
        DrillCheck::new(NAME, false, detail)
    })
}

/// Makes the extension; why not, when it is not installed on this host.
async fn install(session: &Session) -> Result<Option<String>, Said> {
    let there = "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";
    let there: i64 =
        session.one(there, CATALOG_TIME).await?.try_get(0).map_err(|error| Said::wrong(&error))?;
    if there == 0 {
        return Ok(Some("neither pg_amcheck nor the extension amcheck is installed here".to_owned()));
    }
    session.run("CREATE EXTENSION IF NOT EXISTS amcheck", CATALOG_TIME).await?;
    Ok(None)
}

/// For each kind of relation a statement that gives names and what to ask about each: text in the first column of the
/// answer is damage. Relations are looked at from the smallest on, so that as many as possible are.
fn questions_in(major: PgMajor) -> Vec<(&'static str, &'static str)> {
    let mut questions = vec![(
        "index",
        "SELECT c.oid::regclass::text, pg_catalog.format('SELECT %I.bt_index_check(%s::regclass)::text', \
         (SELECT e.nspname FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_namespace e ON e.oid = x.extnamespace \
         WHERE x.extname = 'amcheck'), c.oid) \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_am a ON a.oid = c.relam \
         WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid AND i.indisready \
         ORDER BY c.relpages, c.oid",
    )];
    if major >= PgMajor::V14 {
        questions.push((
            "table",
            "SELECT c.oid::regclass::text, pg_catalog.format('SELECT msg FROM %I.verify_heapam(%s::regclass, true) \
             LIMIT 1', (SELECT e.nspname FROM pg_catalog.pg_extension x \
             JOIN pg_catalog.pg_namespace e ON e.oid = x.extnamespace WHERE x.extname = 'amcheck'), c.oid) \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam \
             WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' \
             ORDER BY c.relpages, c.oid",
        ));
    }
    questions
}
