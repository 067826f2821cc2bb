//! The one frame of everything stored or sent between members: `[length u32][crc32c u32][version u8][body]`, little-endian.
//!
//! `length` counts version and body; the checksum covers them too. A body is postcard of one frozen struct per version.

use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes in front of a body.
pub const FRAME_HEADER: usize = 9;

/// What is wrong with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// More bytes are needed; on a closed stream or file, the frame was cut.
    Short {
        needed: usize,
    },
    /// The length is beyond what the reader accepts.
    TooLong {
        length: usize,
        limit: usize,
    },
    Checksum,
    /// Written by a newer release than this one reads.
    Version {
        found: u8,
        newest: u8,
    },
    /// The checksum holds but the body is not what the version promises.
    Body,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { needed } => write!(f, "cut short: {needed} bytes needed"),
            Self::TooLong { length, limit } => write!(f, "frame of {length} bytes is over the limit of {limit}"),
            Self::Checksum => write!(f, "checksum mismatch"),
            Self::Version { found, newest } => write!(f, "format version {found} is newer than {newest}, the newest known here"),
            Self::Body => write!(f, "malformed body"),
        }
    }
}

impl core::error::Error for FrameError {}

/// A frame by itself, in an allocation of just its size: it may be kept for long.
#[must_use]
pub fn encoded<T: Serialize>(version: u8, body: &T) -> Bytes {
    let length = postcard::ser_flavors::Size::default();
    let length = postcard::serialize_with_flavor(body, length).expect("measuring does not fail");
    let mut out = Vec::with_capacity(FRAME_HEADER + length);
    encode(version, body, &mut out);
    out.into()
}

/// Appends one frame to `out`.
pub fn encode<T: Serialize>(version: u8, body: &T, out: &mut Vec<u8>) {
    let start = out.len();
    begin(version, out);
    let taken = core::mem::take(out);
    *out = postcard::to_extend(body, taken).expect("serialising to memory");
    seal(start, out);
}

/// A frame of a body that is encoded already, in two parts.
pub(crate) fn framed(version: u8, body: [&[u8]; 2]) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_HEADER + body[0].len() + body[1].len());
    begin(version, &mut out);
    body.into_iter().for_each(|part| out.extend_from_slice(part));
    seal(0, &mut out);
    out.into()
}

fn begin(version: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; FRAME_HEADER - 1]);
    out.push(version);
}

/// Fills in what stands before the version, of a frame that begins at `start`.
fn seal(start: usize, out: &mut [u8]) {
    let length = u32::try_from(out.len() - start - 8).expect("a frame of 4 GiB");
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Splits the first frame off `bytes`: its version, its body, and how many bytes it took.
pub fn split(bytes: &[u8], limit: usize) -> Result<(u8, &[u8], usize), FrameError> {
    if bytes.len() < FRAME_HEADER {
        return Err(FrameError::Short { needed: FRAME_HEADER });
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let length = word(0) as usize;
    if length > limit || length == 0 {
        return Err(FrameError::TooLong { length, limit });
    }
    let end = 8 + length;
    if bytes.len() < end {
        return Err(FrameError::Short { needed: end });
    }
    if crc32c::crc32c(&bytes[8..end]) != word(4) {
        return Err(FrameError::Checksum);
    }
    Ok((bytes[8], &bytes[FRAME_HEADER..end], end))
}

/// Reads one frame of exactly `version` from the front of `bytes`; says how many bytes it took.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8], limit: usize) -> Result<(T, usize), FrameError> {
    let (found, body, taken) = split(bytes, limit)?;
    if found != version {
        return Err(FrameError::Version { found, newest: version });
    }
    let value = postcard::from_bytes(body).map_err(|_| FrameError::Body)?;
    Ok((value, taken))
}
