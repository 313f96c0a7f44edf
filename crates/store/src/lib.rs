//! Verified object I/O: what Walden asks of a store, and how far it believes the answers.
//!
//! - [`StoreUrl`], [`StoreConfig`] and [`Environment`] say where and how; [`Store::open`] makes a client of them.
//! - [`Store::create_once`] writes under a name that must be free, and settles every doubt by looking.
//! - [`Store::get`], [`Store::get_range`], [`Store::reader`] and [`Store::fetch_sealed`] read with every length and
//!   hash checked; [`Store::prove_visible`] turns "not found" into "absent".
//! - [`Store::get_index`] reads an object's index alone, and [`Store::replace_derived`] writes the only objects that may
//!   be overwritten.
//! - [`Sealer`] and [`Unsealer`] make and open sealed objects.
//! - [`RetryBudget`] is the one deadline for an operation and its repetitions; [`Store::counters`] say what it cost.
//! - [`RateLimiter`] holds everything that is moved to a number of bytes per second.
//! - [`Store::delete_many`] removes, and names what a lock keeps.
//! - [`Store::open_uploads`] finds what was begun and never finished; [`Store::bucket_settings`] what a bucket does by
//!   itself; [`Store::now`] what time it is there.
//! - [`Store::probe`] finds out what a store really does.
//!
//! What holds: nothing is overwritten but what is derived from the rest; nothing is reported as stored before the store has it durably; nothing is
//! reported as absent on the word of one "not found"; no length from outside decides how much memory is taken; no
//! secret gets into a message, a log or a `Debug`.

#[cfg(feature = "aws-sdk")]
mod aws_sdk;
mod budget;
mod chunks;
mod config;
mod counters;
mod create;
mod derived;
mod environment;
mod error;
mod failure;
mod fetch;
mod http;
mod identity;
mod list;
mod local;
mod odd;
mod open;
mod paced;
mod page;
mod probe;
mod random;
mod rate;
mod read;
mod remove;
mod s3;
mod seal;
mod settings;
mod store;
mod time;
mod unseal;
mod uploads;
mod url;
mod xml;

pub use budget::{BACKOFF_FIRST, BACKOFF_MAX, RetryBudget, TryLimits};
pub use chunks::{CHUNK_BYTES, Chunk, ChunkPool, Reservation};
pub use config::{
    AzureConfig, CONNECT_TIMEOUT, GcsConfig, OPERATION_TIMEOUT, REQUEST_TIMEOUT, S3Config,
    ServerSideEncryption, StoreConfig, THROUGHPUT_MIN, UploadChecksum,
};
pub use counters::{CounterSnapshot, Counters, Operation, OperationCount};
pub use create::{CreateOutcome, Existing};
pub use derived::IndexRead;
pub use environment::Environment;
pub use error::{Cause, Place, StoreError};
pub use identity::{SettingsFingerprint, settings_fingerprint, store_identity};
pub use list::{Level, Listed};
pub use page::FirstKeys;
pub use probe::PROBE_PREFIX;
pub use random::{random_number, seed_this_thread, seeded_number};
pub use rate::RateLimiter;
pub use read::{HeaderRead, ObjectReader};
pub use remove::{KeptObject, KeptReason, Removal};
pub use seal::{
    CompressionLevel, Contents, FrameExtent, HeaderFields, IdentityHash, SealError, SealTimes, SealedFrames,
    SealedObject, Sealer, seal_bytes,
};
pub use settings::{
    BucketSettings, DefaultRetention, LifecycleRule, LockMode, ObjectLock, Shown, Transition, Versioning,
};
pub use store::Store;
pub use unseal::{
    EXTENT_BYTES_MAX, Expected, UnsealError, Unsealed, Unsealer, open_extent, open_index, open_sealed,
};
pub use uploads::OpenUpload;
pub use url::{PREFIX_BYTES_MAX, Scheme, StoreUrl};
