//! What a backup asks of PostgreSQL, behind a trait so that a backup can be tested without a server.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Row};
use walden_core::{ErrorKind, ServerSettings};
use walden_pg::{Lsn, PgMajor, SystemId};

use super::connection::ConnectionOptions;
use super::names::ServerNames;
use crate::error::{EngineError, Result};

/// How long the server may take to hear that a statement of ours is to be cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of a server before a backup begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Its major version.
    pub major: PgMajor,
    /// The system identifier of its `pg_control`.
    pub system_id: SystemId,
    /// Whether it is in recovery: a standby.
    pub in_recovery: bool,
    /// `data_directory`, when we may see it.
    pub data_directory: Option<String>,
    /// `config_file`, when we may see it.
    pub config_file: Option<String>,
    /// `archive_mode`
    pub archive_mode: String,
    /// `archive_command`; empty when it is not set.
    pub archive_command: String,
    /// `archive_library`, from 15 on; empty when it is not set.
    pub archive_library: String,
    /// `full_page_writes`
    pub full_page_writes: bool,
    /// `stats_temp_directory`, which 15 no longer has.
    pub stats_temp_directory: Option<String>,
    /// What a restored server depends on.
    pub settings: ServerSettings,
}

/// What `pg_backup_stop` returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedBackup {
    /// The position after the end-of-backup record.
    pub lsn: Lsn,
    /// The contents of `backup_label`.
    pub label: Vec<u8>,
    /// The contents of `tablespace_map`; empty when there must be none.
    pub tablespace_map: Vec<u8>,
}

/// A snapshot that a session of the server exported: as long as its transaction lasts, the file `pg_snapshots/<name>`
/// in the server's own data directory names the session.
///
/// PostgreSQL source: `ExportSnapshot` in `src/backend/utils/time/snapmgr.c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedSnapshot {
    /// The file's name.
    pub name: String,
    /// The process id of the session's backend, which the file holds in a line `pid:<number>`.
    pub backend_pid: i32,
}

/// What `pg_stat_archiver` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiverState {
    /// The name of the last file that `archive_command` took.
    pub last_archived: Option<String>,
    /// When that was.
    pub last_archived_at: Option<Timestamp>,
    /// The name of the last file that it failed on.
    pub last_failed: Option<String>,
    /// When that was.
    pub last_failed_at: Option<Timestamp>,
    /// How often it failed since the counters were reset.
    pub failed_count: u64,
}

/// One session with a server, open from the start of a backup to its end.
///
/// A server ends a backup whose session is gone, so dropping an implementation aborts the backup.
pub trait PostgresControl: Send {
    /// Asks what the server is and how it is set up.
    fn identify(&mut self) -> impl Future<Output = Result<ServerIdentity>> + Send;

    /// Exports a snapshot, which lasts until [`Self::drop_snapshot`]: it shows which data directory is the server's.
    fn export_snapshot(&mut self) -> impl Future<Output = Result<ExportedSnapshot>> + Send;

    /// Ends the exported snapshot.
    fn drop_snapshot(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Begins a backup; returns its start position. Takes as long as a checkpoint does.
    fn start_backup(&mut self, label: &str, fast: bool) -> impl Future<Output = Result<Lsn>> + Send;

    /// Ends the backup, without waiting for the archive.
    fn stop_backup(&mut self) -> impl Future<Output = Result<StoppedBackup>> + Send;

    /// The server's clock.
    fn now(&mut self) -> impl Future<Output = Result<Timestamp>> + Send;

    /// The next transaction id with its epoch; takes one to learn it.
    fn next_xid(&mut self) -> impl Future<Output = Result<u64>> + Send;

    /// The oldest transaction that is running, with its epoch; the next one when there is none.
    fn oldest_xid(&mut self) -> impl Future<Output = Result<u64>> + Send;

    /// How archiving is going.
    fn archiver(&mut self) -> impl Future<Output = Result<ArchiverState>> + Send;

    /// Whether the session has ended, which aborts the backup.
    fn is_closed(&self) -> bool;

    /// Where the names of databases and tables can be asked for while the session is busy elsewhere; `None` when
    /// they can't.
    fn names(&self) -> Option<ServerNames>;

    /// Stops what the server is doing for us and closes the session. Best effort.
    fn abort(&mut self) -> impl Future<Output = ()> + Send;
}

/// An error of PostgreSQL's with the server's own words in it.
pub(super) fn postgres_error(action: &'static str, error: tokio_postgres::Error) -> EngineError {
    let message = match error.as_db_error() {
        Some(answer) => {
            let hint = answer.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}{hint} sqlstate={}", answer.message(), answer.code().code())
        }
        None => error_chain(&error),
    };
    EngineError::Postgres { action, message, source: Some(error) }
}

