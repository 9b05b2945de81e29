//! What a node has to say on a connection: of acknowledgements and reports only the last one counts, so that nothing queues.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, Stream};
use tokio::sync::Notify;

use crate::proto::from_node::Message;
use crate::proto::{Ack, FromNode, Hello, Report};

#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    hello: VecDeque<Hello>,
    ack: Option<Ack>,
    report: Option<Report>,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(hello: Vec<Hello>) -> Self {
        let outbox = Self::default();
        outbox.lock().hello = hello.into();
        outbox
    }

    pub(super) fn acknowledge(&self, generation: u64) {
        self.lock().ack = Some(Ack { generation });
        self.0.wake.notify_one();
    }

    pub(super) fn report(&self, report: Report) {
        self.lock().report = Some(report);
        self.0.wake.notify_one();
    }

    /// Nothing more will be said.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.wake.notify_one();
    }

    /// Everything, in the order in which it has to be said.
    pub(super) fn stream(&self) -> impl Stream<Item = FromNode> + Send + 'static {
        stream::unfold(self.clone(), |outbox| async move {
            let message = outbox.next().await?;
            let message = Some(message);
            Some((FromNode { message }, outbox))
        })
    }

    async fn next(&self) -> Option<Message> {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.0.wake.notified().await;
        }
    }

    /// `Some(None)`: nothing more will come.
    fn take(&self) -> Option<Option<Message>> {
        let mut waiting = self.lock();
        if let Some(hello) = waiting.hello.pop_front() {
            return Some(Some(Message::Hello(hello)));
        }
        if let Some(ack) = waiting.ack.take() {
            return Some(Some(Message::Ack(ack)));
        }
        if let Some(report) = waiting.report.take() {
            return Some(Some(Message::Report(report)));
        }
        waiting.closed.then_some(None)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn only_the_last_of_a_kind_is_said() {
        let outbox = Outbox::new(vec![Hello::default()]);
        outbox.acknowledge(1);
        outbox.acknowledge(2);
        outbox.report(Report::default());
        outbox.close();
        let said: Vec<Message> = outbox
            .stream()
            .filter_map(|said| async { said.message })
            .collect()
            .await;
        let expected = [
            Message::Hello(Hello::default()),
            Message::Ack(Ack { generation: 2 }),
            Message::Report(Report::default()),
        ];
        assert_eq!(said, expected);
    }
}
