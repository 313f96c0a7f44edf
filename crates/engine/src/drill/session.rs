//! Asking a drilled server, over the socket in its own directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, Config, NoTls, Row};
use walden_core::{ErrorKind, Setting};

use super::isolation::PORT;
use crate::error::{EngineError, Result};
use crate::restore::options_of_sessions;

/// How long one connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How to reach a drilled server.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) socket: PathBuf,
    pub(super) role: String,
    /// What every session is told about logins: see [`options_of_sessions`].
    pub(super) options: String,
    /// When everything must be over.
    pub(super) deadline: Instant,
}

/// One session.
pub(super) struct Session {
    pub(super) client: Client,
    deadline: Instant,
}

/// What a statement failed with: one line, and whether it was for want of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) message: String,
    pub(super) out_of_time: bool,
}

impl Door {
    /// The first of these roles that is let in.
    ///
    /// # Errors
    /// Of kind `postgres` when none is.
    pub(super) async fn find(
        socket: &Path,
        roles: &[String],
        settings: &[Setting],
        deadline: Instant,
    ) -> Result<Self> {
        let mut refused = Vec::new();
        for role in roles {
            let (socket, options) = (socket.to_owned(), options_of_sessions(settings));
            let door = Self { socket, role: role.clone(), options, deadline };
            match door.open("postgres", true).await {
                Ok(session) => {
                    let question = "SELECT usesuper FROM pg_catalog.pg_user WHERE usename = current_user";
                    let superuser = session.one(question, Duration::from_secs(10)).await;
                    if superuser.is_ok_and(|row| matches!(row.try_get(0), Ok(true))) {
                        return Ok(door);
                    }
                    refused.push(format!("{role} is no superuser"));
                }
                Err(said) => refused.push(said.message),
            }
        }
        let message = format!("the restored server could not be asked: {}", refused.join("; "));
        Err(EngineError::failed(ErrorKind::Postgres, message)
            .with_hint("name a superuser of the source with --role; nobody else can reach the server, so no password is asked for"))
    }

    /// Opens a session in a database, one that can write nothing unless `writes`.
    pub(super) async fn open(&self, database: &str, reads_only: bool) -> Result<Session, Said> {
        let mut config = Config::new();
        config.host_path(&self.socket).port(PORT).user(&self.role).dbname(database);
        config.connect_timeout(CONNECT_TIMEOUT).application_name("walden drill");
        let read_only = if reads_only { "on" } else { "off" };
        let options = &self.options;
        config.options(format!("-c default_transaction_read_only={read_only} -c timezone=UTC {options}"));
        let (client, connection) = config.connect(NoTls).await.map_err(|error| Said::of(&error))?;
        tokio::spawn(connection);
        Ok(Session { client, deadline: self.deadline })
    }
}

impl Session {
    /// Asks for one row, for so long at most.
    pub(super) async fn one(&self, sql: &str, within: Duration) -> Result<Row, Said> {
        let rows = self.rows(sql, within).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Said { message: "there was no answer".to_owned(), out_of_time: false })
    }

    /// Asks for rows, for so long at most.
    pub(super) async fn rows(&self, sql: &str, within: Duration) -> Result<Vec<Row>, Said> {
        self.bounded(within, self.client.query(sql, &[])).await
    }

    /// Does something.
    pub(super) async fn run(&self, sql: &str, within: Duration) -> Result<(), Said> {
        self.bounded(within, self.client.batch_execute(sql)).await
    }

    /// Runs a statement for so long at most, and never beyond the deadline; then it is cancelled.
    pub(super) async fn bounded<T>(
        &self,
        within: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Said> {
        let end = self.deadline.min(Instant::now() + within);
        match tokio::time::timeout_at(end, work).await {
            Ok(done) => done.map_err(|error| Said::of(&error)),
            Err(_) => {
                // Its connection stays usable when the server has heard of it.
                drop(
                    tokio::time::timeout(CONNECT_TIMEOUT, self.client.cancel_token().cancel_query(NoTls))
                        .await,
                );
                let message = format!("stopped after {} s", within.as_secs());
                Err(Said { message, out_of_time: true })
            }
        }
    }
}

impl Said {
    fn of(error: &tokio_postgres::Error) -> Self {
        let message = match error.as_db_error() {
            Some(error) => {
                let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
                format!("{}{detail}", error.message())
            }
            None => {
                let mut text = error.to_string();
                if let Some(cause) = std::error::Error::source(error) {
                    text = format!("{text}: {cause}");
                }
                text
            }
        };
        let message = message.split(['\n', '\r']).collect::<Vec<_>>().join(" ");
        Self { message, out_of_time: false }
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A name as an SQL identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