/// An error with its causes on one line: the client library's own text leaves the cause out.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn unexpected(action: &'static str, what: &str) -> EngineError {
    let message = format!("the server's answer was not understood: {what}");
    EngineError::Postgres { action, message, source: None }
}

/// A client with the task that drives its connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    driver: JoinHandle<()>,
}

/// A session that is not needed any more has this long to say goodbye, or the server's log tells of a lost connection.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

impl Drop for Session {
    fn drop(&mut self) {
        let driver = self.driver.abort_handle();
        // Closes the socket even while a statement runs.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(GOODBYE_WITHIN).await;
                driver.abort();
            })),
            Err(_) => driver.abort(),
        }
    }
}

impl Session {
    /// Connects, and takes everything away from the session that could disturb it: timeouts, and names that the
    /// user's search path could shadow.
    pub(super) async fn connect(options: &ConnectionOptions) -> Result<Self> {
        const ACTION: &str = "connect to PostgreSQL";
        let connected = options.config().connect(options.connector()?).await;
        let (client, connection) = connected.map_err(|error| match postgres_error(ACTION, error) {
            EngineError::Postgres { action, message, source } => {
                EngineError::Postgres { action, message: format!("{message} {}", options.target()), source }
            }
            other => other,
        })?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to PostgreSQL ended");
            }
        });
        let session = Self { client, driver };
        session
            .batch(ACTION, "SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = 0")
            .await?;
        // From 14 on; older servers have nothing like it.
        let _ = session.client.batch_execute("SET idle_session_timeout = 0").await;
        Ok(session)
    }

    async fn batch(&self, action: &'static str, statements: &str) -> Result<()> {
        self.client.batch_execute(statements).await.map_err(|error| postgres_error(action, error))
    }

    async fn row(&self, action: &'static str, query: &str) -> Result<Row> {
        self.client.query_one(query, &[]).await.map_err(|error| postgres_error(action, error))
    }
}

fn text(row: &Row, index: usize, action: &'static str) -> Result<String> {
    row.try_get::<_, String>(index).map_err(|error| postgres_error(action, error))
}

/// A session with a real server.
#[derive(Debug)]
pub struct LivePostgres {
    options: ConnectionOptions,
    session: Session,
    major: PgMajor,
}

impl LivePostgres {
    /// Connects to the server.
    ///
    /// # Errors
    /// [`EngineError::Postgres`] when it can't be reached or refuses us; kind `unsupported` for a version that
    /// is not 13 to 18.
    pub async fn connect(options: ConnectionOptions) -> Result<Self> {
        const ACTION: &str = "ask for the server's version";
        let session = Session::connect(&options).await?;
        let row = session.row(ACTION, "SELECT current_setting('server_version_num')").await?;
        let number: u64 =
            text(&row, 0, ACTION)?.parse().map_err(|_| unexpected(ACTION, "server_version_num"))?;
        let major = u32::try_from(number / 10_000).ok().and_then(|major| PgMajor::new(major.into()).ok());
        let Some(major) = major else {
            return Err(EngineError::failed(
                ErrorKind::Unsupported,
                format!("PostgreSQL {} is not supported: 13 to 18 are", number / 10_000),
            ));
        };
        Ok(Self { options, session, major })
    }
}

