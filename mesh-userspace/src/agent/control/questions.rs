//! Questions that people put to this node through the controller: answered by the node API, as over its socket.

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use axum::response::Response;
use futures_util::StreamExt;
use mesh_distribution::question::{Answer, Answers, Broken, Question};
use tower::ServiceExt;

use crate::agent::view::View;
use crate::api::server;

/// Answers.
pub(super) struct Answering(Router);

impl Answering {
    pub(super) fn new(view: Arc<View>) -> Self {
        Self(server::router(view))
    }
}

impl Answers for Answering {
    fn answer(&self, question: Question) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let router = self.0.clone();
        Box::pin(answer(router, question))
    }
}

async fn answer(router: Router, question: Question) -> Answer {
    let Question { method, path, body } = question;
    let request = Request::builder()
        .method(method.as_str())
        .uri(path)
        .header(header::HOST, "warren")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body));
    match request {
        Ok(request) => match router.oneshot(request).await {
            Ok(response) => said(response),
            // A router has an answer to everything.
            Err(never) => match never {},
        },
        Err(error) => Answer::whole(400, "text/plain", error.to_string()),
    }
}

fn said(response: Response) -> Answer {
    let (head, body) = response.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE);
    Answer {
        status: head.status.as_u16(),
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        body: body
            .into_data_stream()
            .map(|piece| piece.map_err(|error| Broken(error.to_string())))
            .boxed(),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};

    use super::*;

    #[tokio::test]
    async fn questions_are_answered_with_status_type_and_body() {
        let router = Router::new()
            .route("/v1/echo", post(async |body: String| body))
            .route(
                "/v1/query",
                get(async |uri: axum::http::Uri| uri.to_string()),
            );
        let answering = Answering(router);
        let ask = async |question: Question| {
            let answer = answering.answer(question).await;
            let (status, kind) = (answer.status, answer.content_type.clone());
            let body = answer.bytes(1024).await.expect("whole");
            (status, kind, String::from_utf8(body).expect("text"))
        };
        let echo = Question {
            method: "POST".to_owned(),
            path: "/v1/echo".to_owned(),
            body: "hello".into(),
        };
        let (status, kind, body) = ask(echo).await;
        assert_eq!((status, body.as_str()), (200, "hello"));
        assert!(kind.starts_with("text/plain"), "{kind}");
        let (status, _, body) = ask(Question::get("/v1/query?a=b")).await;
        assert_eq!((status, body.as_str()), (200, "/v1/query?a=b"));
        assert_eq!(ask(Question::get("/v1/frob")).await.0, 404);
        assert_eq!(ask(Question::get("no path at all")).await.0, 400);
    }
}
