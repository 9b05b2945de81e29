//! The text of an identity.

use mesh_core::identity::SpiffeId;

/// One spelling per identity: what is taken is what is printed, byte by byte.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match text.parse::<SpiffeId>() {
        Ok(identity) => {
            assert_eq!(identity.to_string(), text);
            assert!(text.len() <= 2048 && text.is_ascii());
            assert!(!identity.namespace().contains('/'));
            let (domain, namespace, account) = (
                identity.trust_domain().clone(),
                identity.namespace().to_owned(),
                identity.service_account().to_owned(),
            );
            assert_eq!(SpiffeId::new(domain, &namespace, &account), Ok(identity));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
