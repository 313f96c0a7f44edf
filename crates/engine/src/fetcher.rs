//! `walden wal get`: the restore_command.
//!
//! A file is fetched, checked against its hash, written aside, flushed and only then given its name. "Absent" is an
//! answer of its own and is given only when the incarnation's marker could be read: an error never looks like the
//! end of the archive.

mod prefetch;
mod tablespaces;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use walden_core::{ErrorKind, Incarnation, ObjectKey};
use walden_pg::{ArchiveFileName, WalSegmentSize};
use walden_store::{Expected, RetryBudget, Scheme, StoreError};

pub use self::prefetch::{GetAnswer, PrefetchNumbers, PrefetchOptions, Prefetcher, Taken, take_prefetched};
use self::tablespaces::ReplayGuard;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::fs::TemporaryFile;
use crate::server::{explain_absence, find_incarnation};

/// No archived file is larger than the largest segment, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// How much is gathered before it is written.
const WRITE_BYTES: usize = 256 << 10;

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchOutcome {
    /// The file is at its destination.
    Fetched,
    /// The archive does not hold it: proved by reading the incarnation's marker.
    Absent,
}

/// What a fetch did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FetchReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The file.
    pub name: String,
    /// How it ended.
    pub outcome: FetchOutcome,
    /// Where it is in the store.
    pub key: String,
    /// Length of the file in bytes; 0 when it is absent.
    pub bytes: u64,
}

/// Fetches files of one server. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    ctx: Context,
}

impl Fetcher {
    /// A fetcher of the context's server.
    #[must_use]
    pub fn new(ctx: Context) -> Self {
        Self { ctx }
    }

    /// Fetches the file `name` (a `%f`) to `destination` (a `%p`), relative to `current_directory`.
    ///
    /// The incarnation is the one of the data directory that the destination lies in; without one it is the
    /// server's current one, which costs requests.
    ///
    /// # Errors
    /// Kind `invalid` for a name that PostgreSQL never asks for, `corrupt` for an object that is not what its name
    /// says, `conflict` for a segment whose replay would take another server's tablespace directory; and what the
    /// store and the disk can give. The destination is then as it was.
    pub async fn fetch(
        &self,
        name: &str,
        destination: &Path,
        current_directory: &Path,
    ) -> Result<FetchReport> {
        let name = parse_name(name)?;
        let data = DataDirectory::of_wal_path(destination, current_directory);
        let (incarnation, known_size) = self.whose(data.as_ref()).await?;
        let guard = match (&data, known_size) {
            (Some(data), Some(size)) if name.is_segment_sized() => ReplayGuard::of(data, size)?,
            _ => None,
        };
        let wanted = Wanted::new(&self.ctx, name, incarnation, known_size);
        let destination = current_directory.join(destination);
        let report = |outcome, bytes| FetchReport {
            schema: 1,
            name: name.to_string(),
            outcome,
            key: wanted.key.to_string(),
            bytes,
        };
        if let Some(bytes) = self.fetch_to(&wanted, guard.as_ref(), &destination).await? {
            return Ok(report(FetchOutcome::Fetched, bytes));
        }
        self.prove_absent(incarnation, &self.ctx.budget()).await?;
        if self.looks_twice()
            && let Some(bytes) = self.fetch_to(&wanted, guard.as_ref(), &destination).await?
        {
            return Ok(report(FetchOutcome::Fetched, bytes));
        }
        Ok(report(FetchOutcome::Absent, 0))
    }

    async fn whose(&self, data: Option<&DataDirectory>) -> Result<(Incarnation, Option<WalSegmentSize>)> {
        match data {
            Some(data) => {
                let control = data.control()?;
                let incarnation = Incarnation { system_id: control.system_id, major: control.major };
                Ok((incarnation, Some(control.wal_segment_size)))
            }
            None => {
                let record = find_incarnation(&self.ctx, None).await?;
                Ok((record.incarnation(), Some(record.segment_size)))
            }
        }
    }

    /// Whether a file that is not there is looked for again after the proof: the file system of a local repository may
    /// have been mounted between the look and the proof.
    fn looks_twice(&self) -> bool {
        self.ctx.store.url().scheme() == Scheme::File
    }

