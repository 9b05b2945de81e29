//! The API of the mesh as a whole: what people ask with `warren` or `kubectl get --raw`, put to the Kubernetes API server,
//! which asks us (API aggregation) with its own certificate and says who asks.
//!
//! The way of a question: [`serve`] (only the API server is let in) → [`caller`] (who asks) → [`routes`] (may they; which
//! question is it; `allowed`: may they still) → the answer (`controller/answers`; [`flows`] puts those of all nodes in order) or
//! a [`refusal`]. [`discovery`] says what there is to ask.

mod allowed;
pub(crate) mod caller;
pub(crate) mod discovery;
pub(crate) mod flows;
pub(crate) mod refusal;
pub(crate) mod routes;
pub(crate) mod serve;

#[cfg(test)]
mod tests;
