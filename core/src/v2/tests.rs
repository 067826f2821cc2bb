//! The tree: what each request does and answers, one claim a test, and random requests against a tree that is a tree.

use super::model::Model;
use super::*;
use crate::storage::{MemoryStore, WriteBatch};
use crate::types::WallMs;
use alloc::{borrow::ToOwned, format, string::String, sync::Arc, vec::Vec};
use bytes::Bytes;
use proptest::prelude::*;

/// A cluster of one has published itself and agreed on its version.
const FRESH: u64 = 3;

/// A tree with the store that it is written to.
struct World {
    store: MemoryStore,
    writer: SpaceWriter,
    at: WallMs,
}

fn path(path: &str) -> NodePath {
    NodePath::parse(path).unwrap()
}

fn write(value: &str, condition: Condition) -> Write {
    Write { value: Bytes::copy_from_slice(value.as_bytes()), is_directory: false, ttl_s: None, refresh: false, condition }
}

impl World {
    fn new() -> Self {
        let store = MemoryStore::default();
        Self { writer: SpaceWriter::open(&store).unwrap(), store, at: WallMs(1_000_000) }
    }

    fn ask(&mut self, request: &Request) -> Result<Option<Arc<Event>>, Error> {
        let mut batch = WriteBatch::default();
        let done = self.writer.apply(self.at, FRESH, request, &mut batch);
        self.store.write(&batch);
        done
    }

    fn reopen(&mut self) {
        self.writer = SpaceWriter::open(&self.store).unwrap();
        self.writer.check();
    }

    fn change(&mut self, at: &str, change: Change) -> Result<Arc<Event>, String> {
        let done = self.ask(&Request { path: path(at), change });
        done.map(|event| event.expect("it has an event"))
            .map_err(|error| format!("{} {} [{}]", error.code.number(), error.cause, error.index))
    }

    fn write(&mut self, at: &str, write: Write) -> Result<Arc<Event>, String> {
        self.change(at, Change::Write(write))
    }

    fn set(&mut self, at: &str, value: &str) -> Result<Arc<Event>, String> {
        self.write(at, write(value, Condition::Set))
    }

    fn make_directory(&mut self, at: &str) -> Result<Arc<Event>, String> {
        self.write(at, Write { is_directory: true, ..write("", Condition::Set) })
    }

    fn delete(&mut self, at: &str, directory: bool, recursive: bool) -> Result<Arc<Event>, String> {
        self.change(at, Change::Delete(Delete { directory, recursive, compare: None }))
    }

    fn expire(&mut self) -> Option<Arc<Event>> {
        self.ask(&Request { path: path("/"), change: Change::Expire }).unwrap()
    }

    fn keys(&self, at: &str, recursive: bool) -> Vec<String> {
        fn keys(listing: &Listing, into: &mut Vec<String>) {
            into.push(listing.node.path.as_str().into());
            listing.children.iter().flatten().for_each(|child| keys(child, into));
        }
        let mut all = Vec::new();
        keys(&self.writer.space().get(&path(at), recursive, FRESH).unwrap(), &mut all);
        all
    }

    fn image(&self, at: &str) -> NodeImage {
        self.writer.space().get(&path(at), false, FRESH).unwrap().node
    }
}

fn text(event: &Event) -> String {
    let image = |image: &NodeImage| {
        let value = image.value.as_ref().map_or_else(String::new, |value| format!("={}", String::from_utf8_lossy(value)));
        let kind = if image.is_directory { "/" } else { "" };
        format!("{}{kind}{value} {}..{}", image.path, image.created, image.modified)
    };
    let before = event.previous.as_ref().map_or_else(String::new, |previous| format!(" was {}", image(previous)));
    format!("{}@{} {}{before}", event.action.name(), event.index, image(&event.node))
}

#[test]
fn a_set_makes_a_file_and_its_directories_and_replaces_it_as_a_new_one() {
    let mut world = World::new();
    assert_eq!(text(&world.set("/a/b/c", "1").unwrap()), "set@4 /a/b/c=1 4..4");
    assert_eq!(text(&world.set("/a/b/c", "2").unwrap()), "set@5 /a/b/c=2 5..5 was /a/b/c=1 4..4");
    assert_eq!(world.keys("/", true), ["", "/a", "/a/b", "/a/b/c"]);
    assert_eq!((world.image("/a").created, world.image("/a/b").modified), (4, 4));
}

