use super::*;

fn check(url: &str, expected: &str) {
    let pairs: Vec<(&str, &str)> = url
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').expect("a pair"))
        .collect();
    let said = match FlowQuery::from_pairs(pairs) {
        Ok(query) => query.to_url(),
        Err(error) => error.to_string(),
    };
    assert!(said.contains(expected), "{said}");
}

#[test]
fn what_is_written_is_read() {
    for url in [
        "",
        "from=client",
        "from=ns%2Fshop&to=web&not-verdict=allowed&port=80",
        "ns=shop&last=7&since=2026-01-31T12%3A00%3A00Z&watch=true",
    ] {
        let unescaped = url.replace("%2F", "/").replace("%3A", ":");
        let pairs: Vec<(&str, &str)> = unescaped
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').expect("a pair"))
            .collect();
        let query = FlowQuery::from_pairs(pairs).expect("a query");
        assert_eq!(query.to_url(), url);
    }
}

#[test]
fn mistakes_are_named() {
    check(
        "verdit=denied",
        "there is no parameter \"verdit\"; did you mean verdict?",
    );
    check(
        "verdict=alowed",
        "verdict=\"alowed\" is not understood: it is none of allowed, denied, failed; did you mean allowed?",
    );
    check("last=some", "it is the number of flows");
    check("since=yesterday", "it is a moment");
    check("watch=yes", "it is true or false");
    check("labelSelector=a", "there is no parameter");
}

#[test]
fn what_the_api_server_adds_is_no_mistake() {
    check("timeout=34s&watch=1&pretty=true", "watch=true");
}
