//! `pg_control`, as it comes and with its checksum put right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::ControlFile;

fuzz_target!(|bytes: &[u8]| {
    let _ = ControlFile::parse(bytes);
    for offset in [288, 292] {
        let mut bytes = bytes.to_vec();
        if let Some(body) = bytes.get(..offset) {
            let crc = crc32c::crc32c(body);
            if let Some(field) = bytes.get_mut(offset..offset + 4) {
                field.copy_from_slice(&crc.to_le_bytes());
            }
        }
        let _ = ControlFile::parse(&bytes);
    }
});
