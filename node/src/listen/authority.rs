//! Makes `:authority` of requests harmless before the HTTP/2 library sees it.
//!
//! Nothing here depends on what a client calls this endpoint, and some clients call it what is no host: a path, the URL list they
//! were configured with, nothing at all. The library refuses such a request while it reads the headers, with no way to say
//! otherwise, so the value is replaced on its way there.
//!
//! Header compression (RFC 7541) makes a value part of a table that both sides keep. Only literals are replaced, each by one that is
//! as long when decoded: whatever the client's table drops for space, the library's drops as well, so that everything else,
//! references to that table included, goes through as it is.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{collections::VecDeque, ops::Range};

/// What a frame begins with: length, kind, flags, stream (RFC 9113, section 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// The largest frame that this endpoint allows, which is the protocol's default.
const FRAME_BYTES: usize = 16 << 10;
/// Header bytes of one request that are held back to be looked at. What is longer goes on as it is, for the library to refuse.
const BLOCK_BYTES: usize = super::HTTP2_HEADER_BYTES as usize;

/// Frames of one header block; the library allows fewer. Each read of a part looks at all of them again.
const BLOCK_FRAMES: usize = 96;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// Places in the static table.
const AUTHORITY: usize = 1;
const SCHEMES: std::ops::RangeInclusive<usize> = 6..=7;
const STATIC_ENTRIES: u64 = 61;
/// More entries than this the client's table never has: it is 4,096 bytes, of which an entry takes at least 32.
const DYNAMIC_ENTRIES: u64 = 128;
/// Stands for an empty authority, which cannot be given as one. With its name it is as long as `:authority` alone.
const STAND_IN_SCHEME: &[u8] = b"abc";

/// One connection's bytes from the client, on their way to the library.
#[derive(Debug)]
pub(super) struct AuthorityFilter {
    /// As they came; a frame of headers at the front is not whole yet.
    held: BytesMut,
    /// To be read on.
    ready: BytesMut,
    /// Bytes at the front of what comes next that are no frame's head.
    passing: usize,
    /// Something is wrong, which is the library's to say: nothing is looked at any more.
    is_off: bool,
    /// Entries that the client has put into the table.
    entries: u64,
    /// Which of them were an empty authority and became a scheme; the newest last.
    empties: VecDeque<u64>,
}

/// One field of a header block as it is encoded.
#[derive(Clone, Debug)]
struct Field {
    bytes: Range<usize>,
    kind: FieldKind,
}

#[derive(Clone, Debug)]
enum FieldKind {
    /// A reference to a whole entry.
    Indexed(usize),
    /// A name, by its place in the tables, and a value.
    Literal { name: usize, value: Range<usize>, huffman: bool, is_kept: bool },
    /// The client changes the size of its table.
    Resize,
}

impl AuthorityFilter {
    /// For a connection of which so many bytes are no frame yet.
    pub(super) fn after(preface_bytes: usize) -> Self {
        Self { held: BytesMut::new(), ready: BytesMut::new(), passing: preface_bytes, is_off: false, entries: 0, empties: VecDeque::new() }
    }

    /// Where bytes from the client are added; [`Self::advance`] comes after.
    pub(super) const fn incoming(&mut self) -> &mut BytesMut {
        &mut self.held
    }

    /// Bytes for the library.
    pub(super) const fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.ready
    }

    /// Moves on what has come and may go on.
    pub(super) fn advance(&mut self) {
        // Bytes at the front of `held` that go on as they are.
        let mut seen = 0;
        while seen < self.held.len() {
            if self.is_off {
                seen = self.held.len();
                break;
            }
            if self.passing > 0 {
                let passed = self.passing.min(self.held.len() - seen);
                self.passing -= passed;
                seen += passed;
                continue;
            }
            let Some(head) = self.held[seen..].first_chunk::<FRAME_HEAD_BYTES>() else { break };
            if head[3] != HEADERS {
                self.passing = FRAME_HEAD_BYTES + length(head);
                continue;
            }
            match headers(&self.held[seen..]) {
                Block::Partial => break,
                Block::Wrong => self.is_off = true,
                Block::Whole { bytes, fragments } => {
                    let frames = seen..seen + bytes;
                    match self.replaced(&frames, &fragments) {
                        Some(changed) => {
                            self.pass(seen);
                            self.held.advance(bytes);
                            self.ready.extend_from_slice(&changed);
                            seen = 0;
                        }
                        None => seen = frames.end,
                    }
                }
            }
        }
        self.pass(seen);
    }

    fn pass(&mut self, bytes: usize) {
        let passed = self.held.split_to(bytes);
        if self.ready.is_empty() {
            self.ready = passed;
        } else {
            self.ready.extend_from_slice(&passed);
        }
    }

    /// The frames of a header block anew, if there is something to replace in it.
    fn replaced(&mut self, frames: &Range<usize>, fragments: &[Range<usize>]) -> Option<Bytes> {
        let frames = &self.held[frames.clone()];
        let joined;
        let block = match fragments {
            [one] => &frames[one.clone()],
            several => {
                joined = several.iter().map(|fragment| &frames[fragment.clone()]).collect::<Vec<_>>().concat();
                joined.as_slice()
            }
        };
        let Some(fields) = fields(block) else {
            self.is_off = true;
            return None;
        };
        let block = replace(block, &fields, &mut self.entries, &mut self.empties)?;
        Some(framed(frames, &block))
    }
}

