//! The lease for removing objects: one run at a time, also across hosts, and judged by the store's clock alone.
//!
//! A log of records that are created once: who creates the next fence has the lease. A holder that was away for too long
//! finds a newer fence and stops; nobody takes a lease that has time left. What remains is one request that was
//! under way when its sender was stopped for longer than the lease: see `docs/adr/0014-retention-runs.md`.

use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use tokio::time::Instant;
use walden_core::{
    ConditionalCreate, ErrorKind, LeaseRecord, LeaseState, ObjectKey, RecordKind, ServerLayout, Writer,
    postgres_time,
};
use walden_store::{CreateOutcome, RetryBudget};

use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::init::random_id;
use crate::server::{read_record, render_record};

/// A lease lasts so long after it was taken or renewed.
pub(crate) const LEASE: Duration = Duration::from_mins(2);
/// It is renewed when so much of it is over.
const RENEW_AFTER: Duration = Duration::from_secs(40);
/// Nothing is begun that might take longer than what is left but this.
const MARGIN: Duration = Duration::from_secs(20);
/// A record that can't be read is taken for a lease of this length.
const UNREADABLE_SECONDS: u32 = 600;
/// Where a second create is not refused, one that came at the same instant shows after this time.
const SETTLES_AFTER: Duration = Duration::from_secs(2);

/// A lease that is held. Dropping it leaves it to expire.
pub(crate) struct Lease {
    ctx: Context,
    layout: ServerLayout,
    token: String,
    instance: String,
    fence: u32,
    /// When the newest record was sent: the store wrote it later.
    sent: Instant,
}

/// The newest record of a lease.
struct Newest {
    fence: u32,
    written: Timestamp,
}

impl Lease {
    /// Takes the lease, when nobody holds it.
    ///
    /// # Errors
    /// Kind `busy` while another run holds it; kind `unsupported` when a newer version wrote the newest record; and what
    /// the store gives.
    pub(crate) async fn take(ctx: &Context, instance: &str) -> Result<Self> {
        let layout = ctx.layout();
        let newest = newest(ctx, &layout).await?;
        if let Some(newest) = &newest {
            check_free(ctx, &layout, newest).await?;
        }
        let mut lease = Self {
            ctx: ctx.clone(),
            layout,
            token: random_id()?,
            instance: instance.to_owned(),
            fence: newest.map_or(0, |newest| newest.fence),
            sent: Instant::now(),
        };
        if !lease.create_next(LeaseState::Held).await? {
            return Err(busy("another run took it at the same moment"));
        }
        lease.settle().await?;
        Ok(lease)
    }

    /// The number of the newest record.
    pub(crate) fn fence(&self) -> u32 {
        self.fence
    }

    /// Looks whether the lease is still held, and renews it in time. Returns the budget of the next request, which
    /// ends before the lease does.
    ///
    /// # Errors
    /// Kind `busy` when it is lost; and what the store gives.
    pub(crate) async fn ensure(&mut self) -> Result<RetryBudget> {
        if self.sent.elapsed() >= RENEW_AFTER {
            // Whoever creates the next fence has the lease: when it is we, nobody had it in between.
            if !self.create_next(LeaseState::Held).await? {
                return Err(self.lost());
            }
        }
        self.look_for_newer().await?;
        let left = LEASE.saturating_sub(self.sent.elapsed()).saturating_sub(MARGIN);
        Ok(self.ctx.budget().at_most(left))
    }

    /// Gives the lease back, and removes what it left behind. Failing to is harmless: it expires.
    pub(crate) async fn release(mut self) {
        let released = match self.create_next(LeaseState::Released).await {
            Ok(true) => self.remove_older().await,
            Ok(false) => Err(self.lost()),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::warn!(%error, "the lease was not given back: it expires by itself");
        }
    }

