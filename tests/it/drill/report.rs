//! Reports of drills, and what `walden check` says of them.

use quick_xml::Reader;
use quick_xml::events::Event;
use walden_pg::PgMajor;

use super::Bench;
use crate::support::{describe, run};

/// Reads a page as XML; returns the names of its elements and all attributes.
fn read_page(page: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut reader = Reader::from_str(page);
    let (mut elements, mut attributes) = (Vec::new(), Vec::new());
    let mut open = 0;
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) | Event::Empty(tag) => {
                elements.push(String::from_utf8(tag.name().as_ref().to_vec()).unwrap());
                for attribute in tag.attributes() {
                    let attribute = attribute.unwrap();
                    let name = String::from_utf8(attribute.key.as_ref().to_vec()).unwrap();
                    attributes.push((name, String::from_utf8(attribute.value.to_vec()).unwrap()));
                }
                open += 1;
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(open > 20, "{page}");
    (elements, attributes)
}

#[test]
fn a_report_tells_everything_and_loads_nothing() {
    let bench = Bench::new(PgMajor::V17);
    let sql = bench.file("a.sql", "-- name: <script>alert(1)</script> & |pipes|\nSELECT false;\nSELECT true");
    bench.drill(0, &["--target-immediate", "--skip-check", "amcheck"]);
    bench.drill(24, &["--sql", sql.to_str().unwrap(), "--skip-check", "amcheck"]);
    let report = |options: &[&str]| {
        let output = run(&mut bench.walden.command(&[&["drill", "report"], options].concat()));
        assert!(output.status.success(), "{}", describe(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let page = report(&["--format", "html"]);
    let (elements, attributes) = read_page(&page);
    assert!(
        !elements.iter().any(|name| ["script", "img", "link", "iframe", "object"].contains(&name.as_str()))
    );
    for (name, value) in &attributes {
        assert!(!["src", "href", "onload", "style"].contains(&name.as_str()), "{name}={value}");
        assert!(!value.contains("://") || name == "xmlns", "{name}={value}");
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; |pipes|"));
    // One bar for each phase, and one for each drill of the trend.
    assert_eq!(elements.iter().filter(|name| *name == "rect").count(), 5 + 2);
    assert_eq!(elements.iter().filter(|name| *name == "svg").count(), 2);

    let text = report(&[]);
    assert!(text.starts_with("# Restore drill of main: FAILED\n"), "{text}");
    assert!(
        text.contains("| &lt;script>alert(1)&lt;/script> &amp; \\|pipes\\| | failed | not true |"),
        "{text}"
    );
    let first = bench.walden.json(&["drill", "list"])["drills"][0]["id"].as_str().unwrap().to_owned();
    let earlier = report(&[&first]);
    assert!(earlier.contains("passed") && !earlier.contains("checks failed"), "{earlier}");
    bench.walden.fails(2, &["drill", "report"]);
    bench.walden.fails(11, &["drill", "show", "20200101T000000Z-0000"]);
}
