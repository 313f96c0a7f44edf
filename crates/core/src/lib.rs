//! The domain of Walden: pure data and pure decisions over it.
//!
//! Nothing here reads a clock, a disk or a network: the caller brings a snapshot of the catalog and the
//! time, and gets a plan, a verdict or a refusal with its reason. Executors carry plans out and never
//! decide again.

mod drill;
mod envelope;
mod error;
pub mod index;
mod judge;
mod layout;
mod manifest;
mod pressure;
mod records;
mod recovery;
mod retention;
mod sealed;
mod snapshot;
mod verify;

pub use drill::{
    Draw, DrillBackup, DrillCheck, DrillCommit, DrillDraw, DrillError, DrillOutcome, DrillPhase, DrillRecord,
    DrillStop, DrillTarget, DrillVersions, draw_targets,
};
pub use envelope::{EnvelopeError, RecordKind, decode_envelope, encode_envelope, hex, sha256_hex};
pub use error::{ErrorKind, NameError};
pub use judge::{ArchiveVerdict, Incoming, SegmentFacts, SegmentFault, judge_archive};
pub use layout::{
    ArchiveObject, BackupId, BackupLayout, DerivedKey, Incarnation, IncarnationLayout, ObjectKey,
    ServerLayout, ServerName, repository_key,
};
pub use manifest::{Extent, FileEntry, ManifestEntry, ManifestHeader, ManifestPath, ManifestTotals};
pub use pressure::{
    Pressure, PressureUnknown, WalMark, WalPressure, WalSample, WalSpace, judge_pressure, pressure_unknown,
    samples_of_marks,
};
pub use records::{
    Adoption, BackupKind, BackupRecord, BackupSource, Capabilities, ChecksumFailure, ConditionalCreate,
    IncarnationEntry, IncarnationRecord, ObjectReference, RepositoryRecord, ServerRecord, ServerSettings,
    Tablespace, Writer,
};
pub use recovery::{
    BackupChoice, BackupRejection, Commit, Estimate, Moment, Need, ParameterMark, PathStep, Planning,
    RecordSpan, RecoveryAction, RecoveryPlan, RecoveryRates, RecoveryRequest, RecoveryTarget, RecoveryWindow,
    Refusal, RefusalReason, RejectedBackup, RestorableBackup, RestorableRange, RestorePointMark,
    SegmentDetail, SegmentEnd, SegmentNeeds, Setting, Stop, StopKind, TargetTimeline, TimelineWindow,
    TransactionEndMark, WindowGap, Windowing, plan_recovery, postgres_time, recovery_window,
};
pub use retention::{
    BackupName, BackupObjects, Broken, Deletion, Fate, FileObject, GroupChange, GroupKind, HowLong,
    IncarnationInventory, Inventory, KeepReason, LeaseRecord, LeaseState, LogDirectory, LostMoments,
    ObjectGroup, OpenUpload, Pin, PinRecord, PlanDiff, PolicyError, PolicyZone, PromisedWindow, RecordObject,
    RecordRole, RemoveReason, Retaining, RetentionBegun, RetentionDone, RetentionNeed, RetentionOutcome,
    RetentionPlan, RetentionPolicy, RetentionRefusal, RetentionRefusalReason, RetentionRunRecord,
    RetentionWarning, RetentionWarningKind, RunningBackup, Tier, Totals, WindowChange, Written, check_plan,
    diff_plans, plan_removal, plan_retention,
};
pub use sealed::{
    CODEC_ZSTD, HEADER_FRAME_BYTES_MAX, INDEX_BYTES_MAX, ObjectHeader, ObjectKind, SEALED_SCHEMA,
    SealedError, WalIdentity, decode_header_frame, decode_index_frame, encode_header_frame,
    encode_index_frame, encode_padded_header_frame,
};
pub use snapshot::{CatalogSnapshot, Listed, SegmentRun, Stray};
pub use verify::{
    BACKUP_PART_BYTES, Consequences, Finding, FindingKind, FindingVerdict, Losses, PROOF_BYTES, Proof,
    ProofId, ProofMemory, Subject, Tally, VerifyInventory, VerifyLevel, VerifyObject, VerifyPlan,
    VerifyRecord, VerifyRequest, VerifySample, VerifyScope, WalScope, backup_parts, consequences,
    plan_verify, wal_behind, wal_within,
};