#[test]
fn a_file_is_no_directory_and_a_directory_no_file() {
    let mut world = World::new();
    world.set("/f", "1").unwrap();
    world.make_directory("/d").unwrap();
    assert_eq!(world.set("/f/x", "1").unwrap_err(), "104 /f [5]");
    assert_eq!(world.set("/d", "1").unwrap_err(), "102 /d [5]");
    assert_eq!(world.make_directory("/d").unwrap_err(), "102 /d [5]");
    assert_eq!(text(&world.make_directory("/f").unwrap()), "set@6 /f/ 6..6 was /f=1 4..4");
    assert_eq!(world.writer.space().get(&path("/x/y"), false, FRESH).unwrap_err().cause, "/x");
}

#[test]
fn the_root_is_read_only() {
    let mut world = World::new();
    for refused in
        [world.set("/", "1"), world.make_directory("/"), world.delete("/", true, true), world.write("/", write("", Condition::Update))]
    {
        assert_eq!(refused.unwrap_err(), "107 / [3]");
    }
    assert_eq!(world.write("/", write("", Condition::Create)).unwrap_err(), "107 / [3]");
    let compare = Compare { value: None, modified: Some(1) };
    assert_eq!(
        world.change("/", Change::Delete(Delete { directory: false, recursive: false, compare: Some(compare) })).unwrap_err(),
        "102  [3]"
    );
}

#[test]
fn only_what_is_not_there_is_created_and_only_what_is_there_updated() {
    let mut world = World::new();
    assert_eq!(world.write("/a", write("1", Condition::Update)).unwrap_err(), "100 /a [3]");
    assert_eq!(text(&world.write("/a", write("1", Condition::Create)).unwrap()), "create@4 /a=1 4..4");
    assert_eq!(world.write("/a", write("2", Condition::Create)).unwrap_err(), "105 /a [4]");
    assert_eq!(text(&world.write("/a", write("2", Condition::Update)).unwrap()), "update@5 /a=2 4..5 was /a=1 4..4");
}

#[test]
fn a_swap_and_a_deletion_compare_the_value_and_the_index() {
    let mut world = World::new();
    world.set("/a", "1").unwrap();
    let compare =
        |value: Option<&'static str>, modified| Compare { value: value.map(|value| Bytes::from_static(value.as_bytes())), modified };
    let mut swap = |compare| world.write("/a", write("2", Condition::CompareAndSwap(compare)));
    assert_eq!(swap(compare(Some("x"), None)).unwrap_err(), "101 [x != 1] [4]");
    assert_eq!(swap(compare(None, Some(9))).unwrap_err(), "101 [9 != 4] [4]");
    assert_eq!(swap(compare(Some("x"), Some(9))).unwrap_err(), "101 [x != 1] [9 != 4] [4]");
    assert_eq!(swap(compare(Some("1"), Some(9))).unwrap_err(), "101 [9 != 4] [4]");
    assert_eq!(text(&swap(compare(Some("1"), Some(4))).unwrap()), "compareAndSwap@5 /a=2 4..5 was /a=1 4..4");
    let mut delete = |compare| world.change("/a", Change::Delete(Delete { directory: false, recursive: false, compare: Some(compare) }));
    assert_eq!(delete(compare(Some("1"), None)).unwrap_err(), "101 [1 != 2] [5]");
    assert_eq!(text(&delete(compare(Some("2"), None)).unwrap()), "compareAndDelete@6 /a 4..6 was /a=2 4..5");
}

#[test]
fn children_in_order_are_named_by_the_index() {
    let mut world = World::new();
    for (value, index) in [("1", 4), ("2", 5)] {
        let made = world.write("/queue", write(value, Condition::CreateInOrder)).unwrap();
        assert_eq!(text(&made), format!("create@{index} /queue/{index:020}={value} {index}..{index}"));
    }
    assert_eq!(
        world.write("/queue/00000000000000000004", write("", Condition::CreateInOrder)).unwrap_err(),
        "104 /queue/00000000000000000004 [5]"
    );
}

