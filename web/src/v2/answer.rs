//! Answers in etcd's JSON: its fields in its order, one line.

use crate::{answer_body::AnswerBody, backend::Status, permit::WithPermit};
use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{StatusCode, header::ContentType},
};
use bytes::Bytes;
use quorate_core::{
    types::WallMs,
    v2::{Action, Error, Event, Listing, NodeImage},
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What every answer tells beside its body.
#[derive(Debug)]
pub(super) struct Head {
    cluster: String,
    index: u64,
    raft_index: u64,
    raft_term: u64,
}

impl Head {
    /// `index`: of the tree, as the answer shows it.
    pub(super) fn new(status: &Status, index: u64) -> Self {
        let raft = &status.raft;
        Self { cluster: status.cluster.to_string(), index, raft_index: raft.committed.0, raft_term: raft.term.0 }
    }

    fn begin(&self, status: StatusCode) -> HttpResponseBuilder {
        let mut response = HttpResponse::build(status);
        response.content_type(ContentType::json());
        response.insert_header(("X-Etcd-Cluster-Id", self.cluster.as_str()));
        response.insert_header(("X-Etcd-Index", self.index));
        response
    }

    /// The head of a success.
    pub(super) fn response(&self, status: StatusCode) -> HttpResponseBuilder {
        let mut response = self.begin(status);
        response.insert_header(("X-Raft-Index", self.raft_index));
        response.insert_header(("X-Raft-Term", self.raft_term));
        response
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refused<'a> {
    error_code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cause: &'a str,
    index: u64,
}

/// An action with the node it is about.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_node: Option<Node>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    ttl: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<Node>,
    #[serde(skip_serializing_if = "is_default")]
    modified_index: u64,
    #[serde(skip_serializing_if = "is_default")]
    created_index: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Node {
    fn of(image: &NodeImage, nodes: Vec<Self>, at: WallMs) -> Self {
        Self {
            key: image.path.as_str().into(),
            value: image.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned()),
            dir: image.is_directory,
            expiration: image.expires.and_then(date),
            ttl: image.ttl_s(at),
            nodes,
            modified_index: image.modified,
            created_index: image.created,
        }
    }

    fn listed(listing: &Listing, at: WallMs) -> Self {
        let nodes = listing.children.iter().flatten().map(|child| Self::listed(child, at)).collect();
        Self::of(&listing.node, nodes, at)
    }
}

impl Shown {
    pub(super) fn event(event: &Event) -> Self {
        let node = |image: &NodeImage| Node::of(image, Vec::new(), event.at);
        Self { action: event.action.name(), node: Some(node(&event.node)), prev_node: event.previous.as_ref().map(node) }
    }

    pub(super) const fn action(action: Action) -> Self {
        Self { action: action.name(), node: None, prev_node: None }
    }

    pub(super) fn line(&self) -> Bytes {
        line(self)
    }
}

/// What scripts and HTML may not hold is escaped as Go's encoder does it, so that clients which compare bytes see etcd's.
fn line<T: Serialize>(value: &T) -> Bytes {
    let json = serde_json::to_string(value).expect("it has only texts and numbers");
    let mut line = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        match character {
            '&' | '<' | '>' | '\u{2028}' | '\u{2029}' | char::REPLACEMENT_CHARACTER => line += &format!("\\u{:04x}", u32::from(character)),
            _ => line.push(character),
        }
    }
    line.push('\n');
    line.into()
}

/// RFC 3339 in UTC, with as many digits of the second as it needs.
fn date(at: WallMs) -> Option<String> {
    let date = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok()?;
    date.format(&Rfc3339).ok()
}

pub(super) fn refused(status: &Status, error: &Error) -> HttpResponse {
    let head = Head::new(status, error.index);
    let http = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Refused { error_code: error.code.number(), message: error.code.message(), cause: &error.cause, index: error.index };
    head.begin(http).body(line(&body))
}

pub(super) fn listed(head: &Head, listing: WithPermit<Listing>, at: WallMs) -> HttpResponse {
    let WithPermit { answer, permit } = listing;
    let shown = Shown { action: Action::Get.name(), node: Some(Node::listed(&answer, at)), prev_node: None };
    head.response(StatusCode::OK).body(AnswerBody::new(shown.line(), permit))
}

pub(super) fn shown(head: &Head, status: StatusCode, shown: &Shown) -> HttpResponse {
    head.response(status).body(shown.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_as_many_digits_as_it_needs() {
        for (ms, expected) in [
            (1_795_328_682_239, "2026-11-22T06:24:42.239Z"),
            (1_795_328_682_200, "2026-11-22T06:24:42.2Z"),
            (1_795_328_682_000, "2026-11-22T06:24:42Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(WallMs(ms)).as_deref(), Some(expected));
        }
    }
}
