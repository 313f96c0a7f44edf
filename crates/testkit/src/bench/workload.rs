//! Real WAL to measure with: a mixed OLTP load on a PostgreSQL server, made once and kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use walden_pg::{ArchiveFileName, PgMajor, SegmentName, WalSegmentSize};

use crate::postgres::{PgServer, StopMode};
use crate::testbench::Testbench;

/// Raised whenever the recipe changes, so that what is kept is made anew.
const RECIPE: u32 = 2;
/// The server that writes it.
const MAJOR: PgMajor = PgMajor::V17;
/// About 380 MB of accounts: more than the server's buffers.
const SCALE: u32 = 25;
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// A run of the load between two checkpoints; after each, the first change of a page writes the whole page.
const RUN_SECONDS: u32 = 10;
/// A load that makes no WAL any more is given up.
const MAKING_MAX: Duration = Duration::from_mins(20);

/// pgbench fills its rows with blanks, which no application does.
const FILLED: &str = "
    ALTER TABLE pgbench_accounts ALTER filler TYPE char(84)
      USING left(md5(random()::text) || md5(random()::text) || md5(random()::text), 84);";

const TABLES: &str = "
    CREATE TABLE orders (id bigserial PRIMARY KEY, customer int NOT NULL, at timestamptz NOT NULL DEFAULT now(),
                         state text NOT NULL, amount numeric(12, 2) NOT NULL, note text);
    CREATE INDEX ON orders (customer, at);
    CREATE INDEX ON orders (state) WHERE state <> 'done';
    CREATE TABLE documents (id bigserial PRIMARY KEY, body jsonb NOT NULL, raw text NOT NULL);
    ALTER TABLE documents ALTER raw SET STORAGE EXTERNAL;";

/// Orders come in, and change twice.
const ORDERS: &str = r"
\set customer random(1, 100000)
\set back random(1, 500)
BEGIN;
INSERT INTO orders (customer, state, amount, note)
  SELECT :customer, 'new', (random() * 1000)::numeric(12, 2), 'order ' || md5(random()::text) FROM generate_series(1, 5);
UPDATE orders SET state = 'paid', amount = amount + 1 WHERE id = currval('orders_id_seq') - :back;
UPDATE orders SET state = 'done', note = note || ' shipped' WHERE id = currval('orders_id_seq') - 2 * :back;
COMMIT;
";

/// Documents of 4 to 12 kB that are kept outside of the row, half of it well compressible.
const DOCUMENTS: &str = r"
\set words random(60, 180)
INSERT INTO documents (body, raw)
  SELECT jsonb_build_object('title', md5(random()::text), 'tags', array_agg(md5(n::text))),
         string_agg(md5(random()::text) || ' lorem ipsum dolor sit amet ', '')
  FROM generate_series(1, :words) n;
DELETE FROM documents WHERE id = (SELECT currval('documents_id_seq') - 2000);
";

/// Segments and the little that is needed around them to make a data directory of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    directory: PathBuf,
    /// Its segments' names, in order and without a gap.
    pub segments: Vec<String>,
    /// What is known of it.
    pub about: About,
}

/// What is known of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The server that wrote it, as its `version()` says.
    pub server: String,
    /// What was run on it.
    pub load: String,
}

impl Workload {
    /// At least so many segments, from the test bench's cache, or made now.
    ///
    /// # Errors
    /// When the server or pgbench fails, or files can't be written.
    pub fn prepared(count: usize, say: &dyn Fn(&str)) -> io::Result<Self> {
        let cache = Testbench::locate()?.dir().join("bench-wal");
        let directory = cache.join(format!("{RECIPE}"));
        if let Ok(found) = Self::open(&directory)
            && found.segments.len() >= count
        {
            return Ok(Self { segments: found.segments.into_iter().take(count).collect(), ..found });
        }
        let unfinished = cache.join(format!("{RECIPE}.new"));
        for old in [&unfinished, &directory] {
            if old.try_exists()? {
                fs::remove_dir_all(old)?;
            }
        }
        fs::create_dir_all(&unfinished)?;
        say(&format!(
            "making {count} segments of WAL with PostgreSQL {MAJOR}; they are kept for the next time"
        ));
        make(&unfinished, count).map_err(io::Error::other)?;
        fs::rename(&unfinished, &directory)?;
        Self::open(&directory)
    }

    fn open(directory: &Path) -> io::Result<Self> {
        let about = serde_json::from_slice(&fs::read(directory.join("about.json"))?)?;
        let segments = segment_names(&directory.join("segments"))?;
        Ok(Self { directory: directory.to_owned(), segments, about })
    }

    /// The file of a segment.
    #[must_use]
    pub fn segment_file(&self, name: &str) -> PathBuf {
        self.directory.join("segments").join(name)
    }

