use super::*;

/// What an encoder with Huffman's code makes of some values; the first two are from RFC 7541, appendix C.4.
const CODED: [(&[u8], &str); 3] = [
    (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], "www.example.com"),
    (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], "custom-value"),
    (&[0x07], "0"),
];

fn text(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_integer(&mut out, 0, 7, value.len());
    [out, value.as_bytes().to_vec()].concat()
}

/// A header block: POST, http, then an authority in that representation, then a path that is put into the table.
fn block(representation: u8, authority: &str) -> Vec<u8> {
    [vec![0x83, 0x86, representation], text(authority), vec![0x44], text("/a")].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// What a connection that says this makes of it, whole and byte by byte.
fn filtered(said: &[u8]) -> Vec<u8> {
    let in_steps_of = |step: usize| {
        let mut filter = AuthorityFilter::after(0);
        let mut out = Vec::new();
        for part in said.chunks(step) {
            filter.incoming().extend_from_slice(part);
            filter.advance();
            out.extend_from_slice(&filter.outgoing().split());
        }
        out
    };
    let whole = in_steps_of(usize::MAX);
    let step = if said.len() > 100_000 { 10_000 } else { 1 };
    assert!(in_steps_of(step) == whole, "it does not matter how the bytes arrive");
    whole
}

#[test]
fn a_coded_string_is_as_long_as_what_it_stands_for() {
    for (coded, plain) in CODED {
        assert_eq!(decoded_bytes(coded, true), Some(plain.len()), "{plain}");
    }
    assert_eq!(decoded_bytes(&[0xff, 0xff], true), None, "padding of more than seven bits");
    assert_eq!(decoded_bytes(&[0x00], true), None, "padding of zeros");
}

#[test]
fn every_symbol_has_a_code() {
    assert_eq!(CODES.iter().map(|(_, codes)| codes).sum::<u32>(), 257, "256 bytes and the end");
    let all_used: u64 = CODES.iter().map(|(bits, codes)| u64::from(*codes) << (30 - bits)).sum();
    assert_eq!(all_used, 1 << 30, "and no code is without a symbol");
}

#[test]
fn an_authority_becomes_another_of_the_same_length_in_the_same_representation() {
    for representation in [0x41, 0x01, 0x11] {
        for authority in ["#initially=[http://127.0.0.1:2379]", "/run/etcd.sock", "a b", "127.0.0.1:2379"] {
            let said = frame(HEADERS, END_HEADERS, 1, &block(representation, authority));
            let kept = if representation == 0x11 { 0x01 } else { representation };
            let told = frame(HEADERS, END_HEADERS, 1, &block(kept, &"a".repeat(authority.len())));
            assert_eq!(filtered(&said), told, "{authority}");
        }
    }
}

#[test]
fn a_coded_authority_is_replaced_by_its_length_too() {
    let said = [&[0x83, 0x86, 0x41, 0x80 | 12][..], CODED[0].0, &[0x84]].concat();
    let told = [&[0x83, 0x86, 0x41][..], &text(&"a".repeat(15)), &[0x84]].concat();
    assert_eq!(filtered(&frame(HEADERS, END_HEADERS, 1, &said)), frame(HEADERS, END_HEADERS, 1, &told));
}

#[test]
fn an_empty_authority_is_left_out_or_becomes_an_entry_of_the_same_size() {
    let unkept = frame(HEADERS, END_HEADERS, 1, &block(0x01, ""));
    assert_eq!(filtered(&unkept), frame(HEADERS, END_HEADERS, 1, &[&[0x83, 0x86, 0x44][..], &text("/a")].concat()));
    // The path is put into the table after it, so that later it is the second newest; a third request uses neither.
    let second = frame(HEADERS, END_HEADERS, 3, &[0x83, 0x86, 0x80 | 63, 0x80 | 62]);
    let third = frame(HEADERS, END_HEADERS, 5, &[0x83, 0x86, 0x84]);
    let said = [frame(HEADERS, END_HEADERS, 1, &block(0x41, "")), second, third.clone()].concat();
    let first = [&[0x83, 0x46][..], &text("abc"), &[0x44], &text("/a")].concat();
    let second = frame(HEADERS, END_HEADERS, 3, &[0x83, 0x80 | 63, 0x80 | 62]);
    assert_eq!(filtered(&said), [frame(HEADERS, END_HEADERS, 1, &first), second, third].concat());
    assert_eq!(":scheme".len() + "abc".len(), ":authority".len());
}

#[test]
fn everything_else_goes_through_as_it_is() {
    let plain = [&[0x83, 0x86, 0x84][..], &[0x0f, 0x10], &text("application/grpc")].concat();
    let said = [
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]),
        frame(HEADERS, END_HEADERS, 1, &plain),
        frame(0, 0, 1, &vec![7; 10_000]),
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 3, &[&[3, 0, 0, 0, 0, 0][..], &plain, &[0; 3]].concat()),
        frame(0, 1, 1, &[]),
    ]
    .concat();
    assert_eq!(filtered(&said), said);
}

#[test]
fn a_block_over_several_frames_is_looked_at_as_one() {
    let metadata = [vec![0x00], text("x"), text(&"y".repeat(40_000))].concat();
    let block = [block(0x41, "/run/etcd.sock"), metadata.clone()].concat();
    let parts: Vec<&[u8]> = block.chunks(16_000).collect();
    let said = [
        frame(HEADERS, PRIORITY | 1, 1, &[&[1, 2, 3, 4, 5][..], parts[0]].concat()),
        frame(CONTINUATION, 0, 1, parts[1]),
        frame(CONTINUATION, END_HEADERS, 1, parts[2]),
    ]
    .concat();
    let told = filtered(&said);
    let Block::Whole { bytes, fragments } = headers(&told) else { panic!("a whole block") };
    assert_eq!((bytes, told[4], &told[9..14]), (told.len(), PRIORITY | 1, &[1, 2, 3, 4, 5][..]));
    let joined: Vec<u8> = fragments.into_iter().flat_map(|fragment| told[fragment].to_vec()).collect();
    let replaced = [super::tests::block(0x41, &"a".repeat(14)), metadata].concat();
    assert!(joined == replaced);
}

#[test]
fn what_is_wrong_is_left_to_the_library() {
    let truncated = frame(HEADERS, END_HEADERS, 1, &[0x83, 0x41, 0x7f]);
    let interleaved = [frame(HEADERS, 0, 1, &block(0x41, "/a")), frame(0, 0, 1, &[1])].concat();
    let endless = [frame(HEADERS, 0, 1, &block(0x41, "/a")), frame(CONTINUATION, 0, 1, &vec![0; FRAME_BYTES]).repeat(65)].concat();
    let crumbs = [frame(HEADERS, 0, 1, &[0x83]), frame(CONTINUATION, 0, 1, &[]).repeat(BLOCK_FRAMES)].concat();
    for said in [truncated, interleaved, endless, crumbs] {
        assert!(filtered(&said) == said);
        assert!(filtered(&[said.clone(), frame(HEADERS, END_HEADERS, 3, &block(0x41, "/b"))].concat()).starts_with(&said));
    }
}
