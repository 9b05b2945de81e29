//! One connection to a controller, from the hello to the end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

use super::facts::{Change, Facts};
use super::outbox::Outbox;
use super::subscription::Shared;
use super::{Connection, Known, Link, answering};
use crate::PIECE;
use crate::channel::{self, Channel};
use crate::proto::to_node::Message;
use crate::proto::{Delta, Held, Hello, ToNode};
use crate::wire::{key_size, key_to_wire};

/// How long a controller may take to say the first word.
const FIRST_WORD: Duration = Duration::from_secs(15);

/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Questions that are answered at a time; the controller puts fewer.
const MOST_ANSWERS: usize = 64;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// It never worked, or not for long.
    Failed(String),
    /// It was a good one, and another controller is likely to answer at once.
    Left(String),
    /// A new one is wanted in its place.
    Renewed,
}

/// Follows a controller until the connection ends.
pub(super) async fn follow(shared: &Arc<Shared>, connection: Connection) -> Ended {
    let to = connection.to.clone();
    let (channel, _driver) = match channel::open(connection).await {
        Ok(open) => open,
        Err(why) => return Ended::Failed(why),
    };
    let outbox = Outbox::new(hello(&shared.known.borrow().facts, &shared.options.version));
    let mut client = channel.distribution();
    let stream = client.follow(outbox.stream());
    let told = match tokio::time::timeout(FIRST_WORD, stream).await {
        Ok(Ok(told)) => told.into_inner(),
        Ok(Err(status)) => return Ended::Failed(said(&to, &status)),
        Err(_late) => return Ended::Failed(format!("{to} accepts, but says nothing")),
    };
    let mut following = Following {
        shared,
        channel,
        outbox,
        since: SystemTime::now(),
        began: Instant::now(),
        to,
        change: Change::default(),
        complete: false,
        answers: JoinSet::new(),
    };
    let ended = following.listen(told).await;
    shared.disconnected();
    ended
}

struct Following<'s> {
    shared: &'s Arc<Shared>,
    channel: Channel,
    outbox: Outbox,
    since: SystemTime,
    began: Instant,
    to: String,
    /// The delta of which not all pieces have come.
    change: Change,
    /// Something complete was told.
    complete: bool,
    answers: JoinSet<()>,
}

impl Following<'_> {
    async fn listen(&mut self, mut told: Streaming<ToNode>) -> Ended {
        self.shared
            .connected(self.channel.clone(), self.outbox.clone());
        self.say(|known, to, since| {
            known.generation = None;
            known.link = Link::CatchingUp {
                since,
                controller: to,
            };
        });
        loop {
            let message = tokio::select! {
                message = told.message() => message,
                Some(_answered) = self.answers.join_next() => continue,
                () = self.shared.renew.notified() => return Ended::Renewed,
            };
            match message {
                Ok(Some(ToNode { message })) => {
                    if let Some(message) = message {
                        self.take(message);
                    }
                }
                Ok(None) => {
                    return self.over(format!("{} has ended the connection", self.to), false);
                }
                Err(status) => {
                    let elsewhere = status.code() == Code::Unavailable;
                    return self.over(said(&self.to, &status), elsewhere);
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Welcome(welcome) => {
                tracing::info!(controller = self.to, hub = welcome.hub, "following");
            }
            Message::Delta(piece) => self.delta(piece),
            Message::Bundle(bundle) => {
                let roots: Arc<str> = bundle.roots.into();
                self.say(|known, _, _| known.bundle = Some(roots));
            }
            Message::Question(question) => {
                if self.answers.len() < MOST_ANSWERS {
                    let answers = self.shared.options.answers.clone();
                    let answer = answering::answer(self.channel.clone(), answers, question);
                    self.answers.spawn(answer);
                }
            }
        }
    }

    fn delta(&mut self, piece: Delta) {
        let (generation, complete) = (piece.generation, piece.complete);
        self.change.add(piece);
        if !complete {
            return;
        }
        self.complete = true;
        let change = std::mem::take(&mut self.change);
        self.say(|known, to, since| {
            if !change.is_empty() {
                Arc::make_mut(&mut known.facts).apply(change);
                known.revision += 1;
            }
            known.problems = known.facts.problems().collect();
            known.cached = None;
            known.generation = Some(generation);
            known.link = Link::Current {
                since,
                controller: to,
            };
        });
        self.outbox.acknowledge(generation);
    }

    fn say(&self, act: impl FnOnce(&mut Known, String, SystemTime)) {
        let (to, since) = (self.to.clone(), self.since);
        self.shared.known.send_modify(|known| act(known, to, since));
    }

    fn over(&self, why: String, elsewhere: bool) -> Ended {
        let lasted = self.began.elapsed() >= GOOD;
        if self.complete && (lasted || elsewhere) {
            Ended::Left(why)
        } else {
            Ended::Failed(why)
        }
    }
}

/// What a node holds, in pieces.
fn hello(facts: &Facts, version: &str) -> Vec<Hello> {
    let piece = || Hello {
        version: version.to_owned(),
        held: Vec::new(),
        more: true,
    };
    let mut pieces = vec![piece()];
    let mut size = 0;
    for (key, held) in facts.held() {
        if size > PIECE {
            pieces.push(piece());
            size = 0;
        }
        size += key_size(key) + 24;
        if let Some(last) = pieces.last_mut() {
            let hash = held.hash.map(|hash| hash.as_bytes().to_vec());
            last.held.push(Held {
                key: Some(key_to_wire(key)),
                hash: hash.unwrap_or_default().into(),
            });
        }
    }
    if let Some(last) = pieces.last_mut() {
        last.more = false;
    }
    pieces
}

fn said(to: &str, status: &Status) -> String {
    let message = status.message();
    if message.is_empty() {
        format!("{to}: {}", status.code().description())
    } else {
        format!("{to}: {message}")
    }
}