/// What stands at the front of some bytes that begin with a HEADERS frame.
enum Block {
    Partial,
    /// Not as the protocol has it, or too long to be held back.
    Wrong,
    /// The frames of one header block, and where in them its parts are.
    Whole {
        bytes: usize,
        fragments: Vec<Range<usize>>,
    },
}

fn length(head: &[u8; FRAME_HEAD_BYTES]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

fn headers(bytes: &[u8]) -> Block {
    let (mut at, mut fragments) = (0, Vec::new());
    loop {
        let Some(head) = bytes[at..].first_chunk::<FRAME_HEAD_BYTES>() else { return Block::Partial };
        let (payload, flags) = (at + FRAME_HEAD_BYTES..at + FRAME_HEAD_BYTES + length(head), head[4]);
        let kind = if fragments.is_empty() { HEADERS } else { CONTINUATION };
        if head[3] != kind || payload.len() > FRAME_BYTES || payload.end > BLOCK_BYTES || fragments.len() == BLOCK_FRAMES {
            return Block::Wrong;
        }
        if bytes.len() < payload.end {
            return Block::Partial;
        }
        let (mut start, mut end) = (payload.start, payload.end);
        if kind == HEADERS && flags & PADDED != 0 && start < end {
            end = end.saturating_sub(usize::from(bytes[start]));
            start += 1;
        }
        if kind == HEADERS && flags & PRIORITY != 0 {
            start += PRIORITY_BYTES;
        }
        if start > end {
            return Block::Wrong;
        }
        fragments.push(start..end);
        at = payload.end;
        if flags & END_HEADERS != 0 {
            return Block::Whole { bytes: at, fragments };
        }
    }
}

/// Frames that carry `block`, with what the first of `frames` says beside it, but for padding.
fn framed(frames: &[u8], block: &[u8]) -> Bytes {
    let (flags, stream) = (frames[4], &frames[5..FRAME_HEAD_BYTES]);
    let priority = FRAME_HEAD_BYTES + usize::from(flags & PADDED != 0);
    let priority = if flags & PRIORITY == 0 { &[][..] } else { &frames[priority..priority + PRIORITY_BYTES] };
    let (first, mut rest) = block.split_at(block.len().min(FRAME_BYTES - PRIORITY_BYTES));
    let mut out = BytesMut::with_capacity(block.len() + FRAME_HEAD_BYTES * (2 + block.len() / FRAME_BYTES) + priority.len());
    let mut put = |kind: u8, flags: u8, parts: [&[u8]; 2], is_last: bool| {
        out.put_uint((parts[0].len() + parts[1].len()) as u64, 3);
        out.put_u8(kind);
        out.put_u8(if is_last { flags | END_HEADERS } else { flags });
        out.put_slice(stream);
        parts.iter().for_each(|part| out.put_slice(part));
    };
    put(HEADERS, flags & !(END_HEADERS | PADDED), [priority, first], rest.is_empty());
    while !rest.is_empty() {
        let part;
        (part, rest) = rest.split_at(rest.len().min(FRAME_BYTES));
        put(CONTINUATION, 0, [&[], part], rest.is_empty());
    }
    out.freeze()
}

/// Takes a header block apart (RFC 7541, section 6).
fn fields(block: &[u8]) -> Option<Vec<Field>> {
    let (mut fields, mut at) = (Vec::with_capacity(16), 0);
    while at < block.len() {
        let (first, start) = (block[at], at);
        let kind = if first & 0x80 != 0 {
            FieldKind::Indexed(integer(block, &mut at, 7)?)
        } else if first & 0xe0 == 0x20 {
            integer(block, &mut at, 5)?;
            FieldKind::Resize
        } else {
            let is_kept = first & 0x40 != 0;
            let mut name = integer(block, &mut at, if is_kept { 6 } else { 4 })?;
            if name == 0 {
                let (text, huffman) = string(block, &mut at)?;
                if !huffman && &block[text] == b":authority" {
                    name = AUTHORITY;
                }
            }
            let (value, huffman) = string(block, &mut at)?;
            FieldKind::Literal { name, value, huffman, is_kept }
        };
        fields.push(Field { bytes: start..at, kind });
    }
    Some(fields)
}

/// An integer whose first byte has so many bits of it (RFC 7541, section 5.1).
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        return out.push(first | value as u8);
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Where a string is, and whether it is in Huffman's code (RFC 7541, section 5.2).
fn string(block: &[u8], at: &mut usize) -> Option<(Range<usize>, bool)> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let bytes = integer(block, at, 7)?;
    let text = *at..at.checked_add(bytes)?;
    *at = text.end;
    (text.end <= block.len()).then_some((text, huffman))
}

