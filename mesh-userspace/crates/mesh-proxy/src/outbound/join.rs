//! Joins a tunnel: the request for a stream to a workload, as whom, to whom, and how long it may take.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::addr::{AppAddr, PeerAddr};
use mesh_core::outcome::Reason;
use mesh_core::workload::{Name, Workload};
use mesh_identity::tls;
use tokio::time::timeout_at;

use super::{Failed, Story, failed, words};
use crate::reset::ResetOnDrop;
use crate::{configs, tunnel, wire};

impl Story<'_> {
    /// A stream to `workload`'s application at `endpoint`; returns once that has taken the connection.
    pub(super) async fn join(
        &self,
        workload: &Workload,
        endpoint: AppAddr,
        service: Option<&Name>,
        app: (ResetOnDrop, Vec<u8>),
    ) -> Result<tunnel::Opened, Failed> {
        let request = self.request(workload, endpoint, service, app)?;
        let key = request.key.clone();
        // Each step of opening has a limit of its own; this is the one for all of them.
        let opened = timeout_at(self.deadline, self.cx.pool.open(request)).await;
        self.renewed(&key);
        opened
            .map_err(|_elapsed| failed(Reason::Unreachable, "no answer in time".to_owned()))?
            .map_err(|error| Failed {
                reason: error.reason,
                detail: error.detail,
                app: error
                    .returned
                    .map(|(app, kept)| (ResetOnDrop::new(app), kept)),
            })
    }

    /// A certificate that was renewed while hands were shaken: the tunnel was not in the pool when the others were
    /// retired, so it is retired now.
    fn renewed(&self, key: &tunnel::TunnelKey) {
        let identities = self.cx.identities();
        if Arc::ptr_eq(&identities, &self.basis.identities) {
            return;
        }
        if identities.renews(&self.basis.identities, &key.own) {
            self.cx.pool.retire(|other| other == key);
        }
    }

    fn request(
        &self,
        workload: &Workload,
        endpoint: AppAddr,
        service: Option<&Name>,
        (mut app, kept): (ResetOnDrop, Vec<u8>),
    ) -> Result<tunnel::OpenRequest, Failed> {
        let own = &self.served.local.identity;
        let peers = configs::sorted([workload.identity.clone()]);
        let config = match self.cx.configs.client(&self.basis.identities, own, &peers) {
            Ok(config) => config,
            Err(error) => return Err(failed(Reason::PeerIdentity, words(&error))),
        };
        let Some(connection) = app.take() else {
            return Err(failed(Reason::Fault, String::new()));
        };
        Ok(tunnel::OpenRequest {
            key: tunnel::TunnelKey {
                source: self.served.local.id,
                own: own.clone(),
                peers,
                address: PeerAddr(SocketAddr::new(
                    endpoint.0.ip(),
                    self.cx.shared.settings.tunnel_port,
                )),
            },
            config,
            server_name: tls::server_name(&workload.identity),
            open: wire::Open {
                destination: endpoint,
                client: self.client,
                service: service.cloned(),
                trace: None,
            },
            app: connection,
            kept,
        })
    }
}
