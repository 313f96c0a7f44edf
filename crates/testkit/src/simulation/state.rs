//! The objects of a simulated store, and what a request does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, PutResult, Result};

use super::clock::EPOCH_SECONDS;
use super::faults::{ConditionalPuts, Faults};
use super::stage::ActorId;

/// Keys in one page of a listing: few, so that much can happen between two pages.
pub(super) const PAGE_KEYS: usize = 8;

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its contents.
    pub bytes: Bytes,
    /// When it was written, since the simulation began.
    pub written_at: Duration,
    /// Who wrote it.
    pub by: ActorId,
    /// The number of the effect that wrote it: its entity tag.
    pub version: u64,
}

/// Something that happened to the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An object appeared.
    Created {
        /// Its key.
        key: String,
    },
    /// An object was replaced.
    Overwritten {
        /// Its key.
        key: String,
        /// What it was.
        before: Bytes,
        /// What it is.
        after: Bytes,
    },
    /// An object was removed.
    Removed {
        /// Its key.
        key: String,
        /// What it was.
        before: Bytes,
        /// Who removed it.
        by: ActorId,
    },
}

/// What is asked of the store.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Put { key: String, bytes: Bytes, only_if_absent: bool },
    Get { key: String, head: bool },
    Delete { keys: Vec<String> },
    List { prefix: String, after: Option<String>, delimiter: bool },
}

impl Request {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Put { only_if_absent: true, .. } => "create",
            Self::Put { .. } => "put",
            Self::Get { head: true, .. } => "head",
            Self::Get { .. } => "get",
            Self::Delete { .. } => "delete",
            Self::List { delimiter: true, .. } => "list level",
            Self::List { .. } => "list",
        }
    }

    pub(super) fn key(&self) -> String {
        match self {
            Self::Put { key, .. } | Self::Get { key, .. } => key.clone(),
            Self::Delete { keys } => keys.join(" "),
            Self::List { prefix, after: None, .. } => prefix.clone(),
            Self::List { prefix, after: Some(after), .. } => format!("{prefix} after {after}"),
        }
    }

    pub(super) fn changes(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<ObjectMeta>,
    pub(super) prefixes: Vec<Path>,
    /// Where the next page begins; absent on the last one.
    pub(super) next: Option<String>,
}

/// What the store answers.
#[derive(Debug)]
pub(super) enum Reply {
    Put(PutResult),
    Got(Box<ObjectMeta>, Bytes),
    Deleted(Vec<Result<Path>>),
    Listed(Page),
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) present: BTreeMap<String, Stored>,
    /// What was there before, for stale answers.
    overwritten: BTreeMap<String, Stored>,
    removed: Vec<(Duration, String, Stored)>,
    pub(super) effects: Vec<Effect>,
    pub(super) conditional: ConditionalPuts,
    versions: u64,
}

impl Objects {
    pub(super) fn new(conditional: ConditionalPuts) -> Self {
        Self { conditional, ..Self::default() }
    }

    /// Carries a request out. `stale` lets it see the past, as far as a store may show that.
    pub(super) fn apply(
        &mut self,
        by: ActorId,
        request: &Request,
        now: Duration,
        stale: bool,
    ) -> Result<Reply> {
        match request {
            Request::Put { key, bytes, only_if_absent } => {
                self.put(by, key, bytes.clone(), *only_if_absent, now)
            }
            Request::Get { key, .. } => self.get(key, stale),
            Request::Delete { keys } => {
                Ok(Reply::Deleted(keys.iter().map(|key| Ok(self.remove(by, key, now))).collect()))
            }
            Request::List { prefix, after, delimiter } => {
                Ok(Reply::Listed(self.list(prefix, after.as_deref(), *delimiter, stale.then_some(now))))
            }
        }
    }

