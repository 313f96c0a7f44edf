//! The little XML that stores answer with, as a tree.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Answers are a few levels deep; what is deeper is none that we know.
const DEPTH_MAX: usize = 16;

/// One element: its name without a prefix, its text, and the elements in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Self>,
}

impl Element {
    /// Takes a document apart; `None` for what is none.
    pub(crate) fn parse(document: &[u8]) -> Option<Self> {
        let mut reader = Reader::from_reader(document);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let done = match reader.read_event().ok()? {
                Event::Start(start) if open.len() < DEPTH_MAX => {
                    open.push(Self::begin(&start)?);
                    None
                }
                Event::Start(_) | Event::Eof => return None,
                Event::Empty(start) => Some(Self::begin(&start)?),
                Event::End(_) => Some(open.pop()?),
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.decode().ok()?);
                    }
                    None
                }
                Event::CData(text) => {
                    open.last_mut()?.text.push_str(std::str::from_utf8(&text).ok()?);
                    None
                }
                Event::GeneralRef(reference) => {
                    let element = open.last_mut()?;
                    match reference.resolve_char_ref().ok()? {
                        Some(character) => element.text.push(character),
                        None => element.text.push_str(entity(&reference)?),
                    }
                    None
                }
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => None,
            };
            let Some(mut done) = done else { continue };
            if !done.children.is_empty() {
                // White space between elements says nothing.
                done.text.clear();
            }
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => return Some(done),
            }
        }
    }

    fn begin(start: &BytesStart<'_>) -> Option<Self> {
        let name = std::str::from_utf8(start.local_name().into_inner()).ok()?.to_owned();
        Some(Self { name, ..Self::default() })
    }

    /// The elements of this name directly in it.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element of this name directly in it.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first element of this name directly in it, without white space around it.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    /// The text of the first element of this name directly in it, as a number or the like.
    pub(crate) fn value_of<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text_of(name)?.parse().ok()
    }
}

fn entity(name: &[u8]) -> Option<&'static str> {
    Some(match name {
        b"lt" => "<",
        b"gt" => ">",
        b"amp" => "&",
        b"apos" => "'",
        b"quot" => "\"",
        _ => return None,
    })
}

/// `text` as it may stand between two tags.
pub(crate) fn escaped(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_become_trees() {
        let xml = br#"<?xml version="1.0"?><r xmlns="x"> <a>1 &lt;&#65;&amp;</a><p:b><c/></p:b><a>2</a></r>"#;
        let tree = Element::parse(xml).unwrap();
        assert_eq!(tree.name, "r");
        assert_eq!(tree.text_of("a"), Some("1 <A&"));
        assert_eq!(tree.all("a").count(), 2);
        assert!(tree.child("b").is_some_and(|b| b.child("c").is_some()));
        assert_eq!(tree.all("a").nth(1).unwrap().text.parse(), Ok(2));
        assert_eq!(Element::parse(escaped_round_trip().as_bytes()).unwrap().text, "a<b>&\"'");
    }

    fn escaped_round_trip() -> String {
        format!("<r>{}</r>", escaped("a<b>&\"'"))
    }

    #[test]
    fn what_is_no_document_is_none() {
        let deep = format!("{}{}", "<a>".repeat(50), "</a>".repeat(50));
        for bad in ["", "text", "<a>", "<a></b>", "<a>&nope;</a>", deep.as_str()] {
            assert_eq!(Element::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Element::parse(b"<a>\xff</a>"), None);
    }
}
