//! If two logs contain an entry with the same index and term, then the logs are identical in all entries up through that index
//! (Raft §5.3, Figure 3: Log Matching). The chain hash of an entry covers all before it, so one comparison tells.

use super::{Checker, Facts, Found};
use crate::trace::Hash128;
use quorate_core::consensus::{Consensus, Entry, Payload};
use quorate_core::types::LogIndex;

/// Brings the mirror of a member's log up to date and compares what is new.
pub(super) fn follow(facts: &mut Facts, member: usize, consensus: &Consensus) -> Found {
    let mirror = &mut facts.members[member];
    let last = consensus.last();
    let mut common = mirror.end().min(last.index.0);
    // Terms of a log ascend, so the newest entry of equal term is where the two agree.
    while common > 0 && consensus.term_at(LogIndex(common)).is_some_and(|term| mirror.at(common).is_some_and(|known| known.0 != term)) {
        common -= 1;
    }
    mirror.truncate(common);
    for index in common + 1..=last.index.0 {
        let Some(entry) = consensus.entry(LogIndex(index)) else {
            let text = format!("member {member}: entry {index} is new, but neither in memory nor seen before");
            return Err((Checker::LogMatching, text));
        };
        let before = mirror.at(index - 1).map_or_else(Hash128::default, |known| known.1);
        let chain = chain(before, entry);
        mirror.log.push((entry.id.term, chain));
        let at = usize::try_from(index - 1).expect("in memory");
        if facts.known.len() <= at {
            facts.known.resize(at + 1, Vec::new());
        }
        match facts.known[at].iter().find(|known| known.0 == entry.id.term) {
            Some((_, other)) if *other != chain => {
                let text = format!("member {member} has an entry {} that differs from another member's, or follows another log", entry.id);
                return Err((Checker::LogMatching, text));
            }
            Some(_) => {}
            None => {
                facts.known[at].push((entry.id.term, chain));
                if let Payload::Command { request, command } = &entry.payload {
                    facts.commands.insert((index, entry.id.term), (*request, command.clone()));
                }
            }
        }
    }
    Ok(())
}

fn chain(mut hash: Hash128, entry: &Entry) -> Hash128 {
    hash.mix(entry.id.term.0);
    hash.mix(entry.id.index.0);
    match &entry.payload {
        Payload::Empty => hash.mix(0),
        Payload::Command { request, command } => {
            hash.mix(request.member.0 ^ request.boot.0 << 32);
            hash.mix(request.sequence);
            hash.mix_bytes(command);
        }
        Payload::Configuration { configuration, .. } => {
            configuration.voters.iter().for_each(|voter| hash.mix(voter.0));
            hash.mix(configuration.outgoing.len() as u64);
        }
    }
    hash
}
