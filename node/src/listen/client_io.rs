//! A client connection's bytes: those that were read to tell what is spoken, then the socket's.

use super::authority::AuthorityFilter;
use bytes::{Buf, Bytes};
use quorate_web::Connection;
use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tonic::transport::server::Connected;

/// Room for one read of a connection that is looked at on its way.
const READ_BYTES: usize = 32 << 10;

/// A connection some of whose bytes were read already.
#[derive(Debug)]
pub struct ClientIo<T> {
    io: T,
    /// Read already and as it came; of HTTP/2, nothing.
    seen: Bytes,
    /// What HTTP/2 goes through.
    filter: Option<AuthorityFilter>,
    /// What it may hold, and whether it is to be closed.
    connection: Connection,
    address: Option<SocketAddr>,
    /// Its drop tells that the connection is closed.
    _open: Option<oneshot::Sender<()>>,
}

impl<T> ClientIo<T> {
    pub(super) fn http1(io: T, seen: Bytes, connection: Connection, address: Option<SocketAddr>) -> Self {
        Self { io, seen, filter: None, connection, address, _open: None }
    }

    pub(super) fn http2(io: T, seen: &[u8], connection: Connection, address: Option<SocketAddr>, open: oneshot::Sender<()>) -> Self {
        let mut filter = AuthorityFilter::after(super::PREFACE.len());
        filter.incoming().extend_from_slice(seen);
        filter.advance();
        Self { io, seen: Bytes::new(), filter: Some(filter), connection, address, _open: Some(open) }
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(why) = this.connection.poll_ended(cx) {
            let address = this.address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
            tracing::warn!(target: "quorate", remote_addr = address, error = why, "closed connection on client endpoint");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let Some(filter) = &mut this.filter else {
            if this.seen.is_empty() {
                return Pin::new(&mut this.io).poll_read(cx, buffer);
            }
            let taken = this.seen.len().min(buffer.remaining());
            buffer.put_slice(&this.seen[..taken]);
            this.seen.advance(taken);
            return Poll::Ready(Ok(()));
        };
        while filter.outgoing().is_empty() {
            filter.incoming().reserve(READ_BYTES);
            if ready!(pin!(this.io.read_buf(filter.incoming())).poll(cx))? == 0 {
                // A frame that is not whole by now never will be.
                return Poll::Ready(Ok(()));
            }
            filter.advance();
        }
        let taken = filter.outgoing().len().min(buffer.remaining());
        buffer.put_slice(&filter.outgoing()[..taken]);
        filter.outgoing().advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> ClientIo<T> {
    fn write(&mut self, write: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Some(why) = self.connection.ended() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let written = write(Pin::new(&mut self.io));
        if let Poll::Ready(Ok(bytes)) = written {
            self.connection.wrote(bytes);
        }
        written
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ClientIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(|io| io.poll_write(cx, bytes))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.write(|io| io.poll_write_vectored(cx, bytes))
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<T> Connected for ClientIo<T> {
    type ConnectInfo = Connection;
    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}