/// The settings that are asked for.
const SETTINGS: &str = "'data_directory','config_file','archive_mode','archive_command','archive_library',\
     'full_page_writes','stats_temp_directory','server_version','max_connections','max_worker_processes',\
     'max_wal_senders','max_prepared_transactions','max_locks_per_transaction','wal_level','data_checksums'";

impl PostgresControl for LivePostgres {
    async fn identify(&mut self) -> Result<ServerIdentity> {
        const ACTION: &str = "ask what the server is";
        let row = self
            .session
            .row(ACTION, "SELECT system_identifier::text, pg_is_in_recovery()::text FROM pg_control_system()")
            .await?;
        let system_id: i64 =
            text(&row, 0, ACTION)?.parse().map_err(|_| unexpected(ACTION, "system_identifier"))?;
        let in_recovery = text(&row, 1, ACTION)? == "true";
        let query = format!("SELECT name, setting FROM pg_settings WHERE name IN ({SETTINGS})");
        let rows =
            self.session.client.query(&query, &[]).await.map_err(|error| postgres_error(ACTION, error))?;
        let mut settings = std::collections::BTreeMap::new();
        for row in &rows {
            let value: Option<String> = row.try_get(1).map_err(|error| postgres_error(ACTION, error))?;
            settings.insert(text(row, 0, ACTION)?, value.unwrap_or_default());
        }
        let setting = |name: &str| settings.get(name).cloned().filter(|value| !value.is_empty());
        let number = |name: &str| {
            let value = setting(name).and_then(|value| value.parse().ok());
            value.ok_or_else(|| unexpected(ACTION, name))
        };
        // What `SHOW` gives for a command while archive_mode is off.
        let command = setting("archive_command").filter(|command| command != "(disabled)");
        Ok(ServerIdentity {
            major: self.major,
            system_id: SystemId::new(system_id.cast_unsigned()),
            in_recovery,
            data_directory: setting("data_directory"),
            config_file: setting("config_file"),
            archive_mode: setting("archive_mode").unwrap_or_default(),
            archive_command: command.unwrap_or_default(),
            archive_library: setting("archive_library").unwrap_or_default(),
            full_page_writes: setting("full_page_writes").as_deref() == Some("on"),
            stats_temp_directory: setting("stats_temp_directory"),
            settings: ServerSettings {
                server_version: setting("server_version").unwrap_or_default(),
                max_connections: number("max_connections")?,
                max_worker_processes: number("max_worker_processes")?,
                max_wal_senders: number("max_wal_senders")?,
                max_prepared_transactions: number("max_prepared_transactions")?,
                max_locks_per_transaction: number("max_locks_per_transaction")?,
                wal_level: setting("wal_level").unwrap_or_default(),
                data_checksums: setting("data_checksums").as_deref() == Some("on"),
            },
        })
    }

