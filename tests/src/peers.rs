//! The peers to compare with, built from a small pinned Go module into `target/peers`.

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

/// The checkout's top folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace").to_path_buf()
}

/// Where cargo puts things: its own setting if it has one, else `target` of the checkout.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Builds the three peers unless they are there; returns their folder.
pub fn build() -> Result<PathBuf, Box<dyn Error>> {
    let folder = workspace().join("target/peers");
    if ["etcd", "etcdctl", "benchmark"].iter().all(|name| folder.join(name).is_file()) {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    eprintln!("building etcd, etcdctl and benchmark 3.7.1 into {} (about two minutes)", folder.display());
    let module = workspace().join("tests/peers");
    let status = Command::new("go")
        .args(["build", "-trimpath", "-o"])
        .arg(&folder)
        .args(["./etcd", "./etcdctl", "./benchmark"])
        .current_dir(&module)
        .status()
        .map_err(|error| format!("go could not be started ({error}): install Go as named in {}/go.mod", module.display()))?;
    if !status.success() {
        return Err(format!("go build in {} ended with {status}", module.display()).into());
    }
    Ok(folder)
}

/// The `quorate` binary, built in release form if it is out of date.
pub fn quorate() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--quiet", "--release", "-p", "node"]).current_dir(workspace()).status()?;
    if !status.success() {
        return Err(format!("building quorate ended with {status}").into());
    }
    Ok(target().join("release/quorate"))
}
