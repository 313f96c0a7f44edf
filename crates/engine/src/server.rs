//! Servers and incarnations: whose archive a place in the repository is.

use bytes::Bytes;
use futures::TryStreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use walden_core::{
    Adoption, ErrorKind, Incarnation, IncarnationEntry, IncarnationRecord, ObjectKey, RecordKind,
    RepositoryRecord, ServerRecord, decode_envelope, encode_envelope, repository_key,
};
use walden_store::{CreateOutcome, PROBE_PREFIX};

use crate::authority::Authority;
use crate::context::Context;
use crate::data_directory::{DataDirectory, RESTORED_MARKER};
use crate::error::{EngineError, Result};
use crate::fs::sync_directory;

/// Largest JSON record read, in bytes.
pub(crate) const RECORD_BYTES_MAX: u64 = 16 << 20;
/// What arrives damaged is read this often before it counts as damaged in the store.
pub(crate) const READS_OF_DAMAGED: u32 = 2;
/// Most tries to write the next revision of a server while others do the same.
const REVISION_TRIES_MAX: u32 = 8;

/// Reads a record; `None` when the store says that it is not there, which alone proves nothing.
pub(crate) async fn read_record<T: DeserializeOwned>(
    ctx: &Context,
    kind: RecordKind,
    key: &ObjectKey,
) -> Result<Option<T>> {
    let mut reads = 1;
    loop {
        let bytes = match ctx.store.get(key, RECORD_BYTES_MAX, &ctx.budget()).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_object_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match decode_envelope(kind, &bytes) {
            Ok(record) => return Ok(Some(record)),
            // The damage may lie on the way.
            Err(error) if reads < READS_OF_DAMAGED && !error.is_unknown_schema() => {
                tracing::warn!(%key, %error, "a record arrived damaged: reading it again");
                reads += 1;
            }
            Err(source) => return Err(EngineError::Record { what: key.to_string(), source }),
        }
    }
}

/// Renders a record for the store.
pub(crate) fn render_record<T: Serialize>(kind: RecordKind, key: &ObjectKey, record: &T) -> Result<Bytes> {
    let rendered = encode_envelope(kind, record);
    rendered.map(Bytes::from).map_err(|source| EngineError::Record { what: key.to_string(), source })
}

/// Reads `repository.json`; `None` when there is no repository, as far as the store says.
///
/// # Errors
/// Of the store, and when the record is damaged or newer than this version.
pub async fn read_repository(ctx: &Context) -> Result<Option<RepositoryRecord>> {
    let repository: Option<RepositoryRecord> =
        read_record(ctx, RecordKind::Repository, &repository_key()).await?;
    match repository {
        Some(repository) if repository.format > 1 => Err(EngineError::failed(
            ErrorKind::Unsupported,
            format!(
                "the repository has a format that this version does not know format={}",
                repository.format
            ),
        )
        .with_hint("use a newer walden")),
        repository => Ok(repository),
    }
}

/// Reads the newest revision of the server's record; `None` when it has none.
///
/// # Errors
/// Of the store, and when the record is damaged or newer than this version.
pub async fn read_server(ctx: &Context) -> Result<Option<ServerRecord>> {
    let layout = ctx.layout();
    let listed: Vec<_> = ctx.store.list(&layout.revisions_prefix(), &ctx.budget()).try_collect().await?;
    let newest = listed.iter().filter_map(|object| layout.parse_revision(&object.key)).max();
    let Some(newest) = newest else { return Ok(None) };
    read_record(ctx, RecordKind::Server, &layout.revision(newest)).await
}

/// Reads an incarnation's marker; `None` when it has none, as far as the store says.
///
/// # Errors
/// Of the store, and when the record is damaged, newer than this version, or of another incarnation.
pub async fn read_incarnation(ctx: &Context, incarnation: Incarnation) -> Result<Option<IncarnationRecord>> {
    let key = ctx.layout().incarnation(incarnation).marker();
    let record: Option<IncarnationRecord> = read_record(ctx, RecordKind::Incarnation, &key).await?;
    match record {
        Some(record) if record.incarnation() != incarnation || record.server != ctx.server => {
            Err(EngineError::failed(
                ErrorKind::Corrupt,
                format!(
                    "the marker belongs elsewhere key={key} server={} incarnation={}",
                    record.server,
                    record.incarnation()
                ),
            ))
        }
        record => Ok(record),
    }
}

