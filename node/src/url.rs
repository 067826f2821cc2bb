//! URLs that members listen on and advertise, by etcd's rules.

use std::{fmt, net::IpAddr, path::PathBuf};

/// A URL of the forms etcd takes: `scheme://host:port`, or a path for `unix`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Url(String);

/// What a URL asks to bind or connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Url {
    /// # Errors
    /// etcd's words for what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("URL scheme must be http, https, unix, or unixs: {text}"))?;
        match scheme {
            "http" => {
                let authority = rest.strip_suffix('/').unwrap_or(rest);
                if authority.contains('/') {
                    return Err(format!("URL must not contain a path: {text}"));
                }
                split_host_port(authority).ok_or_else(|| format!("URL address does not have the form \"host:port\": {text}"))?;
                Ok(Self(format!("http://{authority}")))
            }
            "unix" if !rest.is_empty() => Ok(Self(text.to_owned())),
            "https" | "unixs" => Err(format!("{text}: TLS is not supported by this release, use http or unix")),
            _ => Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        }
    }

    /// A comma-separated list, sorted as etcd sorts it.
    ///
    /// # Errors
    /// As [`Url::parse`], or that the list is empty.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls: Vec<Self> = text.split(',').filter(|part| !part.trim().is_empty()).map(Self::parse).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err("no valid URLs given".into());
        }
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// A listener's host must be an address of this machine, not a name that may move.
    ///
    /// # Errors
    /// etcd's words.
    pub fn check_listen(&self) -> Result<(), String> {
        match self.address() {
            Address::Tcp { host, .. } if host != "localhost" && !host.is_empty() && host.parse::<IpAddr>().is_err() => {
                Err(format!("expected IP in URL for binding ({self})"))
            }
            _ => Ok(()),
        }
    }

    #[must_use]
    pub fn address(&self) -> Address {
        match self.0.split_once("://") {
            Some(("unix", path)) => Address::Unix(PathBuf::from(path)),
            Some((_, authority)) => {
                let (host, port) = split_host_port(authority).expect("checked when parsed");
                Address::Tcp { host: host.to_owned(), port }
            }
            None => unreachable!("checked when parsed"),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn split_host_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some((host, port))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