    async fn export_snapshot(&mut self) -> Result<ExportedSnapshot> {
        const ACTION: &str = "export a snapshot";
        self.session.batch(ACTION, "BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let row = self.session.row(ACTION, "SELECT pg_export_snapshot(), pg_backend_pid()").await?;
        let backend_pid = row.try_get::<_, i32>(1).map_err(|error| postgres_error(ACTION, error))?;
        Ok(ExportedSnapshot { name: text(&row, 0, ACTION)?, backend_pid })
    }

    async fn drop_snapshot(&mut self) -> Result<()> {
        self.session.batch("end the exported snapshot", "ROLLBACK").await
    }

    async fn start_backup(&mut self, label: &str, fast: bool) -> Result<Lsn> {
        const ACTION: &str = "start the backup";
        let query = if self.major >= PgMajor::V15 {
            "SELECT pg_backup_start($1, $2)::text"
        } else {
            "SELECT pg_start_backup($1, $2, false)::text"
        };
        let row = self.session.client.query_one(query, &[&label, &fast]).await;
        let row = row.map_err(|error| postgres_error(ACTION, error))?;
        text(&row, 0, ACTION)?.parse().map_err(|_| unexpected(ACTION, "the start position"))
    }

    async fn stop_backup(&mut self) -> Result<StoppedBackup> {
        const ACTION: &str = "stop the backup";
        let function = if self.major >= PgMajor::V15 {
            "pg_backup_stop(wait_for_archive => false)"
        } else {
            "pg_stop_backup(exclusive => false, wait_for_archive => false)"
        };
        // As bytes: a tablespace's path need not be UTF-8, and nothing may be converted.
        let query = format!(
            "SELECT lsn::text, convert_to(labelfile, 'SQL_ASCII'), convert_to(spcmapfile, 'SQL_ASCII') FROM {function}"
        );
        let row = self.session.row(ACTION, &query).await?;
        let bytes = |index: usize| {
            let bytes =
                row.try_get::<_, Option<Vec<u8>>>(index).map_err(|error| postgres_error(ACTION, error));
            bytes.map(Option::unwrap_or_default)
        };
        Ok(StoppedBackup {
            lsn: text(&row, 0, ACTION)?.parse().map_err(|_| unexpected(ACTION, "the stop position"))?,
            label: bytes(1)?,
            tablespace_map: bytes(2)?,
        })
    }

    async fn now(&mut self) -> Result<Timestamp> {
        const ACTION: &str = "ask for the server's time";
        let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = self.session.row(ACTION, query).await?;
        timestamp(&row, 0, ACTION)?.ok_or_else(|| unexpected(ACTION, "the time"))
    }

    async fn next_xid(&mut self) -> Result<u64> {
        const ACTION: &str = "ask for the next transaction id";
        let row = self.session.row(ACTION, "SELECT pg_current_xact_id()::text").await?;
        text(&row, 0, ACTION)?.parse().map_err(|_| unexpected(ACTION, "the transaction id"))
    }

    async fn oldest_xid(&mut self) -> Result<u64> {
        const ACTION: &str = "ask for the oldest running transaction";
        let row = self.session.row(ACTION, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text").await?;
        text(&row, 0, ACTION)?.parse().map_err(|_| unexpected(ACTION, "the transaction id"))
    }

    async fn archiver(&mut self) -> Result<ArchiverState> {
        const ACTION: &str = "ask how archiving is going";
        let query = "SELECT (extract(epoch FROM last_failed_time) * 1000000)::bigint, last_archived_wal, \
                     last_failed_wal, failed_count, (extract(epoch FROM last_archived_time) * 1000000)::bigint \
                     FROM pg_stat_archiver";
        let row = self.session.row(ACTION, query).await?;
        let name = |index: usize| {
            row.try_get::<_, Option<String>>(index).map_err(|error| postgres_error(ACTION, error))
        };
        let failed: i64 = row.try_get(3).map_err(|error| postgres_error(ACTION, error))?;
        Ok(ArchiverState {
            last_archived: name(1)?,
            last_archived_at: timestamp(&row, 4, ACTION)?,
            last_failed: name(2)?,
            last_failed_at: timestamp(&row, 0, ACTION)?,
            failed_count: u64::try_from(failed).unwrap_or_default(),
        })
    }

    fn is_closed(&self) -> bool {
        self.session.client.is_closed()
    }

    fn names(&self) -> Option<ServerNames> {
        Some(ServerNames::new(self.options.clone()))
    }

    async fn abort(&mut self) {
        if let Ok(connector) = self.options.connector() {
            let cancel = self.session.client.cancel_token();
            match tokio::time::timeout(CANCEL_TIMEOUT, cancel.cancel_query(connector)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "could not cancel what the server was doing for us");
                }
                Err(_) => tracing::debug!("the server did not take the cancellation in time"),
            }
        }
        self.session.driver.abort();
    }
}

/// Microseconds since 1970 in a column.
fn timestamp(row: &Row, index: usize, action: &'static str) -> Result<Option<Timestamp>> {
    let micros: Option<i64> = row.try_get(index).map_err(|error| postgres_error(action, error))?;
    let parsed = micros.map(Timestamp::from_microsecond).transpose();
    parsed.map_err(|_| unexpected(action, "a time"))
}
