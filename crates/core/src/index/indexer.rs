//! Making the index of a segment in one pass over its bytes.

use walden_pg::wal::{OnDamage, SegmentOutcome, Stop, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, PgMajor, SegmentName, SegmentNumber, SystemId, WalSegmentSize};

use super::collect::{Collector, may_matter};
use super::error::{IndexError, Result};
use super::facts::{SegmentSummary, Straddler, WalFlags};
use super::segment_index::{Carry, DamageNote, FRAGMENT_BYTES_MAX, Fragment, SegmentIndex};

/// What an indexer is to expect.
#[derive(Debug, Clone, Copy)]
pub struct IndexerOptions {
    /// The server's segment size.
    pub segment_size: WalSegmentSize,
    /// The server's system identifier; `None` takes that of the segment.
    pub system_id: Option<SystemId>,
    /// The server's major version; `None` takes that of the segment.
    pub major: Option<PgMajor>,
    /// So many rows deleted or updated in one relation make a transaction worth an event.
    pub mass_change_rows: u64,
}

impl IndexerOptions {
    /// The default of [`IndexerOptions::mass_change_rows`].
    pub const DEFAULT_MASS_CHANGE_ROWS: u64 = 10_000;

    /// Options for a server with this segment size, with nothing else known.
    #[must_use]
    pub const fn new(segment_size: WalSegmentSize) -> Self {
        Self { segment_size, system_id: None, major: None, mass_change_rows: Self::DEFAULT_MASS_CHANGE_ROWS }
    }
}

/// Makes the index of one segment from its bytes, which come in pieces of any size.
///
/// Its memory is bounded whatever the bytes are, but for the touched blocks, which grow with the segment.
#[derive(Debug)]
pub struct SegmentIndexer {
    options: IndexerOptions,
    name: SegmentName,
    number: SegmentNumber,
    scanner: WalScanner,
    collector: Collector,
    /// Where the last record before the segment begins, if the carry told.
    record_before: Option<Lsn>,
}

impl SegmentIndexer {
    /// An indexer for the segment `name`. With the index of the segment before it, records and transactions that
    /// reach over the border are seen whole; any other index than that is passed over.
    ///
    /// # Errors
    /// [`IndexError::SegmentName`] if no segment of this size has such a name.
    pub fn new(options: IndexerOptions, name: SegmentName, previous: Option<&SegmentIndex>) -> Result<Self> {
        let number = name.id(options.segment_size).map_err(IndexError::SegmentName)?.number;
        let mut scanner = WalScanner::new(WalScannerOptions {
            system_id: options.system_id,
            major: options.major,
            on_damage: OnDamage::Resync,
            max_head_bytes: FRAGMENT_BYTES_MAX,
            ..WalScannerOptions::new(options.segment_size)
        });
        let carry = previous.map(|previous| &previous.carry).filter(|carry| carry.next == Some(number));
        if let Some(carry) = carry.filter(|carry| carry.pending.as_ref().is_none_or(Fragment::can_be_joined))
        {
            scanner.resume(number, carry.last_record, carry.pending.as_ref().map(Fragment::as_pending));
        }
        scanner.begin_segment(name).map_err(IndexError::SegmentName)?;
        let collector = Collector::new(options.mass_change_rows, carry);
        let record_before = carry.and_then(|carry| carry.last_record);
        Ok(Self { options, name, number, scanner, collector, record_before })
    }

    /// Takes the next bytes of the segment.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { scanner, collector, .. } = self;
        scanner.feed(bytes, |record| collector.record(record));
    }

    /// The index, after the last bytes.
    #[must_use]
    pub fn finish(mut self) -> SegmentIndex {
        let Self { scanner, collector, .. } = &mut self;
        let outcome = scanner.finish_segment(|record| collector.record(record));
        let flags = &mut collector.facts.flags;
        match outcome.stop {
            Stop::SwitchTail { .. } => flags.add(WalFlags::SWITCHED),
            Stop::ZeroTail { .. } | Stop::RecycledTail { .. } | Stop::Truncated { .. } => {
                flags.add(WalFlags::ENDS_EARLY);
            }
            _ => {}
        }
        if outcome.is_damaged() {
            flags.add(WalFlags::DAMAGED);
        }
        if !outcome.overwritten.is_empty() {
            flags.add(WalFlags::OVERWRITTEN_RECORD);
        }
        // The drop of a database is only known to be one at its commit.
        collector.events.sort_by_key(|event| event.lsn);
        let (damage, damage_count) = damage_of(&outcome);
        let carry = self.carry(&outcome);
        let straddler = self.straddler(&outcome);
        let joined = outcome.joined;
        SegmentIndex {
            segment: self.name,
            segment_size: self.options.segment_size,
            major: self.options.major.or(self.collector.major),
            summary: SegmentSummary {
                facts: self.collector.facts,
                wal_end: outcome.end.unwrap_or(self.options.segment_size.start_of(self.number)),
                joined,
                straddler,
            },
            blocks: self.collector.touched.finish(),
            damage,
            damage_count,
            head: if joined { Vec::new() } else { self.scanner.head_bytes().to_vec() },
            head_bytes: if joined { 0 } else { outcome.head },
            carry,
            siblings: Vec::new(),
            first_record: self.collector.first,
            events: self.collector.events,
        }
    }

    fn straddler(&self, outcome: &SegmentOutcome) -> Option<Straddler> {
        let pending = self.scanner.pending_bytes()?;
        outcome.pending.map(|record| Straddler { lsn: record.lsn, matters: may_matter(pending.bytes) })
    }

    fn carry(&mut self, outcome: &SegmentOutcome) -> Carry {
        if !matches!(outcome.stop, Stop::SegmentEnd | Stop::SwitchTail { .. }) {
            return Carry::default();
        }
        let mut carry = Carry {
            next: Some(self.number.next()),
            last_record: outcome.last_record.or(self.record_before.filter(|_| outcome.joined)),
            pending: self.scanner.pending_bytes().map(|pending| Fragment {
                lsn: pending.lsn,
                have: pending.have,
                total: pending.total,
                checksum: pending.checksum,
                bytes: pending.bytes.get(..FRAGMENT_BYTES_MAX).unwrap_or(pending.bytes).to_vec(),
            }),
            ..Carry::default()
        };
        self.collector.carry(&mut carry);
        carry
    }
}

fn damage_of(outcome: &SegmentOutcome) -> (Vec<DamageNote>, u64) {
    let last = match &outcome.stop {
        Stop::Corrupt(damage) => Some(damage),
        _ => None,
    };
    let note =
        |damage: &walden_pg::wal::Damage| DamageNote { lsn: damage.lsn, what: damage.fault.to_string() };
    let notes = outcome.damage.iter().chain(last).take(SegmentOutcome::MAX_DAMAGE).map(note).collect();
    (notes, outcome.damage_count + u64::from(last.is_some()))
}
