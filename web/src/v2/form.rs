//! What a request asks for: from its query and its form, in etcd's order of checks.

use crate::query::pairs;
use actix_web::http::Method;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use quorate_core::v2::{Change, Compare, Condition, Delete, Error, ErrorCode, NodePath, Request, WatchPoint, Write};
use std::collections::BTreeMap;

/// Parameters by name; of several the first counts, and the body goes before the query.
#[derive(Debug, Default)]
pub(super) struct Form(BTreeMap<String, String>);

#[derive(Debug)]
pub(super) struct Read {
    pub recursive: bool,
    pub quorum: bool,
}

#[derive(Debug)]
pub(super) enum Asked {
    Read(Read),
    Watch {
        point: WatchPoint,
        /// 0: whatever comes.
        from: u64,
        stream: bool,
    },
    Change {
        request: Request,
        /// The answer names the action alone.
        without_node: bool,
    },
}

/// A path as it was meant; what is not UTF-8 is replaced.
pub(super) fn percent_decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// What of a request grows with what the client sent.
pub(super) fn request_bytes(request: &Request) -> usize {
    let value = match &request.change {
        Change::Write(write) => write.value.len(),
        Change::Delete(_) | Change::Expire => 0,
    };
    request.path.as_str().len() + value
}

/// The first `%` that no two hexadecimal digits follow, with what follows it instead.
fn bad_escape(encoded: &str) -> Option<&str> {
    let is_bad = |at: &usize| !encoded.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let at = encoded.match_indices('%').map(|(at, _)| at).find(is_bad)?;
    Some(encoded[at..].char_indices().nth(3).map_or(&encoded[at..], |(end, _)| &encoded[at..at + end]))
}

impl Form {
    /// # Errors
    /// [`ErrorCode::InvalidForm`] with an escape that is none.
    pub(super) fn read(query: &str, body: &str) -> Result<Self, Error> {
        if let Some(escape) = bad_escape(body).or_else(|| bad_escape(query)) {
            return Err(Error::of_request(ErrorCode::InvalidForm, format!("invalid URL escape {escape:?}")));
        }
        let mut values = BTreeMap::new();
        for (name, value) in pairs(body).into_iter().chain(pairs(query)) {
            values.entry(name).or_insert(value);
        }
        Ok(Self(values))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn text(&self, name: &str) -> Bytes {
        Bytes::copy_from_slice(self.get(name).unwrap_or_default().as_bytes())
    }

    fn flag(&self, name: &str, refuse: impl FnOnce() -> Error) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(Some(false)),
            Some(_) => Err(refuse()),
        }
    }

    fn quoted_flag(&self, name: &str) -> Result<bool, Error> {
        self.flag(name, || invalid(format!("invalid value for {name:?}"))).map(Option::unwrap_or_default)
    }

    fn number(&self, name: &str, code: ErrorCode) -> Result<Option<u64>, Error> {
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = self.get(name).map(|text| Some(text).filter(digits).and_then(|text| text.parse().ok()));
        match parsed {
            Some(None) => Err(Error::of_request(code, format!("invalid value for {name:?}"))),
            number => Ok(number.flatten()),
        }
    }

    /// # Errors
    /// What etcd refuses, for the first field it refuses.
    pub(super) fn ask(&self, method: &Method, path: NodePath) -> Result<Asked, Error> {
        let prev_index = self.number("prevIndex", ErrorCode::IndexNotANumber)?;
        let wait_index = self.number("waitIndex", ErrorCode::IndexNotANumber)?;
        let recursive = self.quoted_flag("recursive")?;
        self.quoted_flag("sorted")?;
        let wait = self.quoted_flag("wait")?;
        let is_directory = self.quoted_flag("dir")?;
        let quorum = self.quoted_flag("quorum")?;
        let stream = self.quoted_flag("stream")?;
        if wait && method != Method::GET {
            return Err(invalid(r#""wait" can only be used with GET requests"#.into()));
        }
        if self.get("prevValue") == Some("") {
            return Err(Error::of_request(ErrorCode::PrevValueRequired, r#""prevValue" cannot be empty"#.into()));
        }
        let without_node = self.quoted_flag("noValueOnSuccess")?;
        let ttl_s = if self.get("ttl") == Some("") { None } else { self.number("ttl", ErrorCode::TtlNotANumber)? };
        let prev_exist = self.flag("prevExist", || invalid("invalid value for prevExist".into()))?;
        let refresh = self.flag("refresh", || invalid("invalid value for refresh".into()))?.unwrap_or_default();
        if refresh && self.get("value").is_some_and(|value| !value.is_empty()) {
            return Err(Error::of_request(ErrorCode::RefreshValue, "A value was provided on a refresh".into()));
        }
        if refresh && ttl_s.is_none() {
            return Err(Error::of_request(ErrorCode::RefreshTtlRequired, "No TTL value set".into()));
        }
        let compare = || {
            let (value, modified) = (self.get("prevValue").map(|_| self.text("prevValue")), prev_index.filter(|index| *index > 0));
            (value.is_some() || modified.is_some()).then_some(Compare { value, modified })
        };
        let write = |condition| Change::Write(Write { value: self.text("value"), is_directory, ttl_s, refresh, condition });
        let change = match *method {
            Method::PUT => write(match (prev_exist, compare()) {
                (Some(false), _) => Condition::Create,
                (_, Some(compare)) => Condition::CompareAndSwap(compare),
                (Some(true), None) => Condition::Update,
                (None, None) => Condition::Set,
            }),
            Method::POST => write(Condition::CreateInOrder),
            Method::DELETE => Change::Delete(Delete { directory: is_directory, recursive, compare: compare() }),
            _ if wait && !quorum => {
                return Ok(Asked::Watch { point: WatchPoint { path, recursive }, from: wait_index.unwrap_or_default(), stream });
            }
            _ => return Ok(Asked::Read(Read { recursive, quorum })),
        };
        let without_node = without_node && method != Method::DELETE;
        Ok(Asked::Change { request: Request { path, change }, without_node })
    }
}

fn invalid(cause: String) -> Error {
    Error::of_request(ErrorCode::InvalidField, cause)
}
