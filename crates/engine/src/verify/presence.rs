//! Level presence: what the listings show against what the catalog says should be there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use walden_core::{
    ArchiveObject, BackupId, BackupRecord, Finding, FindingKind, FindingVerdict, IncarnationLayout, Losses,
    VerifyScope, WalScope,
};
use walden_pg::{SegmentId, SegmentNumber, TimelineId};

use super::inventory::{BackupListing, Listing};

/// A gap among the newest segments, next to one that was written within this time, is late rather than missing: several
/// are archived at once. In seconds.
const LATE_SECONDS: i64 = 600;
/// Segments that an archiver has on their way at once, at most.
const AT_ONCE_MAX: u64 = 64;
/// A backup without a commit record that was written to within this time may be under way, in seconds.
const UNDER_WAY_SECONDS: i64 = 24 * 3600;

/// What is wrong by the listing alone, and what is lost through it.
pub(super) fn presence(
    layout: &IncarnationLayout,
    listing: &Listing,
    scope: &VerifyScope,
    now: Timestamp,
) -> (Vec<Finding>, Losses) {
    let mut found = Found { layout, listing, now, findings: Vec::new(), losses: Losses::default() };
    if !listing.has_marker {
        let message = "the marker of the incarnation is missing: nothing can be archived or proven absent";
        found.add(Finding::new(
            FindingVerdict::Missing,
            FindingKind::Absent,
            layout.marker().as_str(),
            message,
        ));
    }
    found.foreign();
    if scope.wal != WalScope::None {
        found.histories();
        found.gaps(&scope.wal);
        found.wal_of_backups(&scope.wal);
        found.empty_segments(&scope.wal);
    }
    for (id, backup) in &listing.backups {
        if scope.holds_backup(id) {
            match listing.snapshot.backup(id) {
                Some(record) => found.backup(record, backup),
                None => found.uncommitted(id, backup),
            }
        }
    }
    (found.findings, found.losses)
}

struct Found<'a> {
    layout: &'a IncarnationLayout,
    listing: &'a Listing,
    now: Timestamp,
    findings: Vec<Finding>,
    losses: Losses,
}

