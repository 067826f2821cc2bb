//! The client port: gRPC and HTTP/1.1 on one socket, told apart by the first bytes, each served on the worker that accepted it.

mod authority;
mod client_io;

use self::client_io::ClientIo;
use crate::{
    actors::{HubActor, Inbound, MemberHandle, Shared},
    throttle::Throttle,
    url::{Address, Url},
};
use actix_http::{HttpService, Protocol};
use actix_server::{Server, ServerBuilder};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::{App, dev::AppConfig};
use bytes::{Bytes, BytesMut};
use quorate_core::watch::HubLimits;
use quorate_web::{Connection, Surface, answer_cors, configure_http, grpc_routes};
use std::{
    fmt, io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

/// For the first bytes of a connection.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);
/// Every HTTP/2 connection begins with this (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Connections on their way from the sniffer to the gRPC server of their worker.
const HANDOVER: usize = 64;
/// Connections of one worker; more wait in the kernel's queue.
const WORKER_CONNECTIONS: usize = 25_000;
/// How long open requests may take once the process was told to stop.
const SHUTDOWN_SECONDS: u64 = 1;
/// Streams that one connection may have open, whatever `--max-concurrent-streams` allows; a client waits for one to end.
const CONNECTION_STREAMS: u32 = 65_536;
/// Headers of one HTTP/2 request that are read at all, so that those above [`quorate_web::METADATA_BYTES`] are refused and their
/// connection lives on; above this the connection is closed.
const HTTP2_HEADER_BYTES: u32 = 1 << 20;
const HTTP2_STREAM_WINDOW: u32 = 1 << 20;
const HTTP2_CONNECTION_WINDOW: u32 = 8 << 20;

/// A socket that is bound but not served yet.
#[derive(Debug)]
pub enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Bound {
    /// The URL clients use, with the port that was really given.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|error| error.to_string(), |address| format!("http://{address}")),
            Self::Unix(listener) => listener
                .local_addr()
                .ok()
                .and_then(|address| Some(format!("unix://{}", address.as_pathname()?.display())))
                .unwrap_or_else(|| "unix://?".into()),
        }
    }
}

/// Binds a URL of the flag that is named if it fails.
///
/// # Errors
/// Text that names the flag and, where it can be found, the process that holds the port.
pub fn bind(url: &Url, flag: &str) -> Result<Bound, String> {
    let bound = match url.address() {
        Address::Unix(path) => {
            // A socket left by a process that is gone would be in the way for ever.
            if std::os::unix::net::UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                let _ = std::fs::remove_file(&path);
            }
            std::os::unix::net::UnixListener::bind(path).map(Bound::Unix)
        }
        Address::Tcp { host, port } => {
            let host = match host.as_str() {
                "localhost" => "127.0.0.1",
                "" => "::",
                host => host,
            };
            std::net::TcpListener::bind((host, port)).map(Bound::Tcp)
        }
    };
    bound.map_err(|error| match (error.kind(), url.address()) {
        (io::ErrorKind::AddrInUse, Address::Tcp { port, .. }) => {
            let (by, remedy) = match holder::of_port(port) {
                Some(Holder::Own) => {
                    (" by this very member".to_owned(), format!("give every URL a port of its own, --{flag} or the other"))
                }
                Some(Holder::Other { name, pid }) => (format!(" by {name} (pid {pid})"), format!("stop it, or give another --{flag}")),
                None => (String::new(), format!("stop who does, or give another --{flag}")),
            };
            format!("cannot listen on {url} (--{flag}): the address is already in use{by}; {remedy}")
        }
        _ => format!("cannot listen on {url} (--{flag}): {error}"),
    })
}

/// Who listens on a port.
#[derive(Debug)]
enum Holder {
    /// This process, for another of its URLs.
    Own,
    Other {
        name: String,
        pid: u32,
    },
}

mod holder {
    use super::Holder;
    use std::fs;