#[test]
fn a_directory_goes_when_it_is_empty_or_with_everything() {
    let mut world = World::new();
    world.set("/d/a", "1").unwrap();
    assert_eq!(world.delete("/d", false, false).unwrap_err(), "102 /d [4]");
    assert_eq!(world.delete("/d", true, false).unwrap_err(), "108 /d [4]");
    assert_eq!(text(&world.delete("/d", false, true).unwrap()), "delete@5 /d/ 4..5 was /d/ 4..4");
    assert_eq!(world.delete("/d/a", false, false).unwrap_err(), "100 /d [5]");
    world.make_directory("/e").unwrap();
    assert_eq!(text(&world.delete("/e", true, false).unwrap()), "delete@7 /e/ 6..7 was /e/ 6..6");
}

#[test]
fn hidden_nodes_are_listed_only_by_their_own_name() {
    let mut world = World::new();
    for at in ["/_h/a", "/d/_h", "/d/v", "/_h/_i"] {
        world.set(at, "1").unwrap();
    }
    assert_eq!(world.keys("/", true), ["", "/d", "/d/v"]);
    assert_eq!(world.keys("/_h", true), ["/_h", "/_h/a"]);
    assert_eq!(world.keys("/d/_h", false), ["/d/_h"]);
}

#[test]
fn nodes_go_when_their_time_is_up_each_with_an_index_of_its_own() {
    let mut world = World::new();
    for (at, ttl_s) in [("/b", 2), ("/a", 1), ("/d/x", 9)] {
        world.write(at, Write { ttl_s: Some(ttl_s), ..write("1", Condition::Set) }).unwrap();
    }
    world.write("/d", Write { ttl_s: Some(2), ..write("", Condition::Update) }).unwrap();
    assert_eq!(world.writer.next_end(), Some(WallMs(1_001_000)));
    assert_eq!(world.expire(), None);
    world.at = WallMs(1_002_000);
    let last = world.expire().unwrap();
    assert_eq!((last.index, world.keys("/", true)), (10, alloc::vec![String::new()]));
    let told: Vec<_> = (8..=10).map(|index| world.writer.space().history.get(&index).unwrap().node.path.as_str().to_owned()).collect();
    assert_eq!(told, ["/a", "/b", "/d"]);
    assert_eq!(world.writer.next_end(), None);
    world.writer.check();
}

#[test]
fn nodes_that_are_due_together_go_a_number_at_a_time() {
    let mut world = World::new();
    for number in 0..=EXPIRED_MAX {
        world.write(&format!("/{number}"), Write { ttl_s: Some(1), ..write("", Condition::Set) }).unwrap();
    }
    world.at.0 += 1_000;
    let nodes = |world: &World| world.writer.space().measure(&path("/")).count;
    world.expire();
    assert_eq!(nodes(&world), 1);
    world.expire();
    assert_eq!(nodes(&world), 0);
}

#[test]
fn time_never_goes_back() {
    let mut world = World::new();
    world.set("/a", "1").unwrap();
    world.at = WallMs(5);
    let made = world.write("/b", Write { ttl_s: Some(1), ..write("1", Condition::Set) }).unwrap();
    assert_eq!(made.node.expires, Some(WallMs(1_001_000)));
}

#[test]
fn a_time_to_live_beyond_all_dates_ends_with_the_last_of_them() {
    let mut world = World::new();
    let made = world.write("/a", Write { ttl_s: Some(u64::MAX), ..write("1", Condition::Set) }).unwrap();
    assert_eq!(made.node.expires, Some(WallMs(253_402_300_799_000)));
}

#[test]
fn a_refresh_keeps_the_value_and_wakes_nobody() {
    let mut world = World::new();
    let refresh = |condition| Write { ttl_s: Some(5), refresh: true, ..write("", condition) };
    assert_eq!(world.write("/a", refresh(Condition::Set)).unwrap_err(), "100 /a [3]");
    world.set("/a", "1").unwrap();
    assert_eq!(text(&world.write("/a", refresh(Condition::Set)).unwrap()), "set@5 /a=1 5..5 was /a=1 4..4");
    assert_eq!(text(&world.write("/a", refresh(Condition::Update)).unwrap()), "update@6 /a=1 5..6 was /a=1 5..5");
    let point = WatchPoint { path: path("/a"), recursive: false };
    assert_eq!(world.writer.space().next_event(&point, 5, FRESH), Ok(None));
    world.set("/a", "2").unwrap();
    assert_eq!(world.writer.space().next_event(&point, 5, FRESH).unwrap().unwrap().index, 7);
}

