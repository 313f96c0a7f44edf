//! Finding out what a store really does, when a repository is made in it.

use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use object_store::{PutMode, PutOptions, PutPayload};
use walden_core::{Capabilities, ConditionalCreate, ObjectKey};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::{Place, StoreError};
use crate::failure::{Failure, FailureClass};
use crate::store::{Call, Store};

/// Probe objects lie under this prefix, relative to the repository's root, while a probe runs.
pub const PROBE_PREFIX: &str = "probe";

const FIRST: &[u8] = b"walden probe: this one was here first\n";
const SECOND: &[u8] = b"walden probe: this one must be refused\n";

impl Store {
    /// Tries out what the store does: whether it refuses a second create, reads ranges, and lists after a key.
    ///
    /// `tag` (letters and digits, up to 32) keeps two probes at the same time apart; `now` goes into the result.
    /// The probe's objects are removed again, whatever happens. No answer of the store is taken for more than it
    /// shows: a create that was "refused" counts only if the first bytes are still there.
    ///
    /// # Errors
    /// What any request can give: a store that can't be probed can't be used.
    pub async fn probe(
        &self,
        tag: &str,
        now: Timestamp,
        budget: &RetryBudget,
    ) -> Result<Capabilities, StoreError> {
        let key = |name: &str| {
            ObjectKey::parse(&format!("{PROBE_PREFIX}/{tag}/{name}"))
                .map_err(|error| StoreError::Internal { message: error.to_string() })
        };
        let (a, b) = (key("a")?, key("b")?);
        let probed = self.probe_with(&a, &b, now, budget).await;
        for key in [&a, &b] {
            if let Err(error) = self.delete(key, budget).await {
                tracing::warn!(%key, %error, "could not remove an object of the probe");
            }
        }
        probed
    }

    async fn probe_with(
        &self,
        a: &ObjectKey,
        b: &ObjectKey,
        now: Timestamp,
        budget: &RetryBudget,
    ) -> Result<Capabilities, StoreError> {
        let conditional_create = self.probe_create(a, budget).await?;
        let range = self.get_range(a, 7..12, budget).await?;
        let range_reads =
            Some(range.as_ref()) == FIRST.get(7..12) || Some(range.as_ref()) == SECOND.get(7..12);
        self.probe_put(b, FIRST, PutMode::Overwrite, budget).await?;
        let list_after = self.probe_list(a, b, budget).await?;
        Ok(Capabilities { conditional_create, range_reads, list_after, probed_at: now })
    }

    async fn probe_create(
        &self,
        key: &ObjectKey,
        budget: &RetryBudget,
    ) -> Result<ConditionalCreate, StoreError> {
        // The key is fresh, so whoever has it, it is we: "taken" here is an answer of ours that got lost.
        match self.probe_put(key, FIRST, PutMode::Create, budget).await {
            Ok(_) => {}
            Err(StoreError::Unsupported { .. }) => {
                self.probe_put(key, FIRST, PutMode::Overwrite, budget).await?;
                return Ok(ConditionalCreate::Unsupported);
            }
            Err(error) => return Err(error),
        }
        let accepted = self.probe_put(key, SECOND, PutMode::Create, budget).await?;
        let found = self.get(key, 1024, budget).await?;
        match (accepted, found.as_ref() == FIRST, found.as_ref() == SECOND) {
            (false, true, _) => Ok(ConditionalCreate::Enforced),
            (_, _, true) => Ok(ConditionalCreate::Ignored),
            // Accepted, and yet the first is there: its success can't be believed either.
            (true, true, _) => Ok(ConditionalCreate::Ignored),
            (_, false, false) => {
                let place = Place::new(self.url(), Some(key.as_str()));
                Err(StoreError::Size {
                    place,
                    reason: "it is not what was written",
                    bytes: found.len() as u64,
                })
            }
        }
    }

    /// Puts until the store has clearly said yes (true) or "taken" (false).
    async fn probe_put(
        &self,
        key: &ObjectKey,
        bytes: &'static [u8],
        mode: PutMode,
        budget: &RetryBudget,
    ) -> Result<bool, StoreError> {
        let call = Call { operation: Operation::Put, action: "write a probe object", key: key.as_str() };
        let path = self.path(key)?;
        let mut tries = 0;
        loop {
            tries += 1;
            let options =
                PutOptions { mode: mode.clone(), attributes: self.attributes(), ..PutOptions::default() };
            let payload = PutPayload::from_bytes(Bytes::from_static(bytes));
            self.count_request(Operation::Put, bytes.len() as u64);
            let timeout = budget.try_timeout(bytes.len() as u64, self.limits());
            let put = self.objects.put_opts(&path, payload, options);
            match self.attempt(call, timeout, budget, put).await {
                Ok(_) => return Ok(true),
                Err(Failure { class: FailureClass::Exists, .. }) => return Ok(false),
                Err(failure) => self.pause(call, failure, tries, budget).await?,
            }
        }
    }

    /// Does the store itself start a listing after a key?
    async fn probe_list(
        &self,
        a: &ObjectKey,
        b: &ObjectKey,
        budget: &RetryBudget,
    ) -> Result<bool, StoreError> {
        let directory = a.as_str().rsplit_once('/').map_or("", |(directory, _)| directory);
        let call = Call { operation: Operation::List, action: "list the probe objects", key: directory };
        let (prefix, first, second) = (self.raw_path(directory)?, self.path(a)?, self.path(b)?);
        let found = self.repeat(call, 0, budget, || async {
            // Past our own filter, to see what the store does.
            let mut listing = self.objects.list_with_offset(Some(&prefix), &first);
            let mut found = Vec::new();
            while let Some(meta) = listing.next().await {
                found.push(meta?.location);
            }
            Ok(found)
        });
        Ok(found.await? == [second])
    }
}
