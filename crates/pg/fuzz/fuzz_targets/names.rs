//! Names and numbers in text: whatever parses is written as what was parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::{ArchiveFileName, Lsn, PgMajor, SegmentName, SystemId, TimelineId, WalSegmentSize};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<ArchiveFileName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(name) = text.parse::<SegmentName>() {
        assert_eq!(name.to_string(), text);
        for bits in 20..=30 {
            let size = WalSegmentSize::new(1 << bits).expect("a size");
            if let Ok(id) = name.id(size) {
                assert_eq!(id.name(size), name);
                let _ = name.next(size);
            }
        }
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(timeline) = text.parse::<TimelineId>() {
        assert_eq!(timeline.to_string(), text);
    }
    let _ = TimelineId::from_hex(text);
    let _ = text.parse::<SystemId>();
    let _ = text.parse::<PgMajor>();
});
