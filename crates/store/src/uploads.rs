//! What interrupted writers left: parts of uploads that nobody will finish, and staged files.

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::StoreError;
use crate::local::LocalStore;
use crate::s3::{Answer, S3Requests, encoded_path, encoded_query};
use crate::store::{Call, Store};
use crate::xml::Element;

/// Listings of uploads end after this many pages of a thousand.
const PAGES_MAX: usize = 1000;

/// Something that was begun to be written and is no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The key that it was meant for, relative to the repository's root; for a staged file its own path.
    pub key: String,
    /// What the store calls it.
    pub id: String,
    /// When it was begun, by the store's clock.
    pub begun: Timestamp,
}

impl Store {
    /// Lists what was begun and never finished under `prefix` (whole parts only; empty for everything): multipart
    /// uploads on S3, whoever began them, and on a local directory files that a writer staged a day or more ago. Other
    /// stores remove such things by themselves, and give none here.
    ///
    /// # Errors
    /// What any listing can give; [`StoreError::Unsupported`] when the store has no such listing.
    pub async fn open_uploads(
        &self,
        prefix: &str,
        budget: &RetryBudget,
    ) -> Result<Vec<OpenUpload>, StoreError> {
        if let Some(directory) = self.url().directory() {
            return self.staged_files(directory, prefix).await;
        }
        let Some(bucket) = &self.bucket else { return Ok(Vec::new()) };
        let prefix = prefix.trim_end_matches('/');
        let mut at = self.raw_path(prefix)?.to_string();
        if !at.is_empty() {
            at.push('/');
        }
        let (mut found, mut markers) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let query = format!("?uploads&prefix={}{markers}", encoded_query(&at));
            let page = self.upload_page(bucket, &query, prefix, budget).await?;
            found.extend(page.all("Upload").filter_map(|upload| self.upload(upload)));
            let next = |name| encoded_query(page.text_of(name).unwrap_or_default());
            if page.text_of("IsTruncated") != Some("true") {
                return Ok(found);
            }
            let (key, id) = (next("NextKeyMarker"), next("NextUploadIdMarker"));
            markers = format!("&key-marker={key}&upload-id-marker={id}");
        }
        Err(StoreError::Internal { message: "listing of uploads has no end".to_owned() })
    }

    async fn upload_page(
        &self,
        bucket: &S3Requests,
        query: &str,
        prefix: &str,
        budget: &RetryBudget,
    ) -> Result<Element, StoreError> {
        let call = Call { operation: Operation::List, action: "list unfinished uploads", key: prefix };
        let page = self.repeat(call, 0, budget, || async {
            let answer = bucket.send(Method::GET, query, Bytes::new()).await?;
            match answer {
                Answer { status, document: Some(document) }
                    if status.is_success() && document.name == "ListMultipartUploadsResult" =>
                {
                    Ok(document)
                }
                answer => Err(answer.into_error()),
            }
        });
        page.await
    }

    fn upload(&self, upload: &Element) -> Option<OpenUpload> {
        let key = &upload.child("Key")?.text;
        let prefix = self.raw_path("").ok()?;
        let key = match prefix.as_ref() {
            "" => key.as_str(),
            prefix => key.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        let begun = upload.text_of("Initiated")?.parse().ok()?;
        Some(OpenUpload { key: key.to_owned(), id: upload.text_of("UploadId")?.to_owned(), begun })
    }

    async fn staged_files(
        &self,
        root: std::path::PathBuf,
        prefix: &str,
    ) -> Result<Vec<OpenUpload>, StoreError> {
        let at = root.join(prefix.trim_matches('/'));
        let path = at.display().to_string();
        let found = tokio::task::spawn_blocking(move || LocalStore::staged_files(&root, &at)).await;
        let found = found.map_err(|error| StoreError::Internal { message: error.to_string() })?;
        let found = found.map_err(|source| StoreError::LocalIo { action: "list the files", path, source })?;
        let of = |(key, begun): (String, Timestamp)| OpenUpload { id: key.clone(), key, begun };
        Ok(found.into_iter().map(of).collect())
    }

    /// Ends an upload that [`Self::open_uploads`] gave, and frees what it holds. One that is gone counts as ended.
    ///
    /// The caller has to know that nobody is about to finish it: by its age.
    ///
    /// # Errors
    /// What any request can give.
    pub async fn abort_upload(&self, upload: &OpenUpload, budget: &RetryBudget) -> Result<(), StoreError> {
        if let Some(root) = self.url().directory() {
            let (key, path) = (upload.key.clone(), root.join(&upload.key).display().to_string());
            let removed = tokio::task::spawn_blocking(move || LocalStore::remove_staged(&root, &key)).await;
            let removed = removed.map_err(|error| StoreError::Internal { message: error.to_string() })?;
            return removed.map_err(|source| StoreError::LocalIo { action: "remove the file", path, source });
        }
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let root = self.raw_path("")?.to_string();
        let whole = if root.is_empty() { upload.key.clone() } else { format!("{root}/{}", upload.key) };
        let below = format!("/{}?uploadId={}", encoded_path(&whole), encoded_query(&upload.id));
        let call =
            Call { operation: Operation::Delete, action: "end an unfinished upload", key: &upload.key };
        self.repeat(call, 0, budget, || async {
            let answer = bucket.send(Method::DELETE, &below, Bytes::new()).await?;
            let ended = answer.status.is_success() || answer.code() == Some("NoSuchUpload");
            if ended { Ok(()) } else { Err(answer.into_error()) }
        })
        .await
    }
}
