//! Headers of WAL pages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::{PageHeader, SegmentHeader};

fuzz_target!(|bytes: &[u8]| {
    let page = PageHeader::parse(bytes);
    if let Ok(segment) = SegmentHeader::parse(bytes) {
        assert_eq!(page, Ok(segment.page));
    }
});
