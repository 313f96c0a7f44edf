//! What time it is for the store: what is compared with the age of an object must come from the clock that gave it.

use jiff::Timestamp;
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutPayload};
use walden_core::ObjectKey;

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::StoreError;
use crate::http::TRACE;
use crate::probe::PROBE_PREFIX;
use crate::random::random_number;
use crate::store::{Call, Store};

const ACTION: &str = "ask for the store's time";
/// Asked for, because every repository has it.
const ALWAYS_THERE: &str = "repository.json";

impl Store {
    /// The store's clock, to the second: the `Date` of an answer, or where there is none the time of an object that is
    /// written for it and removed again (under `probe/`). One request, or three.
    ///
    /// # Errors
    /// What any request can give.
    pub async fn now(&self, budget: &RetryBudget) -> Result<Timestamp, StoreError> {
        if self.is_over_http()
            && let Some(date) = self.date_of_an_answer(budget).await?
        {
            return Ok(date);
        }
        self.time_of_an_object(budget).await
    }

    async fn date_of_an_answer(&self, budget: &RetryBudget) -> Result<Option<Timestamp>, StoreError> {
        let call = Call { operation: Operation::Get, action: ACTION, key: ALWAYS_THERE };
        let path = self.raw_path(ALWAYS_THERE)?;
        self.repeat(call, 0, budget, || async {
            let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::new() };
            let answer = match self.objects.get_opts(&path, options).await {
                Ok(answer) => answer.bytes().await.map(drop),
                Err(error) => Err(error),
            };
            let state = TRACE.try_with(|trace| trace.state()).unwrap_or_default();
            // The store's own word that there is none has a date as good as any.
            let absent = matches!(state.code.as_deref(), Some("NoSuchKey" | "BlobNotFound"));
            if absent { Ok(state.date) } else { answer.map(|()| state.date) }
        })
        .await
    }

    async fn time_of_an_object(&self, budget: &RetryBudget) -> Result<Timestamp, StoreError> {
        let key = format!("{PROBE_PREFIX}/clock-{:016x}/now", random_number());
        let key =
            ObjectKey::parse(&key).map_err(|error| StoreError::Internal { message: error.to_string() })?;
        let path = self.path(&key)?;
        let call = Call { operation: Operation::Put, action: ACTION, key: key.as_str() };
        let found = self.repeat(call, 0, budget, || async {
            self.objects.put(&path, PutPayload::from_static(b"what time is it?\n")).await?;
            self.count_request(Operation::Head, 0);
            self.objects.head(&path).await
        });
        let found = found.await;
        if let Err(error) = self.delete(&key, budget).await {
            tracing::warn!(%key, %error, "could not remove an object that was written for its time");
        }
        Ok(Timestamp::from_microsecond(found?.last_modified.timestamp_micros()).unwrap_or_default())
    }
}
