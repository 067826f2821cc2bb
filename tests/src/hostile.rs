//! Bad input to real members: whatever is wrong, it ends in a clear message or error, nothing acknowledged is lost, and the healthy
//! members are unharmed. One claim per function; each makes its own members and judges them from outside.

mod disk;
mod flags;
mod impostors;
mod start;
mod wire;

use crate::process::{Cluster, Member, Server};
use quorate_web::proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, kv_client::KvClient};
use std::{collections::BTreeMap, error::Error, time::Duration};
use tokio::runtime::Runtime;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

type Outcome = Result<(), Box<dyn Error>>;
type Claim = (&'static str, fn() -> Outcome);

/// How long a single request may take. Long enough for a new leader.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// How often a put is tried again that lost its leader.
const RETRIES: usize = 5;
/// A member is no longer sent anything after so many requests without the failure that was waited for.
const WRITES_MAX: usize = 1_000;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Only the claims whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

const TABLES: [&[Claim]; 5] = [start::CLAIMS, disk::CLAIMS, wire::CLAIMS, impostors::CLAIMS, flags::CLAIMS];

/// Checks every claim and prints each verdict, then the counts.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let (mut passed, mut failed) = (0, 0);
    for (name, claim) in TABLES.into_iter().flatten() {
        if options.only.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            continue;
        }
        match claim() {
            Ok(()) => {
                passed += 1;
                println!("ok {name}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error}");
            }
        }
    }
    println!("hostile: {passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}

/// An error unless the condition holds.
fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

/// An error unless the text has every part.
fn require_parts(text: &str, parts: &[&str]) -> Outcome {
    parts.iter().try_for_each(|part| require(text.contains(part), || format!("{part:?} is missing in: {text}")))
}

/// Starts a member that must end by itself, with a failure it explains. Returns its words.
fn refused(member: &mut Member, parts: &[&str]) -> Result<String, Box<dyn Error>> {
    member.start()?;
    ended(member, parts)
}

/// Waits for a member to end with a failure it explains.
fn ended(member: &mut Member, parts: &[&str]) -> Result<String, Box<dyn Error>> {
    let status = member.wait_end()?;
    let text = member.log_text()?;
    require(status.code().is_some_and(|code| code != 0), || format!("it ended with {status}: {text}"))?;
    require(!text.contains("panicked"), || format!("it panicked: {text}"))?;
    require_parts(&text, parts)?;
    Ok(text)
}

/// Waits until a running member has logged every part.
fn wait_logged(member: &Member, parts: &[&str]) -> Outcome {
    wait_logged_for(member, parts, REQUEST_LIMIT)
}

/// The same, for what takes longer.
fn wait_logged_for(member: &Member, parts: &[&str], limit: Duration) -> Outcome {
    let deadline = std::time::Instant::now() + limit;
    loop {
        let outcome = require_parts(&member.log_text()?, parts);
        if outcome.is_ok() || std::time::Instant::now() > deadline {
            return outcome;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A cluster and everything it has acknowledged.
struct Ground {
    cluster: Cluster,
    acknowledged: BTreeMap<Vec<u8>, Vec<u8>>,
    written: usize,
    runtime: Runtime,
}

impl Ground {
    fn new(size: usize, extra: &[&str]) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cluster = Cluster::start(Server::Quorate, size, extra)?;
        let mut ground = Self { cluster, acknowledged: BTreeMap::new(), written: 0, runtime };
        ground.put_many(0, 20, 100)?;
        Ok(ground)
    }

    fn member(&mut self) -> &mut Member {
        &mut self.cluster.members[0]
    }

    fn client(&self, member: usize) -> Result<KvClient<Channel>, Box<dyn Error>> {
        let address = format!("http://{}", self.cluster.members[member].client);
        let endpoint = Endpoint::from_shared(address)?.timeout(REQUEST_LIMIT).connect_timeout(REQUEST_LIMIT);
        // Lazily: a channel whose first connection fails must be tried by its request.
        let _entered = self.runtime.enter();
        Ok(KvClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX))
    }

    /// Puts new values of that size through a member, each remembered once it is acknowledged.
    fn put_many(&mut self, member: usize, count: usize, bytes: usize) -> Result<(), Box<dyn Error>> {
        match self.try_put_many(member, count, bytes)? {
            Some(status) => Err(format!("member {} refuses a put: {status}", member + 1).into()),
            None => Ok(()),
        }
    }

    /// As [`Self::put_many`], but a refusal ends it and is returned.
    fn try_put_many(&mut self, member: usize, count: usize, bytes: usize) -> Result<Option<Status>, Box<dyn Error>> {
        let mut client = self.client(member)?;
        for _ in 0..count {
            self.written += 1;
            let key = format!("key {:06}", self.written).into_bytes();
            let value = format!("value {:06} ", self.written).into_bytes().into_iter().cycle().take(bytes).collect::<Vec<u8>>();
            let request = PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
            let mut answer = self.runtime.block_on(client.put(request.clone()));
            for _ in 0..RETRIES {
                // The leader that was just killed may have held it; then it is the client's to try again.
                if !answer.as_ref().is_err_and(|status| status.code() == Code::Unavailable && status.message().starts_with("etcdserver: "))
                {
                    break;
                }
                answer = self.runtime.block_on(client.put(request.clone()));
            }
            match answer {
                Ok(_) => self.acknowledged.insert(key, value),
                Err(status) => return Ok(Some(status)),
            };
        }
        Ok(None)
    }

    /// Compacts the first member's history through now and waits for its space.
    fn compact(&mut self) -> Outcome {
        let mut client = self.client(0)?;
        let range = RangeRequest { key: b"key".to_vec().into(), ..RangeRequest::default() };
        let answer = self.runtime.block_on(client.range(range))?.into_inner();
        let revision = answer.header.ok_or("no header")?.revision;
        self.runtime.block_on(client.compact(CompactionRequest { revision, physical: true }))?;
        Ok(())
    }

    /// Writes until the member refuses.
    fn put_until_refused(&mut self, bytes: usize) -> Result<Status, Box<dyn Error>> {
        self.try_put_many(0, WRITES_MAX, bytes)?.ok_or_else(|| format!("{WRITES_MAX} writes of {bytes} bytes all went well").into())
    }

    /// Everything acknowledged is there, as a linearizable read through that member tells.
    fn check_kept(&self, member: usize) -> Outcome {
        let mut client = self.client(member)?;
        for (key, value) in &self.acknowledged {
            let request = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
            let answer = self.runtime.block_on(client.range(request))?.into_inner();
            require(answer.kvs.first().is_some_and(|kv| kv.value == *value), || {
                format!("acknowledged {} is lost on member {}", String::from_utf8_lossy(key), member + 1)
            })?;
        }
        Ok(())
    }

    /// Those members serve a put, and have everything that was ever acknowledged.
    fn check_unharmed(&mut self, members: &[usize]) -> Outcome {
        for member in members {
            self.put_many(*member, 1, 100)?;
            self.check_kept(*member)?;
        }
        Ok(())
    }

    /// Starts a member that must serve and have everything.
    fn start_unharmed(&mut self, member: usize) -> Outcome {
        self.cluster.members[member].start()?;
        if !self.cluster.members[member].wait_ready_or_end()? {
            return Err(format!("it ended: {}", self.cluster.members[member].log_text()?).into());
        }
        self.check_unharmed(&[member])
    }

    /// A member of a cluster of its own, that does not run: the first of this ground, on free ports and with no data.
    fn loner(&self, name: &str) -> Result<Member, Box<dyn Error>> {
        let mut loner = self.cluster.members[0].twin(name);
        loner.client = format!("127.0.0.1:{}", crate::process::free_port()?);
        loner.peer = format!("127.0.0.1:{}", crate::process::free_port()?);
        loner.data_dir = self.cluster.folder().join(name);
        let (client, peer) = (format!("http://{}", loner.client), format!("http://{}", loner.peer));
        for (option, value) in [
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("{}={peer}", loner.name)),
            ("--data-dir", loner.data_dir.to_str().ok_or("data directory is not UTF-8")?.to_owned()),
        ] {
            loner.set(option, &value);
        }
        Ok(loner)
    }
}
