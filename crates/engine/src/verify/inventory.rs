//! What the listing of an incarnation shows: the objects that can be read, and the catalog they make.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use walden_core::{
    ArchiveObject, BackupId, BackupLayout, BackupRecord, CatalogSnapshot, IncarnationLayout,
    IncarnationRecord, ProofId, Subject, VerifyInventory, VerifyLevel, VerifyObject, backup_parts,
};
use walden_pg::{ArchiveFileName, SegmentId};
use walden_store::Listed;

use crate::catalog::read_small_objects;
use crate::context::Context;
use crate::error::Result;
use crate::rollup::read_backup_rollup;

/// Foreign objects that are named one by one; the rest is counted.
const FOREIGN_NAMED_MAX: usize = 100;
/// What is read of a pack to see its header.
const HEADER_BYTES: u64 = 8192;

/// What a listing tells of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) bytes: u64,
    /// In seconds since 1970.
    pub(super) written: u32,
    /// Size and time as one number.
    fingerprint: u64,
}

impl Meta {
    fn of(listed: &Listed) -> Self {
        let micros = u64::from_ne_bytes(listed.modified.as_microsecond().to_ne_bytes());
        Self {
            bytes: listed.bytes,
            written: u32::try_from(listed.modified.as_second()).unwrap_or_default(),
            fingerprint: micros.rotate_left(20) ^ listed.bytes,
        }
    }
}

/// What lies in the directory of a backup.
#[derive(Debug, Default)]
pub(super) struct BackupListing {
    pub(super) commit: Option<Meta>,
    pub(super) manifest: Option<Meta>,
    pub(super) names: Option<Meta>,
    pub(super) packs: BTreeMap<u32, Meta>,
    /// When the newest of them was written.
    pub(super) newest: u32,
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// Everything under an incarnation's prefix.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) snapshot: CatalogSnapshot,
    pub(super) backups: BTreeMap<BackupId, BackupListing>,
    /// Segments and files of PostgreSQL's, and derived objects, as they can be read.
    pub(super) objects: Vec<VerifyObject>,
    pub(super) foreign: Vec<String>,
    pub(super) foreign_count: u64,
    /// When the newest segments of each timeline were written: the last ones of the listing.
    pub(super) object_count: u64,
    pub(super) bytes: u64,
    pub(super) has_marker: bool,
    /// Backups without a commit record that the copy of all records knows: they were finished once.
    pub(super) once_finished: BTreeSet<BackupId>,
}

impl Listing {
    /// Nothing was listed yet.
    pub(super) fn empty(snapshot: CatalogSnapshot) -> Self {
        Self {
            snapshot,
            backups: BTreeMap::new(),
            objects: Vec::new(),
            foreign: Vec::new(),
            foreign_count: 0,
            object_count: 0,
            bytes: 0,
            has_marker: false,
            once_finished: BTreeSet::new(),
        }
    }

    /// Lists everything and reads the small records.
    ///
    /// # Errors
    /// Of the store: a listing that can't be finished is an error and never a shorter archive.
    pub(super) async fn read(
        ctx: &Context,
        incarnation: &IncarnationRecord,
        layout: &IncarnationLayout,
    ) -> Result<Self> {
        let mut listing = Self::empty(CatalogSnapshot::new(incarnation.clone()));
        let stream = ctx.store.list(&layout.prefix(), &ctx.listing_budget());
        let mut stream = std::pin::pin!(stream);
        while let Some(object) = stream.try_next().await? {
            listing.add(layout, &object);
            ctx.progress.advance(1);
        }
        read_small_objects(ctx, layout, &mut listing.snapshot).await?;
        if !listing.snapshot.unfinished_backups.is_empty() {
            // Retention takes a record out of the copy before it removes it.
            let copies = read_backup_rollup(ctx, layout, &ctx.listing_budget()).await?;
            let unfinished = &listing.snapshot.unfinished_backups;
            let known = copies.into_iter().map(|copy| copy.id).filter(|id| unfinished.contains(id));
            listing.once_finished.extend(known);
        }
        Ok(listing)
    }

    pub(super) fn add(&mut self, layout: &IncarnationLayout, object: &Listed) {
        self.object_count += 1;
        self.bytes = self.bytes.saturating_add(object.bytes);
        let meta = Meta::of(object);
        let subject = match layout.parse(&object.key) {
            Some(ArchiveObject::Marker) => {
                self.has_marker = true;
                return;
            }
            Some(ArchiveObject::File(ArchiveFileName::Segment(name))) => {
                let before = self.snapshot.strays.len();
                self.snapshot.add_segment(name, object.bytes);
                let Ok(id) = name.id(self.snapshot.incarnation.segment_size) else {
                    self.snapshot.strays.truncate(before);
                    return self.add_foreign(object);
                };
                Subject::Segment(id)
            }
            Some(ArchiveObject::File(name)) => {
                if let ArchiveFileName::Partial(segment) = name {
                    self.snapshot.partials.push(segment);
                }
                Subject::File(name)
            }
            Some(ArchiveObject::Rollup { timeline, log }) => Subject::Rollup(timeline, log),
            Some(ArchiveObject::BackupRollup) => Subject::BackupRollup,
            Some(ArchiveObject::Backup(id)) => return self.add_backup(layout, id, object, meta),
            // Records of Walden's own work are no part of what is restored.
            Some(_) => return,
            None => return self.add_foreign(object),
        };
        self.objects.push(verify_object(subject, &object.key, meta));
    }