    /// The process that listens on a TCP port, if this user may know.
    pub(super) fn of_port(port: u16) -> Option<Holder> {
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listener_inode(&fs::read_to_string(table).ok()?, port))?;
        let socket = format!("socket:[{inode}]");
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
            descriptors.any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())).then(
                || {
                    if pid == std::process::id() {
                        return Holder::Own;
                    }
                    let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                    Holder::Other { name: name.trim().to_owned(), pid }
                },
            )
        })
    }

    /// Lines are `sl local remote state .. inode`; 0A is LISTEN.
    fn listener_inode(table: &str, port: u16) -> Option<u64> {
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
            let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
            listens.then(|| fields.get(9)?.parse().ok())?
        })
    }
}

/// What every worker serves from.
#[derive(Clone, Debug)]
pub struct Served {
    pub shared: Arc<Shared>,
    pub inbox: mpsc::Sender<Inbound>,
    pub surface: Surface,
    pub hub_limits: HubLimits,
    pub max_concurrent_streams: u32,
    pub stop: tokio::sync::watch::Receiver<bool>,
}

impl Served {
    /// The backend of the calling worker, with a hub of its own.
    #[must_use]
    pub fn backend(&self) -> MemberHandle {
        thread_local! {
            static HUB: std::cell::OnceCell<crate::actors::HubHandle> = const { std::cell::OnceCell::new() };
        }
        let hub = HUB.with(|hub| hub.get_or_init(|| HubActor::start_here(Arc::clone(&self.shared), self.hub_limits)).clone());
        MemberHandle::new(Arc::clone(&self.shared), self.inbox.clone(), hub)
    }
}

/// Serves clients on all sockets, until the server is stopped.
///
/// # Errors
/// A socket that cannot be registered.
pub fn serve(sockets: Vec<Bound>, workers: usize, served: &Served) -> io::Result<Server> {
    serve_at_most(WORKER_CONNECTIONS, sockets, workers, served)
}

/// Serves, with so many connections on each worker.
fn serve_at_most(connections: usize, sockets: Vec<Bound>, workers: usize, served: &Served) -> io::Result<Server> {
    let mut builder: ServerBuilder =
        Server::build().workers(workers).max_concurrent_connections(connections).shutdown_timeout(SHUTDOWN_SECONDS).disable_signals();
    for socket in sockets {
        let served = served.clone();
        builder = match socket {
            Bound::Tcp(listener) => builder.listen("clients", listener, move || {
                let served = served.clone();
                fn_factory(move || {
                    let worker = Worker::<TcpStream>::start(served.clone());
                    async move {
                        let worker = Rc::new(worker.await?);
                        Ok::<_, ()>(fn_service(move |stream: TcpStream| {
                            let worker = Rc::clone(&worker);
                            async move {
                                let address = stream.peer_addr().ok();
                                let _ = stream.set_nodelay(true);
                                worker.connection(stream, address).await;
                                Ok::<_, ()>(())
                            }
                        }))
                    }
                })
            })?,
            Bound::Unix(listener) => builder.listen_uds("clients", listener, move || {
                let served = served.clone();
                fn_factory(move || {
                    let worker = Worker::<UnixStream>::start(served.clone());
                    async move {
                        let worker = Rc::new(worker.await?);
                        Ok::<_, ()>(fn_service(move |stream: UnixStream| {
                            let worker = Rc::clone(&worker);
                            async move {
                                worker.connection(stream, None).await;
                                Ok::<_, ()>(())
                            }
                        }))
                    }
                })
            })?,
        };
    }
    Ok(builder.run())
}

/// Where one HTTP/1.1 connection goes.
type Http1<T> = Rc<dyn Fn(ClientIo<T>, Option<SocketAddr>) -> futures::future::LocalBoxFuture<'static, ()>>;

