//! Names in a listing that can't be keys.
//!
//! A bucket may hold `a//b` or `./c`. object_store gives up on a whole page for one such name. They are nobody's that
//! writes through us, so they are taken out of the page before it gets there, and remembered.

use object_store::path::Path;

/// The forms of an entry: its element and the element in it that names it. S3 and Google, then Azure.
const FORMS: [(&str, &str); 4] =
    [("Contents", "Key"), ("CommonPrefixes", "Prefix"), ("Blob", "Name"), ("BlobPrefix", "Name")];

/// Takes the entries whose names can't be keys out of a page; `None` when there are none. Gives their names.
pub(crate) fn without_odd_names(page: &str) -> Option<(String, Vec<String>)> {
    let mut names = Vec::new();
    let mut cuts = Vec::new();
    for (element, name) in FORMS {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let mut at = 0;
        while let Some(begin) = find(page, at, &open) {
            let Some(end) = find(page, begin, &close).map(|end| end + close.len()) else { break };
            at = end;
            let entry = page.get(begin..end).unwrap_or_default();
            if let Some(name) = name_in(entry, name)
                && Path::parse(&name).is_err()
            {
                names.push(name);
                cuts.push(begin..end);
            }
        }
    }
    if cuts.is_empty() {
        return None;
    }
    cuts.sort_by_key(|cut| cut.start);
    let (mut left, mut at) = (String::with_capacity(page.len()), 0);
    for cut in cuts {
        left.push_str(page.get(at..cut.start).unwrap_or_default());
        at = at.max(cut.end);
    }
    left.push_str(page.get(at..).unwrap_or_default());
    Some((left, names))
}

fn find(page: &str, from: usize, what: &str) -> Option<usize> {
    Some(from + page.get(from..)?.find(what)?)
}

/// The text of the first element `name` in an entry; the element may have attributes.
fn name_in(entry: &str, name: &str) -> Option<String> {
    let (_, rest) = entry.split_once(&format!("<{name}"))?;
    let (attributes, rest) = rest.split_once('>')?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    if attributes.contains("Encoded") {
        return Some(format!("(encoded) {text}"));
    }
    Some(quick_xml::escape::unescape(text).ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_keys_are_taken_out() {
        let entry = |key: &str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let below = |prefix: &str| format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
        let good = [entry("a/b"), entry("a/c&amp;d"), entry("a/"), below("a/e/")];
        assert_eq!(without_odd_names(&format!("<R><Prefix>a//</Prefix>{}</R>", good.concat())), None);
        let page = format!(
            "<R>{}{}{}{}{}{}</R>",
            good[0],
            entry("a//x"),
            good[1],
            entry("a/../y&lt;"),
            below("a//"),
            good[3]
        );
        let (left, names) = without_odd_names(&page).unwrap();
        assert_eq!(left, format!("<R>{}{}{}</R>", good[0], good[1], good[3]));
        assert_eq!(names, ["a//x", "a/../y<", "a//"]);
    }

    #[test]
    fn azures_form_is_known() {
        let blob = |name: &str| format!("<Blob><Name>{name}</Name><Properties/></Blob>");
        let page =
            format!("<Blobs>{}{}<BlobPrefix><Name>x//</Name></BlobPrefix></Blobs>", blob("a"), blob("b//c"));
        let (left, names) = without_odd_names(&page).unwrap();
        assert_eq!(left, format!("<Blobs>{}</Blobs>", blob("a")));
        assert_eq!(names, ["b//c", "x//"]);
    }
}