/// Finds the incarnation to work on: the data directory's where there is one, else the server's current one.
///
/// # Errors
/// Kinds `not_found` and `wrong_server` when it is not in the repository, with what is there instead.
pub async fn find_incarnation(ctx: &Context, data: Option<&DataDirectory>) -> Result<IncarnationRecord> {
    let incarnation = match data {
        Some(data) => data.incarnation()?,
        None => match read_server(ctx).await? {
            Some(server) => server.current,
            None => return Err(explain_absence(ctx, None).await),
        },
    };
    match read_incarnation(ctx, incarnation).await? {
        Some(record) => Ok(record),
        None => Err(explain_absence(ctx, Some(incarnation)).await),
    }
}

/// Turns "no marker" into the reason: no repository, no such server, or another system's archive.
pub(crate) async fn explain_absence(ctx: &Context, incarnation: Option<Incarnation>) -> EngineError {
    explain(ctx, incarnation).await.unwrap_or_else(|error| error)
}

async fn explain(ctx: &Context, incarnation: Option<Incarnation>) -> Result<EngineError> {
    let (url, name) = (ctx.store.url(), &ctx.server);
    let not_found = |message: String| EngineError::failed(ErrorKind::NotFound, message);
    if read_repository(ctx).await?.is_none() {
        let error = not_found(format!("there is no repository here url={url}"));
        return Ok(error.with_hint("check --repo; if this is the right place, make one with walden init"));
    }
    let Some(server) = read_server(ctx).await? else {
        let others = ctx.store.list_level("", &ctx.budget()).await?.directories;
        let others = others.iter().map(|prefix| prefix.trim_end_matches('/'));
        let others: Vec<&str> = others.filter(|name| *name != PROBE_PREFIX).collect();
        let known = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let error =
            not_found(format!("the repository knows no server of this name server={name} known={known}"));
        return Ok(error.with_hint("check --server; if the name is right, make it with walden init"));
    };
    let Some(incarnation) = incarnation.filter(|incarnation| *incarnation != server.current) else {
        let error =
            not_found(format!("the marker of incarnation {} is missing server={name}", server.current));
        return Ok(
            error.with_hint("run walden init again: it writes what is missing and changes nothing else")
        );
    };
    let owner = server.incarnations.last().map(|entry| entry.added_by.to_string()).unwrap_or_default();
    Ok(EngineError::failed(
        ErrorKind::WrongServer,
        format!(
            "this is another system's archive server={name} archive_of={} added_by={owner} this_system={incarnation}",
            server.current
        ),
    )
    .with_hint("archive under another --server (walden init), or let this system in with walden server adopt"))
}

/// Writes the next revision of a server: `change` makes it from the newest one, or says that there is nothing
/// to change. Another writer's revision in between is read and changed again.
pub(crate) async fn revise_server(
    ctx: &Context,
    change: impl Fn(Option<ServerRecord>) -> Result<Option<ServerRecord>>,
) -> Result<Option<ServerRecord>> {
    for _ in 0..REVISION_TRIES_MAX {
        let Some(next) = change(read_server(ctx).await?)? else { return Ok(None) };
        let key = ctx.layout().revision(next.revision);
        let record = render_record(RecordKind::Server, &key, &next)?;
        match ctx.store.create_record_once(&key, &record, &ctx.budget()).await? {
            CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => return Ok(Some(next)),
            CreateOutcome::Conflict(_) => {}
        }
    }
    Err(EngineError::failed(
        ErrorKind::Conflict,
        format!("others kept changing the server's record server={}", ctx.server),
    )
    .with_hint("try again"))
}

