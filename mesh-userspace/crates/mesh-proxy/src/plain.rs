//! The story of a connection that arrives in clear, from outside the mesh: only where the mode is permissive, and only
//! by what the network says of its source. It is counted as clear.

use std::rc::Rc;
use std::sync::Arc;

use mesh_core::addr::{AppAddr, OrigDst, canonical};
use mesh_core::outcome::Reason;
use mesh_core::policy::{Caller, authorize};
use mesh_core::record::{Direction, Transport};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::carry::{self, Basis, Carriage, Held};
use crate::context::{CONNECT_TIME, Context};
use crate::deliver::deliver;
use crate::identify;
use crate::inbound::{note, refused};
use crate::listen::Accepted;
use crate::recheck::Standing;
use crate::record::{Ended, Recorder};
use crate::reset::{self, ResetOnDrop};

/// One connection in clear, from accept to close.
pub(crate) async fn serve(cx: Rc<Context>, accepted: Accepted) {
    let basis = Basis::now(&cx);
    let record = cx.record(Direction::Inbound, &basis.world);
    let open = cx.open(Direction::Inbound);
    let mut client = ResetOnDrop::new(accepted.connection);
    let admitted = admit(&basis, &accepted.share, accepted.client, &client, &record).await;
    let ended = match (admitted, client.take()) {
        (Ok((server, standing)), Some(client)) => {
            let held = Held {
                _share: accepted.share,
                _open: open,
                _load: None,
            };
            let carriage = Carriage::Plain {
                client,
                server,
                kept: Vec::new(),
            };
            return carry::begin(&cx, &basis, record, carriage, standing, held);
        }
        (Ok(_), None) => Ended::before(Reason::Fault, ""),
        // A refusal must not look like an empty answer.
        (Err(ended), client) => {
            if let Some(client) = client {
                reset::now(client);
            }
            ended
        }
    };
    record.close(ended);
}

async fn admit(
    basis: &Basis,
    share: &crate::served::Share,
    client: mesh_core::addr::ClientAddr,
    connection: &ResetOnDrop,
    record: &Recorder,
) -> Result<(TcpStream, Standing), Ended> {
    let served = share.served();
    let destination = dialled(connection)?;
    record.fill(|record| {
        record.client = Some(client);
        record.original_destination = Some(OrigDst(destination.0));
        record.endpoint = Some(destination);
        record.destination.workload = Some(served.local.name.clone());
        record.destination.identity = Some(served.local.identity.clone());
        record.transport = Transport::Plaintext;
    });
    let workload = identify::local(&basis.world, &served.local)
        .map_err(|error| Ended::before(Reason::WrongDestination, error.to_string()))?;
    let owner = basis.world.workload_at(destination.0);
    if owner.is_none_or(|owner| owner.name != workload.name) || !served.owns(destination.0.ip()) {
        let detail = format!("{destination} is not an address of {}", workload.name);
        return Err(Ended::before(Reason::WrongDestination, detail));
    }
    let caller = Caller::Anonymous {
        address: client.0.ip(),
    };
    let permit = authorize(&basis.world, caller, workload, destination)
        .map_err(|denied| refused(record, denied))?;
    note(record, &permit);
    let server = deliver(&permit, served, client, Instant::now() + CONNECT_TIME)
        .await
        .map_err(|error| Ended::before(error.reason(), error.to_string()))?;
    let connect_us = u64::try_from(record.age().as_micros()).ok();
    record.fill(|record| record.connect_us = connect_us);
    let standing = Standing::Inbound {
        destination: Arc::clone(served),
        permit,
        peer: None,
    };
    Ok((server, standing))
}

/// Where the client dialled: the kernel gives the SYN to our listener without changing it, so the accepted socket's own
/// address is the application's.
fn dialled(connection: &ResetOnDrop) -> Result<AppAddr, Ended> {
    let address = connection
        .get()
        .ok_or_else(|| Ended::before(Reason::Fault, ""))?
        .local_addr()
        .map_err(|error| Ended::before(Reason::ClientReset, error.to_string()))?;
    Ok(AppAddr(canonical(address)))
}
