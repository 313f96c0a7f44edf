//! Why something is kept or removed: for machines as enums, for people in words.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::TimelineId;

use super::policy::HowLong;
use crate::layout::BackupId;
use crate::recovery::postgres_time;

/// One of the counts of a policy by calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The last full backup of a day.
    Daily,
    /// The last full backup of an ISO week.
    Weekly,
    /// The last full backup of a month.
    Monthly,
    /// The last full backup of a year.
    Yearly,
}

impl Tier {
    /// The tiers, shortest first.
    pub const ALL: [Self; 4] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The policy's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// Why something is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KeepReason {
    /// The backup ended within what is promised of a timeline.
    InWindow {
        /// The timeline.
        timeline: TimelineId,
    },
    /// The newest restorable full backup that ended before what is promised of a timeline: its first moments are
    /// restored with it.
    WindowStart {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Newer than the full backup that the window of a timeline begins with.
    AfterWindowStart {
        /// The timeline.
        timeline: TimelineId,
    },
    /// One of the newest restorable full backups of which the policy keeps a number.
    MinimumFulls,
    /// The last full backup of a period.
    Tier {
        /// The rule.
        tier: Tier,
        /// The day, ISO week, month or year.
        period: String,
    },
    /// An operator pinned it.
    Pinned {
        /// Until when; `None` for ever.
        until: Option<Timestamp>,
        /// The operator's words.
        reason: String,
    },
    /// A kept backup stands on it.
    ParentOf {
        /// That backup.
        child: BackupId,
    },
    /// A running backup stands on it.
    NeededByRunning {
        /// That backup.
        running: BackupId,
    },
    /// By the source's clock it ended in the future: its age is not known.
    FromTheFuture {
        /// When it says it ended.
        finished_at: Timestamp,
    },
    /// It is not older than a backup that runs, or may run.
    YoungerThanRunning {
        /// That backup.
        running: BackupId,
    },
    /// Nothing else could be restored.
    LastRestorable,
    /// It is written with something that this version does not know.
    NeedsNewerVersion {
        /// The name of what is not known.
        feature: String,
    },
    /// Its record or file is there and can't be read: reported, never touched.
    Unreadable {
        /// What is wrong.
        what: String,
    },
    /// A backup without a commit record that is young, or of unknown age: it may be under way.
    MayBeRunning,
    /// WAL from which promised moments of a timeline are restored.
    WalOfWindow {
        /// The timeline.
        timeline: TimelineId,
        /// The backup from whose start on.
        from: BackupId,
    },
    /// No restorable full backup ended before what is promised of a timeline: everything on the way to it is kept.
    NoOlderBackup {
        /// The timeline.
        timeline: TimelineId,
    },
    /// WAL that makes a kept backup consistent.
    WalOfBackup {
        /// The backup.
        backup: BackupId,
    },
    /// WAL of the time of a backup whose record can't be read: what it needs is not known.
    WalOfUnreadable {
        /// The backup.
        backup: BackupId,
    },
    /// WAL of a timeline whose history is missing or damaged: what it belongs to is not known.
    UnknownHistory {
        /// The timeline.
        timeline: TimelineId,
    },
    /// The timeline, or a later one, is kept.
    TimelineInUse,
    /// The policy's time for it has not passed.
    Young {
        /// That time.
        kept_for: HowLong,
    },
    /// The newest of its kind.
    Newest,
    /// A lease is its holder's business.
    Lease,
    /// It says what belongs here.
    Identity,
    /// Nobody asked for its removal.
    NotAsked,
    /// Derived from objects that stay.
    Derived,
    /// It does not belong here: reported, never touched.
    Foreign {
        /// What is known of it.
        what: String,
    },
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InWindow { timeline } => write!(f, "it ended within the window of timeline {timeline}"),
            Self::WindowStart { timeline } => {
                write!(
                    f,
                    "the window of timeline {timeline} begins with it: it is the newest that ended before"
                )
            }
            Self::AfterWindowStart { timeline } => {
                write!(f, "newer than the full backup that the window of timeline {timeline} begins with")
            }
            Self::MinimumFulls => f.write_str("one of the newest restorable full backups (minimum_fulls)"),
            Self::Tier { tier, period } => write!(f, "the last full backup of {period} ({})", tier.as_str()),
            Self::Pinned { until: None, reason } => write!(f, "pinned: {reason}"),
            Self::Pinned { until: Some(until), reason } => {
                write!(f, "pinned until {}: {reason}", postgres_time(*until))
            }
            Self::ParentOf { child } => write!(f, "backup {child} stands on it"),
            Self::NeededByRunning { running } => write!(f, "the running backup {running} stands on it"),
            Self::FromTheFuture { finished_at } => {
                let at = postgres_time(*finished_at);
                write!(f, "by its server's clock it ended in the future, at {at}: its age is not known")
            }
            Self::YoungerThanRunning { running } => {
                write!(f, "not older than backup {running}, which runs or may run")
            }
            Self::LastRestorable => f.write_str("nothing else could be restored"),
            Self::NeedsNewerVersion { feature } => write!(f, "it needs a newer walden: feature {feature:?}"),
            Self::Unreadable { what } => write!(f, "it can't be read: {what}"),
            Self::MayBeRunning => f.write_str("no commit record yet: it may be under way"),
            Self::WalOfWindow { timeline, from } => {
                write!(f, "WAL of the window of timeline {timeline}, from backup {from} on")
            }
            Self::NoOlderBackup { timeline } => {
                write!(
                    f,
                    "no backup serves the beginning of the window of timeline {timeline}: all of it stays"
                )
            }
            Self::WalOfBackup { backup } => write!(f, "WAL that makes backup {backup} consistent"),
            Self::WalOfUnreadable { backup } => {
                write!(f, "WAL of the time of backup {backup}, whose record can't be read")
            }
            Self::UnknownHistory { timeline } => {
                write!(f, "the history of timeline {timeline} is missing or damaged")
            }
            Self::TimelineInUse => f.write_str("this timeline or a later one is kept"),
            Self::Young { kept_for } => write!(f, "kept for {kept_for}"),
            Self::Newest => f.write_str("the newest of its kind"),
            Self::Lease => f.write_str("a lease is its holder's business"),
            Self::Identity => f.write_str("it says what belongs here"),
            Self::NotAsked => f.write_str("nobody asked for its removal"),
            Self::Derived => f.write_str("derived from objects that stay"),
            Self::Foreign { what } => write!(f, "not known here, never touched: {what}"),
        }
    }
}

