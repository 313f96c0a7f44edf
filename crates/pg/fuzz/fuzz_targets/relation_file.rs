//! Names of relations' files: whatever parses is written as what was parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::relation_file::unlogged_relations;
use walden_pg::{RelationFile, RelationFileName};

fuzz_target!(|text: &str| {
    if let Some(file) = RelationFile::from_path(text) {
        let name = text.rsplit('/').next().expect("a last part");
        assert_eq!(file.name.to_string(), name);
    }
    if let Ok(name) = text.parse::<RelationFileName>() {
        assert_eq!(name.to_string(), text);
        let _ = name.is_left_out(&unlogged_relations([text]));
        let _ = name.first_block(131_072);
    }
});
