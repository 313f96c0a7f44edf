//! `walden init`: makes the repository, the server and the marker of its incarnation, each only if missing.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use serde::Serialize;
use walden_core::{
    Capabilities, ConditionalCreate, ErrorKind, Incarnation, IncarnationEntry, IncarnationRecord, RecordKind,
    RepositoryRecord, ServerRecord, Writer, hex, repository_key,
};
use walden_pg::{ArchiveFileName, ControlFile};
use walden_store::{CreateOutcome, seeded_number};

use crate::archiver::{Archiver, PushOutcome};
use crate::authority::Authority;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::server::{read_repository, render_record, revise_server, write_incarnation};

/// What `walden init` is told.
#[derive(Debug, Clone)]
pub struct InitRequest {
    /// The data directory of the server that will archive.
    pub data: DataDirectory,
}

/// What `walden init` did and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// Where the repository is.
    pub url: String,
    /// The repository's id.
    pub repository_id: String,
    /// Whether the repository was made now.
    pub repository_created: bool,
    /// Whether the server was made now.
    pub server_created: bool,
    /// Whether the incarnation's marker was written now.
    pub incarnation_created: bool,
    /// The incarnation that may archive.
    pub incarnation: Incarnation,
    /// Size of its WAL segments in bytes.
    pub segment_bytes: u64,
    /// What the store was seen to do.
    pub capabilities: Capabilities,
    /// History files of earlier timelines that were archived now.
    pub histories: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Makes what is missing for the server to archive; a second run changes nothing.
///
/// # Errors
/// Kind `wrong_server` when the server's name belongs to another system; kind `unsupported` when the store can't
/// hold a repository; and what reading and writing can give.
pub async fn init(ctx: &Context, request: &InitRequest) -> Result<InitReport> {
    let control = request.data.control()?;
    let incarnation = Incarnation { system_id: control.system_id, major: control.major };
    let writer = ctx.writer(&request.data.path().display().to_string());
    ctx.store.create_root().await?;
    give_root_to_server(ctx, &request.data)?;
    let (repository, repository_created) = obtain_repository(ctx, &writer).await?;
    let create = repository.capabilities.conditional_create;
    let ctx = &Context { store: ctx.store.with_conditional_create(create), ..ctx.clone() };
    let server_created = obtain_server(ctx, &repository, incarnation, &writer).await?;
    let incarnation_created = write_incarnation(ctx, &marker(ctx, &repository, &control, writer)).await?;
    Authority::forget(ctx, incarnation);
    let histories = archive_histories(ctx, &request.data).await?;
    Ok(InitReport {
        schema: 1,
        url: ctx.store.url().to_string(),
        repository_id: repository.repository_id,
        repository_created,
        server_created,
        incarnation_created,
        incarnation,
        segment_bytes: control.wal_segment_size.bytes(),
        warnings: warnings(&repository.capabilities),
        capabilities: repository.capabilities,
        histories,
    })
}

/// A local repository that root has just made belongs to the account that will archive into it.
fn give_root_to_server(ctx: &Context, data: &DataDirectory) -> Result<()> {
    let Some(root) = ctx.store.url().directory() else { return Ok(()) };
    let look = |path: &Path| path.metadata().map_err(|source| EngineError::local("look at", path, source));
    let (made, server) = (look(&root)?, look(data.path())?);
    let list = std::fs::read_dir(&root).map_err(|source| EngineError::local("list", &root, source));
    if made.uid() != 0 || server.uid() == 0 || list?.next().is_some() {
        return Ok(());
    }
    chown(&root, Some(server.uid()), Some(server.gid()))
        .map_err(|source| EngineError::local("give the repository to the server's account", &root, source))
}

