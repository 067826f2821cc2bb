//! If a server has applied a log entry at a given index, no other server will ever apply a different one for that index
//! (Raft §5.4.3, Figure 3: State Machine Safety). Judged where it begins: at the commit index.

use super::{Checker, Facts, Found};
use quorate_core::command::RaftStatus;
use quorate_core::consensus::{Consensus, Payload};
use quorate_core::types::{LogId, LogIndex};

pub(super) fn advance(facts: &mut Facts, member: usize, status: &RaftStatus, consensus: &Consensus) -> Found {
    let commit = status.committed.0;
    let mirror = &facts.members[member];
    let Some(own) = mirror.at(commit) else {
        if commit == 0 {
            return Ok(());
        }
        return Err((
            Checker::StateMachineSafety,
            format!("member {member} takes {commit} for committed, beyond its log's end {}", mirror.end()),
        ));
    };
    let known = facts.committed.len() as u64;
    if commit <= known {
        let agreed = facts.committed[usize::try_from(commit - 1).expect("in memory")];
        return if agreed == own {
            Ok(())
        } else {
            Err((
                Checker::StateMachineSafety,
                format!("member {member} takes another entry for committed at {commit} than was committed there"),
            ))
        };
    }
    if known > 0 && mirror.at(known) != facts.committed.last().copied() {
        return Err((
            Checker::StateMachineSafety,
            format!("member {member} commits through {commit} on another log than the committed one at {known}"),
        ));
    }
    for index in known + 1..=commit {
        facts.committed.push(mirror.at(index).expect("at or below its end"));
        let term = status.term.max(facts.committed_in.last().copied().unwrap_or_default());
        facts.committed_in.push(term);
        if let Some(Payload::Command { request, .. }) = consensus.entry(LogIndex(index)).map(|entry| &entry.payload)
            && let Some(first) = facts.requests.insert(*request, index)
        {
            return Err((Checker::StateMachineSafety, format!("request {request} was committed twice, at {first} and {index}")));
        }
    }
    Ok(())
}

/// A snapshot stands for the committed log through `last`, and for no other.
pub(super) fn install(facts: &mut Facts, member: usize, last: LogId) -> Found {
    let through = usize::try_from(last.index.0).expect("in memory");
    match facts.committed.get(..through) {
        Some(committed) if committed.last().is_some_and(|(term, _)| *term == last.term) => {
            facts.members[member].install(committed);
            Ok(())
        }
        _ => Err((Checker::StateMachineSafety, format!("member {member} installs a state through {last}, which was never committed"))),
    }
}
