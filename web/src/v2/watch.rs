//! Waiting for a change: one event and the answer ends, or a line for each as long as the client listens.

use super::answer::{Head, Shown};
use crate::{backend::Backend, service::Service};
use actix_web::{HttpResponse, http::StatusCode};
use bytes::Bytes;
use futures::stream;
use quorate_core::v2::{Error, WatchPoint};
use tokio::sync::watch;

/// Between a client and the history of the tree, which is all that is kept for it: one that falls behind by more than the history
/// holds is ended, and then finds out by asking again.
struct Waiting<B> {
    service: Service<B>,
    point: WatchPoint,
    /// The next event is at or after this index.
    from: u64,
    stream: bool,
    changes: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    is_over: bool,
}

pub(super) fn answer<B: Backend>(service: &Service<B>, point: WatchPoint, from: u64, stream: bool) -> Result<HttpResponse, Error> {
    let changes = service.backend.v2_changes();
    let view = service.backend.current();
    let index = view.v2_index();
    let from = if from == 0 { index + 1 } else { from };
    view.v2_next_event(&point, from)?;
    let head = Head::new(&service.backend.status(), index);
    let stopping = service.surface.stopping();
    let waiting = Waiting { service: service.clone(), point, from, stream, changes, stopping, is_over: false };
    Ok(head.response(StatusCode::OK).streaming(stream::unfold(waiting, |mut waiting| async move {
        let line = waiting.next().await?;
        Some((Ok::<_, actix_web::Error>(line), waiting))
    })))
}

impl<B: Backend> Waiting<B> {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            self.changes.borrow_and_update();
            match self.service.backend.current().v2_next_event(&self.point, self.from) {
                Ok(Some(event)) => {
                    self.from = event.index + 1;
                    self.is_over = !self.stream;
                    return Some(Shown::event(&event).line());
                }
                Ok(None) => {}
                Err(_) => return None,
            }
            let stopping = tokio::select! {
                changed = self.changes.changed() => changed.is_err(),
                stopping = self.stopping.wait_for(|stopping| *stopping) => stopping.is_ok(),
            };
            if stopping {
                return None;
            }
        }
        None
    }
}
