//! A strict reader of OpenMetrics 1.0 text: what it takes, every scraper takes.

use std::collections::{BTreeMap, BTreeSet};

/// A page that keeps to the rules.
#[derive(Debug)]
pub(crate) struct Page {
    /// By name and labels as written.
    samples: BTreeMap<String, (BTreeMap<String, String>, f64)>,
}

impl Page {
    /// The value of a sample, by its name and labels as written.
    pub(crate) fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("{sample} is missing"))
    }

    /// The same, if it is there.
    pub(crate) fn find(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).map(|(_, value)| *value)
    }

    /// The value of a label of the only sample with this name.
    pub(crate) fn labels(&self, name: &str, label: &str) -> String {
        let mut found = self.samples.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
        found
            .next()
            .and_then(|(_, (labels, _))| labels.get(label))
            .unwrap_or_else(|| panic!("{name}"))
            .clone()
    }
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<String>,
    unit: Option<String>,
    help: bool,
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    samples: usize,
}

/// Reads a page.
pub(crate) fn parse(text: &str) -> Result<Page, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end in # EOF")?;
    if body.contains("# EOF") {
        return Err("# EOF stands in the middle".to_owned());
    }
    let (mut seen, mut family) = (BTreeSet::new(), Family::default());
    let mut page = Page { samples: BTreeMap::new() };
    for line in body.lines() {
        let failed = |why: &str| format!("{why}: {line}");
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut words = metadata.splitn(3, ' ');
            let (word, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let rest = words.next().ok_or_else(|| failed("metadata without a text"))?;
            if name != family.name {
                finish(&family)?;
                if !seen.insert(name.to_owned()) {
                    return Err(failed("a family is told of twice"));
                }
                family = Family { name: checked_name(name)?.to_owned(), ..Family::default() };
            } else if family.samples > 0 {
                return Err(failed("metadata behind samples"));
            }
            let twice = match word {
                "TYPE" => family.kind.replace(rest.to_owned()).is_some(),
                "UNIT" => family.unit.replace(rest.to_owned()).is_some(),
                "HELP" => std::mem::replace(&mut family.help, true),
                _ => return Err(failed("unknown metadata")),
            };
            if twice {
                return Err(failed("metadata given twice"));
            }
            continue;
        }
        let (name, labels, value) = sample(line).map_err(|why| failed(&why))?;
        check_sample(&mut family, &name, &labels, value).map_err(|why| failed(&why))?;
        let key = line.rsplit_once(' ').map_or(line, |(key, _)| key);
        if page.samples.insert(key.to_owned(), (labels, value)).is_some() {
            return Err(failed("a sample is given twice"));
        }
    }
    finish(&family)?;
    Ok(page)
}

fn checked_name(name: &str) -> Result<&str, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fits = name.starts_with("walden_") && name.chars().all(good) && !name.ends_with("_total");
    if fits { Ok(name) } else { Err(format!("not a good name: {name}")) }
}

/// Takes a sample line apart; timestamps and exemplars are not ours to give.
fn sample(line: &str) -> Result<(String, BTreeMap<String, String>, f64), String> {
    let (key, value) = line.rsplit_once(' ').ok_or("no value")?;
    let value: f64 = value.parse().map_err(|_| "the value is no number")?;
    let Some((name, rest)) = key.split_once('{') else { return Ok((key.to_owned(), BTreeMap::new(), value)) };
    let mut rest = rest.strip_suffix('}').ok_or("labels do not end")?;
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if label.is_empty() || !label.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("not a good label: {label}"));
        }
        let (text, after) = quoted(after)?;
        if labels.insert(label.to_owned(), text).is_some() {
            return Err("a label is given twice".to_owned());
        }
        rest = match after.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            Some(_) => return Err("a comma behind the last label".to_owned()),
            None if after.is_empty() => after,
            None => return Err("something between labels".to_owned()),
        };
    }
    Ok((name.to_owned(), labels, value))
}

/// The text up to the closing quote, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('"' | '\\'))) => c,
                _ => return Err("an unknown escape".to_owned()),
            }),
            c => value.push(c),
        }
    }
    Err("a label's value does not end".to_owned())
}

fn check_sample(
    family: &mut Family,
    name: &str,
    labels: &BTreeMap<String, String>,
    value: f64,
) -> Result<(), String> {
    family.samples += 1;
    let suffix = name.strip_prefix(&family.name).ok_or("not of the family that was told of")?;
    let kind = family.kind.clone().ok_or("no type was told")?;
    let counts = value >= 0.0 && value.is_finite();
    match (kind.as_str(), suffix) {
        ("gauge", "") => Ok(()),
        ("counter", "_total") if counts => Ok(()),
        ("info", "_info") if value.to_bits() == 1.0_f64.to_bits() && !labels.is_empty() => Ok(()),
        ("histogram", "_sum") if counts && labels.is_empty() => Ok(()),
        ("histogram", "_count") if counts && labels.is_empty() => {
            family.count = Some(value);
            Ok(())
        }
        ("histogram", "_bucket") if counts && labels.len() == 1 => {
            let le = labels.get("le").and_then(|le| le.parse().ok()).ok_or("a bucket without a bound")?;
            family.buckets.push((le, value));
            Ok(())
        }
        _ => Err(format!("{kind} can't have such a sample")),
    }
}

/// What holds for a family as a whole.
fn finish(family: &Family) -> Result<(), String> {
    let failed = |why: &str| Err(format!("{}: {why}", family.name));
    if family.name.is_empty() {
        return Ok(());
    }
    if family.kind.is_none() || !family.help {
        return failed("type and help must both be told");
    }
    if family.unit.as_ref().is_some_and(|unit| !family.name.ends_with(&format!("_{unit}"))) {
        return failed("the name does not end in the unit");
    }
    if family.kind.as_deref() == Some("histogram") {
        let rising = family.buckets.windows(2).all(|pair| matches!(pair, [a, b] if a.0 < b.0 && a.1 <= b.1));
        let last = family.buckets.last().copied();
        if !rising || last.is_none_or(|(bound, count)| bound != f64::INFINITY || Some(count) != family.count)
        {
            return failed("buckets must rise to +Inf and to the count");
        }
    }
    Ok(())
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP walden_a help\n# TYPE walden_a counter\nwalden_a_total{b=\"c\"} 1\n# EOF\n";
    assert_eq!(parse(good).unwrap().value("walden_a_total{b=\"c\"}").to_bits(), 1.0_f64.to_bits());
    for (from, to) in [
        ("# EOF\n", ""),
        ("_total", ""),
        (" 1\n", " -1\n"),
        (" 1\n", " x\n"),
        ("counter", "gauge"),
        ("# HELP walden_a help\n", ""),
        ("# TYPE walden_a counter\n", ""),
        ("{b=\"c\"}", "{b=\"c\",}"),
        ("{b=\"c\"}", "{b=\"c\\x\"}"),
        ("{b=\"c\"} 1\n", "{b=\"c\"} 1\nwalden_a_total{b=\"c\"} 1\n"),
        ("# HELP walden_a help\n", "# HELP walden_a help\n# UNIT walden_a seconds\n"),
        ("# EOF", "\n# EOF"),
        ("walden_a_total", "walden_b_total"),
    ] {
        assert!(parse(&good.replace(from, to)).is_err(), "{from:?} to {to:?}");
    }
}
