//! One run of wrk, and its figures.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use mesh_tests::cluster::place::Place;

/// The figures of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) requests: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) cpu_seconds: f64,
}

pub(crate) fn run(
    client: &Place,
    to: SocketAddr,
    connections: u32,
    seconds: u32,
) -> Result<Measured> {
    let output = client
        .program("wrk")
        .args([
            "--latency",
            "--threads",
            "1",
            "--connections",
            &connections.to_string(),
        ])
        .args([
            "--duration",
            &format!("{seconds}s"),
            &format!("http://{to}/"),
        ])
        .run()?;
    if output.contains("Socket errors") || output.contains("Non-2xx") {
        bail!("requests failed:\n{output}");
    }
    read(&output).with_context(|| format!("read the figures of wrk:\n{output}"))
}

fn read(output: &str) -> Option<Measured> {
    let after = |label: &str| {
        output
            .lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .map(str::trim)
    };
    let requests = output
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))?
        .0
        .parse()
        .ok()?;
    Some(Measured {
        requests,
        requests_per_second: after("Requests/sec:")?.parse().ok()?,
        p50_micros: micros(after("50%")?)?,
        p99_micros: micros(after("99%")?)?,
        cpu_seconds: 0.0,
    })
}

/// `12.34us`, `1.20ms`, `1.20s`.
fn micros(text: &str) -> Option<f64> {
    let (number, factor) = [("us", 1.0), ("ms", 1_000.0), ("s", 1_000_000.0)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::{Measured, read};

    #[test]
    fn reads_what_wrk_prints() {
        let output = "Running 3s test @ http://10.2.0.2:8080/\n  1 threads and 16 connections\n  \
            Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   338.11us  120.00us   4.01ms   92.00%\n  \
            Latency Distribution\n     50%  318.00us\n     75%  360.00us\n     90%  420.00us\n     99%    1.20ms\n  \
            140000 requests in 3.00s, 20.00MB read\nRequests/sec:  46666.67\nTransfer/sec:      6.67MB\n";
        assert_eq!(
            read(output),
            Some(Measured {
                requests: 140_000.0,
                requests_per_second: 46_666.67,
                p50_micros: 318.0,
                p99_micros: 1_200.0,
                cpu_seconds: 0.0,
            })
        );
    }
}