    fn put(
        &mut self,
        by: ActorId,
        key: &str,
        bytes: Bytes,
        only_if_absent: bool,
        now: Duration,
    ) -> Result<Reply> {
        let there = self.present.get(key);
        match (only_if_absent, self.conditional) {
            (true, ConditionalPuts::Unsupported) => {
                let source = "conditional put is not implemented".into();
                return Err(Error::NotSupported { source });
            }
            (true, ConditionalPuts::Enforced) if there.is_some() => {
                return Err(Error::AlreadyExists { path: key.to_owned(), source: "it exists".into() });
            }
            _ => {}
        }
        self.versions += 1;
        let stored = Stored { bytes: bytes.clone(), written_at: now, by, version: self.versions };
        let effect = match self.present.insert(key.to_owned(), stored) {
            None => Effect::Created { key: key.to_owned() },
            Some(before) => {
                let effect =
                    Effect::Overwritten { key: key.to_owned(), before: before.bytes.clone(), after: bytes };
                self.overwritten.insert(key.to_owned(), before);
                effect
            }
        };
        self.effects.push(effect);
        Ok(Reply::Put(PutResult {
            e_tag: Some(format!("\"{}\"", self.versions)),
            version: None,
            extensions: http::Extensions::default(),
        }))
    }

    fn get(&self, key: &str, stale: bool) -> Result<Reply> {
        let past = self.overwritten.get(key).filter(|_| stale);
        let Some(stored) = self.present.get(key) else { return Err(missing(key)) };
        let stored = past.unwrap_or(stored);
        Ok(Reply::Got(Box::new(meta(key, stored)), stored.bytes.clone()))
    }

    /// Removes one object, if it is there.
    pub(super) fn remove(&mut self, by: ActorId, key: &str, now: Duration) -> Path {
        if let Some(before) = self.present.remove(key) {
            let effect = Effect::Removed { key: key.to_owned(), before: before.bytes.clone(), by };
            self.effects.push(effect);
            self.removed.push((now, key.to_owned(), before));
        }
        Path::from(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, delimiter: bool, stale_at: Option<Duration>) -> Page {
        let mut seen: BTreeMap<&str, &Stored> = BTreeMap::new();
        let begins = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let is_wanted = |key: &str| key.starts_with(&begins) && after.is_none_or(|after| key > after);
        let horizon = stale_at.map(|now| now.saturating_sub(Faults::STALE_MAX));
        for (key, stored) in &self.present {
            if is_wanted(key) && horizon.is_none_or(|horizon| stored.written_at <= horizon) {
                seen.insert(key, stored);
            }
        }
        for (at, key, stored) in &self.removed {
            if is_wanted(key) && horizon.is_some_and(|horizon| *at > horizon && stored.written_at <= horizon)
            {
                seen.insert(key, stored);
            }
        }
        let mut page = Page::default();
        let mut prefixes = BTreeSet::new();
        for (key, stored) in seen {
            let inside = key.get(begins.len()..).unwrap_or_default();
            let below = inside.find('/').filter(|_| delimiter);
            if let Some(end) = below {
                let name = format!("{begins}{}", inside.get(..end).unwrap_or_default());
                // All that is below a prefix is one entry of the page.
                if after.is_some_and(|after| after.starts_with(&format!("{name}/"))) || !prefixes.insert(name)
                {
                    continue;
                }
            } else {
                page.objects.push(meta(key, stored));
            }
            if page.objects.len() + prefixes.len() >= PAGE_KEYS {
                let end = below.map_or(key.to_owned(), |end| {
                    format!("{begins}{}/\u{7f}", inside.get(..end).unwrap_or_default())
                });
                page.next = Some(end);
                break;
            }
        }
        page.prefixes = prefixes.into_iter().map(Path::from).collect();
        page
    }
}

fn missing(key: &str) -> Error {
    Error::NotFound { path: key.to_owned(), source: "no such key".into() }
}

fn meta(key: &str, stored: &Stored) -> ObjectMeta {
    let since_1970 = Duration::from_secs(EPOCH_SECONDS.unsigned_abs()) + stored.written_at;
    ObjectMeta {
        location: Path::from(key),
        last_modified: (SystemTime::UNIX_EPOCH + since_1970).into(),
        size: stored.bytes.len() as u64,
        e_tag: Some(format!("\"{}\"", stored.version)),
        version: None,
    }
}
