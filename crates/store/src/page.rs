//! The first keys after another one: what a question about the archive costs one small request.

use object_store::list::PaginatedListOptions;

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::StoreError;
use crate::store::{Call, Store};

/// The beginning of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstKeys {
    /// The keys, relative to the repository's root, in order. Whatever lies before the last of them is among them.
    pub keys: Vec<String>,
}

impl Store {
    /// Lists the first keys under `prefix` (as [`Self::list`] takes it) that come after the key `after`, at most
    /// `max_keys` of them: exactly one request.
    ///
    /// `None` means that this store can't be asked so, or does not answer in the order of the keys: local directories,
    /// Azure's emulator, directory buckets of S3.
    ///
    /// # Errors
    /// What any listing can give.
    pub async fn first_keys_after(
        &self,
        prefix: &str,
        after: &str,
        max_keys: usize,
        budget: &RetryBudget,
    ) -> Result<Option<FirstKeys>, StoreError> {
        let Some(pages) = &self.pages else { return Ok(None) };
        let prefix = prefix.trim_end_matches('/');
        let under = format!("{}/", self.raw_path(prefix)?);
        let offset = self.raw_path(after)?;
        let call = Call { operation: Operation::List, action: "list the objects", key: prefix };
        let page = self.repeat(call, 0, budget, || {
            let options = PaginatedListOptions {
                offset: Some(offset.to_string()),
                max_keys: Some(max_keys),
                ..PaginatedListOptions::default()
            };
            pages.list_paginated(Some(&under), options)
        });
        let found = page.await?.result.objects;
        let mut last = &offset;
        for meta in &found {
            if meta.location <= *last {
                return Ok(None);
            }
            last = &meta.location;
        }
        let keys = found.iter().map(|meta| self.key_of(&meta.location)).collect::<Option<Vec<_>>>();
        Ok(keys.map(|keys| FirstKeys { keys }))
    }
}
