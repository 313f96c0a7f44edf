//! A file that PostgreSQL wants archived: what it says of itself, and reading it once.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use walden_core::index::{SegmentIndex, SegmentIndexer};
use walden_core::{
    ErrorKind, INDEX_BYTES_MAX, Incarnation, Incoming, SegmentFacts, WalIdentity, judge_archive,
};
use walden_pg::{ArchiveFileName, SegmentHeader, TimelineHistory, TimelineId};
use walden_store::{
    CompressionLevel, Contents, HeaderFields, IdentityHash, SealError, SealedFrames, SealedObject, Sealer,
};

use super::TEXT_BYTES_MAX;
use super::indexing::Indexing;
use super::pipeline::FileIdentity;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;

/// A file that PostgreSQL wants archived, opened and looked at.
#[derive(Debug)]
pub(super) struct WalFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) name: ArchiveFileName,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    /// As the file was when it was opened, before anything of it was read.
    pub(super) identity: FileIdentity,
    pub(super) facts: Option<SegmentFacts>,
}

impl WalFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = path.file_name().unwrap_or_default().to_string_lossy();
        let name: ArchiveFileName = text.parse().map_err(|_| {
            let message = format!("not the name of a file that PostgreSQL archives name={text:?}");
            EngineError::failed(ErrorKind::Invalid, message)
                .with_hint("archive_command must pass %p: walden wal push %p")
        })?;
        let failed = |source| EngineError::local("open", path, source);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let message = format!("not a regular file path={}", path.display());
            return Err(EngineError::failed(ErrorKind::Invalid, message));
        }
        let mut opened = Self {
            path: path.to_owned(),
            file,
            name,
            bytes: metadata.len(),
            modified: metadata.modified().map_err(failed)?,
            identity: FileIdentity::of(&metadata),
            facts: None,
        };
        if opened.name.is_segment_sized() {
            opened.facts = opened.read_facts()?;
        } else if opened.bytes > TEXT_BYTES_MAX {
            let message = format!("too large for a history file name={name} bytes={}", opened.bytes);
            return Err(EngineError::failed(ErrorKind::Invalid, message));
        }
        if let ArchiveFileName::History(timeline) = opened.name {
            opened.check_history(timeline)?;
        }
        // What the file says of itself is judged before anyone is asked about it.
        judge_archive(&opened.incoming(), None)?;
        Ok(opened)
    }

    /// A history that can't be read, or names no parent, would be kept for ever in the right one's place.
    fn check_history(&self, timeline: TimelineId) -> Result<()> {
        let bytes = read_if_present(&self.path, TEXT_BYTES_MAX)?.unwrap_or_default();
        let history = TimelineHistory::parse(timeline, &bytes)
            .map_err(|source| EngineError::Format { what: self.path.display().to_string(), source })?;
        if history.entries().is_empty() {
            let message = format!("the history file names no parent name={}", self.name);
            return Err(
                EngineError::failed(ErrorKind::Invalid, message).with_hint("it is torn: look at the disk")
            );
        }
        Ok(())
    }

    fn read_facts(&self) -> Result<Option<SegmentFacts>> {
        use std::os::unix::fs::FileExt;
        let mut page = [0; 64];
        let mut filled = 0;
        while let Some(rest) = page.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(EngineError::local("read", &self.path, source)),
            }
        }
        let Ok(header) = SegmentHeader::parse(page.get(..filled).unwrap_or_default()) else {
            return Ok(None);
        };
        Ok(Some(SegmentFacts {
            major: header.page.major,
            system_id: header.system_id,
            timeline: header.page.timeline,
            segment_size: header.segment_size,
            page_address: header.page.address,
        }))
    }

    pub(super) fn incoming(&self) -> Incoming {
        Incoming { name: self.name, bytes: self.bytes, facts: self.facts }
    }

    /// Whose file it is: a segment says so itself, a history file is its data directory's.
    pub(super) fn incarnation(&self, data: Option<&DataDirectory>) -> Result<Incarnation> {
        match (self.facts, data) {
            (Some(facts), _) => Ok(Incarnation { system_id: facts.system_id, major: facts.major }),
            (None, Some(data)) => data.incarnation(),
            (None, None) => Err(EngineError::failed(
                ErrorKind::Config,
                format!("whose file this is can't be seen: no data directory around it name={}", self.name),
            )
            .with_hint(
                "run it in the data directory, as PostgreSQL does, or give an absolute path into its pg_wal",
            )),
        }
    }

    /// The timeline whose history must be in the archive before this file.
    pub(super) fn needs_history(&self) -> Option<TimelineId> {
        self.facts.is_some().then(|| self.name.timeline()).filter(|timeline| *timeline > TimelineId::FIRST)
    }

    pub(super) fn wal_identity(&self) -> Option<WalIdentity> {
        let facts = self.facts?;
        Some(WalIdentity {
            system_id: facts.system_id,
            timeline: self.name.timeline(),
            segment_size: facts.segment_size,
            start_lsn: facts.page_address,
            end_lsn: facts.page_address.saturating_add(facts.segment_size.bytes()),
            summary: None,
        })
    }

    /// The data directory as far as the path shows it, for messages.
    pub(super) fn instance(&self) -> String {
        let absolute = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.parent().and_then(Path::parent).unwrap_or(&absolute).display().to_string()
    }

    /// The name must still lead to the file that was read, and nothing may have been written to it meanwhile: a
    /// segment that PostgreSQL recycles under us becomes another one.
    fn refuse_changed(&self) -> Result<()> {
        let failed = |source| EngineError::local("look at", &self.path, source);
        let (named, read) = (self.path.metadata().map_err(failed)?, self.file.metadata().map_err(failed)?);
        let same = (named.dev(), named.ino()) == (read.dev(), read.ino());
        if same && read.len() == self.bytes && read.modified().map_err(failed)? == self.modified {
            return Ok(());
        }
        let message = format!("the file changed while it was read name={}", self.name);
        Err(EngineError::failed(ErrorKind::Invalid, message))
    }

    /// Reads the file once: hashed, compressed and indexed on the way.
    pub(super) fn seal(
        mut self,
        level: CompressionLevel,
        fields: HeaderFields,
        indexing: Option<&Indexing>,
    ) -> Result<Sealed> {
        let mut sealer = Sealer::new(level, IdentityHash::Plain).map_err(seal_failed)?;
        sealer.start_with(level, IdentityHash::Plain, self.contents(), None).map_err(seal_failed)?;
        sealer.begin_frame(self.bytes).map_err(seal_failed)?;
        let mut indexer = indexing.and_then(Indexing::begin);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    sealer.write(bytes).map_err(seal_failed)?;
                    if let Some(indexer) = &mut indexer {
                        indexer.feed(bytes);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(EngineError::local("read", &self.path, source)),
            }
        }
        sealer.end_frame().map_err(seal_failed)?;
        self.refuse_changed()?;
        let mut index = indexer.map(SegmentIndexer::finish);
        if let (Some(index), Some(indexing)) = (&mut index, indexing) {
            index.siblings = indexing.siblings();
        }
        Sealed::close(sealer.take_frames().map_err(seal_failed)?, fields, index)
    }

    /// What the compressor may count on.
    pub(super) fn contents(&self) -> Contents {
        if self.facts.is_some() { Contents::Wal } else { Contents::Any }
    }
}

/// A file, ready to be stored.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) object: SealedObject,
    /// What was found in it, for segments.
    pub(super) index: Option<SegmentIndex>,
}

impl Sealed {
    /// Closes an object whose frames are made, with the index of what is in it.
    pub(super) fn close(
        frames: SealedFrames,
        mut fields: HeaderFields,
        index: Option<SegmentIndex>,
    ) -> Result<Self> {
        if let (Some(index), Some(wal)) = (&index, &mut fields.wal) {
            wal.summary = Some(index.summary);
        }
        // An index that does not fit would only be missed; the segment would be missing.
        let encoded =
            index.as_ref().map(SegmentIndex::encode).filter(|encoded| encoded.len() <= INDEX_BYTES_MAX);
        let object = frames.into_object(fields, encoded.as_deref()).map_err(seal_failed)?;
        Ok(Self { object, index })
    }
}

pub(super) fn seal_failed(error: SealError) -> EngineError {
    match error {
        SealError::Length { announced, given } => EngineError::failed(
            ErrorKind::Invalid,
            format!("the file changed while it was read announced={announced} given={given}"),
        ),
        other => EngineError::failed(ErrorKind::Internal, other.to_string()),
    }
}
