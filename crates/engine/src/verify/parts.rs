//! Level deep of a backup: its manifest, every file by its hash, every page by its checksum, and what a server needs to
//! start from it. What is read is what a restore reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use walden_core::{
    BACKUP_PART_BYTES, BackupRecord, ErrorKind, Finding, FindingKind, FindingVerdict, ManifestEntry,
    ObjectKey, Subject, VerifyObject, backup_parts,
};
use walden_pg::{BackupLabel, ControlFile, DataPage, Lsn, PageVerdict, RelationFile};
use walden_store::{EXTENT_BYTES_MAX, StoreError, open_extent};
use zstd::zstd_safe;

use super::objects::{Seen, damaged, sort_error};
use super::run::{Work, lose};
use crate::error::{EngineError, Result};
use crate::restore::inventory::{CONTROL, Inventory, Judge, LABEL, PlannedFile, Step, VERSION, display};
use crate::restore::manifest::StoredManifest;
use crate::restore::reads::{Read, Run, Task, TaskBuilder, extent_of};

/// Blocks that are named one by one.
const BLOCKS_NAMED_MAX: usize = 100;
/// A small file that must be understood is no larger than this.
const NOTABLE_BYTES_MAX: u64 = 1 << 20;
/// Findings that are told of one part.
const TOLD_MAX: usize = 1000;
/// Zeros for the holes of a file that is being hashed.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is known of a backup while its files are read.
struct Backup<'a> {
    work: &'a Work,
    number: u32,
    record: &'a BackupRecord,
    /// Bytes of a page, and pages of a full relation file.
    page_bytes: usize,
    relation_segment_blocks: u32,
}

/// What reading a part showed.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    /// The backup itself is gone.
    gone: bool,
    /// More had to be read than is allowed.
    no_room: bool,
    /// What may still be read of what was asked for, in bytes. Frames that files share are read more than once.
    allowance: u64,
}

impl Found {
    /// Asks for leave to read so many bytes.
    fn take(&mut self, work: &Work, bytes: u64) -> bool {
        let rest = bytes.saturating_sub(self.allowance);
        self.allowance = self.allowance.saturating_sub(bytes);
        if rest > 0 && !work.state.reserve(rest) {
            self.no_room = true;
        }
        !self.no_room
    }
}

/// Proves parts of the files of a backup.
pub(super) async fn prove_parts(work: &Work, number: u32, parts: &[VerifyObject], jobs: usize) {
    let Some(record) = work.objects.record(number) else { return };
    let mut backup = Backup { work, number, record, page_bytes: 8192, relation_segment_blocks: 131_072 };
    let key = work.objects.layout.backup(&record.id).manifest();
    if !work.state.reserve(record.manifest.object_bytes) {
        for part in parts {
            work.state.note_over_budget(part);
        }
        return;
    }
    let mut manifest = StoredManifest::of(record, key.clone());
    let mut judged = judge(work, record, &mut manifest).await;
    if matches!(&judged, Err(error) if error.kind() == ErrorKind::Corrupt) {
        // The damage may lie on the way.
        manifest = StoredManifest::of(record, key.clone());
        judged = judge(work, record, &mut manifest).await;
    }
    work.state.count_read(record.manifest.object_bytes);
    let inventory = match judged {
        Ok(inventory) => inventory,
        Err(error) => return backup.give_up(parts, &key, &error),
    };
    let mut early = backup.check_totals(&key, &inventory);
    early.extend(backup.check_notable(&key, &inventory).await);
    let wanted: BTreeMap<u32, VerifyObject> = parts
        .iter()
        .filter_map(|part| match part.subject {
            Subject::Part(_, part_number) => Some((part_number, *part)),
            _ => None,
        })
        .collect();
    if let Err(error) = backup.read_parts(&mut manifest, &wanted, early, jobs).await {
        let left: Vec<VerifyObject> = parts.to_vec();
        backup.give_up(&left, &key, &error);
    }
}