impl Found<'_> {
    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn age(&self, written: u32) -> i64 {
        self.now.as_second().saturating_sub(i64::from(written))
    }

    fn foreign(&mut self) {
        for key in &self.listing.foreign {
            let message = "nothing of this name belongs here; it is left alone";
            self.findings.push(Finding::new(
                FindingVerdict::Notice,
                FindingKind::Foreign,
                key.clone(),
                message,
            ));
        }
        let more = self.listing.foreign_count.saturating_sub(self.listing.foreign.len() as u64);
        if more > 0 {
            let message = format!("{more} more objects do not belong here");
            self.add(Finding::new(
                FindingVerdict::Notice,
                FindingKind::Foreign,
                self.layout.prefix(),
                message,
            ));
        }
        // Strays that are no foreign names: records that can't be read.
        for stray in &self.listing.snapshot.strays {
            let Some(ArchiveObject::Backup(backup)) = self.layout.parse(&stray.key) else { continue };
            // A record of a newer version is told by what reading it said.
            let is_newer = stray.reason.contains("use a newer walden");
            let (verdict, kind) = if is_newer {
                (FindingVerdict::NotProven, FindingKind::Unsupported)
            } else {
                (FindingVerdict::Damaged, FindingKind::RecordDamaged)
            };
            let message = format!("the commit record can't be used: {}", stray.reason);
            let finding = Finding::new(verdict, kind, stray.key.clone(), message);
            self.findings.push(finding.of_backup(&backup).that_stops_recovery());
        }
    }

    fn histories(&mut self) {
        let snapshot = &self.listing.snapshot;
        let key = |timeline| {
            let name = walden_pg::ArchiveFileName::History(timeline);
            self.layout.archive_file(name).to_string()
        };
        let mut findings = Vec::new();
        for (timeline, reason) in &snapshot.damaged_histories {
            let message = format!("the history of timeline {timeline} can't be used: {reason}");
            findings.push(
                Finding::new(FindingVerdict::Damaged, FindingKind::RecordDamaged, key(*timeline), message)
                    .that_stops_recovery(),
            );
        }
        let without = snapshot.segments.keys().filter(|timeline| {
            **timeline != TimelineId::FIRST
                && !snapshot.histories.contains_key(timeline)
                && !snapshot.damaged_histories.contains_key(timeline)
        });
        for timeline in without {
            let message = format!(
                "timeline {timeline} has segments and no history file: nothing can be restored along it"
            );
            findings.push(
                Finding::new(FindingVerdict::Missing, FindingKind::HistoryMissing, key(*timeline), message)
                    .that_stops_recovery(),
            );
        }
        self.findings.extend(findings);
    }

    /// The holes between the segments of each timeline, and before the first one after a fork.
    fn gaps(&mut self, wal: &WalScope) {
        let snapshot = &self.listing.snapshot;
        let size = snapshot.incarnation.segment_size;
        let mut gaps: Vec<(SegmentId, SegmentNumber, bool)> = Vec::new();
        for (timeline, runs) in &snapshot.segments {
            let fork = snapshot.histories.get(timeline).and_then(|history| history.entries().last());
            let mut expected = fork.map(|entry| size.segment_of(entry.switch_lsn));
            let newest = runs.last().map(walden_core::SegmentRun::last);
            for run in runs {
                if let Some(first) = expected.filter(|expected| *expected < run.first)
                    && let Some(last) = run.first.previous()
                {
                    let near_end = newest.is_some_and(|newest| newest.get() - first.get() <= AT_ONCE_MAX);
                    gaps.push((SegmentId::new(*timeline, first), last, near_end));
                }
                expected = Some(run.last().next());
            }
        }
        for (first, last, near_end) in gaps {
            self.gap(wal, first, last, near_end);
        }
    }

    fn gap(&mut self, wal: &WalScope, first: SegmentId, last: SegmentNumber, near_end: bool) {
        let size = self.listing.snapshot.incarnation.segment_size;
        let last = SegmentId::new(first.timeline, last);
        if !means(wal, first, last.number) {
            return;
        }
        let count = last.number.get() - first.number.get() + 1;
        let (from, to) = (first.name(size), last.name(size));
        let what = match count {
            1 => format!("segment {from} is missing"),
            more => format!("{more} segments are missing, {from} to {to}"),
        };
        let next = SegmentId::new(first.timeline, last.number.next());
        let is_late =
            near_end && self.listing.written(next).is_some_and(|written| self.age(written) <= LATE_SECONDS);
        let needed = self.is_needed(first, last.number);
        let (verdict, message) = if is_late && needed {
            let message = format!(
                "{what}: it may be on its way, for the next one was just archived; look again in some minutes"
            );
            (FindingVerdict::NotProven, message)
        } else if needed {
            (FindingVerdict::Missing, what)
        } else {
            (FindingVerdict::Notice, format!("{what}: no backup's WAL leads through here"))
        };
        let key = self.layout.archive_file(walden_pg::ArchiveFileName::Segment(from));
        let mut finding = Finding::new(verdict, FindingKind::Gap, key.as_str(), message).of_segment(from);
        finding.last_segment = Some(to);
        if verdict == FindingVerdict::Missing {
            finding = finding.that_stops_recovery();
            self.losses.missing.insert((first, count));
        }
        self.add(finding);
    }

    /// The WAL that every finished backup waited for: without it the backup never becomes consistent. Holes between segments
    /// are told as gaps; what is missing before the first segment and behind the last one only this shows, and what was
    /// there when the record was written is not late.
    fn wal_of_backups(&mut self, wal: &WalScope) {
        let snapshot = &self.listing.snapshot;
        let mut missing: BTreeMap<(SegmentId, SegmentNumber), BackupId> = BTreeMap::new();
        for backup in &snapshot.backups {
            let timelines: BTreeSet<TimelineId> = [backup.timeline, backup.stop_timeline].into();
            let runs = timelines.iter().filter_map(|timeline| snapshot.segments.get(timeline)).flatten();
            let present = runs.map(|run| (run.first.get(), run.last().get())).collect();
            let size = backup.segment_size;
            let (first, last) =
                (size.segment_of(backup.start_lsn), size.last_segment_before(backup.stop_lsn));
            for (from, to) in holes(present, (first.get(), last.max(first).get())) {
                let hole =
                    (SegmentId::new(backup.timeline, SegmentNumber::new(from)), SegmentNumber::new(to));
                missing.entry(hole).or_insert_with(|| backup.id.clone());
            }
        }
        for ((first, last), backup) in missing {
            if means(wal, first, last) && !self.is_told(first, last) {
                self.lost_wal(first, last, &backup);
            }
        }
    }

    /// Whether a stretch lies in one that is told to be missing.
    fn is_told(&self, first: SegmentId, last: SegmentNumber) -> bool {
        self.losses.missing.iter().any(|(from, count)| {
            from.timeline == first.timeline
                && from.number <= first.number
                && last.get() - from.number.get() < *count
        })
    }

    fn lost_wal(&mut self, first: SegmentId, last: SegmentNumber, backup: &BackupId) {
        let size = self.listing.snapshot.incarnation.segment_size;
        let count = last.get() - first.number.get() + 1;
        let (from, to) = (first.name(size), SegmentId::new(first.timeline, last).name(size));
        let what = match count {
            1 => format!("segment {from} is missing"),
            more => format!("{more} segments are missing, {from} to {to}"),
        };
        let message = format!("{what}: backup {backup} can't become consistent without");
        let key = self.layout.archive_file(walden_pg::ArchiveFileName::Segment(from));
        let finding = Finding::new(FindingVerdict::Missing, FindingKind::Gap, key.as_str(), message);
        let mut finding = finding.of_segment(from).of_backup(backup).that_stops_recovery();
        finding.last_segment = Some(to);
        self.losses.missing.insert((first, count));
        self.add(finding);
    }

    /// Whether a gap takes something from a backup. It does not when it lies before all of them, or when it is what
    /// retention leaves: a backup keeps the WAL from its start to its stop, and what lies between one's stop and the
    /// next one's start goes.
    fn is_needed(&self, first: SegmentId, last: SegmentNumber) -> bool {
        let snapshot = &self.listing.snapshot;
        let size = snapshot.incarnation.segment_size;
        let path: BTreeSet<TimelineId> = match snapshot.histories.get(&first.timeline) {
            Some(history) => history.path().collect(),
            None => [first.timeline].into(),
        };
        let before = snapshot.backups.iter().filter(|backup| path.contains(&backup.timeline));
        let before: Vec<(SegmentNumber, SegmentNumber)> = before
            .map(|backup| (size.segment_of(backup.start_lsn), size.last_segment_before(backup.stop_lsn)))
            .collect();
        let leads = before.iter().filter(|(start, _)| *start <= last);
        let Some(newest_stop) = leads.map(|(_, stop)| *stop).max() else { return false };
        let starts_next = before.iter().any(|(start, _)| *start == last.next());
        !(starts_next && newest_stop.next() == first.number)
    }

    /// Objects without a byte are no segments.
    fn empty_segments(&mut self, wal: &WalScope) {
        let snapshot = &self.listing.snapshot;
        let size = snapshot.incarnation.segment_size;
        let mut empty = Vec::new();
        for (timeline, runs) in &snapshot.segments {
            for run in runs {
                let zero = run.stored_bytes.iter().zip(run.first.get()..).filter(|(bytes, _)| **bytes == 0);
                empty.extend(zero.map(|(_, number)| SegmentId::new(*timeline, SegmentNumber::new(number))));
            }
        }
        for id in empty.into_iter().filter(|id| wal.holds(*id)) {
            let name = id.name(size);
            let key = self.layout.archive_file(walden_pg::ArchiveFileName::Segment(name));
            let finding = Finding::new(
                FindingVerdict::Damaged,
                FindingKind::Truncated,
                key.as_str(),
                "the object is empty",
            );
            self.add(finding.of_segment(name).that_stops_recovery());
            self.losses.segments.insert(id);
        }
    }

    /// A finished backup: all its objects, with the sizes that its record tells.
    fn backup(&mut self, record: &BackupRecord, listed: &BackupListing) {
        let layout = self.layout.backup(&record.id);
        let mut wrong = Vec::new();
        let absent = |key: &walden_core::ObjectKey, what: &str| {
            Finding::new(
                FindingVerdict::Missing,
                FindingKind::Absent,
                key.as_str(),
                format!("{what} is missing"),
            )
        };
        let mut bytes = 0;
        let named = [
            (layout.manifest(), Some(&record.manifest), listed.manifest, "the manifest", true),
            (layout.names(), record.names.as_ref(), listed.names, "the names of the backup", false),
        ];
        for (key, reference, meta, what, needed) in named {
            let Some(reference) = reference else { continue };
            let finding = match meta {
                Some(meta) if meta.bytes == reference.object_bytes => {
                    bytes += meta.bytes;
                    continue;
                }
                Some(meta) => Finding::new(
                    FindingVerdict::Damaged,
                    FindingKind::SizeDiffers,
                    key.as_str(),
                    format!("{what} has {} bytes instead of {}", meta.bytes, reference.object_bytes),
                ),
                None => absent(&key, what),
            };
            wrong.push(if needed { finding.that_stops_recovery() } else { finding });
        }
        let mut whole = true;
        for number in 0..record.packs {
            match listed.packs.get(&number) {
                Some(meta) => bytes += meta.bytes,
                None => {
                    whole = false;
                    wrong.push(absent(&layout.pack(number), "the pack").that_stops_recovery());
                }
            }
        }
        if whole && wrong.is_empty() && bytes != record.stored_bytes {
            let message =
                format!("its objects have {bytes} bytes together instead of {}", record.stored_bytes);
            let kind = FindingKind::SizeDiffers;
            wrong.push(
                Finding::new(FindingVerdict::Damaged, kind, layout.prefix(), message).that_stops_recovery(),
            );
        }
        for number in listed.packs.keys().filter(|number| **number >= record.packs) {
            let message = "the backup's record does not count this pack";
            let key = layout.pack(*number);
            wrong.push(Finding::new(FindingVerdict::Notice, FindingKind::Foreign, key.as_str(), message));
        }
        if let Some(first) = wrong.iter().find(|finding| finding.stops_recovery) {
            self.losses.backups.insert(record.id.clone(), first.message.clone());
        }
        self.findings.extend(wrong.into_iter().map(|finding| finding.of_backup(&record.id)));
    }

    /// A backup's directory without a usable commit record.
    fn uncommitted(&mut self, id: &BackupId, listed: &BackupListing) {
        // What is there and can't be read is told already.
        if listed.commit.is_some() {
            return;
        }
        if self.listing.once_finished.contains(id) {
            let key = self.layout.backup(id).commit();
            let message = "the commit record is missing, and the copy of all records has it: without it the backup can't \
                           be restored";
            let finding = Finding::new(FindingVerdict::Missing, FindingKind::Absent, key.as_str(), message);
            return self.add(finding.of_backup(id).that_stops_recovery());
        }
        let age = self.age(listed.newest);
        let state =
            if age <= UNDER_WAY_SECONDS { "under way, or interrupted" } else { "interrupted long ago" };
        let message = format!(
            "{} objects with {} bytes and no commit record: a backup that is {state}",
            listed.objects, listed.bytes
        );
        let prefix = self.layout.backup(id);
        self.add(
            Finding::new(FindingVerdict::Notice, FindingKind::Unfinished, prefix.prefix(), message)
                .of_backup(id),
        );
    }
}

