//! Answers to questions that came through the controller, each on a stream of its own: whoever reads slowly holds up
//! nothing else, and the stream's end tells that nobody wants more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, Stream};

use crate::channel::Channel;
use crate::proto;
use crate::proto::answer_part::Part;
use crate::question::{Answers, Question, parts};

/// Answers one question. The stream of the answer is dropped, wherever it is, as soon as nobody takes more of it: the
/// controller then ends the call, and HTTP/2 tells this side.
pub(super) async fn answer(channel: Channel, answers: Arc<dyn Answers>, question: proto::Question) {
    let id = question.id;
    let said = said(&*answers, question);
    if let Err(status) = channel.distribution().answer(said).await {
        tracing::debug!(id, why = status.message(), "an answer was not taken");
    }
}

/// The question's number at once, then the answer.
fn said(answers: &dyn Answers, question: proto::Question) -> Said {
    let first = proto::AnswerPart {
        part: Some(Part::Question(question.id)),
    };
    let answer = answers.answer(Question::from_wire(question));
    let rest = stream::once(answer).flat_map(parts);
    let all = stream::once(std::future::ready(first)).chain(rest);
    Said(all.boxed())
}

/// What is said, as a type with a name: the compiler cannot tell that a future is `Send` which gives tonic a boxed stream.
struct Said(BoxStream<'static, proto::AnswerPart>);

impl Stream for Said {
    type Item = proto::AnswerPart;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}