    /// Creates the record of the next fence; false when another has it.
    async fn create_next(&mut self, state: LeaseState) -> Result<bool> {
        let (ctx, next) = (&self.ctx, self.fence.saturating_add(1));
        let record = LeaseRecord {
            fence: next,
            state,
            holder: ctx.writer(&self.instance),
            token: self.token.clone(),
            seconds: u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX),
        };
        let key = self.layout.retention_lease(next);
        let bytes = render_record(RecordKind::Lease, &key, &record)?;
        let sent = Instant::now();
        match ctx.store.create_record_once(&key, &bytes, &ctx.budget()).await? {
            // The token is ours alone: the same bytes are ours.
            CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => {
                (self.fence, self.sent) = (next, sent);
                Ok(true)
            }
            CreateOutcome::Conflict(_) => Ok(false),
        }
    }

    /// Looks once more right after the lease was taken: what was listed before may have been old, and some stores
    /// let two writers create one name.
    async fn settle(&mut self) -> Result<()> {
        if self.ctx.store.conditional_create() != ConditionalCreate::Enforced {
            tokio::time::sleep(SETTLES_AFTER).await;
            let key = self.layout.retention_lease(self.fence);
            let there = read_record::<LeaseRecord>(&self.ctx, RecordKind::Lease, &key).await?;
            if there.is_none_or(|there| there.token != self.token) {
                return Err(self.lost());
            }
        }
        self.look_for_newer().await
    }

    async fn look_for_newer(&self) -> Result<()> {
        let own = self.layout.retention_lease(self.fence);
        let prefix = self.layout.retention_lease_prefix();
        let newer = self.ctx.store.list_after(&prefix, own.as_str(), &self.ctx.budget());
        let mut newer = std::pin::pin!(newer);
        while let Some(object) = newer.try_next().await? {
            if self.layout.parse_retention_lease(&object.key).is_some_and(|fence| fence > self.fence) {
                return Err(self.lost());
            }
        }
        Ok(())
    }

    fn lost(&self) -> EngineError {
        busy(&format!("this run lost it fence={}", self.fence))
    }

    async fn remove_older(&self) -> Result<()> {
        let listed: Vec<_> = self
            .ctx
            .store
            .list(&self.layout.retention_lease_prefix(), &self.ctx.budget())
            .try_collect()
            .await?;
        let fences = listed.iter().filter_map(|object| self.layout.parse_retention_lease(&object.key));
        let older = fences.filter(|fence| *fence < self.fence);
        let older: Vec<ObjectKey> = older.map(|fence| self.layout.retention_lease(fence)).collect();
        for key in &older {
            self.ctx.store.delete(key, &self.ctx.budget()).await?;
        }
        Ok(())
    }
}

fn busy(how: &str) -> EngineError {
    let message = format!("another run removes objects of this server now: {how}");
    EngineError::failed(ErrorKind::Busy, message)
        .with_hint("nothing is lost: run it again when the other has ended")
}

async fn newest(ctx: &Context, layout: &ServerLayout) -> Result<Option<Newest>> {
    let listing = ctx.store.list(&layout.retention_lease_prefix(), &ctx.budget());
    let mut listing = std::pin::pin!(listing);
    let mut newest: Option<Newest> = None;
    while let Some(object) = listing.try_next().await? {
        let Some(fence) = layout.parse_retention_lease(&object.key) else { continue };
        if newest.as_ref().is_none_or(|newest| newest.fence < fence) {
            newest = Some(Newest { fence, written: object.modified });
        }
    }
    Ok(newest)
}

/// Who holds the lease now, by the store's clock; `None` when nobody does.
///
/// # Errors
/// Of the store.
pub(crate) async fn lease_holder(ctx: &Context) -> Result<Option<Writer>> {
    let layout = ctx.layout();
    let Some(newest) = newest(ctx, &layout).await? else { return Ok(None) };
    let (record, left) = left(ctx, &layout, &newest).await?;
    Ok(left.map(|_| record.holder))
}

async fn check_free(ctx: &Context, layout: &ServerLayout, newest: &Newest) -> Result<()> {
    let (record, left) = left(ctx, layout, newest).await?;
    let Some(left) = left else { return Ok(()) };
    Err(busy(&format!("held by {}, {} s left fence={}", record.holder, left.as_secs().max(1), newest.fence)))
}

/// The newest record, and what is left of it.
async fn left(
    ctx: &Context,
    layout: &ServerLayout,
    newest: &Newest,
) -> Result<(LeaseRecord, Option<jiff::SignedDuration>)> {
    let key = layout.retention_lease(newest.fence);
    let record = match read_record::<LeaseRecord>(ctx, RecordKind::Lease, &key).await {
        Ok(Some(record)) => record,
        // Its holder has just gone on, and removed it.
        Ok(None) => return Err(busy("its record has just been replaced")),
        Err(error) if error.kind() == ErrorKind::Corrupt => LeaseRecord {
            fence: newest.fence,
            state: LeaseState::Held,
            holder: Writer::new(
                "a record that can't be read",
                &postgres_time(newest.written),
                newest.written,
            ),
            token: String::new(),
            seconds: UNREADABLE_SECONDS,
        },
        Err(error) => return Err(error),
    };
    if record.state == LeaseState::Released {
        return Ok((record, None));
    }
    let now = store_now(ctx).await?;
    let left = record.left(newest.written, now);
    Ok((record, left))
}

/// The time by the store's clock: that of an object just written.
pub(crate) async fn store_now(ctx: &Context) -> Result<Timestamp> {
    Ok(ctx.store.now(&ctx.budget()).await?)
}