/// The block with harmless authorities; `None` if it has none that need it. Keeps count of the table.
fn replace(block: &[u8], fields: &[Field], entries: &mut u64, empties: &mut VecDeque<u64>) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    // A stand-in for the authority is a scheme, of which there may be one.
    let mut has_stand_in = false;
    let mut replace = |field: &Field, with: &dyn Fn(&mut Vec<u8>)| {
        let out = out.get_or_insert_with(|| Vec::with_capacity(block.len() + 64));
        out.extend_from_slice(&block[copied..field.bytes.start]);
        with(out);
        copied = field.bytes.end;
    };
    for field in fields {
        match &field.kind {
            FieldKind::Literal { name: AUTHORITY, value, huffman, is_kept } => {
                // A code that is wrong is the library's to refuse.
                let bytes = decoded_bytes(&block[value.clone()], *huffman)?;
                let (first, bits) = if *is_kept { (0x40, 6) } else { (0, 4) };
                if bytes > 0 {
                    replace(field, &|out| {
                        put_integer(out, first, bits, AUTHORITY);
                        put_integer(out, 0, 7, bytes);
                        out.resize(out.len() + bytes, b'a');
                    });
                } else if *is_kept {
                    has_stand_in = true;
                    empties.push_back(*entries + 1);
                    replace(field, &|out| {
                        put_integer(out, first, bits, *SCHEMES.start());
                        put_integer(out, 0, 7, STAND_IN_SCHEME.len());
                        out.extend_from_slice(STAND_IN_SCHEME);
                    });
                } else {
                    replace(field, &|_| {});
                }
                *entries += u64::from(*is_kept);
            }
            FieldKind::Literal { is_kept, .. } => *entries += u64::from(*is_kept),
            FieldKind::Indexed(index) => {
                let entry = (*index as u64).checked_sub(STATIC_ENTRIES).and_then(|back| (*entries + 1).checked_sub(back));
                has_stand_in |= entry.is_some_and(|entry| empties.contains(&entry));
            }
            FieldKind::Resize => {}
        }
    }
    let oldest = entries.saturating_sub(DYNAMIC_ENTRIES);
    empties.retain(|entry| *entry > oldest);
    if let Some(out) = &mut out {
        out.extend_from_slice(&block[copied..]);
    }
    if !has_stand_in {
        return out;
    }
    let block = out.as_deref().unwrap_or(block);
    let is_real_scheme = |field: &Field| matches!(&field.kind, FieldKind::Indexed(index) if SCHEMES.contains(index));
    let kept = self::fields(block)?.into_iter().filter(|field| !is_real_scheme(field));
    Some(kept.flat_map(|field| &block[field.bytes]).copied().collect())
}

/// How many codes of Huffman's there are of each length (RFC 7541, appendix B). The codes are canonical, so this is all that is needed to
/// tell where one ends.
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// How long a string is when it is decoded.
fn decoded_bytes(text: &[u8], huffman: bool) -> Option<usize> {
    if !huffman {
        return Some(text.len());
    }
    let bit = |at: usize| u32::from(text[at / 8] >> (7 - at % 8) & 1);
    let (end, mut at, mut count) = (text.len() * 8, 0, 0);
    'codes: while at < end {
        let (start, mut code, mut first, mut length) = (at, 0, 0, 0);
        for (bits, codes) in CODES {
            first <<= bits - length;
            while length < bits {
                if at == end {
                    // Padding: fewer than eight bits, all of them ones.
                    let is_padding = end - start < 8 && (start..end).all(|at| bit(at) == 1);
                    return is_padding.then_some(count);
                }
                code = code << 1 | bit(at);
                at += 1;
                length += 1;
            }
            if code < first + codes {
                count += 1;
                continue 'codes;
            }
            first += codes;
        }
        return None;
    }
    Some(count)
}

#[cfg(test)]
mod tests;
