//! A store in memory: objects with the times of their writing, locks, refusals, listings that break, and a process that
//! is gone after so many effects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result,
};

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) written: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Object>,
    /// What new objects are written at; moves on with each.
    pub(super) now: Timestamp,
    /// Keys whose removal is refused.
    pub(super) locked: BTreeSet<String>,
    /// So many effects more, then the process is gone.
    pub(super) effects_left: Option<u64>,
    /// Effects so far.
    pub(super) effects: u64,
    /// Listings of prefixes that contain this break after so many objects.
    pub(super) broken_listing: Option<(String, usize)>,
    /// Put there once, as soon as an object is written whose key contains the text.
    pub(super) on_put: Option<(String, String, Bytes)>,
    /// Put there once, as soon as an object is removed whose key contains the text.
    pub(super) on_removal: Option<(String, String, Bytes)>,
    /// Removals of keys that contain this come to pass, and their answers are lost.
    pub(super) unanswered: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

fn gone() -> Error {
    // Nothing that a client would try again.
    Error::PermissionDenied { path: String::new(), source: "the process is gone".into() }
}

impl MemoryStore {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put_at(&self, key: &str, bytes: impl Into<Bytes>, written: Timestamp) {
        self.state().objects.insert(key.to_owned(), Object { bytes: bytes.into(), written });
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// A copy of its own, as a process that starts anew finds it.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        {
            let (mut to, from) = (copy.state(), self.state());
            to.objects.clone_from(&from.objects);
            to.now = from.now;
            to.locked.clone_from(&from.locked);
        }
        copy
    }

    fn effect(state: &mut State) -> Result<()> {
        if let Some(left) = &mut state.effects_left {
            *left = left.checked_sub(1).ok_or_else(gone)?;
        }
        state.effects += 1;
        Ok(())
    }

    fn alive(&self) -> Result<()> {
        if self.state().effects_left == Some(0) { Err(gone()) } else { Ok(()) }
    }

    fn page(&self, prefix: Option<&Path>, after: Option<&Path>) -> Vec<Result<ObjectMeta>> {
        let state = self.state();
        let begins = prefix.map(|prefix| format!("{prefix}/")).filter(|begins| begins != "/");
        let begins = begins.unwrap_or_default();
        let wanted = state.objects.iter().filter(|(key, _)| {
            key.starts_with(&begins) && after.is_none_or(|after| key.as_str() > after.as_ref())
        });
        let mut found: Vec<Result<ObjectMeta>> = wanted.map(|(key, object)| Ok(meta(key, object))).collect();
        if let Some((text, most)) = &state.broken_listing
            && begins.contains(text.as_str())
            && found.len() > *most
        {
            found.truncate(*most);
            found.push(Err(Error::PermissionDenied { path: begins, source: "the listing breaks".into() }));
        }
        found
    }

    fn remove(&self, key: &Path) -> Result<Path> {
        let mut state = self.state();
        if state.locked.contains(key.as_ref()) {
            // The form of one answer of several, as object_store has it of Azure.
            let source =
                format!("Bulk delete request failed for key {key}: it is immutable (code: 409)").into();
            return Err(Error::Generic { store: "memory", source });
        }
        Self::effect(&mut state)?;
        state.objects.remove(key.as_ref());
        let due = state.on_removal.take_if(|(text, _, _)| key.as_ref().contains(text.as_str()));
        if let Some((_, key, bytes)) = due {
            let written = state.now;
            state.objects.insert(key, Object { bytes, written });
        }
        if state.unanswered.as_ref().is_some_and(|text| key.as_ref().contains(text.as_str())) {
            return Err(Error::Generic { store: "memory", source: "the answer was lost".into() });
        }
        Ok(key.clone())
    }
}

fn meta(key: &str, object: &Object) -> ObjectMeta {
    let since = Duration::from_micros(u64::try_from(object.written.as_microsecond()).unwrap_or_default());
    ObjectMeta {
        location: Path::from(key),
        last_modified: (SystemTime::UNIX_EPOCH + since).into(),
        size: object.bytes.len() as u64,
        e_tag: None,
        version: None,
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for MemoryStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mut state = self.state();
        let key = location.to_string();
        if opts.mode == PutMode::Create && state.objects.contains_key(&key) {
            return Err(Error::AlreadyExists { path: key, source: "it is there".into() });
        }
        Self::effect(&mut state)?;
        state.now = state.now.saturating_add(jiff::SignedDuration::from_millis(1)).unwrap_or(state.now);
        let written = state.now;
        let due = state.on_put.take_if(|(text, _, _)| key.contains(text.as_str()));
        if let Some((_, key, bytes)) = due {
            state.objects.insert(key, Object { bytes, written });
        }
        state.objects.insert(key, Object { bytes: payload.into(), written });
        Ok(PutResult { e_tag: None, version: None, extensions: http::Extensions::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(gone())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        let object = self.state().objects.get(location.as_ref()).cloned();
        let Some(object) = object else {
            return Err(Error::NotFound { path: location.to_string(), source: "it is not there".into() });
        };
        let size = object.bytes.len() as u64;
        let range = match &options.range {
            None => 0..size,
            Some(GetRange::Bounded(range)) => range.start.min(size)..range.end.min(size),
            Some(GetRange::Offset(start)) => (*start).min(size)..size,
            Some(GetRange::Suffix(bytes)) => size.saturating_sub(*bytes)..size,
        };
        let at = |place: u64| usize::try_from(place).unwrap_or_default();
        let body = object.bytes.slice(at(range.start)..at(range.end));
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed()),
            meta: meta(location.as_ref(), &object),
            range,
            attributes: Attributes::new(),
            extensions: http::Extensions::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut all = Vec::new();
        for range in ranges {
            all.push(self.get_range(location, range.clone()).await?);
        }
        Ok(all)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations.and_then(move |key| futures::future::ready(store.remove(&key))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter(self.page(prefix, None)).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter(self.page(prefix, Some(offset))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        let begins = prefix.map(|prefix| format!("{prefix}/")).filter(|begins| begins != "/");
        let begins = begins.unwrap_or_default();
        let (mut common_prefixes, mut objects) = (BTreeSet::new(), Vec::new());
        for found in self.page(prefix, None) {
            let found = found?;
            let key = found.location.to_string();
            match key.get(begins.len()..).and_then(|rest| rest.split_once('/')) {
                Some((directory, _)) => {
                    common_prefixes.insert(Path::from(format!("{begins}{directory}")));
                }
                None => objects.push(found),
            }
        }
        let common_prefixes = common_prefixes.into_iter().collect();
        Ok(ListResult { common_prefixes, objects, extensions: http::Extensions::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(gone())
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(gone())
    }
}