/// Writes the marker of an incarnation, unless it is there with the same facts.
pub(crate) async fn write_incarnation(ctx: &Context, record: &IncarnationRecord) -> Result<bool> {
    let key = ctx.layout().incarnation(record.incarnation()).marker();
    let bytes = render_record(RecordKind::Incarnation, &key, record)?;
    match ctx.store.create_record_once(&key, &bytes, &ctx.budget()).await? {
        CreateOutcome::Created => Ok(true),
        CreateOutcome::AlreadyStored(_) => Ok(false),
        CreateOutcome::Conflict(_) => match read_incarnation(ctx, record.incarnation()).await? {
            Some(there) if there.segment_size == record.segment_size => Ok(false),
            Some(there) => Err(EngineError::failed(
                ErrorKind::WrongServer,
                format!(
                    "the WAL segment size was changed since this incarnation was made was={} is={}",
                    there.segment_size.bytes(),
                    record.segment_size.bytes()
                ),
            )
            .with_hint("pg_resetwal --wal-segsize breaks the history: archive under another --server")),
            None => Err(EngineError::failed(
                ErrorKind::Conflict,
                format!("what stands under the marker's name can't be seen again key={key}"),
            )
            .with_hint("try again")),
        },
    }
}

/// What `walden server show` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// Where the repository is.
    pub url: String,
    /// The repository.
    pub repository: RepositoryRecord,
    /// The server.
    pub server: ServerRecord,
}

/// Reads what is known of the server.
///
/// # Errors
/// Kind `not_found` when the repository or the server is not there.
pub async fn server_report(ctx: &Context) -> Result<ServerReport> {
    let (Some(repository), Some(server)) = (read_repository(ctx).await?, read_server(ctx).await?) else {
        return Err(explain_absence(ctx, None).await);
    };
    Ok(ServerReport { schema: 1, url: ctx.store.url().to_string(), repository, server })
}

/// What `walden server adopt` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The incarnation that may archive now.
    pub incarnation: Incarnation,
    /// What had spoken against it; empty when nothing did.
    pub reasons: Vec<String>,
    /// The revision written; `None` when nothing had to be changed.
    pub revision: Option<u32>,
}

/// Lets a data directory archive under this server although it is a restored copy, or another system.
///
/// # Errors
/// Kind `not_found` when the server is not there; and what reading and writing can give.
pub async fn adopt(ctx: &Context, data: &DataDirectory) -> Result<AdoptReport> {
    let control = data.control()?;
    let incarnation = Incarnation { system_id: control.system_id, major: control.major };
    let writer = ctx.writer(&data.path().display().to_string());
    let Some(repository) = read_repository(ctx).await? else { return Err(explain_absence(ctx, None).await) };
    let create = repository.capabilities.conditional_create;
    let ctx = &Context { store: ctx.store.with_conditional_create(create), ..ctx.clone() };
    let Some(before) = read_server(ctx).await? else { return Err(explain_absence(ctx, None).await) };
    let marker = data.path().join(RESTORED_MARKER);
    // Another archive's ban is not ours to lift.
    let restored = match data.restored_marker() {
        Ok(Some(there)) => there.repository_id == repository.repository_id && there.server == ctx.server,
        Ok(None) => false,
        Err(error) if error.kind() == ErrorKind::Corrupt => true,
        Err(error) => return Err(error),
    };
    let mut reasons = Vec::new();
    if restored {
        reasons.push("it was restored from this repository".to_owned());
    }
    if before.current != incarnation {
        reasons.push(format!("the server's archive was of {}", before.current));
    }
    let reason = reasons.join("; ");
    let revised = revise_server(ctx, |newest| {
        let Some(mut next) = newest.filter(|_| !reasons.is_empty()) else { return Ok(None) };
        next.revision += 1;
        next.current = incarnation;
        if !next.incarnations.iter().any(|entry| entry.incarnation == incarnation) {
            next.incarnations.push(IncarnationEntry { incarnation, added_by: writer.clone() });
        }
        next.adoptions.push(Adoption { incarnation, writer: writer.clone(), reason: reason.clone() });
        Ok(Some(next))
    })
    .await?;
    write_incarnation(
        ctx,
        &IncarnationRecord {
            server: ctx.server.clone(),
            repository_id: repository.repository_id,
            system_id: control.system_id,
            major: control.major,
            segment_size: control.wal_segment_size,
            created_by: writer,
        },
    )
    .await?;
    if restored {
        // Last: while the marker is there, archiving stays refused.
        let kept = marker.with_extension("adopted.json");
        std::fs::rename(&marker, &kept).map_err(|source| EngineError::local("rename", &marker, source))?;
        sync_directory(data.path())?;
    }
    Authority::forget(ctx, incarnation);
    Ok(AdoptReport { schema: 1, incarnation, reasons, revision: revised.map(|record| record.revision) })
}
