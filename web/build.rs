//! Generates from `proto/`: messages with their JSON and clients, then servers whose hot answers are the types of `src/raw.rs`.

use prost::Message;
use std::{error::Error, fs, path::PathBuf};

const FILES: [&str; 6] = ["auth.proto", "health.proto", "mvcc.proto", "rpc.proto", "v3election.proto", "v3lock.proto"];

/// Packages, and the module under `crate::proto` each is generated into.
const PACKAGES: [(&str, &str); 6] = [
    (".authpb", "crate::proto::authpb"),
    (".etcdserverpb", "crate::proto::etcdserverpb"),
    (".grpc.health.v1", "crate::proto::health"),
    (".mvccpb", "crate::proto::mvccpb"),
    (".v3electionpb", "crate::proto::v3electionpb"),
    (".v3lockpb", "crate::proto::v3lockpb"),
];

/// Answers that carry stored key-values, which servers send as the bytes they are.
const RAW: [(&str, &str); 6] = [
    (".etcdserverpb.RangeResponse", "crate::encoded::RangeResponse"),
    (".etcdserverpb.RangeStreamResponse", "crate::encoded::RangeStreamResponse"),
    (".etcdserverpb.PutResponse", "crate::encoded::PutResponse"),
    (".etcdserverpb.DeleteRangeResponse", "crate::encoded::DeleteRangeResponse"),
    (".etcdserverpb.TxnResponse", "crate::encoded::TxnResponse"),
    (".etcdserverpb.WatchResponse", "crate::encoded::WatchResponse"),
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let files = protox::compile(FILES, ["proto"])?;
    let descriptors = files.encode_to_vec();
    tonic_prost_build::configure().build_server(false).bytes(".").btree_map(".").compile_fds(files.clone())?;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .preserve_proto_field_names()
        .ignore_unknown_fields()
        .btree_map(["."])
        .build(&PACKAGES.map(|(package, _)| package))?;

    let served = PathBuf::from(std::env::var("OUT_DIR")?).join("served");
    fs::create_dir_all(&served)?;
    let builder = tonic_prost_build::configure().build_client(false).out_dir(served);
    RAW.iter().chain(&PACKAGES).fold(builder, |builder, (from, to)| builder.extern_path(*from, *to)).compile_fds(files)?;
    Ok(())
}
