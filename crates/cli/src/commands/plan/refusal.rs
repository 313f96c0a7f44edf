//! A refusal in words: the reason, what it means, and what can be had instead.

use walden_core::{CatalogSnapshot, Moment, RecoveryRequest, Refusal, RefusalReason, TargetTimeline};

use super::text::render_rejected;
use super::words::Words;
use crate::draw::Drawing;
use crate::failure::one_line;
use crate::text::Text;

pub(super) fn render(
    text: &mut Text,
    refusal: &Refusal,
    request: &RecoveryRequest,
    snapshot: &CatalogSnapshot,
    words: &Words,
) {
    let error = text.paint().red("error:");
    text.line(format!("{error} {}", one_line(&refusal.message)));
    text.line(meaning(refusal.reason));
    let (before, after) = (refusal.nearest_before.as_ref(), refusal.nearest_after.as_ref());
    match &refusal.hint {
        // The hint would only say the same again.
        Some(hint) if before.is_none() && after.is_none() => {
            let name = text.paint().bold("hint:");
            text.line(format!("{name} {}", one_line(hint)));
        }
        _ => {}
    }
    let drawing = Drawing::of(snapshot);
    if !drawing.is_empty() {
        text.gap();
        let followed = match request.timeline {
            TargetTimeline::Id(timeline) => Some(timeline),
            TargetTimeline::Latest | TargetTimeline::Current => None,
        };
        drawing.with_nearest(followed, before, after).draw(text);
    }
    let nearest = [("The nearest before that can be restored", before), ("The nearest after", after)];
    for (heading, moment) in nearest.into_iter().filter_map(|(heading, moment)| Some((heading, moment?))) {
        text.heading(&format!("{heading}: {}", describe(text, moment)));
        text.line(format!("  {}", words.plan_for(request, moment.lsn)));
    }
    if refusal.reason == RefusalReason::TargetAfterArchive {
        text.heading("Everything that is archived");
        text.line(format!("  {}", words.plan_for_all(request)));
    }
    render_rejected(text, "Backups looked at", &refusal.rejected);
}

fn describe(text: &Text, moment: &Moment) -> String {
    match (moment.time, moment.xid) {
        (Some(time), Some(xid)) => format!("transaction {xid}, committed {}", text.exact_moment(time)),
        (Some(time), None) => format!("the end of a backup, {}", text.exact_moment(time)),
        _ => moment.lsn.to_string(),
    }
}

/// What a reason means for whoever reads it at night.
fn meaning(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::NoBackup => "A recovery begins with a base backup: WAL alone restores nothing.",
        RefusalReason::UnknownBackup => "The name is not right, or the backup was removed.",
        RefusalReason::UnknownTimeline => {
            "Without the history file PostgreSQL does not know where the timeline leaves its parent."
        }
        RefusalReason::TargetBeforeBackups => {
            "A backup is rolled forward and never back: the first moment is the end of the oldest backup."
        }
        RefusalReason::NoBackupOnPath => {
            "The backups are on branches that the way to this timeline does not touch."
        }
        RefusalReason::MissingSegments => {
            "WAL is replayed without a gap: what lies behind the gap can't be had."
        }
        RefusalReason::DamagedWal => {
            "PostgreSQL ends recovery at the first record that it can't verify: what lies behind can't be had."
        }
        RefusalReason::WalLevelMinimal => {
            "WAL of wal_level = minimal leaves out what replay needs: PostgreSQL ends recovery there with an error."
        }
        RefusalReason::TargetNotFound => {
            "PostgreSQL would replay everything, not find it, and end with an error instead of opening the database."
        }
        RefusalReason::TargetAfterArchive => {
            "What came later is not archived yet: a segment is archived when it is full, at archive_timeout, or after \
             SELECT pg_switch_wal()."
        }
        RefusalReason::Unsupported => "This version can't read them safely.",
        RefusalReason::InvalidRequest => "Nothing was looked up.",
    }
}
