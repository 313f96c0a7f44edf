//! What is read, and in which order: first the small objects that everything hangs on, then what has gone unproven for
//! the longest time, what a recovery is most likely to need before the rest.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{ArchiveFileName, SegmentId, TimelineId};

use super::memory::{ProofId, ProofMemory};
use super::request::{VerifyLevel, VerifyRequest, VerifyScope, WalScope};
use crate::layout::BackupId;

/// The files of a backup are proven in parts of about so many plain bytes.
pub const BACKUP_PART_BYTES: u64 = 1 << 30;

/// So many neighbouring segments are chosen together, so that the links between them can be followed.
const CLUSTER_SEGMENTS: u64 = 16;

/// In how many parts the files of a backup of so many plain bytes are proven.
#[must_use]
pub fn backup_parts(plain_bytes: u64) -> u32 {
    u32::try_from(plain_bytes.div_ceil(BACKUP_PART_BYTES).max(1)).unwrap_or(u32::MAX)
}

/// What an object is. Backups are told by their place in [`VerifyInventory::backups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A timeline history, a partial segment or a backup history file.
    File(ArchiveFileName),
    /// A commit record.
    CommitRecord(u32),
    /// A manifest.
    Manifest(u32),
    /// The names of a backup.
    Names(u32),
    /// The summary of a LOG directory.
    Rollup(TimelineId, u32),
    /// The copy of all commit records.
    BackupRollup,
    /// A pack: all of it at level hash, its header at level deep.
    Pack(u32, u32),
    /// A part of the files of a backup, at level deep.
    Part(u32, u32),
    /// A segment.
    Segment(SegmentId),
}

impl Subject {
    /// The backup that it belongs to.
    #[must_use]
    pub fn backup(self) -> Option<u32> {
        match self {
            Self::CommitRecord(backup)
            | Self::Manifest(backup)
            | Self::Names(backup)
            | Self::Pack(backup, _)
            | Self::Part(backup, _) => Some(backup),
            Self::File(_) | Self::Rollup(..) | Self::BackupRollup | Self::Segment(_) => None,
        }
    }

    /// Whether it is one of the small objects that everything hangs on, or that cost nothing. They are never left to a
    /// sample.
    #[must_use]
    pub fn is_small(self) -> bool {
        !matches!(self, Self::Pack(..) | Self::Part(..) | Self::Segment(_))
    }
}

/// An object, or a part of the files of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyObject {
    /// What it is.
    pub subject: Subject,
    /// About how many bytes must be read to prove it.
    pub bytes: u64,
    /// When it was written to the store, in seconds since 1970.
    pub written: u32,
    /// What the listing shows of it, as one number.
    pub fingerprint: u64,
    /// Under which name its proof is remembered.
    pub id: ProofId,
}

/// All that could be read for a level.
#[derive(Debug, Clone, Default)]
pub struct VerifyInventory {
    /// The backups, the newest first.
    pub backups: Vec<BackupId>,
    /// The objects, in any order, each once.
    pub objects: Vec<VerifyObject>,
}

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyPlan {
    /// Places in [`VerifyInventory::objects`], in the order in which they are to be read.
    #[serde(skip)]
    pub items: Vec<u32>,
    /// What is to be read.
    pub planned: Tally,
    /// Everything that was asked for.
    pub in_scope: Tally,
    /// What was proven lately enough.
    pub fresh: Tally,
    /// What was not drawn.
    pub unsampled: Tally,
    /// What did not fit into the bytes allowed.
    pub over_budget: Tally,
}

/// What is read at once or not at all, and its place in the order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Small objects first.
    large: bool,
    /// The oldest proof among the members, none before any.
    proven: Option<u32>,
    /// Decides by lot in a sample.
    lot: u64,
    /// Where it stands among its equals.
    place: Place,
}

/// The natural order: backups before WAL, the newest of each first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Small(Subject),
    Backup(u32, Subject),
    Wal(Reverse<TimelineId>, Reverse<u64>),
}

#[derive(Debug, Default)]
struct Cluster {
    members: Vec<u32>,
    bytes: u64,
    /// Only meaningful when no member was never proven.
    oldest: Option<u32>,
    never: bool,
}