    /// The bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.len() as u64 * SEGMENT_BYTES
    }

    /// So many names that would come after the last segment.
    ///
    /// # Errors
    /// When the workload is empty.
    pub fn names_after(&self, count: usize) -> io::Result<Vec<String>> {
        let last = self.segments.last().and_then(|name| name.parse::<SegmentName>().ok());
        let mut name = last.ok_or_else(|| io::Error::other("a workload without segments"))?;
        let mut names = Vec::new();
        for _ in 0..count {
            name = name.next(WalSegmentSize::DEFAULT).map_err(io::Error::other)?;
            names.push(name.to_string());
        }
        Ok(names)
    }

    /// Makes what a tool takes for a data directory: the control file, the version, `pg_wal`, with the segments or
    /// without.
    ///
    /// # Errors
    /// When files can't be copied.
    pub fn data_directory(&self, place: &Path, with_segments: bool) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for below in ["global", "pg_wal/archive_status"] {
            fs::create_dir_all(place.join(below))?;
        }
        fs::set_permissions(place, fs::Permissions::from_mode(0o700))?;
        for file in ["PG_VERSION", "global/pg_control"] {
            fs::copy(self.directory.join("data").join(file), place.join(file))?;
        }
        if with_segments {
            for name in &self.segments {
                fs::copy(self.segment_file(name), place.join("pg_wal").join(name))?;
            }
        }
        Ok(())
    }

    /// How small zstd makes it, and how fast on one core: plain bytes per stored byte, and plain bytes per second.
    /// The first eight segments and every eighth after them stand for all.
    ///
    /// # Errors
    /// When a segment can't be read or compressed.
    pub fn zstd(&self, level: i32) -> io::Result<(f64, f64)> {
        let (mut plain, mut stored, mut spent) = (0, 0, Duration::ZERO);
        for (index, name) in self.segments.iter().enumerate() {
            if index >= 8 && index % 8 != 0 {
                continue;
            }
            let bytes = fs::read(self.segment_file(name))?;
            let begun = Instant::now();
            stored += zstd::bulk::compress(&bytes, level)?.len();
            spent += begun.elapsed();
            plain += bytes.len();
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let (plain, stored) = (plain as f64, stored as f64);
        Ok((plain / stored, plain / spent.as_secs_f64()))
    }
}

fn segment_names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Some(name) = entry?.file_name().to_str()
            && matches!(name.parse(), Ok(ArchiveFileName::Segment(_)))
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn make(place: &Path, count: usize) -> Result<(), BoxError> {
    let mut server = PgServer::builder(MAJOR)
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "16GB")
        .setting("wal_keep_size", "16GB")
        .setting("checkpoint_timeout", "1h")
        .setting("synchronous_commit", "off")
        .setting("fsync", "off")
        .deadline(MAKING_MAX)
        .start()?;
    server.pgbench_init(SCALE)?;
    server.execute(FILLED)?;
    server.execute(TABLES)?;
    let scripts = server.scratch_dir("load")?;
    let (orders, documents) = (scripts.join("orders.sql"), scripts.join("documents.sql"));
    fs::write(&orders, ORDERS)?;
    fs::write(&documents, DOCUMENTS)?;
    let (orders, documents) = (format!("{}@4", orders.display()), format!("{}@1", documents.display()));
    let seconds = RUN_SECONDS.to_string();
    let load = ["-c", "4", "-T", &seconds, "-n", "-b", "tpcb-like@10", "-f", &orders, "-f", &documents];
    // Documents are only deleted, and orders only changed, once there are some.
    server.client_program("pgbench", &load)?;
    let first = server.switch_wal()?;
    let begun = Instant::now();
    loop {
        server.execute("CHECKPOINT")?;
        server.client_program("pgbench", &load)?;
        let made = made(&server, &first.to_string())?;
        if made.len() >= count {
            break keep(place, &mut server, made.get(..count).unwrap_or_default())?;
        }
        if begun.elapsed() > MAKING_MAX {
            return Err(format!("only {} segments in {MAKING_MAX:?}", made.len()).into());
        }
    }
    Ok(())
}

/// The finished segments after `first`.
fn made(server: &PgServer, first: &str) -> Result<Vec<String>, BoxError> {
    let current: String = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    let mut names = segment_names(&server.data_dir().join("pg_wal"))?;
    names.retain(|name| **name > *first && *name < current);
    Ok(names)
}

fn keep(place: &Path, server: &mut PgServer, names: &[String]) -> Result<(), BoxError> {
    let about = About {
        server: server.value("SHOW server_version")?,
        load: format!(
            "pgbench scale {SCALE} with random fillers, 4 clients: tpcb-like, inserts and updates with three indexes, documents kept \
             out of line, at 10:4:1, a checkpoint every {RUN_SECONDS} s, full_page_writes on"
        ),
    };
    server.stop(StopMode::Fast)?;
    fs::create_dir_all(place.join("segments"))?;
    for name in names {
        fs::copy(server.data_dir().join("pg_wal").join(name), place.join("segments").join(name))?;
    }
    fs::create_dir_all(place.join("data/global"))?;
    for file in ["PG_VERSION", "global/pg_control"] {
        fs::copy(server.data_dir().join(file), place.join("data").join(file))?;
    }
    fs::write(place.join("about.json"), serde_json::to_vec_pretty(&about)?)?;
    Ok(())
}