async fn obtain_repository(ctx: &Context, writer: &Writer) -> Result<(RepositoryRecord, bool)> {
    if let Some(repository) = read_repository(ctx).await? {
        return Ok((repository, false));
    }
    let capabilities = ctx.store.probe(&random_id()?, ctx.clock.now(), &ctx.budget()).await?;
    if !capabilities.range_reads {
        let message = format!("the store can't read a part of an object url={}", ctx.store.url());
        return Err(EngineError::failed(ErrorKind::Unsupported, message));
    }
    let store = ctx.store.with_conditional_create(capabilities.conditional_create);
    let repository =
        RepositoryRecord { repository_id: random_id()?, format: 1, created_by: writer.clone(), capabilities };
    let key = repository_key();
    let record = render_record(RecordKind::Repository, &key, &repository)?;
    match store.create_record_once(&key, &record, &ctx.budget()).await? {
        CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => Ok((repository, true)),
        // Another init was faster: its repository is the one.
        CreateOutcome::Conflict(_) => match read_repository(ctx).await? {
            Some(repository) => Ok((repository, false)),
            None => {
                let message = format!("what stands at {key} can't be seen again url={}", ctx.store.url());
                Err(EngineError::failed(ErrorKind::Conflict, message).with_hint("run walden init again"))
            }
        },
    }
}

async fn obtain_server(
    ctx: &Context,
    repository: &RepositoryRecord,
    incarnation: Incarnation,
    writer: &Writer,
) -> Result<bool> {
    let revised = revise_server(ctx, |newest| match newest {
        None => Ok(Some(ServerRecord {
            revision: 1,
            server: ctx.server.clone(),
            repository_id: repository.repository_id.clone(),
            current: incarnation,
            incarnations: vec![IncarnationEntry { incarnation, added_by: writer.clone() }],
            adoptions: Vec::new(),
        })),
        Some(server) if server.incarnations.iter().any(|entry| entry.incarnation == incarnation) => Ok(None),
        Some(server) => Err(foreign(&server, incarnation)),
    })
    .await?;
    Ok(revised.is_some())
}

fn foreign(server: &ServerRecord, incarnation: Incarnation) -> EngineError {
    let owner = server.incarnations.last().map(|entry| entry.added_by.to_string()).unwrap_or_default();
    EngineError::failed(
        ErrorKind::WrongServer,
        format!(
            "this name belongs to another system server={} archive_of={} added_by={owner} this_system={incarnation}",
            server.server, server.current
        ),
    )
    .with_hint("choose another --server; after initdb or pg_upgrade of the same server: walden server adopt")
}

fn marker(
    ctx: &Context,
    repository: &RepositoryRecord,
    control: &ControlFile,
    writer: Writer,
) -> IncarnationRecord {
    IncarnationRecord {
        server: ctx.server.clone(),
        repository_id: repository.repository_id.clone(),
        system_id: control.system_id,
        major: control.major,
        segment_size: control.wal_segment_size,
        created_by: writer,
    }
}

/// A server that was promoted before it began to archive here has its histories in pg_wal and nowhere else.
async fn archive_histories(ctx: &Context, data: &DataDirectory) -> Result<Vec<String>> {
    let pg_wal = data.path().join("pg_wal");
    let listed = std::fs::read_dir(&pg_wal).map_err(|source| EngineError::local("list", &pg_wal, source))?;
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|source| EngineError::local("list", &pg_wal, source))?;
        let name = entry.file_name();
        if let Some(Ok(ArchiveFileName::History(_))) = name.to_str().map(str::parse) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    let archiver = Archiver::new(ctx.clone());
    let mut archived = Vec::new();
    for name in names {
        if archiver.push_from(&pg_wal.join(&name), data).await?.outcome == PushOutcome::Stored {
            archived.push(name);
        }
    }
    Ok(archived)
}

fn warnings(capabilities: &Capabilities) -> Vec<String> {
    let weak = match capabilities.conditional_create {
        ConditionalCreate::Enforced => return Vec::new(),
        ConditionalCreate::Ignored => "ignores conditional writes and overwrites",
        ConditionalCreate::Unsupported => "does not know conditional writes",
    };
    vec![format!(
        "the store {weak}: every file is looked for before and read back after it is written, but two servers that \
         archive one name at the same instant can't be kept apart with certainty"
    )]
}

/// Thirty-two random hexadecimal digits.
pub(crate) fn random_id() -> Result<String> {
    if let (Some(first), Some(second)) = (seeded_number(), seeded_number()) {
        return Ok(format!("{first:016x}{second:016x}"));
    }
    let path = Path::new("/dev/urandom");
    let mut bytes = [0u8; 16];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| EngineError::local("read", path, source))?;
    Ok(hex(&bytes))
}
