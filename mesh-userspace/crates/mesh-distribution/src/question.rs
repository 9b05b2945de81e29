//! Questions to nodes in the form of HTTP, and their answers, which may go on for as long as somebody reads them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::proto;

/// A request to a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// `GET`, `POST`, …
    pub method: String,
    /// With the query.
    pub path: String,
    /// The body; empty for none.
    pub body: Bytes,
}

/// What a node says to it.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Type of the body; empty for unknown.
    pub content_type: String,
    /// The body. Dropping it tells the node to stop.
    pub body: BoxStream<'static, Result<Bytes, Broken>>,
}

/// The rest of a body will not come.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct Broken(pub String);

/// Why a node gives no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AskError {
    /// It does not follow this controller.
    #[error("node {node} is not connected to this controller")]
    NotConnected {
        /// The node.
        node: String,
    },
    /// It has too many questions to answer.
    #[error("node {node} is answering {count} questions already; ask again when one is done")]
    Busy {
        /// The node.
        node: String,
        /// How many.
        count: usize,
    },
    /// It went away.
    #[error("the connection to node {node} broke before it answered")]
    Gone {
        /// The node.
        node: String,
    },
    /// It is connected, but does not answer.
    #[error("node {node} did not begin to answer within {} s", patience.as_secs())]
    Silent {
        /// The node.
        node: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It could not answer.
    #[error("node {node} could not answer: {why}")]
    Failed {
        /// The node.
        node: String,
        /// What it says.
        why: String,
    },
}

/// Who answers on a node.
pub trait Answers: Send + Sync + 'static {
    /// Answers one question. The future and the body are dropped when nobody wants the answer any more.
    fn answer(&self, question: Question) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
}

impl<F, A> Answers for F
where
    F: Fn(Question) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    fn answer(&self, question: Question) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        Box::pin(self(question))
    }
}

impl Question {
    /// A question for something.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET".to_owned(),
            path: path.into(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn to_wire(&self, id: u64) -> proto::Question {
        let Self { method, path, body } = self.clone();
        proto::Question {
            id,
            method,
            path,
            body,
        }
    }

    pub(crate) fn from_wire(question: proto::Question) -> Self {
        let proto::Question {
            id: _,
            method,
            path,
            body,
        } = question;
        Self { method, path, body }
    }
}

impl Answer {
    /// An answer that is complete.
    pub fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            status,
            content_type: content_type.to_owned(),
            body: stream::iter((!body.is_empty()).then_some(Ok(body))).boxed(),
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// It broke off, or is larger than `most` bytes.
    pub async fn bytes(mut self, most: usize) -> Result<Vec<u8>, Broken> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            if whole.len() + chunk.len() > most {
                return Err(Broken(format!("it is larger than {most} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

/// The parts of an answer that came, as an answer. Whatever `kept` is lives as long as the body.
pub(crate) async fn read<S>(
    mut parts: S,
    node: &str,
    kept: impl Send + 'static,
) -> Result<Answer, AskError>
where
    S: stream::Stream<Item = Result<proto::AnswerPart, tonic::Status>> + Send + Unpin + 'static,
{
    let gone = || AskError::Gone {
        node: node.to_owned(),
    };
    let failed = |why: String| AskError::Failed {
        node: node.to_owned(),
        why,
    };
    let head = loop {
        match parts.next().await {
            None => return Err(gone()),
            Some(Err(status)) => return Err(failed(status.message().to_owned())),
            Some(Ok(part)) => match part.part {
                Some(proto::answer_part::Part::Head(head)) => break head,
                Some(proto::answer_part::Part::Broken(why)) => return Err(failed(why)),
                Some(proto::answer_part::Part::Question(_)) | None => {}
                Some(proto::answer_part::Part::Chunk(_)) => {
                    return Err(failed("its answer has no head".to_owned()));
                }
            },
        }
    };
    let proto::Head {
        status,
        content_type,
    } = head;
    let body = parts.filter_map(move |part| {
        // Named, so that it is moved into the body.
        let _ = &kept;
        std::future::ready(chunk(part))
    });
    Ok(Answer {
        status: u16::try_from(status).unwrap_or(502),
        content_type,
        body: body.boxed(),
    })
}

fn chunk(part: Result<proto::AnswerPart, tonic::Status>) -> Option<Result<Bytes, Broken>> {
    match part {
        Err(status) => Some(Err(Broken(status.message().to_owned()))),
        Ok(part) => match part.part? {
            proto::answer_part::Part::Chunk(bytes) => Some(Ok(bytes)),
            proto::answer_part::Part::Broken(why) => Some(Err(Broken(why))),
            proto::answer_part::Part::Head(_) | proto::answer_part::Part::Question(_) => None,
        },
    }
}

/// An answer as the parts that go to the one who asked.
pub(crate) fn parts(answer: Answer) -> BoxStream<'static, proto::AnswerPart> {
    let Answer {
        status,
        content_type,
        body,
    } = answer;
    let part = |part| proto::AnswerPart { part: Some(part) };
    let head = part(proto::answer_part::Part::Head(proto::Head {
        status: status.into(),
        content_type,
    }));
    let body = body.flat_map(move |chunk| match chunk {
        Err(Broken(why)) => stream::iter(vec![part(proto::answer_part::Part::Broken(why))]),
        Ok(mut bytes) => {
            let mut pieces = Vec::with_capacity(bytes.len() / crate::LARGEST_CHUNK + 1);
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(crate::LARGEST_CHUNK));
                pieces.push(part(proto::answer_part::Part::Chunk(piece)));
            }
            stream::iter(pieces)
        }
    });
    stream::once(std::future::ready(head)).chain(body).boxed()
}
