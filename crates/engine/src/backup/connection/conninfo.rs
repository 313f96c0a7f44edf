//! The texts that say how to reach a server: connection strings and URLs, the service file, the password file.
//!
//! PostgreSQL source: `src/interfaces/libpq/fe-connect.c`. No message repeats a value, because any may be a
//! password.

use std::collections::BTreeMap;

/// Connection parameters by libpq's keyword.
pub(super) type Parameters = BTreeMap<String, String>;

/// Parses `key = value …` or `postgresql://…`, as libpq does. A text without either form is a database's name.
///
/// # Errors
/// What is wrong with it, without any of its values.
pub(super) fn parse(text: &str) -> Result<Parameters, String> {
    let url = ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    match url {
        Some(rest) => parse_url(rest),
        None if text.contains('=') => parse_pairs(text),
        None => Ok(BTreeMap::from([("dbname".to_owned(), text.trim().to_owned())])),
    }
}

/// Parses `key = value` pairs; values with spaces stand in single quotes, a backslash takes the next character
/// as it is.
fn parse_pairs(text: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("the connection string ends inside a keyword")?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("the connection string has a keyword without a value".to_owned());
        }
        let (value, after) = take_value(after.trim_start())?;
        parameters.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(parameters)
}

/// Takes one value off the front.
fn take_value(text: &str) -> Result<(String, &str), String> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, next)| next)),
            '\'' if quoted.is_some() => return Ok((value, body.get(at + 1..).unwrap_or_default())),
            char if char.is_whitespace() && quoted.is_none() => {
                return Ok((value, body.get(at..).unwrap_or_default()));
            }
            char => value.push(char),
        }
    }
    match quoted {
        Some(_) => Err("the connection string ends inside a quoted value".to_owned()),
        None => Ok((value, "")),
    }
}

/// Parses what follows the scheme: `[user[:password]@][host[:port],…][/database][?key=value&…]`.
fn parse_url(text: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::new();
    let (front, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = match front.split_once('/') {
        Some((authority, database)) => (authority, Some(database)),
        None => (front, None),
    };
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let mut set = |key: &str, value: &str| -> Result<(), String> {
        if !value.is_empty() {
            parameters.insert(key.to_owned(), percent_decode(value)?);
        }
        Ok(())
    };
    if let Some(user) = user {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        set("user", user)?;
        set("password", password)?;
    }
    let hosts: Vec<(&str, &str)> = hosts.split(',').map(split_port).collect::<Result<_, _>>()?;
    let list = |which: fn(&(&str, &str)) -> String| hosts.iter().map(which).collect::<Vec<_>>().join(",");
    if hosts.iter().any(|(host, _)| !host.is_empty()) {
        set("host", &list(|(host, _)| (*host).to_owned()))?;
    }
    if hosts.iter().any(|(_, port)| !port.is_empty()) {
        set("port", &list(|(_, port)| (*port).to_owned()))?;
    }
    set("dbname", database.unwrap_or_default())?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or("the connection URL has a parameter without a value")?;
        set(&percent_decode(key)?, value)?;
    }
    Ok(parameters)
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_port(text: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the connection URL has an address without its ]")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if after.is_empty() => Ok((host, "")),
            None => Err("the connection URL has characters after an address's ]".to_owned()),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

fn percent_decode(text: &str) -> Result<String, String> {
    const BAD: &str = "the connection URL has a % that two hexadecimal digits must follow";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(BAD)?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        let byte = u8::from_str_radix(digits.ok_or(BAD)?, 16).map_err(|_| BAD)?;
        if byte == 0 {
            return Err("the connection URL has a %00".to_owned());
        }
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| "the connection URL is not UTF-8 once decoded".to_owned())
}

/// Finds a service in a service file's text; `None` when the file has no such section.
///
/// # Errors
/// The number of the line that is neither a section, a comment nor `key=value`.
pub(super) fn find_service(text: &str, service: &str) -> Result<Option<Parameters>, String> {
    let mut found: Option<Parameters> = None;
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            inside = section == service;
            if inside {
                found = Some(Parameters::new());
            }
            continue;
        }
        if let (true, Some(parameters)) = (inside, &mut found) {
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("line {} is not key=value", index + 1))?;
            parameters.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    Ok(found)
}

