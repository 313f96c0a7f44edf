//! What retention writes into a repository: pins, leases, and audit records of its runs.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::answer::Totals;
use super::policy::RetentionPolicy;
use crate::layout::{BackupId, Incarnation};
use crate::records::Writer;

/// Groups that an audit record names at most; of the others it says how many there were.
const GROUPS_MAX: usize = 10_000;

/// `pin/<backup id>/<revision>.json`: the newest revision says whether a backup is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The backup.
    pub backup: BackupId,
    /// The number in the name: 1 for the first.
    pub revision: u32,
    /// Whether it is pinned.
    pub pinned: bool,
    /// The first moment at which a pin does not count any more; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Who said so, and when.
    pub writer: Writer,
}

/// Whether a lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// By its holder, until it expires.
    Held,
    /// By nobody.
    Released,
}

/// `<server>/lease/<name>/<fence>.json`: the newest fence says who may do alone what the lease is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The number in the name: 1 for the first.
    pub fence: u32,
    /// Whether it is held.
    pub state: LeaseState,
    /// Who holds it or did.
    pub holder: Writer,
    /// Thirty-two random hexadecimal digits: two runs of one writer are two holders.
    pub token: String,
    /// It expires so many seconds after the store wrote this record.
    pub seconds: u32,
}

impl LeaseRecord {
    /// What is left of the lease, by the store's clock alone: when it wrote the record, and now. `None` when it is
    /// released or has expired.
    #[must_use]
    pub fn left(&self, written: Timestamp, now: Timestamp) -> Option<SignedDuration> {
        if self.state == LeaseState::Released {
            return None;
        }
        let left = SignedDuration::from_secs(i64::from(self.seconds)) - now.duration_since(written);
        left.is_positive().then_some(left)
    }
}

/// A backup of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackupName {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The backup.
    pub id: BackupId,
}

/// What a retention run is about to remove: written before it removes anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetentionBegun {
    /// The name of the run.
    pub id: BackupId,
    /// The fence of the lease under which it runs.
    pub fence: u32,
    /// Who, and when.
    pub writer: Writer,
    /// The moment that the plan is for.
    pub at: Timestamp,
    /// The policy.
    pub policy: RetentionPolicy,
    /// The backups that an operator named; empty for a run by policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<BackupId>,
    /// Warnings that would have stopped the run, and that an operator allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// What goes.
    pub removed: Totals,
    /// What stays.
    pub kept: Totals,
    /// The backups whose commit records go: what is left of them is no backup under way.
    pub backups: Vec<BackupName>,
    /// The groups that go, each with its reasons.
    pub groups: Vec<serde_json::Value>,
    /// So many groups more.
    #[serde(default)]
    pub more_groups: u64,
    /// Moments that stop being restorable, by timeline.
    pub lost: Vec<serde_json::Value>,
    /// Warnings of the plan.
    pub warnings: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionOutcome {
    /// Everything was done that the store allows.
    Finished,
    /// It was stopped: by a signal, by a lost lease, or by what it met. Running again finishes it.
    Stopped,
    /// The store refused the right to remove.
    Denied,
}

/// What a retention run did: written at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionDone {
    /// The name of the run.
    pub id: BackupId,
    /// Who, and when.
    pub writer: Writer,
    /// How it ended.
    pub outcome: RetentionOutcome,
    /// Why it did not finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Objects removed; those that were gone already count.
    pub removed_objects: u64,
    /// Objects that the store does not let go of (Object Lock, immutability, retention or a hold).
    pub locked_objects: u64,
    /// Some of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locked: Vec<String>,
    /// Objects that we have no right to remove.
    pub denied_objects: u64,
    /// Uploads whose parts were removed.
    pub aborted_uploads: u64,
    /// Rollups made again.
    pub rollups: u64,
}

/// An audit record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RetentionRunRecord {
    /// `retention/<id>.json`.
    Begun(Box<RetentionBegun>),
    /// `retention/<id>-done.json`.
    Done(Box<RetentionDone>),
}

impl super::answer::RetentionPlan {
    /// The audit record of a run that is about to carry this plan out.
    ///
    /// # Errors
    /// When a part of the plan can't be written as JSON, which is a defect.
    pub fn begun(
        &self,
        id: BackupId,
        fence: u32,
        writer: Writer,
        allowed: Vec<String>,
    ) -> Result<RetentionBegun, serde_json::Error> {
        let going = || self.groups.iter().filter(|group| group.fate.is_removal());
        let groups = going().take(GROUPS_MAX).map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        let lost = self.windows.iter().filter(|window| !window.lost.is_empty());
        let backups = self.deletions.iter().filter_map(|deletion| match deletion {
            super::answer::Deletion::CommitRecord { incarnation, backup } => {
                Some(BackupName { incarnation: *incarnation, id: backup.clone() })
            }
            _ => None,
        });
        Ok(RetentionBegun {
            id,
            fence,
            writer,
            at: self.at,
            policy: self.policy.clone(),
            asked: self.asked.clone(),
            allowed,
            removed: self.removed,
            kept: self.kept,
            backups: backups.collect(),
            more_groups: (going().count() - groups.len()) as u64,
            groups,
            lost: lost.map(serde_json::to_value).collect::<Result<_, _>>()?,
            warnings: self.warnings.iter().map(|warning| warning.message.clone()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_the_stores_clock() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let holder = Writer::new("h", "i", at(0));
        let lease = LeaseRecord { fence: 1, state: LeaseState::Held, holder, token: "t".into(), seconds: 60 };
        assert_eq!(lease.left(at(100), at(130)), Some(SignedDuration::from_secs(30)));
        assert_eq!(lease.left(at(100), at(160)), None);
        assert_eq!(lease.left(at(100), at(90)), Some(SignedDuration::from_secs(70)));
        let released = LeaseRecord { state: LeaseState::Released, ..lease };
        assert_eq!(released.left(at(100), at(101)), None);
    }
}
