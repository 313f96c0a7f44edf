//! What happens to a history's archive before it is asked: nothing, or something bad.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walden_pg::{SegmentId, TimelineId};
use walden_testkit::history::{Archive, Dice, WalFiles};

use crate::targets::Ground;
use crate::walden::{Walden, text};

/// What happened to an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nothing.
    None,
    /// These segments were deleted.
    Gap(Vec<SegmentId>),
    /// The newest segments of a timeline were deleted.
    ShortEnd(SegmentId),
    /// The first segment of a timeline, which holds the fork, was deleted.
    MissingFork(SegmentId),
    /// A history file was deleted.
    MissingHistory(TimelineId),
    /// A segment was archived with a flipped bit in it.
    FlippedBit(SegmentId, usize),
    /// The object of a segment was cut off.
    Torn(SegmentId),
}

/// A copy of a history's archive.
pub(crate) struct ArchiveCopy {
    pub(crate) damage: Damage,
    pub(crate) walden: Walden,
    pub(crate) wal: PathBuf,
    /// What PostgreSQL can get.
    pub(crate) files: WalFiles,
}

impl Damage {
    /// Draws something that is possible in this archive.
    pub(crate) fn draw(dice: &mut Dice, ground: &Ground<'_>) -> Self {
        let files = ground.files;
        let segments: Vec<SegmentId> = files.segments().iter().copied().collect();
        let forks: Vec<SegmentId> = files
            .histories()
            .values()
            .filter_map(|history| {
                let entry = history.entries().last()?;
                let number = files.segment_size().segment_of(entry.switch_lsn);
                Some(SegmentId::new(history.timeline(), number))
            })
            .filter(|id| files.segments().contains(id))
            .collect();
        let histories: Vec<TimelineId> = files.histories().keys().copied().collect();
        let any = *dice.pick(&segments).unwrap();
        match dice.weighted(&[4, 2, 4, 2, 4, 2]) {
            0 => {
                let holes = dice.between(1, 3);
                let some: BTreeSet<SegmentId> = (0..holes).map(|_| *dice.pick(&segments).unwrap()).collect();
                Self::Gap(some.into_iter().collect())
            }
            1 => Self::ShortEnd(any),
            2 => dice.pick(&forks).map_or(Self::ShortEnd(any), |fork| Self::MissingFork(*fork)),
            3 => dice.pick(&histories).map_or(Self::ShortEnd(any), |lost| Self::MissingHistory(*lost)),
            4 => {
                let length = usize::try_from(files.segment_size().bytes()).unwrap();
                let at = usize::try_from(dice.below(length as u64)).unwrap();
                Self::FlippedBit(any, at)
            }
            _ => Self::Torn(any),
        }
    }
}

impl ArchiveCopy {
    /// Copies the archive of `source` into `dir` and damages the copy.
    /// `data` is any data directory of the server.
    pub(crate) fn new(source: &Walden, files: &WalFiles, dir: &Path, damage: Damage, data: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let repository = dir.join("repository");
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("-a").arg(&source.repository).arg(&repository).status().unwrap().success());
        let walden = Walden::new(&repository, &dir.join("home"), Vec::new());
        let name = |id: &SegmentId| id.name(files.segment_size());
        let object = |id: &SegmentId| {
            let (name, timeline) = (name(id), id.timeline.hex());
            walden.incarnation().join(format!("wal/{timeline}/{:08X}/{name}.zst", name.log()))
        };
        match &damage {
            Damage::None => {}
            Damage::Gap(segments) => segments.iter().for_each(|id| fs::remove_file(object(id)).unwrap()),
            Damage::MissingFork(id) => fs::remove_file(object(id)).unwrap(),
            Damage::ShortEnd(first) => {
                let same = files.segments().iter().filter(|id| id.timeline == first.timeline && *id >= first);
                same.for_each(|id| fs::remove_file(object(id)).unwrap());
            }
            Damage::MissingHistory(timeline) => {
                fs::remove_file(walden.incarnation().join(format!("history/{}.history.zst", timeline.hex())))
                    .unwrap();
            }
            Damage::FlippedBit(id, at) => {
                // A record can begin in this segment and end in later ones: all are archived anew, in their order.
                let later = files.segments().range(*id..).take_while(|later| later.timeline == id.timeline);
                let later: Vec<&SegmentId> = later.collect();
                for id in &later {
                    fs::remove_file(object(id)).unwrap();
                }
                walden.adopt(data).unwrap();
                for segment in later {
                    let mut bytes = fs::read(files.dir().join(name(segment).to_string())).unwrap();
                    if segment == id {
                        bytes[*at] ^= 0x10;
                    }
                    push(&walden, &dir.join(name(segment).to_string()), &bytes, data);
                }
            }
            Damage::Torn(id) => {
                let object = object(id);
                let bytes = fs::read(&object).unwrap();
                fs::write(&object, &bytes[..bytes.len() * 2 / 3]).unwrap();
            }
        }
        let wal = dir.join("wal");
        fs::create_dir(&wal).unwrap();
        walden.unpack_wal(&wal).unwrap();
        let files = WalFiles::list(&wal, files.segment_size()).unwrap();
        Self { damage, walden, wal, files }
    }
}

/// Archives a segment. What does not look like this server's WAL at all is refused; then it is missing.
fn push(walden: &Walden, place: &Path, bytes: &[u8], data: &Path) {
    fs::write(place, bytes).unwrap();
    let mut push = walden.command(&["wal", "push", &text(place)]);
    let output = push.current_dir(data).output().unwrap();
    let refused = matches!(output.status.code(), Some(13 | 17));
    assert!(output.status.success() || refused, "{output:?}");
    fs::remove_file(place).unwrap();
}