/// Why something is removed: no rule keeps it, and this is what it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RemoveReason {
    /// A newer backup serves the beginning of the window.
    BeforeWindow,
    /// It can't be restored: WAL or a backup that it stands on is missing or damaged.
    NotRestorable,
    /// On a timeline that the newest one does not follow, and kept long enough.
    DeadTimeline {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Of an incarnation that is not archived any more, and kept long enough.
    OldIncarnation,
    /// A backup without a commit record, long after its last write.
    Unfinished,
    /// What is left of a backup whose removal was begun.
    Leftover,
    /// An operator asked for it.
    Asked,
    /// No kept backup needs it.
    NotNeeded,
    /// Nothing of this timeline or an earlier one is kept.
    TimelineGone,
    /// The policy's time for it has passed.
    Aged {
        /// That time.
        kept_for: HowLong,
    },
    /// Derived from objects that go: it would tell of what is not there any more.
    Stale,
}

impl fmt::Display for RemoveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeWindow => f.write_str("before the window, which a newer backup serves"),
            Self::NotRestorable => f.write_str("it can't be restored"),
            Self::DeadTimeline { timeline } => {
                write!(f, "timeline {timeline} is not followed any more, and was kept long enough")
            }
            Self::OldIncarnation => f.write_str("this incarnation is not archived any more"),
            Self::Unfinished => f.write_str("never finished"),
            Self::Leftover => f.write_str("left over from a removal that was begun"),
            Self::Asked => f.write_str("asked for by name"),
            Self::NotNeeded => f.write_str("no kept backup needs it"),
            Self::TimelineGone => f.write_str("nothing of this timeline or an earlier one is kept"),
            Self::Aged { kept_for } => write!(f, "older than {kept_for}"),
            Self::Stale => f.write_str("it tells of objects that go"),
        }
    }
}

/// Keep or remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", content = "reasons", rename_all = "snake_case")]
pub enum Fate {
    /// It stays, for every one of these reasons.
    Keep(Vec<KeepReason>),
    /// It goes.
    Remove(Vec<RemoveReason>),
}

impl Fate {
    /// Whether it goes.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::Remove(_))
    }

    /// The reasons in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Keep(reasons) => reasons.iter().map(ToString::to_string).collect(),
            Self::Remove(reasons) => reasons.iter().map(ToString::to_string).collect(),
        }
    }
}
