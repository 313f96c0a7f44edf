//! The store as one actor sees it.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};

use super::stage::{ActorId, Damage, Stage, failed, flipped};
use super::state::{Page, Reply, Request};

/// Pieces that a body arrives in.
const PIECE_BYTES: usize = 64 << 10;

/// The client of one actor.
#[derive(Debug, Clone)]
pub struct ActorStore {
    stage: Stage,
    actor: ActorId,
    life: usize,
}

impl fmt::Display for ActorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulation({})", self.actor)
    }
}

impl ActorStore {
    /// The store on this stage as `actor` sees it.
    #[must_use]
    pub fn new(stage: &Stage, actor: ActorId) -> Self {
        Self { stage: stage.clone(), actor, life: stage.life(actor) }
    }

    async fn ask(&self, request: Request) -> Result<(Reply, Damage)> {
        self.stage.ask(self.actor, self.life, request).await
    }

    async fn page(&self, prefix: &str, after: Option<String>, delimiter: bool) -> Result<Page> {
        let request = Request::List { prefix: prefix.to_owned(), after, delimiter };
        match self.ask(request).await? {
            (Reply::Listed(page), _) => Ok(page),
            _ => Err(failed("another answer")),
        }
    }

    fn pages(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let first = Some(after.map(ToString::to_string));
        let store = self.clone();
        let pages = futures::stream::try_unfold(first, move |at| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let Some(after) = at else { return Ok::<_, Error>(None) };
                let page = store.page(&prefix, after, false).await?;
                Ok(Some((page.objects, page.next.map(Some))))
            }
        });
        pages.map_ok(|objects| futures::stream::iter(objects.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn remove(self, locations: Vec<Path>) -> Vec<Result<Path>> {
        let keys = locations.iter().map(ToString::to_string).collect();
        match self.ask(Request::Delete { keys }).await {
            Ok((Reply::Deleted(removed), _)) => removed,
            Ok(_) => vec![Err(failed("another answer"))],
            Err(error) => vec![Err(error)],
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for ActorStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let only_if_absent = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(failed("conditional updates are not simulated")),
        };
        let (key, bytes) = (location.to_string(), Bytes::from(payload));
        match self.ask(Request::Put { key, bytes, only_if_absent }).await? {
            (Reply::Put(result), _) => Ok(result),
            _ => Err(failed("another answer")),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed("uploads in parts are not simulated"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let request = Request::Get { key: location.to_string(), head: options.head };
        let (reply, damage) = self.ask(request).await?;
        let Reply::Got(meta, bytes) = reply else { return Err(failed("another answer")) };
        options.check_preconditions(&meta)?;
        let range = range_of(options.range.as_ref(), meta.size)?;
        let part = |at: u64| usize::try_from(at).unwrap_or_default();
        let body = bytes.slice(part(range.start)..part(range.end));
        Ok(GetResult {
            payload: GetResultPayload::Stream(futures::stream::iter(pieces(&body, damage)).boxed()),
            meta: *meta,
            range,
            attributes: Attributes::new(),
            extensions: http::Extensions::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut all = Vec::new();
        for range in ranges {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
            all.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(all)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        // As many at once as there are, as a bulk removal has them.
        let removed = locations.try_collect::<Vec<Path>>().then(move |locations| async move {
            match locations {
                Ok(locations) => store.remove(locations).await,
                Err(error) => vec![Err(error)],
            }
        });
        removed.into_stream().flat_map(futures::stream::iter).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let (mut common_prefixes, mut objects, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = self.page(&prefix, after, true).await?;
            common_prefixes.extend(page.prefixes);
            objects.extend(page.objects);
            after = page.next;
            if after.is_none() {
                return Ok(ListResult { common_prefixes, objects, extensions: http::Extensions::default() });
            }
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failed("copies are not simulated"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(failed("renames are not simulated"))
    }
}

fn range_of(range: Option<&GetRange>, size: u64) -> Result<Range<u64>> {
    let range = match range {
        None => return Ok(0..size),
        Some(GetRange::Bounded(range)) => range.start..range.end.min(size),
        Some(GetRange::Offset(start)) => *start..size,
        Some(GetRange::Suffix(bytes)) => size.saturating_sub(*bytes)..size,
    };
    if range.start < range.end { Ok(range) } else { Err(failed("the range lies behind the end")) }
}

/// A body as it arrives.
fn pieces(body: &Bytes, damage: Damage) -> Vec<Result<Bytes>> {
    let end = damage.torn_at.map_or(body.len(), |part| (usize::from(part) * body.len()) >> 16);
    let body = damage.flipped_at.map_or_else(|| body.clone(), |part| flipped(body, part));
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < end {
        let to = (from + PIECE_BYTES).min(end);
        pieces.push(Ok(body.slice(from..to)));
        from = to;
    }
    if damage.torn_at.is_some() && damage.torn_is_error {
        pieces.push(Err(Error::Generic { store: "simulation", source: "injected torn read".into() }));
    }
    pieces
}
