//! Members of one cluster whose flags differ, as while an operator changes one.

use super::{Claim, Ground, Outcome, REQUEST_LIMIT, require};
use quorate_web::proto::etcdserverpb::{MoveLeaderRequest, StatusRequest, StatusResponse, maintenance_client::MaintenanceClient};
use std::{error::Error, time::Instant};

pub const CLAIMS: &[Claim] = &[("what the flags of one member allow passes through all members", large_request_of_one_member)];

const MIB: usize = 1 << 20;

fn status(ground: &Ground, member: usize) -> Result<StatusResponse, Box<dyn Error>> {
    let address = format!("http://{}", ground.cluster.members[member].client);
    Ok(ground
        .runtime
        .block_on(async {
            MaintenanceClient::connect(address).await?.status(StatusRequest::default()).await.map_err(Box::<dyn Error>::from)
        })?
        .into_inner())
}

/// Moves leadership to a member.
fn make_leader(ground: &Ground, member: usize) -> Outcome {
    let target_id = status(ground, member)?.header.ok_or("no header")?.member_id;
    let deadline = Instant::now() + REQUEST_LIMIT;
    while Instant::now() < deadline {
        for asked in 0..ground.cluster.members.len() {
            let status = status(ground, asked)?;
            if status.leader == target_id && asked == member {
                return Ok(());
            }
            if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                let address = format!("http://{}", ground.cluster.members[asked].client);
                // Refused while that leader is losing its office; then it is asked again.
                let _ = ground.runtime.block_on(async {
                    let mut client = MaintenanceClient::connect(address).await?;
                    client.move_leader(MoveLeaderRequest { target_id }).await.map_err(Box::<dyn Error>::from)
                });
            }
        }
    }
    Err(format!("member {} does not come to lead", member + 1).into())
}

fn large_request_of_one_member() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    ground.cluster.members[0].kill()?;
    ground.cluster.members[0].set("--max-request-bytes", &(60 * MIB).to_string());
    ground.start_unharmed(0)?;
    for leader in [0, 1] {
        make_leader(&ground, leader)?;
        ground.put_many(0, 1, 20 * MIB)?;
        ground.check_unharmed(&[0, 1, 2])?;
    }
    // What is in the log must also reach a member that comes late.
    ground.cluster.members[2].kill()?;
    ground.put_many(0, 1, 20 * MIB)?;
    ground.start_unharmed(2)?;
    let refused = ground.try_put_many(1, 1, 20 * MIB)?;
    require(refused.is_some(), || "a member takes a request above its own flag".into())?;
    ground.check_unharmed(&[0, 1, 2])
}
