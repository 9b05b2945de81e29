//! What can go wrong on the link.

use std::io;

/// A message or a payload could not be carried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A system call on the link failed.
    #[error("cannot {operation} on the link between agent and worker")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The message does not decode, or cannot be encoded.
    #[error(
        "a message on the link cannot be read; agent and worker are of versions that do not fit"
    )]
    Message(#[source] postcard::Error),
    /// One packet cannot hold the message.
    #[error("a message of {size} bytes is too large for the link (at most {most})")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        most: usize,
    },
    /// The message came without all of its descriptors. They were closed.
    #[error(
        "descriptors of a message were lost on the link; raise the limit of open files (LimitNOFILE) of the agent"
    )]
    DescriptorsLost,
    /// More descriptors than one packet may carry.
    #[error("a message with {0} descriptors is too large for the link (at most {most})", most = super::MAX_DESCRIPTORS)]
    TooManyDescriptors(usize),
    /// A payload that should be in a sealed memfd is not.
    #[error("the payload beside a message is not acceptable: {0}")]
    Payload(&'static str),
    /// A system call on a payload failed.
    #[error("cannot {operation} the payload beside a message")]
    PayloadIo {
        /// What was tried.
        operation: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}