/// Whether a stretch of a timeline touches the WAL that is meant.
fn means(wal: &WalScope, first: SegmentId, last: SegmentNumber) -> bool {
    match wal {
        WalScope::All => true,
        WalScope::None => false,
        WalScope::Ranges(ranges) => ranges.iter().any(|(timeline, begin, end)| {
            *timeline == first.timeline && *begin <= last && first.number <= *end
        }),
    }
}

/// What of the numbers from `first` to `last` is in none of the ranges, as ranges.
fn holes(mut present: Vec<(u64, u64)>, (first, last): (u64, u64)) -> Vec<(u64, u64)> {
    present.sort_unstable();
    let (mut next, mut holes) = (first, Vec::new());
    for (from, to) in present.into_iter().filter(|(from, to)| *to >= first && *from <= last) {
        if from > next {
            holes.push((next, from - 1));
        }
        next = next.max(to.saturating_add(1));
    }
    if next <= last {
        holes.push((next, last));
    }
    holes
}

/// Of what a first look found, what a second look still finds: archivers, backups and retention may have been at work.
pub(super) fn still_found(first: Vec<Finding>, second: &[Finding]) -> Vec<Finding> {
    let mut known: BTreeMap<(String, FindingKind), u64> = BTreeMap::new();
    for finding in second {
        *known.entry((finding.key.clone(), finding.kind)).or_default() += 1;
    }
    first
        .into_iter()
        .filter(|finding| {
            finding.verdict == FindingVerdict::Notice
                || known.contains_key(&(finding.key.clone(), finding.kind))
        })
        .collect()
}

#[cfg(test)]
mod tests;
