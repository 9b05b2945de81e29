//! A node that is played: what it does with what a session says.

use std::collections::BTreeMap;

use mesh_control::facts::{Fact, FactKey};

use super::super::{Hello, Hub, Session};
use crate::proto;
use crate::proto::to_node::Message;
use crate::wire::{Hash, key_from_wire};

/// A node that is played.
#[derive(Default)]
pub(super) struct Played {
    pub(super) session: Option<Session>,
    pub(super) held: BTreeMap<FactKey, (Hash, Vec<u8>)>,
    pub(super) pending: Vec<proto::Delta>,
}

impl Played {
    pub(super) fn connect(&mut self, hub: &Hub, node: &str) {
        let hello = Hello {
            version: "test".to_owned(),
            held: self
                .held
                .iter()
                .map(|(key, (hash, _))| (key.clone(), Some(*hash)))
                .collect(),
        };
        self.pending.clear();
        self.session = Some(hub.follow(node, hello).expect("the hub is ready"));
    }

    /// Takes one message. Returns false when there is none.
    pub(super) fn take(&mut self) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        match session.poll() {
            Ok(None) => false,
            Ok(Some(Message::Delta(piece))) => {
                self.delta(piece);
                true
            }
            Ok(Some(_)) => true,
            Err(_ended) => {
                self.session = None;
                false
            }
        }
    }

    pub(super) fn delta(&mut self, piece: proto::Delta) {
        let (complete, generation) = (piece.complete, piece.generation);
        self.pending.push(piece);
        if !complete {
            return;
        }
        for piece in self.pending.drain(..) {
            for key in piece.removed {
                self.held.remove(&key_from_wire(key).expect("a known kind"));
            }
            for told in piece.set {
                let key = told.key.and_then(key_from_wire).expect("a known kind");
                let hash = Hash::of(&told.body);
                assert_eq!(hash.as_bytes(), &*told.hash);
                self.held.insert(key, (hash, told.body.to_vec()));
            }
        }
        if let Some(session) = &self.session {
            session.listener().acknowledged(generation);
        }
    }

    /// Takes everything. Returns how many facts it was told and told to forget.
    pub(super) fn drain(&mut self, hub: &Hub) -> (u64, u64) {
        let before = hub.counts();
        while self.take() {}
        let after = hub.counts();
        (after.told - before.told, after.untold - before.untold)
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        let read = |(_, body): &(Hash, Vec<u8>)| serde_json::from_slice(body).expect("a fact");
        self.held.values().map(read).collect()
    }
}
