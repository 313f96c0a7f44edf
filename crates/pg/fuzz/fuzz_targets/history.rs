//! Timeline histories: whatever parses is written to the same history, and every position is found.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::{Lsn, TimelineHistory, TimelineId};

fuzz_target!(|input: (u32, u64, &[u8])| {
    let (number, at, bytes) = input;
    let Ok(timeline) = TimelineId::new(number) else { return };
    let Ok(history) = TimelineHistory::parse(timeline, bytes) else { return };
    let found = history.timeline_of(Lsn::new(at));
    assert!(history.contains(found));
    assert!(history.ranges().any(|range| range.timeline == found && range.contains(Lsn::new(at))));
    let again = TimelineHistory::parse(timeline, history.render().as_bytes()).expect("what was rendered");
    assert_eq!(again.entries().len(), history.entries().len());
    for (old, new) in history.entries().iter().zip(again.entries()) {
        assert_eq!((old.timeline, old.switch_lsn), (new.timeline, new.switch_lsn));
    }
});