    fn add_foreign(&mut self, object: &Listed) {
        self.foreign_count += 1;
        if self.foreign.len() < FOREIGN_NAMED_MAX {
            self.foreign.push(object.key.clone());
        }
    }

    fn add_backup(&mut self, layout: &IncarnationLayout, id: BackupId, object: &Listed, meta: Meta) {
        let backup = layout.backup(&id);
        let listing = self.backups.entry(id).or_default();
        listing.newest = listing.newest.max(meta.written);
        listing.objects += 1;
        listing.bytes = listing.bytes.saturating_add(meta.bytes);
        let key = object.key.as_str();
        if backup.commit().as_str() == key {
            listing.commit = Some(meta);
        } else if backup.manifest().as_str() == key {
            listing.manifest = Some(meta);
        } else if backup.names().as_str() == key {
            listing.names = Some(meta);
        } else if let Some(number) = pack_of(&backup, key) {
            listing.packs.insert(number, meta);
        } else {
            self.add_foreign(object);
        }
    }

    /// What can be read at a level: the listed objects, and those of finished backups.
    pub(super) fn inventory(&self, layout: &IncarnationLayout, level: VerifyLevel) -> VerifyInventory {
        let mut inventory = VerifyInventory::default();
        if level == VerifyLevel::Presence {
            return inventory;
        }
        inventory.objects.clone_from(&self.objects);
        // The newest first; what has a damaged record comes last and is read as far as it goes.
        for record in self.snapshot.backups.iter().rev() {
            let at = u32::try_from(inventory.backups.len()).unwrap_or(u32::MAX);
            inventory.backups.push(record.id.clone());
            let Some(listed) = self.backups.get(&record.id) else { continue };
            add_backup_objects(
                &mut inventory.objects,
                &layout.backup(&record.id),
                (at, record, listed),
                level,
            );
        }
        inventory
    }

    /// When a segment was written, in seconds since 1970.
    pub(super) fn written(&self, id: SegmentId) -> Option<u32> {
        let found = self.objects.iter().find(|object| object.subject == Subject::Segment(id));
        found.map(|object| object.written)
    }
}

fn verify_object(subject: Subject, key: &str, meta: Meta) -> VerifyObject {
    VerifyObject {
        subject,
        bytes: meta.bytes,
        written: meta.written,
        fingerprint: meta.fingerprint,
        id: ProofId::of(key),
    }
}

fn pack_of(backup: &BackupLayout, key: &str) -> Option<u32> {
    let digits = key.strip_prefix(backup.prefix())?.strip_prefix("pack/")?.strip_suffix(".zst")?;
    let number = digits.parse().ok()?;
    (backup.pack(number).as_str() == key).then_some(number)
}

fn add_backup_objects(
    objects: &mut Vec<VerifyObject>,
    layout: &BackupLayout,
    (at, record, listed): (u32, &BackupRecord, &BackupListing),
    level: VerifyLevel,
) {
    let small = [
        (Subject::CommitRecord(at), layout.commit(), listed.commit),
        (Subject::Manifest(at), layout.manifest(), listed.manifest),
        (Subject::Names(at), layout.names(), listed.names),
    ];
    for (subject, key, meta) in small {
        objects.extend(meta.map(|meta| verify_object(subject, key.as_str(), meta)));
    }
    for (number, meta) in &listed.packs {
        let key = layout.pack(*number);
        let mut object = verify_object(Subject::Pack(at, *number), key.as_str(), *meta);
        if level == VerifyLevel::Deep {
            // What is in it is proven by the files.
            object.bytes = meta.bytes.min(HEADER_BYTES);
            object.id = ProofId::of(&format!("{key}#header"));
        }
        objects.push(object);
    }
    let (Some(manifest), VerifyLevel::Deep) = (listed.manifest, level) else { return };
    let parts = backup_parts(record.bytes);
    // A pack that was written anew may hold something else, and which part reads it only the manifest says.
    let packs = listed.packs.iter().fold(record.stored_bytes, |all, (number, meta)| {
        (all ^ meta.fingerprint ^ u64::from(*number)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    });
    for number in 0..parts {
        objects.push(VerifyObject {
            subject: Subject::Part(at, number),
            bytes: record.stored_bytes / u64::from(parts),
            written: listed.commit.map_or(manifest.written, |commit| commit.written),
            fingerprint: manifest.fingerprint ^ packs,
            id: ProofId::of(&format!("{}files/{number}", layout.prefix())),
        });
    }
}
