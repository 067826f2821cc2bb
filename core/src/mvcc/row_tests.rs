//! Key-value rows against their protobuf form.

use super::*;
use alloc::{format, string::String};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn example() -> KeyValue {
    KeyValue {
        key: Bytes::from_static(b"foo"),
        create_revision: Revision(2),
        mod_revision: Revision(300),
        version: 5,
        value: Bytes::from_static(b"bar"),
        lease: LeaseId(0x1234),
    }
}

fn fields(kv: &KeyValue) -> KeyValueRef<'_> {
    let KeyValue { create_revision, mod_revision, version, lease, .. } = *kv;
    KeyValueRef { key: &kv.key, create: create_revision, modified: mod_revision, version, value: &kv.value, lease }
}

#[test]
fn the_bytes_of_a_key_value_never_change() {
    insta::assert_snapshot!(hex(&example().encode().0), @"0a03666f6f100218ac0220052a0362617230b424");
}

#[test]
fn fields_that_are_zero_are_left_out() {
    let kv = KeyValue { value: Bytes::new(), lease: LeaseId(0), ..example() };
    insta::assert_snapshot!(hex(&kv.encode().0), @"0a03666f6f100218ac022005");
}

#[test]
fn a_negative_lease_takes_ten_bytes() {
    let kv = KeyValue { lease: LeaseId(-1), key: Bytes::from_static(b"k"), ..KeyValue::default() };
    insta::assert_snapshot!(hex(&kv.encode().0), @"0a016b30ffffffffffffffffff01");
}

#[test]
fn the_stored_rows_never_change() {
    insta::assert_snapshot!(hex(Row::put(&fields(&example())).stored()), @"000a03666f6f100218ac0220052a0362617230b424");
    insta::assert_snapshot!(hex(Row::delete(b"foo", Revision(300)).stored()), @"010a03666f6f18ac02");
}

#[test]
fn a_row_of_unknown_kind_or_cut_short_is_not_read() {
    assert!(Row::parse(Bytes::new()).is_none());
    assert!(Row::parse(Bytes::from_static(b"\x02\x0a\x01k")).is_none());
    let whole = Row::put(&fields(&example()));
    assert!(Row::parse(whole.stored().slice(..5)).is_none());
    assert!(Row::parse(whole.stored().clone()).is_some());
}

#[test]
fn accessors_share_the_memory_of_the_row() {
    let kv = example().encode();
    let within = |part: &Bytes| kv.0.as_ptr_range().contains(&part.as_ptr());
    assert!(within(&kv.key()) && within(&kv.value()));
    assert_eq!((kv.version(), kv.create_revision(), kv.mod_revision(), kv.lease()), (5, Revision(2), Revision(300), LeaseId(0x1234)));
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        key in prop::collection::vec(any::<u8>(), 0..200),
        value in prop::collection::vec(any::<u8>(), 0..200),
        numbers in any::<[i64; 4]>(),
    ) {
        let [create, modified, version, lease] = numbers;
        let kv = KeyValue {
            key: key.into(),
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            version,
            value: value.into(),
            lease: LeaseId(lease),
        };
        prop_assert_eq!(fields(&kv).encoded_len(), kv.encode().0.len());
        prop_assert_eq!(kv.encode().decode(), Some(kv));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let kv = EncodedKeyValue(bytes.into());
        let _ = (kv.decode(), kv.key(), kv.value(), kv.lease());
    }
}