#[test]
fn an_update_of_a_directory_changes_only_its_end() {
    let mut world = World::new();
    world.make_directory("/d").unwrap();
    assert_eq!(world.write("/d", write("x", Condition::Update)).unwrap_err(), "102 /d [4]");
    let told = world.write("/d", Write { ttl_s: Some(7), ..write("", Condition::Update) }).unwrap();
    assert_eq!((text(&told), world.image("/d").modified), ("update@5 /d/ 4..5 was /d/ 4..4".into(), 4));
    assert_eq!(world.image("/d").expires, Some(WallMs(1_007_000)));
}

#[test]
fn the_last_thousand_changes_are_kept_and_an_earlier_one_is_told_to_be_gone() {
    let mut world = World::new();
    let point = WatchPoint { path: path("/a"), recursive: false };
    world.set("/a", "first").unwrap();
    assert_eq!(world.writer.space().next_event(&point, 1, FRESH).unwrap().unwrap().index, 4);
    for _ in 0..HISTORY_EVENTS {
        world.set("/b", "").unwrap();
    }
    world.reopen();
    let gone = world.writer.space().next_event(&point, 4, FRESH).unwrap_err();
    assert_eq!((gone.code.number(), gone.cause.as_str(), gone.index), (401, "the requested history has been cleared [5/4]", 1_004));
    assert_eq!(world.writer.space().next_event(&point, 5, FRESH), Ok(None));
}

fn any_request() -> impl Strategy<Value = Request> {
    let name = prop_oneof![Just("a"), Just("b"), Just("_h"), Just("a-b")];
    let at = prop::collection::vec(name, 0..4).prop_map(|names| path(&names.join("/")));
    let compare = (prop::option::of(prop_oneof![Just("1"), Just("2")]), prop::option::of(4..30_u64)).prop_map(|(value, modified)| {
        let value = value.or(modified.is_none().then_some("1")).map(|value| Bytes::from_static(value.as_bytes()));
        Compare { value, modified }
    });
    let condition = prop_oneof![
        4 => Just(Condition::Set),
        1 => Just(Condition::Create),
        1 => Just(Condition::CreateInOrder),
        1 => Just(Condition::Update),
        1 => compare.clone().prop_map(Condition::CompareAndSwap),
    ];
    let value = prop_oneof![Just(""), Just("1"), Just("2")].prop_map(|value| Bytes::from_static(value.as_bytes()));
    let write = (value, any::<bool>(), prop::option::of(0..20_u64), prop::bool::weighted(0.2), condition);
    let write = write.prop_map(|(value, is_directory, ttl_s, refresh, condition)| {
        let refresh = refresh && ttl_s.is_some();
        Change::Write(Write { value: if refresh { Bytes::new() } else { value }, is_directory, ttl_s, refresh, condition })
    });
    let delete = (any::<bool>(), any::<bool>(), prop::option::weighted(0.3, compare));
    let delete = delete.prop_map(|(directory, recursive, compare)| Change::Delete(Delete { directory, recursive, compare }));
    (at, prop_oneof![5 => write, 2 => delete, 1 => Just(Change::Expire)]).prop_map(|(path, change)| Request { path, change })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_requests_do_what_a_tree_of_nodes_does(requests in prop::collection::vec((any_request(), 0..3_000_u64, prop::bool::weighted(0.05)), 1..120)) {
        let mut world = World::new();
        let mut model = Model::new(FRESH);
        for (request, passed_ms, reopen) in requests {
            world.at.0 += passed_ms;
            let expected = model.apply(world.at.0, &request);
            let done = world.ask(&request);
            let told = done.map(|event| event.map(|event| (*event).clone())).map_err(|error| (error.code, error.cause));
            prop_assert_eq!(told, expected, "{:?}", request);
            if reopen {
                world.reopen();
            }
            prop_assert_eq!(world.writer.space().get(&path("/"), true, FRESH).unwrap(), model.get(&path("/"), true).unwrap());
            let listed = world.writer.space().get(&request.path, false, FRESH).map_err(|error| (error.code, error.cause));
            prop_assert_eq!(listed, model.get(&request.path, false));
            world.writer.check();
        }
    }
}
