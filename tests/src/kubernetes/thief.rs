//! Somebody on a node who speaks to the controller as an agent does, with whatever was stolen: gRPC as `distribution.proto`
//! has it, through curl. What must be refused to a thief must be refused to this one.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::machine::Machine;
use crate::host::command::feed;

const ENROL: &str = "warren.distribution.v1alpha1.Enrolment/Enrol";
const SIGN: &str = "warren.distribution.v1alpha1.Distribution/Sign";

#[derive(Clone, PartialEq, Message)]
struct EnrolRequest {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(bytes = "vec", tag = "2")]
    request: Vec<u8>,
    #[prost(string, tag = "3")]
    node: String,
    #[prost(string, tag = "4")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct EnrolReply {
    #[prost(bytes = "vec", repeated, tag = "1")]
    chain: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct SignRequest {
    #[prost(message, repeated, tag = "1")]
    signings: Vec<Signing>,
}

#[derive(Clone, PartialEq, Message)]
struct Signing {
    #[prost(string, tag = "1")]
    identity: String,
    #[prost(bytes = "vec", tag = "2")]
    request: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SignReply {
    #[prost(message, repeated, tag = "1")]
    signed: Vec<Signed>,
}

#[derive(Clone, PartialEq, Message)]
struct Signed {
    #[prost(message, tag = "1")]
    chain: Option<Chain>,
    #[prost(message, tag = "2")]
    refused: Option<Refused>,
}

#[derive(Clone, PartialEq, Message)]
struct Chain {
    #[prost(bytes = "vec", repeated, tag = "1")]
    certificates: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Refused {
    #[prost(string, tag = "1")]
    why: String,
}

/// What came of asking for a certificate: the chain, DER, or why there is none.
pub type Outcome = Result<Vec<Vec<u8>>, String>;

/// The thief, on a node.
#[derive(Debug)]
pub struct Thief {
    machine: Machine,
    controller: SocketAddr,
    key: KeyPair,
    /// What curl reads and writes.
    folder: TempDir,
}

impl Thief {
    /// Nothing is stolen yet. `controller` is where agents find it.
    pub fn on(machine: Machine, controller: SocketAddr) -> Result<Self> {
        let key = KeyPair::generate()?;
        let folder = tempfile::tempdir().context("make a folder")?;
        fs::write(folder.path().join("key"), key.serialize_pem()).context("keep the key")?;
        Ok(Self {
            machine,
            controller,
            key,
            folder,
        })
    }

    /// Shows a token, and says to be the agent of a node. The certificate that is got is shown from then on.
    pub fn enrol(&self, token: &str, node: &str) -> Result<Outcome> {
        let request = EnrolRequest {
            token: token.to_owned(),
            request: self.request()?,
            node: node.to_owned(),
            version: "1".to_owned(),
        };
        let reply: Result<EnrolReply, String> = self.call(ENROL, &request)?;
        let Ok(EnrolReply { chain }) = reply else {
            return Ok(reply.map(|reply| reply.chain));
        };
        let pems = chain
            .iter()
            .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.clone())));
        fs::write(self.chain(), pems.collect::<String>()).context("keep the chain")?;
        Ok(Ok(chain))
    }

    /// Asks for the certificates of workloads, as the node that it is taken for.
    pub fn sign(&self, identities: &[&str]) -> Result<Vec<Outcome>> {
        let request = self.request()?;
        let signings = identities.iter().map(|identity| Signing {
            identity: (*identity).to_owned(),
            request: request.clone(),
        });
        let request = SignRequest {
            signings: signings.collect(),
        };
        let reply: Result<SignReply, String> = self.call(SIGN, &request)?;
        let SignReply { signed } = reply.map_err(|why| anyhow!("no answer: {why}"))?;
        ensure!(signed.len() == identities.len(), "{signed:?}");
        let outcome = |Signed { chain, refused }| match (chain, refused) {
            (Some(chain), None) => Ok(Ok(chain.certificates)),
            (None, Some(refused)) => Ok(Err(refused.why)),
            other => Err(anyhow!("neither granted nor refused: {other:?}")),
        };
        signed.into_iter().map(outcome).collect()
    }

    fn request(&self) -> Result<Vec<u8>> {
        let request = CertificateParams::default().serialize_request(&self.key)?;
        Ok(request.der().to_vec())
    }

    fn chain(&self) -> PathBuf {
        self.folder.path().join("chain")
    }

    /// One call. The inner error is what the controller says in its trailers; the outer one, that there was no answer.
    fn call<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Result<R, String>> {
        let at = |name: &str| self.folder.path().join(name);
        // One message that is not compressed.
        let mut body = vec![0];
        body.extend(u32::try_from(request.encoded_len())?.to_be_bytes());
        request.encode(&mut body)?;
        fs::write(at("body"), body).context("write the request")?;

        let mut curl = self.machine.in_its_network("curl");
        // A thief does not care whom he robs.
        curl.args(["--silent", "--show-error", "--insecure", "--http2"])
            .args(["--header", "content-type: application/grpc"])
            .args(["--header", "te: trailers", "--max-time", "20"]);
        if self.chain().exists() {
            curl.arg("--cert").arg(self.chain());
            curl.arg("--key").arg(at("key"));
        }
        curl.arg("--dump-header").arg(at("trailers"));
        curl.arg("--output").arg(at("reply"));
        let mut data = std::ffi::OsString::from("@");
        data.push(at("body"));
        curl.arg("--data-binary").arg(data);
        curl.arg(format!("https://{}/{method}", self.controller));
        feed(&mut curl, &format!("curl {method}"), "")?;

        let trailers = fs::read_to_string(at("trailers")).context("read the trailers")?;
        let trailer = |name: &str| {
            let mut lines = trailers.lines().rev();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        match trailer("grpc-status") {
            Some("0") => {
                let reply = fs::read(at("reply")).context("read the reply")?;
                let message = reply.get(5..).context("a reply without a message")?;
                Ok(Ok(R::decode(message)?))
            }
            Some(status) => {
                let said = trailer("grpc-message").unwrap_or_default();
                Ok(Err(format!("{status}: {}", said.replace("%20", " "))))
            }
            None => Err(anyhow!("no status came: {trailers}")),
        }
    }
}
