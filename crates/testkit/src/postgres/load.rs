//! Load on a server: rows whose number is known, WAL of a wanted amount, and commits that were
//! acknowledged while something else happened.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use walden_pg::Lsn;

use super::error::{Error, Result};
use super::install::ClientPrograms;
use super::server::PgServer;
use super::session::PgSession;

const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS walden_load (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload text NOT NULL
)";

/// Rows of one statement when WAL is made: about a mebibyte.
const BATCH_ROWS: u64 = 1_000;

/// One transaction that the server has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckedCommit {
    /// The key of its row in `walden_load`.
    pub id: i64,
    /// Its transaction id, with the epoch.
    pub xid: u64,
    /// When its row was made: `clock_timestamp()`, as PostgreSQL prints it, a little before the commit.
    pub at: String,
    /// An end of WAL that was seen after the commit.
    pub lsn: Lsn,
}

/// What a [`BackgroundLoad`] has done.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// The acknowledged commits of all clients, by key.
    pub commits: Vec<AckedCommit>,
    /// What ended clients before they were told to stop, such as a killed server.
    pub errors: Vec<Error>,
}

/// Clients that commit one small row after another until they are told to stop.
#[derive(Debug)]
pub struct BackgroundLoad {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<LoadReport>>,
}

impl BackgroundLoad {
    /// Lets the clients finish their transaction and returns what was acknowledged.
    pub fn stop(mut self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let mut whole = LoadReport::default();
        for client in self.clients.drain(..) {
            if let Ok(report) = client.join() {
                whole.commits.extend(report.commits);
                whole.errors.extend(report.errors);
            }
        }
        whole.commits.sort_by_key(|commit| commit.id);
        whole
    }
}

impl Drop for BackgroundLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl PgServer {
    /// Inserts this many rows into the table `walden_load (id, at, payload)`, in one transaction. The table is
    /// created when it is missing.
    ///
    /// # Errors
    /// As [`PgServer::execute`].
    pub fn insert_rows(&self, rows: u64) -> Result<()> {
        self.execute(&format!("{CREATE_TABLE}; {}", insert(rows)))
    }

    /// Inserts rows until at least this many bytes of WAL have been written, and returns its end.
    ///
    /// # Errors
    /// As [`PgServer::execute`].
    pub fn generate_wal(&self, bytes: u64) -> Result<Lsn> {
        let session = self.session()?;
        session.execute(CREATE_TABLE)?;
        let end_of_wal = "SELECT pg_current_wal_insert_lsn()";
        let goal = session.value::<Lsn>(end_of_wal)?.saturating_add(bytes);
        loop {
            let reached: Lsn = session.value(end_of_wal)?;
            if reached >= goal {
                return Ok(reached);
            }
            session.execute(&insert(BATCH_ROWS))?;
        }
    }

    /// Starts clients that commit small rows into `walden_load` until they are told to stop.
    ///
    /// # Errors
    /// As [`PgServer::session`].
    pub fn start_load(&self, clients: usize) -> Result<BackgroundLoad> {
        self.execute(CREATE_TABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = BackgroundLoad { stop: Arc::clone(&stop), clients: Vec::new() };
        for _ in 0..clients {
            let (session, stop) = (self.session()?, Arc::clone(&stop));
            load.clients.push(std::thread::spawn(move || commit_rows(&session, &stop)));
        }
        Ok(load)
    }

    /// Makes pgbench's tables: a scale of 1 is 100,000 accounts and about 16 MB.
    ///
    /// # Errors
    /// [`Error::Testbench`] without pgbench; [`Error::Program`] when it fails.
    pub fn pgbench_init(&self, scale: u32) -> Result<()> {
        self.client_program("pgbench", &["--initialize", "--quiet", "--scale", &scale.to_string()]).map(drop)
    }

    /// Runs pgbench's standard transactions and returns its report.
    ///
    /// # Errors
    /// [`Error::Testbench`] without pgbench; [`Error::Program`] when it fails.
    pub fn pgbench(&self, clients: u32, seconds: u32) -> Result<String> {
        let (clients, seconds) = (clients.to_string(), seconds.to_string());
        self.client_program("pgbench", &["--client", &clients, "--time", &seconds, "--no-vacuum"])
    }

    /// Runs one of the distribution's client programs against this server and returns what it wrote.
    ///
    /// # Errors
    /// [`Error::Testbench`] when it is not installed; [`Error::Program`] when it fails.
    pub fn client_program(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let path = ClientPrograms::find()?.bin().join(program);
        let mut command = Command::new(&path);
        let output = self
            .run_as_server_user(command.args(arguments))
            .output()
            .map_err(|e| Error::io("start", &path, e))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let output_text = stdout + &String::from_utf8_lossy(&output.stderr);
        Err(Error::Program { program: program.to_owned(), status: output.status, output: output_text })
    }
}

/// Rows that compress about as well as real ones: half of each is random.
fn insert(rows: u64) -> String {
    format!(
        "INSERT INTO walden_load (payload)
         SELECT repeat('walden ', 40) || array_to_string(ARRAY(
             SELECT md5(random()::text || n) FROM generate_series(1, 15)), '')
         FROM generate_series(1, {rows}) AS n"
    )
}

fn commit_rows(session: &PgSession, stop: &AtomicBool) -> LoadReport {
    let mut report = LoadReport::default();
    while !stop.load(Ordering::Relaxed) {
        match commit_row(session) {
            Ok(commit) => report.commits.push(commit),
            Err(error) => {
                report.errors.push(error);
                break;
            }
        }
    }
    report
}

fn commit_row(session: &PgSession) -> Result<AckedCommit> {
    let sql = "BEGIN;
        INSERT INTO walden_load (payload) VALUES (md5(random()::text)) RETURNING id, txid_current(), at;
        COMMIT;
        SELECT pg_current_wal_insert_lsn()";
    let rows = session.query(sql)?;
    let texts: Vec<&str> = rows.iter().flatten().filter_map(Option::as_deref).collect();
    let commit = match texts.as_slice() {
        [id, xid, at, lsn] => id
            .parse()
            .ok()
            .zip(xid.parse().ok())
            .zip(lsn.parse().ok())
            .map(|((id, xid), lsn)| AckedCommit { id, xid, at: (*at).to_owned(), lsn }),
        _ => None,
    };
    commit.ok_or_else(|| Error::Answer { sql: sql.to_owned(), answer: format!("{rows:?}") })
}