/// Decides what is read.
///
/// Whatever was asked for is in exactly one of the plan's tallies. With a budget, objects that do not fit are passed over for
/// smaller ones behind them; without a sample or a budget nothing is left out but what was proven lately.
#[must_use]
pub fn plan_verify(
    inventory: &VerifyInventory,
    memory: &ProofMemory,
    request: &VerifyRequest,
    now: Timestamp,
) -> VerifyPlan {
    let mut plan = VerifyPlan::default();
    let fresh_from = fresh_from(request, now);
    let mut clusters: BTreeMap<Place, Cluster> = BTreeMap::new();
    let mut large_bytes = 0_u64;
    for (at, object) in inventory.objects.iter().enumerate() {
        if !is_in_scope(inventory, &request.scope, object) {
            continue;
        }
        plan.in_scope.add(object.bytes);
        if !object.subject.is_small() {
            large_bytes = large_bytes.saturating_add(object.bytes);
        }
        let proven = proven_at(memory, object, request.level, now);
        if proven.zip(fresh_from).is_some_and(|(at, from)| at >= from) {
            plan.fresh.add(object.bytes);
            continue;
        }
        let cluster = clusters.entry(place_of(object.subject)).or_default();
        cluster.members.push(u32::try_from(at).unwrap_or(u32::MAX));
        cluster.bytes = cluster.bytes.saturating_add(object.bytes);
        match proven {
            Some(at) => cluster.oldest = Some(cluster.oldest.map_or(at, |oldest| oldest.min(at))),
            None => cluster.never = true,
        }
    }
    let mut ranked: Vec<(Rank, Cluster)> =
        clusters.into_iter().map(|(place, cluster)| (rank(place, &cluster, request), cluster)).collect();
    ranked.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let target = request.sample.map(|sample| share(large_bytes, sample.millionths));
    let mut drawn = 0_u64;
    for (rank, cluster) in ranked {
        let members =
            cluster.members.iter().filter_map(|at| Some((*at, inventory.objects.get(*at as usize)?)));
        if rank.large && target.is_some_and(|target| drawn >= target) {
            members.for_each(|(_, object)| plan.unsampled.add(object.bytes));
            continue;
        }
        if rank.large {
            drawn = drawn.saturating_add(cluster.bytes);
        }
        for (at, object) in members {
            let after = plan.planned.bytes.saturating_add(object.bytes);
            if request.max_bytes.is_some_and(|max| after > max) {
                plan.over_budget.add(object.bytes);
            } else {
                plan.planned.add(object.bytes);
                plan.items.push(at);
            }
        }
    }
    plan
}

/// From which second on a proof counts.
fn fresh_from(request: &VerifyRequest, now: Timestamp) -> Option<u32> {
    let age = i64::try_from(request.max_age?.as_secs()).unwrap_or(i64::MAX);
    Some(u32::try_from(now.as_second().saturating_sub(age).max(1)).unwrap_or(u32::MAX))
}

/// When an object was proven. A proof of the future is none: the clock was wrong, and nobody knows how old it is.
fn proven_at(memory: &ProofMemory, object: &VerifyObject, level: VerifyLevel, now: Timestamp) -> Option<u32> {
    let at = memory.get(object.id, object.fingerprint)?.at(level)?;
    (i64::from(at) <= now.as_second()).then_some(at)
}

fn is_in_scope(inventory: &VerifyInventory, scope: &VerifyScope, object: &VerifyObject) -> bool {
    let since = scope.since.and_then(|since| u32::try_from(since.as_second()).ok());
    let is_old = since.is_some_and(|since| object.written < since);
    let needs = |backup: u32| inventory.backups.get(backup as usize).is_some_and(|id| scope.holds_backup(id));
    match object.subject {
        Subject::File(ArchiveFileName::History(_)) => scope.wal != WalScope::None,
        Subject::File(_) | Subject::Rollup(..) => !is_old && scope.wal == WalScope::All,
        Subject::BackupRollup => !is_old && scope.backups.is_none(),
        Subject::Segment(id) => !is_old && scope.wal.holds(id),
        Subject::CommitRecord(backup)
        | Subject::Manifest(backup)
        | Subject::Names(backup)
        | Subject::Pack(backup, _)
        | Subject::Part(backup, _) => !is_old && needs(backup),
    }
}

fn place_of(subject: Subject) -> Place {
    match subject {
        Subject::Segment(id) => Place::Wal(Reverse(id.timeline), Reverse(id.number.get() / CLUSTER_SEGMENTS)),
        Subject::Pack(backup, _) | Subject::Part(backup, _) => Place::Backup(backup, subject),
        small => Place::Small(small),
    }
}

fn rank(place: Place, cluster: &Cluster, request: &VerifyRequest) -> Rank {
    let large = !matches!(place, Place::Small(_));
    let proven = cluster.oldest.filter(|_| !cluster.never);
    let lot = request.sample.filter(|_| large).map_or(0, |sample| lot(sample.seed, place));
    Rank { large, proven: proven.filter(|_| large), lot, place }
}

/// A number drawn for a place.
fn lot(seed: u64, place: Place) -> u64 {
    let (kind, a, b) = match place {
        Place::Small(_) => (0, 0, 0),
        Place::Backup(backup, Subject::Pack(_, number)) => (1, u64::from(backup), u64::from(number)),
        Place::Backup(backup, Subject::Part(_, number)) => (2, u64::from(backup), u64::from(number)),
        Place::Backup(backup, _) => (3, u64::from(backup), 0),
        Place::Wal(timeline, number) => (4, u64::from(timeline.0.get()), number.0),
    };
    [kind, a, b].into_iter().fold(mix(seed), |state, part| mix(state ^ part))
}

/// SplitMix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A part of some bytes, rounded up.
fn share(bytes: u64, millionths: u32) -> u64 {
    let share = (u128::from(bytes) * u128::from(millionths)).div_ceil(1_000_000);
    u64::try_from(share).unwrap_or(u64::MAX)
}
