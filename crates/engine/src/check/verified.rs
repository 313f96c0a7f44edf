//! When the archive was last verified, as far as it was recorded.

use jiff::Timestamp;
use walden_core::IncarnationRecord;

use super::{Check, counted, lasted};
use crate::context::Context;
use crate::error::Result;
use crate::verify::newest_record;

/// What the newest record of a verification says; nothing when none was ever left.
pub(super) async fn verified_check(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    now: Timestamp,
) -> Result<Option<Check>> {
    const NAME: &str = "verified";
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    let Some(record) = newest_record(ctx, &layout).await? else { return Ok(None) };
    let age = lasted(now.duration_since(record.finished_at).as_secs());
    let what = format!("{} at level {}, {age} ago", record.scope, record.level);
    let harm = record.damaged + record.missing;
    Ok(Some(if harm > 0 {
        let problems = counted(usize::try_from(harm).unwrap_or(usize::MAX), "problem");
        Check::warning(NAME, format!("{what}: {problems} found"), "walden verify tells what is wrong now")
    } else if record.complete {
        Check::ok(NAME, format!("{what}: all good"))
    } else if record.not_proven > 0 {
        let detail = format!("{what}: nothing wrong was found, but not everything could be read");
        Check::warning(NAME, detail, "walden verify tells what could not be read")
    } else {
        let proven = record.proven + record.fresh;
        let detail = format!("{what}: {proven} of {} objects looked at, nothing wrong found", record.objects);
        Check::ok(NAME, detail)
    }))
}
