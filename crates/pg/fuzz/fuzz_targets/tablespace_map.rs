//! Tablespace maps: whatever parses and can be written is read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::{PgMajor, TablespaceMap};

fuzz_target!(|bytes: &[u8]| {
    for major in [PgMajor::V13, PgMajor::V18] {
        let Ok(map) = TablespaceMap::parse(bytes, major) else { continue };
        for target in [PgMajor::V13, PgMajor::V18] {
            if let Ok(rendered) = map.render(target) {
                assert_eq!(TablespaceMap::parse(&rendered, target), Ok(map.clone()));
            }
        }
    }
});
