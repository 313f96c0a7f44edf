//! The questions that a drilled server is asked.
//!
//! What would take transaction numbers comes after what is asked about them; what reads the most comes last, so that a
//! drill that runs out of time has told the rest.

mod amcheck;
mod assertions;
mod relations;
mod transactions;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use walden_core::{DrillCheck, RecoveryPlan};
use walden_pg::PgMajor;

use super::request::DrillRequest;
use super::session::{Door, Said, Session};
use crate::restore::{Owner, Programs, StopCheck, StopOutcome};

/// How long one statement of ours may take that looks at catalogs.
const CATALOG_TIME: Duration = Duration::from_mins(2);
/// So many databases are looked into at most.
const DATABASES_MAX: usize = 64;
/// So many findings are named.
const TOLD_MAX: usize = 5;

/// The names of the checks, in the order in which they are made; assertions have names of their own.
pub const CHECK_NAMES: [&str; 9] = [
    "recovery stop",
    "last transaction",
    "writes",
    "indexes",
    "sequences",
    "assertions",
    "row counts",
    "amcheck",
    "page checksums",
];

/// What the checks need.
pub(super) struct Questions<'a> {
    pub(super) door: &'a Door,
    pub(super) plan: &'a RecoveryPlan,
    pub(super) request: &'a DrillRequest,
    pub(super) programs: &'a Programs,
    pub(super) owner: Option<Owner>,
    pub(super) major: PgMajor,
    /// Takes each check as soon as it is made.
    pub(super) made: &'a Mutex<Vec<DrillCheck>>,
}

impl Questions<'_> {
    /// Makes all checks.
    pub(super) async fn ask(&self, stop: &StopCheck) {
        self.add("recovery stop", async { Ok(recovery_stop(stop)) }).await;
        self.add("last transaction", transactions::last_transaction(self)).await;
        self.add("writes", self.writes()).await;
        let databases = match self.databases().await {
            Ok(databases) => databases,
            Err(said) => {
                self.note(DrillCheck::new("databases", false, format!("they can't be listed: {said}")));
                return;
            }
        };
        self.add("indexes", relations::indexes(self, &databases)).await;
        self.add("sequences", relations::sequences(self, &databases)).await;
        if !self.is_skipped("assertions") {
            assertions::ask(self).await;
        }
        self.add("row counts", relations::row_counts(self, &databases)).await;
        self.add("amcheck", amcheck::amcheck(self, &databases)).await;
        self.add("page checksums", self.page_checksums()).await;
    }

    fn note(&self, check: DrillCheck) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(check);
    }

    fn is_skipped(&self, name: &str) -> bool {
        self.request.skip.iter().any(|skipped| skipped == name)
    }

    /// Makes one check, unless it is not wanted or there is no time for it.
    async fn add(&self, name: &'static str, check: impl Future<Output = Result<DrillCheck, Said>>) {
        if self.is_skipped(name) {
            self.note(DrillCheck::skipped(name, "not asked for"));
            return;
        }
        let begun = Instant::now();
        let made = match check.await {
            Ok(made) => made,
            Err(said) if said.out_of_time => DrillCheck::skipped(name, said.message),
            Err(said) => DrillCheck::new(name, false, said.message),
        };
        self.note(DrillCheck { seconds: begun.elapsed().as_secs_f64(), ..made });
    }

    /// The databases that can be connected to, the largest first.
    async fn databases(&self) -> Result<Vec<String>, Said> {
        let session = self.door.open("postgres", true).await?;
        let rows = session
            .rows(
                "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate \
                 ORDER BY pg_catalog.pg_database_size(oid) DESC, datname",
                CATALOG_TIME,
            )
            .await?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| Said::wrong(&error))).collect()
    }

    /// Whether the server is open for writing: a table is made, and gone again with its transaction.
    async fn writes(&self) -> Result<DrillCheck, Said> {
        let session = self.door.open("postgres", false).await?;
        session
            .run(
                "BEGIN; CREATE TABLE public.walden_drill_writes (id integer); \
                 INSERT INTO public.walden_drill_writes VALUES (1); ROLLBACK",
                CATALOG_TIME,
            )
            .await
            .map(|()| DrillCheck::new("writes", true, "the promoted server takes writes"))
    }

    /// Checksums that were wrong when pages were read, by all that was asked before.
    async fn page_checksums(&self) -> Result<DrillCheck, Said> {
        const NAME: &str = "page checksums";
        let session = self.door.open("postgres", true).await?;
        let row = session.one("SHOW data_checksums", CATALOG_TIME).await?;
        let on: String = row.try_get(0).map_err(|error| Said::wrong(&error))?;
        if on != "on" {
            return Ok(DrillCheck::skipped(NAME, "the server has no page checksums"));
        }
        let rows = session
            .rows(
                "SELECT coalesce(datname::text, 'shared'), checksum_failures FROM pg_catalog.pg_stat_database \
                 WHERE checksum_failures > 0 ORDER BY 2 DESC",
                CATALOG_TIME,
            )
            .await?;
        let failures: Vec<String> = rows
            .iter()
            .filter_map(|row| {
                Some(format!("{}: {}", row.try_get::<_, String>(0).ok()?, row.try_get::<_, i64>(1).ok()?))
            })
            .collect();
        Ok(if failures.is_empty() {
            DrillCheck::new(NAME, true, "none of the pages that were read had a wrong checksum")
        } else {
            DrillCheck::new(NAME, false, format!("wrong page checksums: {}", failures.join(", ")))
        })
    }

    async fn in_database(&self, name: &str) -> Result<Session, Said> {
        self.door
            .open(name, true)
            .await
            .map_err(|said| Said { message: format!("database {name:?}: {}", said.message), ..said })
    }
}

/// The check that every drill makes first: whether recovery stopped where the plan said.
fn recovery_stop(check: &StopCheck) -> DrillCheck {
    let ok = matches!(check.outcome, StopOutcome::AsPlanned | StopOutcome::ArchiveGrew);
    DrillCheck::new("recovery stop", ok, check.message.clone())
}

impl Said {
    fn wrong(error: &tokio_postgres::Error) -> Self {
        Self { message: format!("the answer is not understood: {error}"), out_of_time: false }
    }
}

/// So many findings as text, and how many more there are.
fn listed(findings: &[String]) -> String {
    let shown = findings.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
    match findings.len().saturating_sub(TOLD_MAX) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
