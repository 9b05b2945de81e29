//! The few bytes of DNS that are needed (RFC 1035, section 4): one question, and addresses as its answer.

use std::net::Ipv4Addr;

/// What is asked for, of the types that are told apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// An IPv4 address.
    Address,
    /// Anything else: the name may exist, such a record of it does not.
    Other,
}

/// One question.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Question<'a> {
    /// Lower case, without a final dot.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Header and question as they came.
    message: &'a [u8],
}

const HEADER: usize = 12;

/// Seconds for which an answer may be kept: as CoreDNS has it.
const LIFETIME: u32 = 5;

/// A message over UDP has 512 bytes, a record 16.
const MOST_RECORDS: usize = 12;

impl<'a> Question<'a> {
    /// Reads a query; nothing when it is none, or has more than one question.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let header = message.get(..HEADER)?;
        let is_response = header[2] & 0x80 != 0;
        if is_response || header[4..6] != [0, 1] {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            match length {
                0 => break,
                // Longer ones are pointers, which a question has no use for.
                1..=63 => labels.push(message.get(at..at + length)?),
                _ => return None,
            }
            at += length;
        }
        let kind = match message.get(at..at + 4)? {
            [0, 1, 0, 1] => Kind::Address,
            _ => Kind::Other,
        };
        let name = labels
            .into_iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect::<Vec<_>>()
            .join(".");
        Some(Self {
            name,
            kind,
            message: &message[..at + 4],
        })
    }

    /// The answer: there is no such name, or it has these addresses.
    pub(super) fn answer(&self, addresses: Option<&[Ipv4Addr]>) -> Vec<u8> {
        const NO_SUCH_NAME: u8 = 3;
        let records = match (self.kind, addresses) {
            (Kind::Address, Some(addresses)) => &addresses[..addresses.len().min(MOST_RECORDS)],
            _ => &[],
        };
        let mut answer = self.message.to_vec();
        // A response, with authority; recursion desired as it was.
        answer[2] = 0x84 | (self.message[2] & 0x01);
        answer[3] = if addresses.is_some() { 0 } else { NO_SUCH_NAME };
        let count = u8::try_from(records.len()).unwrap_or_default();
        answer[6..HEADER].copy_from_slice(&[0, count, 0, 0, 0, 0]);
        for address in records {
            // The question's name, type A, class IN.
            answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
            answer.extend(LIFETIME.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03Web\x04shop\x00\x00\x01\x00\x01rest";

    #[test]
    fn a_question_is_read_and_answered() {
        let question = Question::read(QUERY).unwrap();
        assert_eq!(
            (question.name.as_str(), question.kind),
            ("web.shop", Kind::Address)
        );
        let answer = question.answer(Some(&[Ipv4Addr::new(10, 0, 0, 7)]));
        assert_eq!(
            answer[..12],
            *b"\x12\x34\x85\x00\x00\x01\x00\x01\x00\x00\x00\x00"
        );
        assert!(answer.ends_with(b"\x00\x04\x0a\x00\x00\x07"), "{answer:?}");
        assert_eq!(question.answer(None)[3], 3);
    }

    #[test]
    fn what_is_cut_short_is_no_question() {
        for length in 0..26 {
            assert_eq!(Question::read(&QUERY[..length]), None, "{length}");
        }
    }
}
