//! The surfaces over a member without Raft: real machine, real hub, everything in this process.

mod grpc;
mod http;
mod lease;
mod local;
mod v2;
mod wire;
