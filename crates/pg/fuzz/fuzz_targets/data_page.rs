//! Data pages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::DataPage;

fuzz_target!(|input: (u32, &[u8])| {
    let (block, bytes) = input;
    for size in [1024, 8192, 32768] {
        let mut page = bytes.to_vec();
        page.resize(size, 0);
        let page = DataPage::new(&page).expect("a page size");
        assert_ne!(page.compute_checksum(block), 0);
        let _ = (page.verify(block), page.lsn(), page.is_zero());
    }
    let _ = DataPage::new(bytes);
});
