//! `docs/reliability.md` names tests that are there.

use std::path::Path;

#[test]
fn every_test_that_the_documentation_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let mut count = 0;
    for line in text.lines().filter(|line| line.starts_with("- `")) {
        let mut parts = line.split('`').skip(1).step_by(2);
        let (Some(file), Some(name)) = (parts.next(), parts.next()) else { continue };
        let source = std::fs::read_to_string(root.join(file));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
        count += 1;
    }
    assert!(count > 50, "only {count} tests were found");
}