/// Both servers of one worker for one kind of socket.
struct Worker<T> {
    http1: Http1<T>,
    grpc: mpsc::Sender<io::Result<ClientIo<T>>>,
    surface: Surface,
    refusals: Throttle,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Worker<T> {
    async fn start(served: Served) -> Result<Self, ()> {
        let backend = served.backend();
        let cors = served.surface.options().cors.clone();
        let app = App::new()
            .configure(configure_http(backend.clone(), &served.surface))
            .wrap_fn(move |request, service| answer_cors(&cors, request, service));
        let app = map_config(app.into_factory(), |()| AppConfig::default());
        let factory = HttpService::build()
            .on_connect_ext(|io: &ClientIo<T>, extensions| drop(extensions.insert(io.connection().clone())))
            .finish(app);
        let service = factory.new_service(()).await.map_err(|()| tracing::error!(target: "quorate", "the HTTP service did not start"))?;
        let service = Rc::new(service);
        let http1: Http1<T> = Rc::new(move |io, address| {
            let service = Rc::clone(&service);
            Box::pin(async move {
                // Ends with the connection; how is the client's affair.
                let _ = service.call((io, Protocol::Http1, address)).await;
            })
        });
        let (grpc, incoming) = mpsc::channel(HANDOVER);
        let routes = grpc_routes(backend, &served.surface);
        let mut stop = served.stop.clone();
        let stopped = async move {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(served.max_concurrent_streams.min(CONNECTION_STREAMS))
            .http2_max_header_list_size(HTTP2_HEADER_BYTES)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped);
        actix_rt::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(target: "quorate", error = %error, "the gRPC server of a worker ended");
            }
        });
        Ok(Self { http1, grpc, surface: served.surface, refusals: Throttle::of_refusals() })
    }

    async fn connection(&self, stream: T, address: Option<SocketAddr>) {
        match timeout(FIRST_BYTES_TIMEOUT, sniff(stream)).await {
            Ok(Ok((Speaks::Http2, seen, io))) => {
                // It counts as this worker's for as long as it is open.
                let (open, closed) = oneshot::channel::<()>();
                let io = ClientIo::http2(io, &seen, Connection::new(&self.surface), address, open);
                if self.grpc.send(Ok(io)).await.is_ok() {
                    let _ = closed.await;
                }
            }
            Ok(Ok((Speaks::Http1, seen, io))) => {
                (self.http1)(ClientIo::http1(io, seen, Connection::new(&self.surface), address), address).await;
            }
            Ok(Err(Rejected::Closed)) => {}
            Ok(Err(rejected)) => self.reject(address, &rejected),
            Err(_) => self.reject(address, &Rejected::Silent),
        }
    }

    fn reject(&self, address: Option<SocketAddr>, why: &Rejected) {
        let Some(suppressed) = self.refusals.admit(Instant::now()) else { return };
        let address = address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
        tracing::warn!(target: "quorate", remote_addr = address, error = %why, suppressed, "rejected connection on client endpoint");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    Http1,
    Http2,
}

#[derive(Debug)]
enum Rejected {
    /// Nothing was said at all.
    Closed,
    Silent,
    Tls,
    Garbage,
    Cut,
    Io(io::Error),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "closed"),
            Self::Silent => write!(f, "said nothing for {} s", FIRST_BYTES_TIMEOUT.as_secs()),
            Self::Tls => write!(f, "a TLS hello, but this endpoint does not speak TLS: use http://"),
            Self::Garbage => write!(f, "neither HTTP/1.1 nor HTTP/2"),
            Self::Cut => write!(f, "closed within its first bytes"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

/// Reads until it is clear what is spoken. Reading, not peeking: half a preface would make a peek spin.
async fn sniff<T: AsyncRead + Unpin>(mut io: T) -> Result<(Speaks, Bytes, T), Rejected> {
    let mut seen = BytesMut::with_capacity(1 << 10);
    loop {
        if io.read_buf(&mut seen).await.map_err(Rejected::Io)? == 0 {
            return Err(if seen.is_empty() { Rejected::Closed } else { Rejected::Cut });
        }
        let common = seen.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        let speaks = if common == PREFACE.len() {
            Speaks::Http2
        } else if common == seen.len() {
            continue;
        } else {
            match seen[0] {
                0x16 => return Err(Rejected::Tls),
                b'A'..=b'Z' | b'a'..=b'z' => Speaks::Http1,
                _ => return Err(Rejected::Garbage),
            }
        };
        return Ok((speaks, seen.freeze(), io));
    }
}

#[cfg(test)]
mod tests;
