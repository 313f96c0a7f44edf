//! May this system archive here? Asked of the store, and remembered for a few minutes in a local file.
//!
//! The file saves requests and decides nothing on its own: it holds what the repository said, for one URL, one
//! server and one incarnation. Losing it, or finding it damaged or from the future, only means asking again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use walden_core::{ConditionalCreate, Incarnation, IncarnationRecord, sha256_hex};
use walden_pg::TimelineId;
use walden_store::Scheme;

use crate::context::Context;
use crate::error::Result;
use crate::fs::{read_if_present, write_durably};
use crate::server::{explain_absence, read_incarnation, read_repository};

/// How long an answer of the repository is believed.
const REMEMBERED_FOR: SignedDuration = SignedDuration::from_mins(10);
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the repository says about one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Where the repository is, its endpoint and account included.
    url: String,
    /// When the repository was asked.
    asked_at: Timestamp,
    /// The incarnation's marker.
    pub record: IncarnationRecord,
    /// How far the store is trusted to refuse a second create.
    pub conditional_create: ConditionalCreate,
    /// SHA-256 of the history files that are known to be in the archive.
    histories: BTreeMap<u32, String>,
}

impl Authority {
    /// Obtains the repository's answer: from the local file while it is fresh, else with two requests.
    ///
    /// # Errors
    /// Kinds `not_found` and `wrong_server` when this incarnation may not archive here; and what the store gives.
    pub async fn obtain(ctx: &Context, incarnation: Incarnation) -> Result<Self> {
        if let Some(remembered) = Self::remembered(ctx, incarnation) {
            return Ok(remembered);
        }
        let Some(record) = read_incarnation(ctx, incarnation).await? else {
            return Err(explain_absence(ctx, Some(incarnation)).await);
        };
        let Some(repository) = read_repository(ctx).await? else {
            return Err(explain_absence(ctx, Some(incarnation)).await);
        };
        let authority = Self {
            url: ctx.store.identity(),
            asked_at: ctx.clock.now(),
            record,
            conditional_create: repository.capabilities.conditional_create,
            histories: BTreeMap::new(),
        };
        authority.remember(ctx);
        Ok(authority)
    }

    /// Whether this very history file is known to be in the archive.
    #[must_use]
    pub fn knows_history(&self, timeline: TimelineId, sha256: &str) -> bool {
        self.histories.get(&timeline.get()).is_some_and(|known| known == sha256)
    }

    /// Notes that this history file is in the archive.
    pub fn add_history(&mut self, ctx: &Context, timeline: TimelineId, sha256: &str) {
        self.histories.insert(timeline.get(), sha256.to_owned());
        self.remember(ctx);
    }

    /// Forgets what was remembered of this incarnation.
    pub(crate) fn forget(ctx: &Context, incarnation: Incarnation) {
        if let Some(file) = file(ctx, incarnation) {
            let _ = std::fs::remove_file(file);
        }
    }

    fn remembered(ctx: &Context, incarnation: Incarnation) -> Option<Self> {
        if ctx.store.url().scheme() == Scheme::File {
            // Two small reads are cheap there, and a mount point whose file system is gone must be noticed at once.
            return None;
        }
        let bytes = read_if_present(&file(ctx, incarnation)?, FILE_BYTES_MAX).ok()??;
        let remembered: Self = serde_json::from_slice(&bytes).ok()?;
        let age = ctx.clock.now().duration_since(remembered.asked_at);
        let fresh = age >= SignedDuration::ZERO && age < REMEMBERED_FOR;
        let ours = remembered.url == ctx.store.identity()
            && remembered.record.server == ctx.server
            && remembered.record.incarnation() == incarnation;
        (fresh && ours).then_some(remembered)
    }

    /// Writes the local file; failing to is harmless.
    fn remember(&self, ctx: &Context) {
        let Some(file) = file(ctx, self.record.incarnation()) else { return };
        let written = serde_json::to_vec(self).ok().map(|bytes| write_durably(&file, &bytes));
        if let Some(Err(error)) = written {
            tracing::debug!(%error, "could not remember the repository's answer");
        }
    }
}

fn file(ctx: &Context, incarnation: Incarnation) -> Option<PathBuf> {
    let identity = format!("{}\n{}\n{incarnation}", ctx.store.identity(), ctx.server);
    let digest = sha256_hex(identity.as_bytes());
    let name = digest.get(..16).unwrap_or(&digest);
    Some(ctx.state_directory.as_ref()?.join(format!("authority-{name}.json")))
}
