//! What a starting server can be seen to be: its `postmaster.pid`, and its answers once it takes connections.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use walden_core::Setting;
use walden_pg::{Lsn, PgMajor, TimelineId};

use crate::fs::read_if_present;

/// How long one connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What `postmaster.pid` says (`src/include/utils/pidfile.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) port: Option<u16>,
    pub(super) socket_directory: Option<PathBuf>,
    /// The server takes connections, read-only ones at least.
    pub(super) takes_connections: bool,
}

impl PidFile {
    /// Reads it; `None` while it is not there or not complete enough.
    pub(super) fn read(pgdata: &Path) -> Option<Self> {
        let bytes = read_if_present(&pgdata.join("postmaster.pid"), 1 << 16).ok().flatten()?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Option<Self> {
        let line = |number: usize| text.lines().nth(number).map(str::trim).filter(|line| !line.is_empty());
        // A hot standby is `ready` too; `standby` is one that lets nobody in yet.
        let status = line(7).unwrap_or_default();
        Some(Self {
            pid: line(0)?.parse().ok()?,
            port: line(3).and_then(|port| port.parse().ok()),
            socket_directory: line(4).map(PathBuf::from),
            takes_connections: status == "ready",
        })
    }
}

/// One answer of the server about its recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) in_recovery: bool,
    pub(super) paused: bool,
    pub(super) replay_lsn: Option<Lsn>,
    pub(super) last_transaction_at: Option<String>,
    pub(super) timeline: Option<TimelineId>,
    /// How many relations nobody can read, because a transaction that recovery has left open locked them.
    pub(super) locked_relations: u64,
}

/// Asks a server, or says once why it can't.
pub(super) struct Questioner {
    major: PgMajor,
    users: Vec<String>,
    /// Options of its sessions.
    options: String,
    client: Option<Client>,
    /// Why nobody of us is let in; then the log alone is followed.
    pub(super) refused: Option<String>,
}

/// Settings of the server's command line that a role or a database may have values of its own for, which win over it; and
/// which load or run what the source's owner wanted at every login.
const OF_LOGINS: [&str; 3] = ["session_preload_libraries", "local_preload_libraries", "event_triggers"];

/// The options of a session that make these settings hold for it, too: a client's word wins over a role's
/// (`GucSource` in `src/include/utils/guc.h`).
pub(crate) fn options_of_sessions(settings: &[Setting]) -> String {
    let of_logins = settings.iter().filter(|setting| {
        let plain = |character: char| character.is_ascii_alphanumeric() || "_,$/.".contains(character);
        OF_LOGINS.contains(&setting.name.as_str()) && setting.value.chars().all(plain)
    });
    let options: Vec<String> =
        of_logins.map(|setting| format!("-c {}={}", setting.name, setting.value)).collect();
    options.join(" ")
}

impl Questioner {
    pub(super) fn new(major: PgMajor, users: Vec<String>, options: String) -> Self {
        Self { major, users, options, client: None, refused: None }
    }

    /// The role that was let in, or the first that would be tried.
    pub(super) fn user(&self) -> Option<&str> {
        self.users.first().map(String::as_str)
    }

    /// Asks; `None` when there is no answer now.
    pub(super) async fn ask(&mut self, pid_file: &PidFile) -> Option<Answer> {
        if self.client.is_none() {
            self.connect(pid_file).await;
        }
        let client = self.client.as_ref()?;
        let query = question(self.major);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.query_one(&query, &[])).await;
        match answer {
            Ok(Ok(row)) => Some(Answer {
                in_recovery: row.try_get(0).ok()?,
                paused: row.try_get::<_, Option<bool>>(1).ok()?.unwrap_or(false),
                replay_lsn: row.try_get::<_, Option<String>>(2).ok()?.and_then(|lsn| lsn.parse().ok()),
                last_transaction_at: row.try_get(3).ok()?,
                timeline: row
                    .try_get::<_, Option<String>>(4)
                    .ok()?
                    .and_then(|hex| u32::from_str_radix(&hex, 16).ok())
                    .and_then(|number| TimelineId::new(number).ok()),
                locked_relations: row
                    .try_get::<_, i64>(5)
                    .ok()
                    .and_then(|count| count.try_into().ok())
                    .unwrap_or(0),
            }),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the server did not answer");
                self.client = None;
                None
            }
            Err(_) => {
                self.client = None;
                None
            }
        }
    }

    async fn connect(&mut self, pid_file: &PidFile) {
        if self.refused.is_some() {
            return;
        }
        let (Some(port), Some(directory)) = (pid_file.port, &pid_file.socket_directory) else { return };
        let mut refusal = None;
        for (index, user) in self.users.clone().into_iter().enumerate() {
            let mut config = Config::new();
            config.host_path(directory).port(port).user(&user).dbname("postgres");
            config.connect_timeout(CONNECT_TIMEOUT).application_name("walden restore");
            if !self.options.is_empty() {
                config.options(&self.options);
            }
            if let Ok(password) = std::env::var("PGPASSWORD") {
                config.password(password);
            }
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    self.client = Some(client);
                    self.users.swap(0, index);
                    return;
                }
                Err(error) if is_refusal(&error) => refusal = Some(describe(&error)),
                // Not yet: it is starting, or still recovering.
                Err(_) => return,
            }
        }
        self.refused = refusal.or(Some("no role is known to ask as".to_owned()));
    }
}

/// Whether a later try would be refused just the same.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => [
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ]
        .contains(code),
        // A password was asked for and none is known.
        None => error.to_string().contains("password"),
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// One row of everything: whether it recovers, whether it waits at its target, how far it is, and what the
/// transactions that recovery has left open keep locked.
fn question(major: PgMajor) -> String {
    let paused = if major >= PgMajor::V14 {
        "pg_get_wal_replay_pause_state() = 'paused'"
    } else {
        "pg_is_wal_replay_paused()"
    };
    format!(
        "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN {paused} END, \
         pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp()::text, \
         CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END, \
         (SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
          WHERE backend_type = 'startup' AND locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_run_at_logins_is_said_in_every_session() {
        let setting = |name: &str, value: &str| Setting { name: name.to_owned(), value: value.to_owned() };
        let settings = [
            setting("archive_mode", "off"),
            setting("session_preload_libraries", ""),
            setting("local_preload_libraries", "a b"),
            setting("event_triggers", "off"),
        ];
        assert_eq!(options_of_sessions(&settings), "-c session_preload_libraries= -c event_triggers=off");
        assert_eq!(options_of_sessions(&settings[..1]), "");
    }

    #[test]
    fn the_pid_file_is_read_as_it_grows() {
        let whole = "1234\n/restore/main\n1795171145\n5433\n/run/postgresql\nlocalhost\n  5433001    196608\nready   \n";
        let parsed = PidFile::parse(whole).unwrap();
        assert_eq!((parsed.pid, parsed.port), (1234, Some(5433)));
        assert_eq!(parsed.socket_directory.as_deref(), Some(Path::new("/run/postgresql")));
        assert!(parsed.takes_connections);
        assert!(!PidFile::parse(&whole.replace("ready", "standby")).unwrap().takes_connections);
        assert!(!PidFile::parse("1234\n/x\n1\n").unwrap().takes_connections);
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("-1\n"), None);
    }
}