/// Judges a whole manifest.
async fn judge(work: &Work, record: &BackupRecord, manifest: &mut StoredManifest) -> Result<Inventory> {
    let mut judge = Judge::new(record);
    let mut reader = manifest.read(&work.ctx)?;
    while let Some(entry) = reader.next().await? {
        judge.take(entry)?;
    }
    judge.finish()
}

impl Backup<'_> {
    fn pack(&self, number: u64) -> ObjectKey {
        self.work.objects.layout.backup(&self.record.id).pack(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// Nothing can be said of the parts because of the manifest.
    fn give_up(&self, parts: &[VerifyObject], key: &ObjectKey, error: &EngineError) {
        let gone = matches!(error, EngineError::Store(error) if error.is_object_not_found());
        for (at, part) in parts.iter().enumerate() {
            if gone {
                self.work.state.note_gone(part);
                continue;
            }
            let finding = match error {
                EngineError::Store(error) => match sort_error::<()>(key, error) {
                    Seen::Bad(finding) | Seen::Unknown(finding) => finding,
                    Seen::Good(..) | Seen::Gone => continue,
                },
                error if error.kind() == ErrorKind::Corrupt => {
                    damaged(FindingKind::ManifestDamaged, key, error.to_string())
                }
                error => Finding::new(
                    FindingVerdict::NotProven,
                    FindingKind::Unsupported,
                    key.as_str(),
                    error.to_string(),
                ),
            };
            // Told once; the other parts only stay unproven.
            self.settle(part, if at == 0 { vec![finding] } else { Vec::new() }, at > 0);
        }
    }

    /// Notes what was found in a part.
    fn settle(&self, part: &VerifyObject, findings: Vec<Finding>, unproven: bool) {
        let (state, now) = (&self.work.state, self.work.ctx.clock.now());
        let findings: Vec<Finding> = findings
            .into_iter()
            .map(|finding| finding.of_backup(&self.record.id))
            .map(|finding| if finding.is_harm() { lose(self.work, part.subject, finding) } else { finding })
            .collect();
        self.work.ctx.progress.advance(part.bytes);
        if unproven && findings.is_empty() {
            state.lock().failed.add(part.bytes);
            return;
        }
        state.settle(part, findings, self.work.level, now);
    }

    /// Whether manifest and commit record speak of the same files.
    fn check_totals(&self, key: &ObjectKey, inventory: &Inventory) -> Vec<Finding> {
        let (totals, record) = (&inventory.totals, self.record);
        if totals.files == record.files && totals.bytes == record.bytes {
            return Vec::new();
        }
        let message = format!(
            "it lists {} files of {} bytes, and the commit record {} of {}",
            totals.files, totals.bytes, record.files, record.bytes
        );
        vec![damaged(FindingKind::ManifestDamaged, key, message)]
    }

    /// Whether a server would start from what the backup holds.
    async fn check_notable(&mut self, key: &ObjectKey, inventory: &Inventory) -> Vec<Finding> {
        let mut findings = Vec::new();
        for path in [CONTROL, LABEL, VERSION] {
            let Some(file) = inventory.notable.get(path) else {
                let message = format!("the backup has no {}", display(path));
                findings.push(damaged(FindingKind::ManifestDamaged, key, message).of_file(display(path)));
                continue;
            };
            if file.bytes > NOTABLE_BYTES_MAX {
                let message = format!("{} has {} bytes", display(path), file.bytes);
                findings.push(damaged(FindingKind::ManifestDamaged, key, message).of_file(display(path)));
                continue;
            }
            let Some(bytes) = self.read_small(file).await else { continue };
            findings.extend(self.judge_notable(path, &bytes).map(|finding| finding.of_file(display(path))));
        }
        findings
    }

    /// A small file whole; what is wrong with it is told with the part that it is in.
    async fn read_small(&self, file: &PlannedFile) -> Option<Vec<u8>> {
        let mut builder = TaskBuilder::default();
        let task = builder.add(file.clone()).or_else(|| builder.finish())?;
        let found = Mutex::new(Found::default());
        let mut kept = Vec::new();
        self.read_task(task, &found, Some(&mut kept)).await;
        let found = found.into_inner().ok()?;
        (found.findings.is_empty() && !found.gone && !found.no_room).then_some(kept)
    }

    fn judge_notable(&mut self, path: &[u8], bytes: &[u8]) -> Option<Finding> {
        let record = self.record;
        let key = self.work.objects.layout.backup(&record.id).manifest();
        if path == CONTROL {
            let control = match ControlFile::parse(bytes) {
                Ok(control) => control,
                Err(error) => return Some(damaged(FindingKind::ControlFile, &key, error.to_string())),
            };
            self.page_bytes = usize::try_from(control.block_size).unwrap_or(8192);
            self.relation_segment_blocks = control.relation_segment_blocks;
            let own = &record.incarnation;
            return (control.system_id != own.system_id || control.major != own.major).then(|| {
                let message = format!("it is of system {}, PostgreSQL {}", control.system_id, control.major);
                damaged(FindingKind::ControlFile, &key, message)
            });
        }
        if path == VERSION {
            let found = String::from_utf8_lossy(bytes).trim().to_owned();
            return (found != record.incarnation.major.to_string()).then(|| {
                let message = format!("PG_VERSION says {found:?}");
                damaged(FindingKind::ManifestDamaged, &key, message)
            });
        }
        let label = match BackupLabel::parse(bytes) {
            Ok(label) => label,
            Err(error) => return Some(damaged(FindingKind::LabelDiffers, &key, error.to_string())),
        };
        let fits = label.start_lsn == record.start_lsn
            && label.checkpoint_lsn == record.checkpoint_lsn
            && label.start_timeline.is_none_or(|timeline| timeline == record.timeline);
        (!fits).then(|| {
            let message = format!(
                "it begins at {} with the checkpoint at {}, and the commit record says {} and {}",
                label.start_lsn, label.checkpoint_lsn, record.start_lsn, record.checkpoint_lsn
            );
            damaged(FindingKind::LabelDiffers, &key, message)
        })
    }

    /// Reads the parts that are wanted, one after the other.
    async fn read_parts(
        &self,
        manifest: &mut StoredManifest,
        wanted: &BTreeMap<u32, VerifyObject>,
        mut early: Vec<Finding>,
        jobs: usize,
    ) -> Result<()> {
        let last_part = backup_parts(self.record.bytes) - 1;
        let mut judge = Judge::new(self.record);
        let mut reader = manifest.read(&self.work.ctx)?;
        let (mut part, mut before) = (0_u32, 0_u64);
        let mut tasks = Vec::new();
        let mut builder = TaskBuilder::default();
        let mut done = BTreeSet::new();
        loop {
            let entry: Option<ManifestEntry> = reader.next().await?;
            let is_end = entry.is_none();
            let mut next = None;
            if let Some(entry) = entry {
                let bytes = match &entry {
                    ManifestEntry::File(file) => file.bytes,
                    _ => 0,
                };
                let step = judge.take(entry)?;
                let of = u32::try_from(before / BACKUP_PART_BYTES).unwrap_or(u32::MAX).min(last_part);
                before = before.saturating_add(bytes);
                if let Step::File(file) = step {
                    next = Some((of, file));
                }
            }
            let changes = next.as_ref().is_some_and(|(of, _)| *of != part);
            if is_end || changes {
                tasks.extend(builder.finish());
                // A part without files of its own is proven with the ones before it.
                let until = next.as_ref().map_or(last_part + 1, |(of, _)| *of);
                for number in part..until {
                    let Some(object) = wanted.get(&number).filter(|_| done.insert(number)) else {
                        tasks.clear();
                        continue;
                    };
                    let tasks = std::mem::take(&mut tasks);
                    self.read_part(object, tasks, std::mem::take(&mut early), jobs).await;
                }
                tasks.clear();
                part = until;
            }
            if is_end || self.work.state.is_stopped() {
                return Ok(());
            }
            if let Some((of, file)) = next
                && wanted.contains_key(&of)
            {
                tasks.extend(builder.add(file));
            }
        }
    }

    async fn read_part(&self, part: &VerifyObject, tasks: Vec<Task>, early: Vec<Finding>, jobs: usize) {
        if !self.work.state.reserve(part.bytes) {
            if early.iter().any(Finding::is_harm) {
                // Known without reading more.
                self.settle(part, early, false);
            } else if !self.work.state.is_stopped() {
                self.work.state.note_over_budget(part);
            }
            return;
        }
        let found = Found { findings: early, allowance: part.bytes, ..Found::default() };
        let found = Mutex::new(found);
        stream::iter(tasks).for_each_concurrent(jobs, |task| self.read_task(task, &found, None)).await;
        let found = found.into_inner().unwrap_or_default();
        if self.work.state.is_stopped() {
            // Not all of it may have been read.
            return;
        }
        if found.gone {
            self.work.state.note_gone(part);
        } else if found.no_room && !found.findings.iter().any(Finding::is_harm) {
            self.work.state.note_over_budget(part);
        } else {
            self.settle(part, found.findings, false);
        }
    }

    /// Reads files and compares them with their hashes, and their pages with their checksums.
    async fn read_task(&self, task: Task, found: &Mutex<Found>, mut keep: Option<&mut Vec<u8>>) {
        let Task { files, reads } = task;
        let mut open: Vec<OpenFile> = files.iter().map(|file| self.begin(file)).collect();
        for read in reads {
            if self.work.state.is_stopped() {
                return;
            }
            let Ok(_permit) = self.work.reads.acquire().await else { return };
            let stored_bytes = read.range.end.saturating_sub(read.range.start);
            if !lock(found).take(self.work, stored_bytes) {
                return;
            }
            let _memory = self.work.hold(stored_bytes.saturating_add(read.plain_bytes)).await;
            let (frames, findings, gone) = self.fetch(&read, &files).await;
            self.work.state.count_read(stored_bytes);
            note(found, findings, gone);
            let runs: Vec<(Vec<Run>, Option<Vec<u8>>)> =
                read.frames.iter().map(|frame| frame.runs.clone()).zip(frames).collect();
            let (planned, mut working) = (files.clone(), open);
            let fed = tokio::task::spawn_blocking(move || {
                for (runs, plain) in runs {
                    for run in runs {
                        if let Some(file) = working.get_mut(run.file) {
                            file.take(&planned, run, plain.as_deref());
                        }
                    }
                }
                working
            });
            match fed.await {
                Ok(fed) => open = fed,
                Err(error) => {
                    let message = format!("a worker ended: {error}");
                    let kind = FindingKind::StoreError;
                    return note(
                        found,
                        vec![Finding::new(FindingVerdict::NotProven, kind, "", message)],
                        false,
                    );
                }
            }
        }
        for (file, open) in files.iter().zip(open) {
            let (findings, kept) = self.finish(file, open, keep.is_some());
            if let Some(keep) = keep.as_deref_mut() {
                *keep = kept;
            }
            note(found, findings, false);
        }
    }

    fn begin(&self, file: &PlannedFile) -> OpenFile {
        let relation = self
            .record
            .settings
            .data_checksums
            .then(|| std::str::from_utf8(&file.path).ok().and_then(RelationFile::from_path))
            .flatten();
        let first_block = relation.and_then(|file| file.name.first_block(self.relation_segment_blocks));
        OpenFile {
            hash: Sha256::new(),
            at: 0,
            next: 0,
            waiting: BTreeMap::new(),
            lost: false,
            short: false,
            pages: first_block.map(|first_block| Pages {
                first_block,
                page_bytes: self.page_bytes.max(1),
                start_lsn: self.record.start_lsn,
                partial: Vec::new(),
                at: 0,
                bad: Vec::new(),
                count: 0,
            }),
            kept: (file.bytes <= NOTABLE_BYTES_MAX
                && [CONTROL, LABEL, VERSION].contains(&file.path.as_slice()))
            .then(Vec::new),
        }
    }

    /// Fetches a read; `None` for frames that could not be had.
    async fn fetch(&self, read: &Read, files: &[PlannedFile]) -> (Vec<Option<Vec<u8>>>, Vec<Finding>, bool) {
        let key = self.pack(read.pack);
        let mut tries = 0;
        loop {
            tries += 1;
            let bytes = read.range.end.saturating_sub(read.range.start);
            let budget = self.work.ctx.budget_for(bytes);
            let none = || vec![None; read.frames.len()];
            let stored = match self.work.ctx.store.get_range(&key, read.range.clone(), &budget).await {
                Ok(stored) => stored,
                Err(error) if error.is_object_not_found() => return self.absent(&key, none()).await,
                Err(StoreError::Size { bytes, .. }) => {
                    let message = format!("it has {bytes} bytes, and the manifest takes some from beyond");
                    return (none(), vec![damaged(FindingKind::Truncated, &key, message)], false);
                }
                Err(error) => {
                    let findings = match sort_error::<()>(&key, &error) {
                        Seen::Bad(finding) | Seen::Unknown(finding) => vec![finding],
                        Seen::Good(..) | Seen::Gone => Vec::new(),
                    };
                    return (none(), findings, false);
                }
            };
            let (asked, key_of_pack, planned) = (read.clone(), key.clone(), files.to_vec());
            let opened =
                tokio::task::spawn_blocking(move || open_frames(&asked, &stored, &key_of_pack, &planned));
            let (frames, findings) = match opened.await {
                Ok(opened) => opened,
                Err(error) => {
                    let (verdict, kind) = (FindingVerdict::NotProven, FindingKind::StoreError);
                    let message = format!("a worker ended: {error}");
                    return (none(), vec![Finding::new(verdict, kind, key.as_str(), message)], false);
                }
            };
            if findings.is_empty() || tries > 1 {
                return (frames, findings, false);
            }
        }
    }

    /// A pack that is not there: damage, unless the whole backup went meanwhile.
    async fn absent(
        &self,
        key: &ObjectKey,
        none: Vec<Option<Vec<u8>>>,
    ) -> (Vec<Option<Vec<u8>>>, Vec<Finding>, bool) {
        let seen = self.work.objects.prove(&self.work.ctx, Subject::CommitRecord(self.number)).await;
        match seen {
            Seen::Gone => (none, Vec::new(), true),
            Seen::Unknown(finding) => (none, vec![finding], false),
            Seen::Good(..) | Seen::Bad(_) => {
                let message = "the pack is missing";
                let finding =
                    Finding::new(FindingVerdict::Missing, FindingKind::Absent, key.as_str(), message);
                (none, vec![finding], false)
            }
        }
    }

    /// What a file turned out to be.
    fn finish(&self, file: &PlannedFile, mut open: OpenFile, keeps: bool) -> (Vec<Finding>, Vec<u8>) {
        let mut findings = Vec::new();
        let layout = self.work.objects.layout.backup(&self.record.id);
        let key = file.extents.first().map_or_else(|| layout.manifest(), |extent| self.pack(extent.pack));
        if open.short {
            let message = "a frame holds less than the manifest takes from it";
            findings.push(damaged(FindingKind::FileDiffers, &key, message).of_file(display(&file.path)));
        }
        if open.lost {
            return (findings, Vec::new());
        }
        open.zeros(file.bytes);
        let hash: [u8; 32] = open.hash.finalize().into();
        if hash != file.sha256 {
            let message = "the file is not what was backed up: its SHA-256 differs";
            findings.push(damaged(FindingKind::FileDiffers, &key, message).of_file(display(&file.path)));
        }
        if let Some(pages) = open.pages.filter(|pages| pages.count > 0) {
            findings.push(self.tell_pages(&key, file, pages));
        }
        (findings, if keeps { open.kept.unwrap_or_default() } else { Vec::new() })
    }

    fn tell_pages(&self, key: &ObjectKey, file: &PlannedFile, pages: Pages) -> Finding {
        let path = display(&file.path);
        let known = self.record.checksum_failures.iter().find(|failure| failure.path == path);
        let all_known = known.is_some_and(|known| {
            pages.count <= known.count
                && pages
                    .bad
                    .iter()
                    .all(|block| known.blocks.contains(block) || known.count > known.blocks.len() as u64)
        });
        let what = match pages.count {
            1 => "1 page does not match its checksum".to_owned(),
            more => format!("{more} pages do not match their checksums"),
        };
        let mut finding = if all_known {
            let message = format!("{what}: it was so in the server when the backup was taken");
            Finding::new(FindingVerdict::Notice, FindingKind::PageChecksum, key.as_str(), message)
        } else {
            damaged(FindingKind::PageChecksum, key, what)
        };
        finding.blocks = pages.bad;
        finding.of_file(path)
    }
}

fn lock(found: &Mutex<Found>) -> std::sync::MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn note(found: &Mutex<Found>, findings: Vec<Finding>, gone: bool) {
    let mut found = lock(found);
    found.gone |= gone;
    for finding in findings {
        let told = found
            .findings
            .iter()
            .any(|told| told.kind == finding.kind && told.key == finding.key && told.file == finding.file);
        if !told && found.findings.len() < TOLD_MAX {
            found.findings.push(finding);
        }
    }
}

/// Decompresses the frames of a read.
fn open_frames(
    read: &Read,
    stored: &Bytes,
    key: &ObjectKey,
    files: &[PlannedFile],
) -> (Vec<Option<Vec<u8>>>, Vec<Finding>) {
    let (mut frames, mut findings) = (Vec::new(), Vec::new());
    for frame in &read.frames {
        let range = usize::try_from(frame.offset.saturating_sub(read.range.start))
            .ok()
            .zip(usize::try_from(frame.bytes).ok());
        let slice = range.and_then(|(at, bytes)| stored.get(at..)?.get(..bytes)).unwrap_or_default();
        let opened = match zstd_safe::get_frame_content_size(slice) {
            Ok(Some(bytes)) if bytes <= EXTENT_BYTES_MAX => {
                open_extent(slice, bytes).map_err(|error| error.to_string())
            }
            Ok(_) => Err("it does not tell a size that a frame can have".to_owned()),
            Err(_) => Err("it is not a zstd frame".to_owned()),
        };
        match opened {
            Ok(plain) => frames.push(Some(plain)),
            Err(reason) => {
                let file = frame.runs.first().and_then(|run| files.get(run.file));
                let message = format!("the frame at {} is damaged: {reason}", frame.offset);
                let finding = damaged(FindingKind::HashDiffers, key, message);
                findings.push(match file {
                    Some(file) => finding.of_file(display(&file.path)),
                    None => finding,
                });
                frames.push(None);
            }
        }
    }
    (frames, findings)
}

/// A file whose bytes arrive.
struct OpenFile {
    hash: Sha256,
    /// The hash covers the file up to here.
    at: u64,
    /// The extent that comes next.
    next: usize,
    /// Extents that came before their turn.
    waiting: BTreeMap<usize, Vec<u8>>,
    /// A part of it could not be had; that is told already.
    lost: bool,
    /// A frame was good and did not hold what the manifest takes from it; nobody has told that yet.
    short: bool,
    pages: Option<Pages>,
    kept: Option<Vec<u8>>,
}

impl OpenFile {
    /// Takes the bytes of a run from its frame.
    fn take(&mut self, files: &[PlannedFile], run: Run, plain: Option<&[u8]>) {
        let Some(extent) = extent_of(files, run) else { return };
        let range = usize::try_from(extent.skip).ok().zip(usize::try_from(extent.bytes).ok());
        let bytes = range.and_then(|(skip, bytes)| plain?.get(skip..)?.get(..bytes));
        let Some(bytes) = bytes else {
            self.lost = true;
            self.short |= plain.is_some();
            return;
        };
        if self.lost {
            return;
        }
        if run.extent != self.next {
            self.waiting.insert(run.extent, bytes.to_vec());
            return;
        }
        self.feed(extent.file_offset, bytes);
        while let Some(bytes) = self.waiting.remove(&self.next) {
            let Some(extent) = extent_of(files, Run { extent: self.next, ..run }) else { break };
            self.feed(extent.file_offset, &bytes);
        }
    }

    fn feed(&mut self, offset: u64, bytes: &[u8]) {
        self.zeros(offset);
        self.next += 1;
        self.add(bytes);
    }

    /// Fills the hole up to an offset.
    fn zeros(&mut self, until: u64) {
        while self.at < until {
            let now = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.add(ZEROS.get(..now).unwrap_or_default());
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        if let Some(pages) = &mut self.pages {
            pages.feed(bytes);
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
    }
}

/// The pages of a relation's file, as they pass.
struct Pages {
    /// The number of the file's first block in its fork.
    first_block: u32,
    page_bytes: usize,
    /// Pages with a position from here on are repaired by replay.
    start_lsn: Lsn,
    partial: Vec<u8>,
    /// The next block in the file.
    at: u32,
    /// Blocks in the file whose checksum is wrong, the first hundred.
    bad: Vec<u32>,
    count: u64,
}

impl Pages {
    fn feed(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let room = self.page_bytes.saturating_sub(self.partial.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(room);
            self.partial.extend_from_slice(now);
            bytes = rest;
            if self.partial.len() < self.page_bytes {
                return;
            }
            let page = std::mem::take(&mut self.partial);
            self.check(&page);
        }
        let mut pages = bytes.chunks_exact(self.page_bytes);
        for page in pages.by_ref() {
            self.check(page);
        }
        self.partial.extend_from_slice(pages.remainder());
    }

    fn check(&mut self, page: &[u8]) {
        let block = self.first_block.saturating_add(self.at);
        let is_bad = DataPage::new(page).is_ok_and(|page| match page.verify(block) {
            PageVerdict::New | PageVerdict::Good => false,
            PageVerdict::Bad { lsn, .. } => lsn < self.start_lsn,
        });
        if is_bad {
            self.count += 1;
            if self.bad.len() < BLOCKS_NAMED_MAX {
                self.bad.push(self.at);
            }
        }
        self.at = self.at.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use walden_core::Extent;

    use super::*;

    #[test]
    fn a_good_frame_that_is_too_short_is_not_passed_over() {
        let extent = Extent { file_offset: 0, bytes: 8, pack: 0, frame_offset: 0, frame_bytes: 20, skip: 4 };
        let file = PlannedFile {
            path: b"base/1/1".to_vec(),
            bytes: 8,
            mode: 0o600,
            sha256: [0; 32],
            extents: vec![extent],
        };
        let open = || OpenFile {
            hash: Sha256::new(),
            at: 0,
            next: 0,
            waiting: BTreeMap::new(),
            lost: false,
            short: false,
            pages: None,
            kept: None,
        };
        let (files, run) = ([file], Run { file: 0, extent: 0 });
        let (mut short, mut absent, mut whole) = (open(), open(), open());
        short.take(&files, run, Some(&[0; 11]));
        assert!(short.lost && short.short);
        absent.take(&files, run, None);
        assert!(absent.lost && !absent.short, "that is told already");
        whole.take(&files, run, Some(&[0; 12]));
        assert!(!whole.lost && !whole.short && whole.at == 8);
    }
}