    /// Fetches one object to the destination; `None` when the store says that it is not there.
    async fn fetch_to(
        &self,
        wanted: &Wanted,
        guard: Option<&ReplayGuard>,
        destination: &Path,
    ) -> Result<Option<u64>> {
        let aside = Aside { destination: destination.to_owned() };
        let read = self.read(wanted, || aside.create(), &self.ctx.budget()).await?;
        let Some((written, bytes)) = read else { return Ok(None) };
        let file = written.into_inner();
        let file = file.map_err(|error| EngineError::local("write", destination, error.into_error()))?;
        if let (Some(guard), Some(segment)) = (guard, wanted.name.segment()) {
            guard.check(segment, file.path(), destination.parent().unwrap_or(Path::new(".")))?;
        }
        file.publish(destination)?;
        Ok(Some(bytes))
    }

    /// Reads one object into what `destination` makes, and checks that it is what was wanted; with it comes the number
    /// of its plain bytes. `None` when the store says that it is not there.
    async fn read<W, D>(
        &self,
        wanted: &Wanted,
        destination: D,
        budget: &RetryBudget,
    ) -> Result<Option<(W, u64)>>
    where
        W: io::Write + Send + 'static,
        D: FnMut() -> io::Result<W>,
    {
        let text = wanted.name.to_string();
        let size = wanted.segment_size.filter(|_| wanted.name.is_segment_sized());
        let max_plain_bytes = size.map_or(FILE_BYTES_MAX, WalSegmentSize::bytes);
        let expected = Expected { name: &text, max_plain_bytes };
        let fetched = self.ctx.store.fetch_sealed(&wanted.key, expected, destination, budget).await;
        let unsealed = match fetched {
            Ok(unsealed) => unsealed,
            Err(error) if error.is_object_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let header = &unsealed.header;
        let wrong =
            |what: String| EngineError::failed(ErrorKind::Corrupt, format!("{what} key={}", wanted.key));
        if header.incarnation != wanted.incarnation || header.server != self.ctx.server {
            let found = format!("{}/{}", header.server, header.incarnation);
            return Err(wrong(format!("the stored file belongs elsewhere found={found}")));
        }
        if size.is_some_and(|size| header.plain_bytes != size.bytes()) {
            // PostgreSQL would stop with a fatal error over it; say why before it does.
            return Err(wrong(format!("the stored segment has another size bytes={}", header.plain_bytes)));
        }
        Ok(Some((unsealed.plain, header.plain_bytes)))
    }

    /// The second request of a miss: when the marker can be read, the archive was seen and the file is not in it.
    async fn prove_absent(&self, incarnation: Incarnation, budget: &RetryBudget) -> Result<()> {
        // Being able to read it is the proof, whatever is in it: a damaged marker must not hold up a recovery.
        let marker = self.ctx.layout().incarnation(incarnation).marker();
        match self.ctx.store.prove_visible(&marker, budget).await {
            Ok(()) => Ok(()),
            Err(StoreError::MarkerNotFound { .. }) => {
                Err(explain_absence(&self.ctx, Some(incarnation)).await)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Parses the name of a file in the archive, a `%f`.
fn parse_name(name: &str) -> Result<ArchiveFileName> {
    name.parse().map_err(|_| {
        let message = format!("not the name of a file that PostgreSQL archives name={name:?}");
        EngineError::failed(ErrorKind::Invalid, message)
            .with_hint("restore_command must pass %f and %p: walden wal get %f %p")
    })
}

/// A file that is wanted, and what it must be.
#[derive(Debug, Clone)]
struct Wanted {
    name: ArchiveFileName,
    key: ObjectKey,
    incarnation: Incarnation,
    segment_size: Option<WalSegmentSize>,
}

impl Wanted {
    fn new(
        ctx: &Context,
        name: ArchiveFileName,
        incarnation: Incarnation,
        segment_size: Option<WalSegmentSize>,
    ) -> Self {
        let key = ctx.layout().incarnation(incarnation).archive_file(name);
        Self { name, key, incarnation, segment_size }
    }
}

/// Makes the file beside the destination that the plain bytes are written to.
struct Aside {
    destination: PathBuf,
}

impl Aside {
    fn create(&self) -> io::Result<io::BufWriter<TemporaryFile>> {
        let file = TemporaryFile::beside(&self.destination).map_err(|error| match error {
            EngineError::Local { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })?;
        Ok(io::BufWriter::with_capacity(WRITE_BYTES, file))
    }
}
