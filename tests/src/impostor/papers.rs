//! Certificates as nobody should have them, and the good one to compare with.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::cluster::configuration::{NAMESPACE, TRUST_DOMAIN};

const HOUR: Duration = Duration::from_secs(3_600);

/// A certificate chain, leaf first, with the leaf's key.
#[derive(Debug)]
pub struct Papers {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Clone for Papers {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Papers that must not be accepted.
#[derive(Debug)]
pub struct Bad {
    /// What is bad about them.
    pub what: &'static str,
    /// Words of the record that says so.
    pub says: &'static str,
    /// None at all when absent.
    pub papers: Option<Papers>,
}

/// Somebody who signs.
pub struct Signer(Issuer<'static, KeyPair>);

impl Signer {
    /// The mesh's own, from the files of its authority: `signer` or, while a rotation is prepared, `next`.
    pub fn of_mesh(authority: &Path, name: &str) -> Result<Self> {
        let read = |end: &str| {
            let path = authority.join(format!("{name}.{end}"));
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let key = KeyPair::from_pem(&read("key")?).context("the authority's key")?;
        Ok(Self(Issuer::from_ca_cert_pem(&read("pem")?, key)?))
    }

    /// Another root that claims the same trust domain.
    pub fn stranger() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Warren root of somebody else");
        params.subject_alt_names = vec![uri(&format!("spiffe://{TRUST_DOMAIN}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(Issuer::new(params, KeyPair::generate()?)))
    }

    /// Good papers for a service account of the stories' namespace.
    pub fn good(&self, account: &str) -> Result<Papers> {
        self.sign(account, |_params| Ok(()))
    }

    fn sign(
        &self,
        account: &str,
        change: impl FnOnce(&mut CertificateParams) -> Result<()>,
    ) -> Result<Papers> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = (now - HOUR).into();
        params.not_after = (now + HOUR).into();
        params.subject_alt_names = vec![uri(&identity(TRUST_DOMAIN, account))?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Papers {
            chain: vec![certificate.into()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// Everything that is wrong with certificates for `account`, each signed by this signer unless that is what is wrong.
    pub fn bad(&self, account: &str) -> Result<Vec<Bad>> {
        let now = SystemTime::now();
        let own = identity(TRUST_DOMAIN, account);
        let names = |names: Vec<SanType>| {
            self.sign(account, |params| {
                params.subject_alt_names = names;
                Ok(())
            })
        };
        let usage = |usages: Vec<KeyUsagePurpose>| {
            self.sign(account, |params| {
                params.key_usages = usages;
                Ok(())
            })
        };
        let bad = |what, says, papers| Bad {
            what,
            says,
            papers: Some(papers),
        };
        Ok(vec![
            Bad {
                what: "no certificate at all",
                says: "no certificate",
                papers: None,
            },
            bad(
                "another root",
                "signed by none of the 1 trusted roots",
                Self::stranger()?.good(account)?,
            ),
            bad(
                "another trust domain",
                "is not of trust domain",
                names(vec![uri(&identity("other.warren", account))?])?,
            ),
            bad(
                "a trust domain that begins like ours",
                "is not of trust domain",
                names(vec![uri(&identity("test.warren.evil", account))?])?,
            ),
            bad(
                "expired",
                "expired",
                self.sign(account, |params| {
                    params.not_after = (now - Duration::from_secs(2)).into();
                    Ok(())
                })?,
            ),
            bad(
                "not valid yet",
                "is valid only in",
                self.sign(account, |params| {
                    params.not_before = (now + HOUR / 2).into();
                    Ok(())
                })?,
            ),
            bad(
                "two URIs",
                "2 subject alternative names",
                names(vec![uri(&own)?, uri(&identity(TRUST_DOMAIN, "other"))?])?,
            ),
            bad(
                "a DNS name beside the URI",
                "2 subject alternative names",
                names(vec![
                    uri(&own)?,
                    SanType::DnsName(Ia5String::try_from("*.shop")?),
                ])?,
            ),
            bad("no name", "names nobody", names(Vec::new())?),
            bad(
                "a DNS name only",
                "not a URI",
                names(vec![SanType::DnsName(Ia5String::try_from("web.shop")?)])?,
            ),
            bad(
                "a URI that is no workload's",
                "",
                names(vec![uri(&format!("spiffe://{TRUST_DOMAIN}"))?])?,
            ),
            bad(
                "that of an authority",
                "certificate authority",
                self.sign(account, |params| {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                    Ok(())
                })?,
            ),
            bad(
                "one that may sign certificates",
                "may sign certificates",
                usage(vec![
                    KeyUsagePurpose::DigitalSignature,
                    KeyUsagePurpose::KeyCertSign,
                ])?,
            ),
            bad(
                "for key encipherment only",
                "digital signatures",
                usage(vec![KeyUsagePurpose::KeyEncipherment])?,
            ),
            bad(
                "for mail only",
                "both sides of TLS",
                self.sign(account, |params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
                    Ok(())
                })?,
            ),
            bad(
                "signed by a workload",
                "does not verify",
                self.signed_by_workload(account)?,
            ),
        ])
    }

    /// A good workload uses its own certificate to make itself another one.
    fn signed_by_workload(&self, account: &str) -> Result<Papers> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "a workload");
        params.subject_alt_names = vec![uri(&identity(TRUST_DOMAIN, "other"))?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let workload: CertificateDer<'static> = params.signed_by(&key, &self.0)?.into();
        let mut papers = Self(Issuer::new(params, key)).good(account)?;
        papers.chain.push(workload);
        Ok(papers)
    }
}

fn identity(trust_domain: &str, account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{NAMESPACE}/sa/{account}")
}

fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}