/// What a password is looked up by.
#[derive(Debug, Clone, Copy)]
pub(super) struct PasswordFor<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Finds the password in a password file's text: the first line whose four fields match, `*` matching anything.
pub(super) fn find_password(text: &str, wanted: PasswordFor<'_>) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split_fields(line.trim_end_matches('\r'));
        let [host, port, database, user, password] = fields.as_slice() else { return None };
        let matches = |field: &Field, value: &str| field.is_star || field.text == value;
        (matches(host, wanted.host)
            && matches(port, wanted.port)
            && matches(database, wanted.database)
            && matches(user, wanted.user)
            && !password.text.is_empty())
        .then(|| password.text.clone())
    })
}

struct Field {
    text: String,
    /// An unescaped `*` alone.
    is_star: bool,
}

/// Splits a line at its first four unescaped colons; a backslash takes the next character as it is.
fn split_fields(line: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let (mut text, mut raw) = (String::new(), String::new());
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                raw.push(char);
                text.extend(chars.next());
            }
            ':' if fields.len() < 4 => {
                fields.push(Field { is_star: raw == "*", text: std::mem::take(&mut text) });
                raw.clear();
            }
            char => {
                raw.push(char);
                text.push(char);
            }
        }
    }
    fields.push(Field { is_star: false, text });
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    fn expect(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn pairs_with_quotes_and_escapes() {
        assert_eq!(
            pairs("host=/run/pg port = 5433 user=bob"),
            expect(&[("host", "/run/pg"), ("port", "5433"), ("user", "bob")])
        );
        assert_eq!(
            pairs(r"password='it\'s \\ here'  user=a\ b dbname=''"),
            expect(&[("dbname", ""), ("password", r"it's \ here"), ("user", "a b")])
        );
        assert_eq!(pairs("accounts"), expect(&[("dbname", "accounts")]));
    }

    #[test]
    fn urls() {
        assert_eq!(
            pairs("postgresql://bob:p%40ss@h1:1,[::1]:2/db%20x?sslmode=require&application_name=a"),
            expect(&[
                ("application_name", "a"),
                ("dbname", "db x"),
                ("host", "h1,::1"),
                ("password", "p@ss"),
                ("port", "1,2"),
                ("sslmode", "require"),
                ("user", "bob"),
            ])
        );
        assert_eq!(
            pairs("postgres:///postgres?host=/run/pg"),
            expect(&[("dbname", "postgres"), ("host", "/run/pg")])
        );
        assert_eq!(pairs("postgresql://"), []);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for text in [
            "password='sEcReT",
            "host=x sEcReT",
            "postgresql://u:sEcReT%zz@h/",
            "postgresql://u:sEcReT@[::1/d",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("sEcReT"), "{error}");
        }
    }

    #[test]
    fn services() {
        let text = "# c\n[a]\nhost=x\n\n[b]\nhost = y\nport=5\n[b]\nport=6\n";
        let found = find_service(text, "b").unwrap().unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expect(&[("host", "y"), ("port", "5")]));
        assert_eq!(find_service(text, "c").unwrap(), None);
        assert_eq!(find_service("[a]\nnonsense", "a").unwrap_err(), "line 2 is not key=value");
    }

    #[test]
    fn passwords() {
        let text = "# h:1:d:u:no\nh:1:d:other:no\n*:1:d:u:pa\\:ss:word\n*:*:*:*:last\n\\*:1:d:u:no";
        let wanted = PasswordFor { host: "h", port: "1", database: "d", user: "u" };
        assert_eq!(find_password(text, wanted).unwrap(), "pa:ss:word");
        assert_eq!(find_password(text, PasswordFor { port: "2", ..wanted }).unwrap(), "last");
        assert_eq!(find_password("\\*:1:d:u:no", wanted), None);
    }
}
