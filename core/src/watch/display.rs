//! Inputs and effects of the watch actor in protocol notation: one line each.

use super::{HubEffect, WatchInput, WatchRequest};
use crate::mvcc::EventKind;
use core::fmt::{self, Display, Formatter};

/// Events that a line shows in full.
const LISTED_MAX: usize = 4;

impl<H> Display for WatchInput<H> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(_) => write!(f, "published"),
            Self::Open(stream) => write!(f, "stream {stream} opens"),
            Self::Create(stream, WatchRequest { range, start_revision, .. }) => {
                write!(f, "stream {stream} watches {:?}", range.key)?;
                if !range.end.is_empty() {
                    write!(f, " to {:?}", range.end)?;
                }
                if start_revision.0 > 0 { write!(f, " from revision {start_revision}") } else { Ok(()) }
            }
            Self::Cancel(stream, watch) => write!(f, "stream {stream} cancels watch {watch}"),
            Self::Progress(stream) => write!(f, "stream {stream} asks for progress"),
            Self::Drained(stream, bytes) => write!(f, "stream {stream} took {bytes} bytes"),
            Self::Close(stream) => write!(f, "stream {stream} closes"),
            Self::Wake => write!(f, "wake"),
        }
    }
}

impl Display for HubEffect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let response = &self.response;
        write!(f, "stream {} watch {} at revision {}:", self.stream, response.watch, response.revision)?;
        if response.created {
            write!(f, " created")?;
        }
        if let Some(canceled) = &response.canceled {
            write!(f, " canceled {canceled:?}")?;
        }
        for event in response.events.iter().take(LISTED_MAX) {
            let sign = if event.kind == EventKind::Delete { '-' } else { '+' };
            write!(f, " {sign}{}", event.kv.key().escape_ascii())?;
        }
        match response.events.len().saturating_sub(LISTED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
