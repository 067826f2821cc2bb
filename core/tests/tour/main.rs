//! A member's two halves. The tour: what happens to one request, from the client to the answer, through all actors of three members. Each trace stands in
//! DESIGN.md as well, and `design` keeps them equal. `member` has what the log half promises its clients, `state_half` what
//! it is told.

mod a_lost_leader_leaves_an_unknown_outcome;
mod a_member_far_behind_is_given_a_snapshot;
mod a_put_from_client_to_answer;
mod a_read_at_a_follower;
mod a_restart_with_a_torn_tail;
mod a_watch_catches_up_from_disk;
mod cluster;
mod design;
mod installs;
mod leases;
mod member;
mod state_half;
