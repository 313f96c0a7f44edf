//! Two plans side by side: what another policy, or a later moment, would do.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use walden_pg::{SegmentId, SegmentNumber, TimelineId, WalSegmentSize};

use super::answer::{GroupKind, ObjectGroup, RetentionPlan, Totals, WindowChange};
use super::reasons::Fate;
use crate::layout::Incarnation;

/// A group with another fate in the other plan. Of segments, only the stretch whose fate differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupChange {
    /// The incarnation.
    pub incarnation: Option<Incarnation>,
    /// What it is.
    #[serde(flatten)]
    pub kind: GroupKind,
    /// Its fate in the first plan; `None` where it is not there.
    pub before: Option<Fate>,
    /// Its fate in the second.
    pub after: Option<Fate>,
}

/// How a second plan differs from a first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanDiff {
    /// Schema of this document: 1.
    pub schema: u32,
    /// What goes by the first plan.
    pub removed_before: Totals,
    /// What goes by the second.
    pub removed_after: Totals,
    /// Groups that go by one plan and stay by the other.
    pub changes: Vec<GroupChange>,
    /// Timelines of which not the same can be restored after both: as the second plan leaves them.
    pub windows: Vec<WindowChange>,
}

/// Compares two plans for the same server. Only what goes by one and stays by the other counts, not the reasons.
#[must_use]
pub fn diff_plans(before: &RetentionPlan, after: &RetentionPlan) -> PlanDiff {
    let mut changes = whole(before, after);
    changes.extend(segments(before, after));
    let differs = |window: &&WindowChange| {
        let same = before
            .windows
            .iter()
            .find(|other| (other.incarnation, other.timeline) == (window.incarnation, window.timeline));
        same.is_none_or(|same| same.after != window.after)
    };
    PlanDiff {
        schema: 1,
        removed_before: before.removed,
        removed_after: after.removed,
        changes,
        windows: after.windows.iter().filter(differs).cloned().collect(),
    }
}

/// Groups that are the same objects in both plans.
fn whole(before: &RetentionPlan, after: &RetentionPlan) -> Vec<GroupChange> {
    let each = |plan: &RetentionPlan| -> BTreeMap<(Option<Incarnation>, GroupKind), Fate> {
        let groups = plan.groups.iter().filter(|group| !matches!(group.kind, GroupKind::Segments { .. }));
        groups.map(|group| ((group.incarnation, group.kind.clone()), group.fate.clone())).collect()
    };
    let (before, after) = (each(before), each(after));
    let keys: BTreeSet<&(Option<Incarnation>, GroupKind)> = before.keys().chain(after.keys()).collect();
    let fates = keys.into_iter().map(|key| (key, before.get(key), after.get(key)));
    let differ =
        fates.filter(|(_, before, after)| before.map(Fate::is_removal) != after.map(Fate::is_removal));
    differ
        .map(|((incarnation, kind), before, after)| GroupChange {
            incarnation: *incarnation,
            kind: kind.clone(),
            before: before.cloned(),
            after: after.cloned(),
        })
        .collect()
}

/// The groups of segments of one timeline, by their first number: the last number and the fate.
type Stretches<'p> = BTreeMap<(Option<Incarnation>, TimelineId, WalSegmentSize), Fates<'p>>;
/// By the first number of a stretch the last one and the fate.
type Fates<'p> = BTreeMap<u64, (u64, &'p Fate)>;

fn stretches(groups: &[ObjectGroup]) -> Stretches<'_> {
    let mut stretches = Stretches::new();
    for group in groups {
        if let GroupKind::Segments { timeline, first, last, segment_size } = &group.kind
            && let (Ok(first), Ok(last)) = (first.id(*segment_size), last.id(*segment_size))
        {
            let of = stretches.entry((group.incarnation, *timeline, *segment_size)).or_default();
            of.insert(first.number.get(), (last.number.get(), &group.fate));
        }
    }
    stretches
}

fn segments(before: &RetentionPlan, after: &RetentionPlan) -> Vec<GroupChange> {
    let (before, after) = (stretches(&before.groups), stretches(&after.groups));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let mut changes = Vec::new();
    for key in keys {
        let (incarnation, timeline, size) = key;
        let before = before.get(&key).cloned().unwrap_or_default();
        let after = after.get(&key).cloned().unwrap_or_default();
        let cuts = [&before, &after]
            .into_iter()
            .flat_map(|of| of.iter().flat_map(|(first, (last, _))| [*first, last + 1]));
        let cuts: Vec<u64> = cuts.collect::<BTreeSet<u64>>().into_iter().collect();
        for (first, end) in cuts.iter().zip(cuts.iter().skip(1)) {
            let fate = |of: &Fates<'_>| {
                let (_, (last, fate)) = of.range(..=*first).next_back()?;
                (last >= first).then(|| (*fate).clone())
            };
            let (before, after) = (fate(&before), fate(&after));
            if before.as_ref().map(Fate::is_removal) == after.as_ref().map(Fate::is_removal) {
                continue;
            }
            let name = |number| SegmentId::new(timeline, SegmentNumber::new(number)).name(size);
            let (first, last) = (name(*first), name(end - 1));
            let kind = GroupKind::Segments { timeline, first, last, segment_size: size };
            changes.push(GroupChange { incarnation, kind, before, after });
        }
    }
    changes
}
