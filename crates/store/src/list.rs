//! Listings: streams that go on where a failed page left them.

use std::collections::VecDeque;

use futures::StreamExt;
use futures::stream::{BoxStream, Stream};
use jiff::Timestamp;
use object_store::ObjectMeta;
use object_store::path::Path;
use walden_core::{NameError, ObjectKey};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::StoreError;
use crate::failure::Failure;
use crate::store::{Call, Store};

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key relative to the repository's root, whatever it is: foreign objects are listed too.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

impl Listed {
    /// The key, when it is one that a repository can have.
    ///
    /// # Errors
    /// When it is not.
    pub fn object_key(&self) -> Result<ObjectKey, NameError> {
        ObjectKey::parse(&self.key)
    }
}

/// One level of the hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Level {
    /// The prefixes below, each ending in `/`, relative to the repository's root; in order.
    pub directories: Vec<String>,
    /// The objects on this level; in order.
    pub objects: Vec<Listed>,
}

/// Where a listing stands.
struct Position {
    store: Store,
    budget: RetryBudget,
    prefix: String,
    /// What is listed begins after this key.
    after: Option<Path>,
    /// The highest key given so far.
    last: Option<Path>,
    pages: Option<BoxStream<'static, object_store::Result<ObjectMeta>>>,
    ready: VecDeque<Listed>,
    /// Listings that are not in order can't be resumed.
    in_order: bool,
    failed: u32,
    done: bool,
}

const ACTION: &str = "list the objects";

impl Store {
    /// Lists the objects under `prefix` (a path relative to the repository's root, whole parts only; empty for
    /// everything), in the order of their keys.
    ///
    /// An empty listing is not yet proof that there is nothing: see [`Self::prove_visible`].
    pub fn list(
        &self,
        prefix: &str,
        budget: &RetryBudget,
    ) -> impl Stream<Item = Result<Listed, StoreError>> + use<> {
        self.listing(prefix, None, budget)
    }

    /// As [`Self::list`], but only what comes after the key `after`.
    pub fn list_after(
        &self,
        prefix: &str,
        after: &str,
        budget: &RetryBudget,
    ) -> impl Stream<Item = Result<Listed, StoreError>> + use<> {
        self.listing(prefix, Some(after), budget)
    }

    fn listing(
        &self,
        prefix: &str,
        after: Option<&str>,
        budget: &RetryBudget,
    ) -> impl Stream<Item = Result<Listed, StoreError>> + use<> {
        let after = after.map(|after| self.raw_path(after)).transpose();
        let (after, broken) = match after {
            Ok(after) => (after, None),
            Err(error) => (None, Some(error)),
        };
        let position = Position {
            store: self.clone(),
            budget: budget.clone(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            after,
            last: None,
            pages: None,
            ready: VecDeque::new(),
            in_order: true,
            failed: 0,
            done: false,
        };
        futures::stream::unfold((position, broken), |(mut position, broken)| async move {
            if let Some(error) = broken {
                position.done = true;
                return Some((Err(error), (position, None)));
            }
            let item = position.next().await.transpose()?;
            position.done |= item.is_err();
            Some((item, (position, None)))
        })
    }

    /// Lists one level: the directories and the objects directly under `prefix`.
    ///
    /// # Errors
    /// What any listing can give.
    pub async fn list_level(&self, prefix: &str, budget: &RetryBudget) -> Result<Level, StoreError> {
        let prefix = prefix.trim_end_matches('/');
        let call = Call { operation: Operation::List, action: ACTION, key: prefix };
        let path = self.raw_path(prefix)?;
        let found = self.repeat(call, 0, budget, || self.objects.list_with_delimiter(Some(&path))).await?;
        let mut level = Level::default();
        for directory in &found.common_prefixes {
            level.directories.extend(self.key_of(directory).map(|key| format!("{key}/")));
        }
        level.objects.extend(found.objects.iter().filter_map(|meta| self.listed(meta)));
        level.directories.sort_unstable();
        level.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(level)
    }

    /// Names under this repository that listings have shown up to now (at most 1,000) and that can't be keys, because a part
    /// of them is empty, `.` or `..`: relative to the repository's root. They are in no listing, and nothing touches them.
    #[must_use]
    pub fn odd_names(&self) -> Vec<String> {
        let root = self.raw_path("").map(|root| root.to_string()).unwrap_or_default();
        let names = self.counted().odd_names().into_iter();
        let below = names.filter_map(|name| match root.as_str() {
            "" => Some(name),
            root => Some(name.strip_prefix(root)?.strip_prefix('/')?.to_owned()),
        });
        below.collect()
    }

    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        let key = self.key_of(&meta.location)?;
        let modified = Timestamp::from_microsecond(meta.last_modified.timestamp_micros()).unwrap_or_default();
        Some(Listed { key, bytes: meta.size, modified })
    }
}

impl Position {
    fn call(&self) -> Call<'_> {
        Call { operation: Operation::List, action: ACTION, key: &self.prefix }
    }

    async fn next(&mut self) -> Result<Option<Listed>, StoreError> {
        loop {
            if let Some(listed) = self.ready.pop_front() {
                return Ok(Some(listed));
            }
            if self.done {
                return Ok(None);
            }
            match self.poll().await {
                Ok(()) => self.failed = 0,
                Err(failure) => self.recover(failure).await?,
            }
        }
    }

    async fn recover(&mut self, failure: Failure) -> Result<(), StoreError> {
        self.pages = None;
        self.failed += 1;
        if !self.in_order {
            return Err(failure.into_error(ACTION, self.failed, self.store.url(), &self.prefix));
        }
        if let Some(last) = self.last.take() {
            self.after = Some(last);
        }
        self.store.pause(self.call(), failure, self.failed, &self.budget).await
    }

    /// Takes the next object from the store, and with it all others of its page that have arrived.
    async fn poll(&mut self) -> Result<(), Failure> {
        let mut pages = match self.pages.take() {
            Some(pages) => pages,
            None => self.begin().map_err(|error| Failure::internal(&error))?,
        };
        let timeout = self.budget.try_timeout(0, self.store.limits());
        let page = async { pages.next().await.transpose() };
        let next = self.store.attempt(self.call(), timeout, &self.budget, page).await?;
        let Some(meta) = next else {
            self.done = true;
            return Ok(());
        };
        // Azurite and S3 Express do not start after the key that they are given.
        match &self.after {
            Some(after) if meta.location <= *after => {}
            _ => self.ready.extend(self.store.listed(&meta)),
        }
        self.in_order &= self.last.as_ref().is_none_or(|last| meta.location > *last);
        self.last = Some(meta.location);
        self.pages = Some(pages);
        Ok(())
    }

    fn begin(&self) -> Result<BoxStream<'static, object_store::Result<ObjectMeta>>, StoreError> {
        self.store.count_request(Operation::List, 0);
        let prefix = self.store.raw_path(&self.prefix)?;
        Ok(match &self.after {
            Some(after) => self.store.objects.list_with_offset(Some(&prefix), after),
            None => self.store.objects.list(Some(&prefix)),
        })
    }
}
