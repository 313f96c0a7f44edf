//! The environment variables from which credentials and vendors' settings are taken, as a value.

use std::collections::BTreeMap;
use std::fmt;

/// A snapshot of environment variables.
///
/// A value, so that tests and embedders can give each store its own without touching the process. Its `Debug`
/// shows names only: the values may be secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// The value of a variable; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables whose name begins with `prefix`, by name.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.0.iter().filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty());
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_never_shown() {
        let environment: Environment =
            [("AWS_SECRET_ACCESS_KEY", "sEcReT"), ("AWS_REGION", "")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"["AWS_REGION", "AWS_SECRET_ACCESS_KEY"]"#);
        assert_eq!(environment.get("AWS_SECRET_ACCESS_KEY"), Some("sEcReT"));
        assert_eq!(environment.get("AWS_REGION"), None);
        assert_eq!(environment.with_prefix("AWS_").count(), 1);
    }
}
